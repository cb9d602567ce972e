"""The ranks of one run: joining them, agreeing among them, leaving. One rank per GPU, or one process on a CPU.

Ranks find each other by RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; a lone rank needs
none of them and opens no port. Not here: what is trained (core.train), how ZeRO shards it (core.engine).
"""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = timedelta(minutes=20)  # a lost rank costs at most this, not a night; the longest lone work is a conversion


@dataclass(frozen=True)
class World:
    """This process among all. `device` is where its tensors go."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """True on the one rank that writes what is written once."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Elementwise sum over ranks, in double precision; the same bits on every rank. A collective: all ranks call
        it."""
        if self.size == 1:
            return [float(value) for value in values]
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def sum_tensor(self, values: torch.Tensor) -> torch.Tensor:
        """The same for a tensor that lies on `device` already; its own dtype, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def share(self, value: Any) -> Any:
        """The first rank's value (anything picklable) on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def first_then_others(self, work: Callable[[], Any]) -> Any:
        """`work()` on the first rank, which may write files, and then on the others, which find them written."""
        if not self.first:
            self.barrier()
        found = work()
        if self.first:
            self.barrier()
        return found


def environment() -> tuple[int, int, int, int]:
    """rank, world size, local rank, ranks on this node, from the environment; a lone rank where nothing is set."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return rank, size, int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", size))


@contextmanager
def joined(threads: int = 1, timeout: timedelta = TIMEOUT) -> Iterator[World]:
    """Join the other ranks for the length of the block; NCCL on GPUs, gloo on CPUs. The group is always taken down
    again (a process that exits inside a live gloo group may abort)."""
    rank, size, local_rank, local_size = environment()
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    _quiet(rank)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if size == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
    else:
        dist.init_process_group(backend, rank=rank, world_size=size, timeout=timeout)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(local_rank))  # or DeepSpeed asks for MPI
    try:
        yield World(rank, size, local_rank, local_size, device)
    finally:
        dist.destroy_process_group()


def _quiet(rank: int) -> None:
    """Libraries speak up for errors only: their progress bars and start-up notes, times ranks, drown a log."""
    import logging
    import warnings

    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
