"""The ranks of one run: joining them, agreeing among them, leaving. One rank per GPU, or one process on a CPU.

Ranks find each other by RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; a lone rank needs
none of them and opens no port. Not here: what is trained (core.train), how ZeRO shards it (core.engine).
"""
from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from core.errors import Stopped

TIMEOUT = timedelta(minutes=20)  # of a collective: a lost rank costs at most this, not a night; see World.alone
_LOOK = 0.2                       # seconds between looks for the first rank's word


@dataclass(frozen=True)
class World:
    """This process among all. `device` is where its tensors go."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: Any = None                                 # where ranks leave words for each other; not for a lone rank
    _turns: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

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

    def alone(self, work: Callable[[], Any]) -> Any:
        """`work()` on the first rank, while the others wait: for hours if need be (counting the tokens of millions of
        samples), which no collective may last. Its value, and None on the others. All ranks call it; where the first
        one fails or dies, the others raise torch's DistError."""
        if self.size == 1:
            return work()
        key = f"begira/alone/{next(self._turns)}"
        if not self.first:
            while not self.store.check([key]):
                time.sleep(_LOOK)
            if self.store.get(key) != b"done":
                raise dist.DistError("the first rank failed: see its record")
            self.barrier()
            return None
        word = "failed"
        try:
            found = work()
            word = "done"
        finally:
            self.store.set(key, word)
        self.barrier()  # the store is this rank's: it must not leave before all have looked
        return found

    def first_then_others(self, work: Callable[[], Any]) -> Any:
        """`work()` on the first rank, which may write files, and then on the others, which find them written."""
        found = self.alone(work)
        return found if self.first else work()


def environment() -> tuple[int, int, int]:
    """rank, world size and local rank, from the environment; a lone rank where nothing is set."""
    get = os.environ.get
    return int(get("RANK", 0)), int(get("WORLD_SIZE", 1)), int(get("LOCAL_RANK", 0))


@contextmanager
def joined(threads: int = 1, timeout: timedelta = TIMEOUT) -> Iterator[World]:
    """Join the other ranks for the length of the block; NCCL on GPUs, gloo on CPUs.

    The group is taken down again (a process that exits inside a live gloo group may abort), but not where a rank fails
    among others under NCCL: there it would wait for collectives that the others never finish, and the failure would
    not be told before they time out. Such a process must end by `os._exit` (slurm.job, slurm.forkserver)."""
    rank, size, local_rank = environment()
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        local_rank %= torch.cuda.device_count()  # where a site shows every rank its own GPU only
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    _quiet(rank)
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = dist.HashStore() if size == 1 else next(rendezvous("env://", rank, size, timeout=timeout))[0]
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(local_rank))  # or DeepSpeed asks for MPI
    together = False
    try:
        yield World(rank, size, device, store)
        together = True
    except Stopped:
        together = True
        raise
    finally:
        if together or size == 1 or backend == "gloo":
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
