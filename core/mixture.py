"""The plan: which samples every step reads, as a pure function of the mixture, the packing and the data's fingerprints.

    plan = Plan(mixture, pack, global_batch, pools)         # pools: {"data/subset": Pool}; see core.lengths.pools
    plan.steps                                              # optimiser steps of the run
    plan.batch(step) -> list[list[Item]]                    # step in [0, steps): `global_batch` packs
    plan.fingerprint, plan.describe(), plan.difference(other.describe()) -> list of lines
    plan.consumed(step) -> {(source, language, modality): {"samples", "tokens", "loss_tokens", "images", "epochs"}}
    plan.realised(step) -> {"sample": r, "token": r, "loss_token": r}   # share of the target language, image-text samples

Every (source, language) pair is a stream (core.order) with a share of the whole. Which samples of a source are read in the
target language is decided once per sample: those with the smallest u(id, seed) that together make up the asked ratio, so
the set at 20 % lies inside that at 40 %, and the images are the same at every ratio. Streams are merged by virtual time
(weighted fair queueing): position v of the whole is position share * v of every stream. Windows of equal token count are cut
from that order and laid into a fixed number of packs, so step -> samples needs no history: the data state of a run
is (fingerprint, step). Nothing here depends on ranks, workers or restarts, and nothing is made beyond the window in use.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from core.config import Mixture, Pack
from core.errors import UserError
from core.order import COLUMNS, IMAGES, LOSS, SAMPLES, TOKENS, Stream
from core.pack import assign
from core.shares import Pool, make_streams

ALGORITHM = 1            # raise when the order changes: runs of another algorithm are not continued
UNITS = {"sample": SAMPLES, "token": TOKENS, "loss_token": LOSS}


class Item(NamedTuple):
    """One sample of a pack: where it lies (pool name, index), in which language, and what it was counted as."""

    pool: str
    index: int
    language: str
    stream: int
    tokens: int
    loss: int
    images: int


@dataclass
class Window:
    """The samples between two states in plan order: stream, pool index [n] and columns [n, 4]."""

    stream: np.ndarray
    index: np.ndarray
    columns: np.ndarray


class Plan:
    """See the module. Raises UserError for a mixture that the data cannot serve."""

    def __init__(self, mixture: Mixture, pack: Pack, global_batch: int, pools: Mapping[str, Pool]):
        if mixture.unit not in UNITS:
            raise UserError(f"mixture.unit is '{mixture.unit}': choose {', '.join(UNITS)}")
        if global_batch < 1 or pack.window < 1 or pack.tokens < 1 or pack.images < 1:
            raise UserError("train.global_batch, pack.window, pack.tokens and pack.images must be at least 1")
        if pack.max_tokens > pack.tokens:
            raise UserError(f"pack.max_tokens {pack.max_tokens} is larger than pack.tokens {pack.tokens}: "
                            "raise pack.tokens or cut samples shorter")
        self.mixture, self.pack, self.global_batch, self.pools = mixture, pack, global_batch, dict(pools)
        self.unit = UNITS[mixture.unit]
        self.streams: list[Stream]
        self.streams, weights, counted = make_streams(mixture, self.unit, self.pools)
        self.weights = np.array(weights)
        self._counted = np.array(counted)          # streams whose samples `mixture.samples` counts
        self._end = self._end_state(mixture.samples)
        total = self._end.sum(0)
        self.steps = int(max(1, -(-total[TOKENS] // (global_batch * pack.tokens)),
                             -(-total[IMAGES] // (global_batch * pack.images))))
        self.windows = -(-self.steps // pack.window)
        self.tokens_per_step = float(total[TOKENS] / self.steps)
        self._states: dict[int, np.ndarray] = {0: np.zeros((len(self.streams), COLUMNS), np.int64), self.windows: self._end}
        self._packed: dict[int, list[list[Item]]] = {}

    # --- steps ---------------------------------------------------------------------------------------------------

    def batch(self, step: int) -> list[list[Item]]:
        """The `global_batch` packs of step `step`, from 0. Rank r of W reads packs r, r + W, ..."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        number, place = divmod(step, self.pack.window)
        if number not in self._packed:
            self._packed = {number: self._lay(number)}
        return self._packed[number][place * self.global_batch:(place + 1) * self.global_batch]

    def window(self, number: int) -> Window:
        """The samples of steps number * pack.window and following, in the plan's order."""
        return self.between(self.state(number), self.state(number + 1))

    def _lay(self, number: int) -> list[list[Item]]:
        window = self.window(number)
        steps = min(self.pack.window, self.steps - number * self.pack.window)
        columns = window.columns
        packs = assign(window.stream, columns[:, TOKENS], columns[:, IMAGES], steps * self.global_batch)
        laid: list[list[Item]] = [[] for _ in range(steps * self.global_batch)]
        rows = zip(packs.tolist(), window.stream.tolist(), window.index.tolist(), columns.tolist(), strict=True)
        for place, s, index, row in rows:
            source, language, _ = self.streams[s].name
            laid[place].append(Item(source, index, language, s, row[TOKENS], row[LOSS], row[IMAGES]))
        return laid

    # --- the merged order ----------------------------------------------------------------------------------------

    def at(self, v: float) -> np.ndarray:
        """Columns [streams, 4] consumed at virtual time `v` (units of the mixture over all streams)."""
        return np.stack([s.sums(w * v) for s, w in zip(self.streams, self.weights, strict=True)])

    def state(self, number: int) -> np.ndarray:
        """Columns [streams, 4] consumed before window `number`."""
        if number not in self._states:
            goal = number * self.pack.window * self.tokens_per_step
            self._states[number] = self.at(self._bisect(goal, lambda columns: columns[:, TOKENS].sum())[1])
        return self._states[number]

    def between(self, start: np.ndarray, stop: np.ndarray) -> Window:
        """The samples after state `start` up to `stop`, merged by virtual time."""
        stream, index, columns, tags = [], [], [], []
        for number, (s, weight) in enumerate(zip(self.streams, self.weights, strict=True)):
            first, last = int(start[number, SAMPLES]), int(stop[number, SAMPLES])
            rows, sums, _ = s.read(first, last)
            stream.append(np.full(len(rows), number))
            index.append(rows)
            columns.append(np.diff(sums, axis=0))
            tags.append((sums[1:, self.unit] + sums[:-1, self.unit]) / (2 * weight))
        streams, merged = np.concatenate(stream), np.concatenate(tags)
        order = np.lexsort((np.arange(len(merged)), streams, merged))
        return Window(streams[order], np.concatenate(index)[order], np.concatenate(columns)[order])

    def _bisect(self, goal: float, count: Any) -> tuple[float, float]:
        """Virtual times (below, at) between which `count(at(v))` reaches `goal`; as close as neighbouring samples are."""
        per_unit = sum(w * count(np.diag(np.ones(len(self.streams)))[i][:, None] * s.full.total / s.full.total[self.unit])
                       for i, (s, w) in enumerate(zip(self.streams, self.weights, strict=True)))
        guess, low, high = goal / per_unit, 0.0, 0.0
        spread = max(guess * 1e-4, 64.0 * max(float(s.full.total[self.unit] / len(s.full.index)) for s in self.streams))
        low, high = max(0.0, guess - spread), guess + spread
        while count(self.at(high)) < goal:
            low, high = high, high + 2 * (high - low)
        while low > 0 and count(self.at(low)) >= goal:
            low, high = max(0.0, low - 2 * (high - low)), low
        below, above = self.at(low), self.at(high)
        while (above[:, SAMPLES] - below[:, SAMPLES]).sum() > 1 and high - low > 1e-12 * high:
            middle = (low + high) / 2
            if middle in (low, high):
                break
            found = self.at(middle)
            if count(found) >= goal:
                high, above = middle, found
            else:
                low, below = middle, found
        return low, high

    def _end_state(self, samples: int) -> np.ndarray:
        def counted(columns: np.ndarray) -> float:
            return columns[self._counted, SAMPLES].sum()

        low, high = self._bisect(samples, counted)
        below, above = self.at(low), self.at(high)
        missing = samples - int(counted(below))
        window = self.between(below, above)         # samples of one virtual time: the first ones are taken
        reached = np.flatnonzero(np.cumsum(self._counted[window.stream]) >= missing)[0] + 1
        state = below.copy()
        np.add.at(state, window.stream[:reached], window.columns[:reached])
        return state

    # --- accounts ------------------------------------------------------------------------------------------------

    def counts(self, step: int) -> np.ndarray:
        """Columns [streams, 4] of the first `step` steps."""
        number, place = divmod(step, self.pack.window)
        if place == 0 or step >= self.steps:
            return self.state(min(number if place == 0 else number + 1, self.windows)).copy()
        state = self.state(number).copy()
        for earlier in range(step - place, step):
            for pack in self.batch(earlier):
                for item in pack:
                    state[item.stream] += (1, item.tokens, item.loss, item.images)
        return state

    def consumed(self, step: int) -> dict[tuple[str, str, str], dict[str, float]]:
        """What the first `step` steps read, per (source, language, modality). Exact; `epochs` = passes over its samples."""
        result = {}
        for stream, row in zip(self.streams, self.counts(step).tolist(), strict=True):
            epoch = stream.epoch_of(row[SAMPLES], SAMPLES)
            part = (row[SAMPLES] - int(stream.before(epoch)[SAMPLES])) / len(stream.members(epoch).index)
            result[stream.name] = {"samples": row[SAMPLES], "tokens": row[TOKENS], "loss_tokens": row[LOSS],
                                   "images": row[IMAGES], "epochs": round(epoch + part, 4)}
        return result

    def realised(self, step: int) -> dict[str, float]:
        """The target language's share of what the first `step` steps read of `mixture.sources`, in each unit."""
        counts = self.counts(step)
        target = np.array([s.name[1] == self.mixture.target_language for s in self.streams])
        whole = counts[self._counted].sum(0)
        part = counts[self._counted & target].sum(0)
        return {unit: float(part[c] / whole[c]) if whole[c] else 0.0 for unit, c in UNITS.items()}

    # --- identity ------------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Everything the plan depends on, as plain data, and what follows from it."""
        return {"algorithm": ALGORITHM, "mixture": asdict(self.mixture), "pack": asdict(self.pack),
                "global_batch": self.global_batch, "steps": self.steps, "tokens_per_step": round(self.tokens_per_step, 3),
                "data": {name: pool.fingerprint for name, pool in sorted(self.pools.items())},
                "streams": [{"source": s.name[0], "language": s.name[1], "modality": s.name[2], "share": round(float(w), 12),
                             "samples": len(s.full.index), "tokens": int(s.full.total[TOKENS])}
                            for s, w in zip(self.streams, self.weights, strict=True)]}

    @property
    def fingerprint(self) -> str:
        """16 hex digits. Runs with the same fingerprint read the same samples at every step."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:16]

    def difference(self, other: Mapping[str, Any]) -> list[str]:
        """Lines "key: theirs -> ours" where another plan's description differs from this one."""
        theirs, ours = _flat(other), _flat(json.loads(json.dumps(self.describe())))
        return [f"{key}: {theirs.get(key, 'absent')} -> {ours.get(key, 'absent')}"
                for key in sorted(theirs.keys() | ours.keys()) if theirs.get(key) != ours.get(key)]


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{place}.{key}" if place else key).items()}
    if isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
        return {k: v for i, inner in enumerate(value) for k, v in _flat(inner, f"{place}[{i}]").items()}
    return {place: value}
