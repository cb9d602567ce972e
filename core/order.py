"""The order of the samples of one stream, addressable anywhere without walking there.

A stream is one language of one pool of samples, repeated for as long as it is read: epoch after epoch, each a
permutation of its own. The permutation shuffles blocks of neighbouring samples and then the samples inside groups of
blocks, so that what is read at one time lies close together on disk, and only one group (some thousand samples) is
ever made. Sums per block are kept; from them any position (by units: samples, tokens or loss tokens) is found by
bisection, also after 10^9 samples. All keys come from one 64-bit mixing function: the same on every machine and with
every version of numpy. Not here: how streams are merged (core.merge).
"""
from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

SAMPLES, TOKENS, LOSS, IMAGES = range(4)          # columns of every table of sums
COLUMNS = 4
WHOLE = 1 << 15          # a set up to this size is shuffled as a whole
BLOCK, GROUP = 64, 64    # larger ones: blocks of 64 neighbours, 64 blocks a group
_CACHED = 3


def mix(values: np.ndarray | int, *keys: int) -> np.ndarray:
    """uint64 hash of each value under `keys` (splitmix64's finaliser, applied once per key)."""
    with np.errstate(over="ignore"):
        x = np.asarray(values, np.uint64)
        for key in keys:
            x = x + np.uint64(0x9E3779B97F4A7C15) * np.uint64((key + 1) & 0xFFFFFFFFFFFFFFFF)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return x


@dataclass
class Members:
    """A set of samples that is read once an epoch: `index` into its pool (ascending), `table` their columns [n, 4]."""

    index: np.ndarray
    table: np.ndarray
    total: np.ndarray = field(init=False)
    blocks: np.ndarray = field(init=False)         # sums per block [blocks, 4]
    size: int = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.index)
        self.size = 1 if n <= WHOLE else max(BLOCK, -(-n >> 18))
        self.group = max(n, 1) if n <= WHOLE else GROUP
        starts = np.arange(0, n, self.size)
        self.blocks = np.add.reduceat(self.table, starts, axis=0, dtype=np.int64) if n else np.zeros((0, COLUMNS), int)
        self.total = self.blocks.sum(0)


@dataclass
class _Epoch:
    """Blocks in the epoch's order and the running sums before each group [groups + 1, 4]."""

    members: Members
    blocks: np.ndarray
    before: np.ndarray


@dataclass
class Group:
    """A stretch of the order: pool indices [m] and running sums [m + 1, 4] from the start of the stream."""

    index: np.ndarray
    sums: np.ndarray


class Stream:
    """Endless order: `full` (`epochs` times), then `rest` once (the part of an unfinished epoch), then `full` again.

    `unit` is the column that positions count; `name` = (source, language, modality)."""

    def __init__(self, name: tuple[str, str, str], full: Members, seed: int, unit: int,
                 epochs: int = 0, rest: Members | None = None):
        self.name, self.seed, self.unit = name, seed, unit
        self.full, self.epochs, self.rest = full, epochs, rest if rest is not None and len(rest.index) else None
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], Group] = OrderedDict()

    def before(self, epoch: int) -> np.ndarray:
        """Columns summed over all epochs before `epoch`."""
        if self.rest is None or epoch <= self.epochs:
            return self.full.total * epoch
        return self.full.total * (epoch - 1) + self.rest.total

    def epoch_of(self, position: float, column: int) -> int:
        """The epoch in which the running sum of `column` passes `position`."""
        total = int(self.full.total[column])
        epoch = int(position // total)
        if self.rest is not None and epoch >= self.epochs:
            start, part = self.epochs * total, int(self.rest.total[column])
            later = self.epochs + 1 + int((position - start - part) // total)
            epoch = self.epochs if position < start + part else later
        return epoch

    def locate(self, position: float, column: int) -> Group:
        """The group whose running sums of `column` enclose `position`."""
        number = self.epoch_of(position, column)
        epoch = self._epoch(number)
        local = position - self.before(number)[column]
        group = int(np.searchsorted(epoch.before[:, column], local, side="right")) - 1
        return self._group(number, min(max(group, 0), len(epoch.before) - 2))

    def count(self, position: float) -> int:
        """Number of samples that end at or before `position` units."""
        if position <= 0:
            return 0
        group = self.locate(position, self.unit)
        place = int(np.searchsorted(group.sums[1:, self.unit], position, side="right"))
        return int(group.sums[place, SAMPLES])

    def at(self, count: int) -> np.ndarray:
        """Columns summed over the first `count` samples."""
        group = self.locate(count, SAMPLES)
        return group.sums[count - group.sums[0, SAMPLES]]

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples `start` to `stop` of the stream: pool indices [m], running sums [m + 1, 4]."""
        index, sums, position = [np.zeros(0, np.int64)], [self.at(start)[None]], start
        while position < stop:
            group = self.locate(position, SAMPLES)
            first = position - int(group.sums[0, SAMPLES])
            last = min(len(group.index), first + stop - position)
            index.append(group.index[first:last])
            sums.append(group.sums[first + 1:last + 1])
            position += last - first
        return np.concatenate(index), np.concatenate(sums)

    def members(self, epoch: int) -> Members:
        return self.rest if self.rest is not None and epoch == self.epochs else self.full

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._epochs:
            members = self.members(number)
            blocks = np.argsort(mix(np.arange(len(members.blocks)), self.seed, number, 2), kind="stable")
            running = np.cumsum(members.blocks[blocks], axis=0)
            ends = np.minimum(np.arange(members.group, len(blocks) + members.group, members.group), len(blocks))
            before = np.vstack([np.zeros((1, COLUMNS), np.int64), running[ends - 1]])
            self._epochs[number] = _Epoch(members, blocks, before)
            _trim(self._epochs)
        return self._epochs[number]

    def _group(self, number: int, group: int) -> Group:
        if (number, group) not in self._groups:
            epoch = self._epoch(number)
            members = epoch.members
            blocks = epoch.blocks[group * members.group:(group + 1) * members.group]
            rows = (blocks[:, None] * members.size + np.arange(members.size)).reshape(-1)
            rows = rows[rows < len(members.index)]
            rows = rows[np.argsort(mix(rows, self.seed, number, 3), kind="stable")]
            sums = np.zeros((len(rows) + 1, COLUMNS), np.int64)
            np.cumsum(members.table[rows], axis=0, out=sums[1:])
            sums += self.before(number) + epoch.before[group]
            self._groups[number, group] = Group(members.index[rows], sums)
            _trim(self._groups)
        return self._groups[number, group]


def _trim(cache: OrderedDict) -> None:
    while len(cache) > _CACHED:
        cache.popitem(last=False)
