"""Merging streams into one order whose every prefix has the asked shares, readable from any point.

The streams of one source form a row. The next sample comes from the row whose turn it is by worst-case fair weighted
fair queueing (Bennett & Zhang 1996, WF2Q: of the rows that are not ahead of their share, the one whose next sample is
due first), so at every prefix each row is within one sample of its share. Inside the row the stream that is furthest
behind is read, unless the target language as a whole has drifted by a sample: then that is put right first. So both
the sources' shares and the target ratio hold to within one sample (the longest one, in tokens), at every prefix.

Such a scheduler is sequential, but it forgets: started from rounded-down shares a little earlier, it falls in with
the order that began at zero after some hundred samples. So the order is made in pieces that begin at fixed points,
each from a short run-up, and any piece is had in milliseconds. Should a run-up not have fallen in, the piece before
it ends where it begins: every sample is read exactly once in any case. Pure and deterministic. Not here: windows and
packs (core.mixture).
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.order import COLUMNS, SAMPLES, Stream

PIECE = 8192             # samples in a piece, about
RUN_UP = 1024            # samples before it
_AHEAD = 1024            # lengths looked up at a time


@dataclass
class Piece:
    """A stretch of the order: stream and pool index of each sample [n], its columns [n, 4]; `start`: samples read of
    every stream before it."""

    start: np.ndarray
    stream: np.ndarray
    index: np.ndarray
    columns: np.ndarray

    def counts(self, position: int) -> np.ndarray:
        """Samples read per stream before `position` of this piece."""
        return self.start + np.bincount(self.stream[:position], minlength=len(self.start))


class Merged:
    """The order. `weights` sum to 1; `rows[s]` numbers the row of stream s; `target[s]` is 1 where stream s counts as
    target language, 0 where it competes with it, -1 where neither."""

    def __init__(self, streams: Sequence[Stream], weights: Sequence[float], rows: Sequence[int], target: Sequence[int]):
        self.streams, self.weights, self.target = list(streams), np.array(weights, float), list(target)
        self.unit = streams[0].unit
        self.members = [[s for s, r in enumerate(rows) if r == row] for row in sorted(set(rows))]
        means = np.array([s.full.total[self.unit] / len(s.full.index) for s in streams])
        self.mean = float(1 / (self.weights / means).sum())     # units per sample
        language = [s for s in range(len(streams)) if target[s] >= 0]
        competing = float(self.weights[language].sum())
        self.ratio = float(sum(self.weights[s] for s in language if target[s])) / max(competing, 1e-300)
        self.slack = float(competing / max((self.weights[language] / means[language]).sum(), 1e-300))
        self._anchors: OrderedDict[int, np.ndarray] = OrderedDict()
        self._pieces: OrderedDict[int, Piece] = OrderedDict()

    def columns(self, counts: np.ndarray) -> np.ndarray:
        """Columns [streams, 4] of the first `counts` samples of every stream."""
        return np.stack([s.at(int(c)) for s, c in zip(self.streams, counts, strict=True)])

    def find(self, goal: float, weight: np.ndarray, column: int) -> tuple[int, int]:
        """(piece, position): the shortest prefix whose sum of `column` over streams with `weight` reaches `goal`."""
        if goal <= 0:
            return 0, 0
        rates = np.array([s.full.total[column] / s.full.total[self.unit] for s in self.streams])
        number = int(goal / (self.weights * rates * weight).sum() / (PIECE * self.mean))

        def before(piece: int) -> float:
            return float((self.columns(self.anchor(piece))[:, column] * weight).sum())

        while number > 0 and before(number) >= goal:
            number -= 1
        while before(number + 1) < goal:
            number += 1
        piece = self.piece(number)
        running = before(number) + np.cumsum(piece.columns[:, column] * weight[piece.stream])
        return number, int(np.searchsorted(running, goal, side="left")) + 1

    def between(self, start: tuple[int, int], stop: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(stream [n], pool index [n], columns [n, 4]) of the samples from position `start` up to `stop`."""
        parts = []
        for number in range(start[0], stop[0] + 1):
            piece = self.piece(number)
            part = slice(start[1] if number == start[0] else 0, stop[1] if number == stop[0] else None)
            parts.append((piece.stream[part], piece.index[part], piece.columns[part]))
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))  # type: ignore[return-value]

    def counts(self, place: tuple[int, int]) -> np.ndarray:
        """Samples read per stream before a position."""
        return self.piece(place[0]).counts(place[1])

    def anchor(self, number: int) -> np.ndarray:
        """Samples read per stream before piece `number`."""
        if number not in self._anchors:
            goal = number * PIECE * self.mean
            begin = max(0.0, goal - RUN_UP * self.mean)
            counts = np.array([s.count(w * begin) for s, w in zip(self.streams, self.weights, strict=True)])
            run = self._run(counts, goal, None) if number else []
            self._anchors[number] = counts + np.bincount(np.array(run, np.int64), minlength=len(counts))
            _trim(self._anchors, 64)
        return self._anchors[number]

    def piece(self, number: int) -> Piece:
        if number not in self._pieces:
            start = self.anchor(number)
            stop = np.maximum(self.anchor(number + 1), start)
            stream = np.array(self._run(start, 0.0, stop), np.int64)
            index = np.empty(len(stream), np.int64)
            columns = np.empty((len(stream), COLUMNS), np.int64)
            for s, source in enumerate(self.streams):
                mine = stream == s
                index[mine], running = source.read(int(start[s]), int(stop[s]))
                columns[mine] = np.diff(running, axis=0)
            self._pieces[number] = Piece(start, stream, index, columns)
            _trim(self._pieces, 3)
        return self._pieces[number]

    def _run(self, counts: np.ndarray, goal: float, stop: np.ndarray | None) -> list[int]:
        """Streams of the next samples after `counts`: until `goal` units are read in all, or exactly up to `stop`."""
        return _Scheduler(self, counts, stop).run(goal)


class _Scheduler:
    """One sequential stretch. Plain lists and floats: this loop is run once per sample."""

    def __init__(self, merged: Merged, counts: np.ndarray, stop: np.ndarray | None):
        self.merged, self.counts = merged, [int(c) for c in counts]
        self.read = [float(s.at(c)[s.unit]) for s, c in zip(merged.streams, self.counts, strict=True)]
        self.left = None if stop is None else [int(n) for n in stop - counts]
        self.ahead: list[list[float]] = [[] for _ in counts]       # lengths of the samples to come, the next one last
        self.weights = merged.weights.tolist()
        self.rows = merged.members
        self.shares = [sum(self.weights[s] for s in members) for members in self.rows]
        self.units = [sum(self.read[s] for s in members) for members in self.rows]
        self.total = sum(self.read)
        self.drift = sum(self.read[s] * (t - merged.ratio) for s, t in enumerate(merged.target) if t >= 0)

    def run(self, goal: float) -> list[int]:
        """Streams of the samples until `goal` units are read in all; with `stop`, of all samples up to it."""
        result: list[int] = []
        active = [r for r in range(len(self.rows)) if self._open(r)]
        starts, choices = {}, {}
        for row in active:
            starts[row], choices[row] = self.units[row] / self.shares[row], self._choices(row)
        while active and (self.left is not None or self.total < goal):
            limit, wanted = self.total * (1 + 1e-12) + 1e-9, self._wanted()
            ready = [r for r in active if starts[r] <= limit] or [min(active, key=starts.__getitem__)]
            row = ready[0] if len(ready) == 1 else min(ready, key=lambda r: choices[r][wanted][0])
            stream = choices[row][wanted][1]
            if self.left is not None and not self.left[stream]:        # only where a run-up had not fallen in
                stream = next(s for s in self.rows[row] if self.left[s] > 0)
            result.append(stream)
            self._serve(row, stream)
            if self._open(row):
                starts[row], choices[row] = self.units[row] / self.shares[row], self._choices(row)
            else:
                active.remove(row)
        return result

    def _open(self, row: int) -> bool:
        return self.left is None or any(self.left[s] > 0 for s in self.rows[row])

    def _serve(self, row: int, stream: int) -> None:
        length = self._length(stream)
        self.ahead[stream].pop()
        self.counts[stream] += 1
        self.read[stream] += length
        self.units[row] += length
        self.total += length
        kind = self.merged.target[stream]
        if kind >= 0:
            self.drift += length * (kind - self.merged.ratio)
        if self.left is not None:
            self.left[stream] -= 1

    def _wanted(self) -> int:
        """1 or 0 where only (not) the target language brings its ratio back, else -1."""
        ratio, slack = self.merged.ratio, self.merged.slack
        return 0 if self.drift > ratio * slack + 1e-9 else 1 if self.drift < (ratio - 1) * slack - 1e-9 else -1

    def _choices(self, row: int) -> dict[int, tuple[float, int]]:
        """(when it is due, stream) of the row's next sample, for each thing that can be wanted.

        The stream that is furthest behind its share, among those of the wanted language where the row has it."""
        start, share = self.units[row] / self.shares[row], self.shares[row]
        found = []
        for s in self.rows[row]:
            size = self._length(s)
            found.append(((self.read[s] + size / 2) / self.weights[s], start + size / share, s))
        result = {-1: min(found)[1:]}
        for wanted in (0, 1):
            fitting = [f for f in found if self.merged.target[f[2]] == wanted]
            result[wanted] = min(fitting)[1:] if fitting else result[-1]
        return result

    def _length(self, stream: int) -> float:
        ahead = self.ahead[stream]
        if not ahead:
            source, count = self.merged.streams[stream], self.counts[stream]
            if source.unit == SAMPLES:
                ahead += [1.0] * _AHEAD
            else:
                ahead += np.diff(source.read(count, count + _AHEAD)[1][:, source.unit])[::-1].astype(float).tolist()
        return ahead[-1]


def _trim(cache: OrderedDict, size: int) -> None:
    while len(cache) > size:
        cache.popitem(last=False)
