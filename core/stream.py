"""From plan to tensors: reads, encodes and concatenates the packs of one rank, step after step.

    plan, subsets = prepare(mixture, pack, global_batch, data_root, encoder)
    loader = Loader(plan, subsets, encoder, rank, world, start_step=0, workers=2, micro_batch=1)
    for step, micro_batches in enumerate(loader, start_step):      # list[Packed], as many at every step and rank
        ...
What a step holds depends on (plan, rank, world, micro_batch) alone: workers only fetch ahead, and starting at step k
needs nothing but k. A sample that cannot be read or encoded is replaced in its slot by a one-token document without
loss and is named in `Packed.corrupt`; `Damage` counts these and says when a run must stop. Not here: the order
(core.mixture), shards behind a URL or a pipe (core.urls).
"""
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from core.collate import IGNORE, Document, Packed, collate, filler
from core.config import Mixture, Pack
from core.config_mixture import is_stream
from core.encode import Encoder
from core.errors import UserError
from core.lengths import CORRUPT_SHARE, open_subsets, pools
from core.mixture import Item, Plan, check_world
from core.shards import Corrupt, Subset
from core.stop import die_with
from core.urls import StreamPlan

__all__ = ["IGNORE", "Damage", "Loader", "Packed", "Reader", "prepare"]
CORRUPT_MINIMUM = 20     # broken samples, before their share (core.lengths.CORRUPT_SHARE) stops a run
CORRUPT_RUN = 100        # in a row, on one rank


def prepare(mixture: Mixture, pack: Pack, global_batch: int, data_root: Path | str, encoder: Encoder
            ) -> tuple[Plan | StreamPlan, dict[str, Subset]]:
    """Open the data that a mixture names, count lengths where that has not been done, and make the plan."""
    if any(is_stream(s.data) for s in [*mixture.sources, *mixture.text_only.sources]):
        return StreamPlan(mixture, pack, global_batch, encoder), {}
    subsets = open_subsets(mixture, data_root)
    return Plan(mixture, pack, global_batch, pools(mixture, subsets, encoder)), subsets


class Reader:
    """Fetches a step of one rank. Lives in the training process or, forked, in every worker."""

    def __init__(self, plan: Plan | StreamPlan, subsets: Mapping[str, Subset], encoder: Encoder, rank: int, world: int,
                 micro_batch: int):
        check_world(plan.global_batch, world, micro_batch)
        self.plan, self.subsets, self.encoder = plan, subsets, encoder
        self.rank, self.world, self.micro_batch = rank, world, micro_batch

    def __len__(self) -> int:
        return self.plan.steps

    def __getitem__(self, step: int) -> list[Packed]:
        """The micro-batches of this rank at `step`."""
        packs = self.plan.rank_batch(step, self.rank, self.world)
        self._announce(packs)
        rows = [packs[i:i + self.micro_batch] for i in range(0, len(packs), self.micro_batch)]
        return [collate([[self._fetch(item) for item in pack] for pack in row], self.encoder.pad_id) for row in rows]

    def _announce(self, packs: Sequence[Sequence[Item]]) -> None:
        wanted: dict[str, list[int]] = {}
        for pack in packs:
            for item in pack:
                wanted.setdefault(item.pool, []).append(item.index)
        for name, indices in wanted.items():
            self.subsets[name].announce(indices)

    def _fetch(self, item: Item) -> Document:
        subset = self.subsets[item.pool]
        key = f"{item.pool}:{subset.key(item.index)}:{item.language}"
        try:
            record, image = subset.read(item.index)
            return Document(self.encoder.encode(record, item.language, image), item.stream, key)
        except Corrupt as error:
            return Document(filler(self.encoder.pad_id), item.stream, key, str(error))


class Loader:
    """Iterates over the steps `start_step` .. `plan.steps` - 1 of one rank; each gives its list of `Packed`.

    Raises UserError if the world size does not divide the global batch."""

    def __init__(self, plan: Plan | StreamPlan, subsets: Mapping[str, Subset], encoder: Encoder, rank: int = 0,
                 world: int = 1, start_step: int = 0, workers: int = 0, micro_batch: int = 1):
        self.reader = Reader(plan, subsets, encoder, rank, world, micro_batch)
        self.start_step, self.workers = start_step, workers

    def __len__(self) -> int:
        return len(self.reader) - self.start_step

    def __iter__(self) -> Iterator[list[Packed]]:
        plan, steps = self.reader.plan, range(self.start_step, len(self.reader))
        if isinstance(plan, StreamPlan):
            yield from plan.read(self.reader.rank, self.reader.world, self.start_step, self.reader.micro_batch)
            return
        if self.workers == 0:
            yield from (self.reader[step] for step in steps)
            return
        from torch.utils.data import DataLoader

        for found in DataLoader(_Worker(self.reader), batch_size=None, sampler=steps, num_workers=self.workers,
                                multiprocessing_context="fork", prefetch_factor=2,
                                worker_init_fn=partial(_begin, os.getpid())):
            if isinstance(found, UserError):
                raise found
            yield found


@dataclass
class _Worker:
    """The reader in a worker: a user's mistake is handed over as it is, not wrapped into a traceback."""

    reader: Reader

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, step: int) -> list[Packed] | UserError:
        try:
            return self.reader[step]
        except UserError as error:
            return error


def _begin(loader: int, _: int) -> None:
    """A worker of process `loader`, and gone with it: torch's own watch asks for its parent once it has started, and a
    worker whose rank was killed until then would stay for good."""
    die_with(loader)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"     # a forked tokenizer would warn at every start
    torch.set_num_threads(1)


class Damage:
    """Counts broken samples of this rank and says, from sums over all ranks, when the data is too broken to go on."""

    def __init__(self) -> None:
        self.samples = self.corrupt = self.run = self.longest = 0

    def add(self, micro_batches: Sequence[Packed]) -> list[str]:
        """Count one step; the lines that name its broken samples."""
        for packed in micro_batches:
            broken = {place for place, _ in packed.corrupt}
            for place in range(packed.samples):
                self.run = self.run + 1 if place in broken else 0
                self.longest = max(self.longest, self.run)
            self.samples += packed.samples
            self.corrupt += len(broken)
        return [line for packed in micro_batches for _, line in packed.corrupt]

    def counts(self) -> tuple[int, int, int]:
        """(samples, corrupt, longest run): over ranks the first two are summed, of the third the maximum is taken."""
        return self.samples, self.corrupt, self.longest

    def restore(self, samples: int, corrupt: int, longest: int) -> None:
        self.samples, self.corrupt, self.longest = samples, corrupt, longest

    @staticmethod
    def verdict(samples: int, corrupt: int, longest: int) -> str | None:
        """Why the run must stop, or None. Given the agreed numbers, every rank says the same."""
        if longest >= CORRUPT_RUN:
            return f"{longest} samples in a row cannot be read"
        if corrupt >= CORRUPT_MINIMUM and corrupt > CORRUPT_SHARE * samples:
            return f"{corrupt} of {samples} samples cannot be read, more than {CORRUPT_SHARE:.0%}"
        return None
