"""The plan: which samples every step reads, as a pure function of the mixture, the packing and the data's fingerprints.

    plan = Plan(mixture, pack, global_batch, pools)         # pools: {"data/subset": Pool}; see core.lengths.pools
    plan.steps                                              # optimiser steps of the run
    plan.batch(step) -> list[list[Item]]                    # step in [0, steps): `global_batch` packs
    plan.fingerprint, plan.describe(), plan.difference(other.describe()) -> list of lines
    plan.consumed(step) -> {(source, language, modality): {"samples", "tokens", "loss_tokens", "images", "epochs"}}
    plan.realised(step) -> {"sample": r, "token": r, "loss_token": r}   # target language's share of image-text

Every (source, language) pair is a stream (core.order) with a share of the whole (core.shares). Which samples of a
source are read in the target language is decided once per sample: those with the smallest u(id, seed) that together
make up the asked ratio, so the set at 20 % lies inside that at 40 %, and the images are the same at every ratio.
The streams are merged (core.merge) into one order, at every prefix of which every share is met to within one
sample. That order is cut into windows of equal token count, and a window is laid into a fixed number of packs
(core.pack): step -> samples needs no history, and the data state of a run is (fingerprint, step). Nothing here
depends on ranks, workers or restarts, and nothing is made beyond the window in use.
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
from core.merge import Merged
from core.order import IMAGES, LOSS, SAMPLES, TOKENS
from core.pack import assign, spread
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
        self.mixture, self.pack, self.global_batch, self.pools = mixture, pack, global_batch, dict(pools)
        shares = make_streams(mixture, UNITS[mixture.unit], self.pools)
        self.streams = [share.stream for share in shares]
        self.shares = np.array([share.share for share in shares])
        self._counted = np.array([share.counted for share in shares])      # what mixture.samples counts
        self._target = np.array([s.name[1] == mixture.target_language for s in self.streams])
        competing = [int(t) if c and mixture.sources else -1 for t, c in zip(self._target, self._counted, strict=True)]
        self._order = Merged(self.streams, self.shares, [share.row for share in shares], competing)
        self._end = self._order.find(mixture.samples, self._counted.astype(float), SAMPLES)
        total = self._order.columns(self._order.counts(self._end)).sum(0)
        self.steps = int(max(1, -(-total[TOKENS] // (global_batch * pack.tokens)),
                             -(-total[IMAGES] // (global_batch * pack.images))))
        self.windows = -(-self.steps // pack.window)
        self.tokens_per_step = float(total[TOKENS] / self.steps)
        self._places: dict[int, tuple[int, int]] = {0: (0, 0), self.windows: self._end}
        self._laid: tuple[int, list[list[list[Item]]]] = (-1, [])

    def batch(self, step: int) -> list[list[Item]]:
        """The `global_batch` packs of step `step`, from 0."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        number, place = divmod(step, self.pack.window)
        if self._laid[0] != number:
            self._laid = (number, self._lay(number))
        return self._laid[1][place]

    def rank_batch(self, step: int, rank: int, world: int) -> list[list[Item]]:
        """The packs of `step` that one rank of `world` reads: as many as any other, of nearly the same cost."""
        packs = self.batch(step)
        return [packs[i] for i in spread(*_costs(packs), world)[rank]]

    def window(self, number: int) -> Window:
        """The samples of steps number * pack.window and following, in the order of the mixture."""
        return Window(*self._order.between(self._place(number), self._place(number + 1)))

    def _place(self, number: int) -> tuple[int, int]:
        """Where window `number` begins in the merged order."""
        if number not in self._places:
            goal = number * self.pack.window * self.tokens_per_step
            self._places[number] = self._order.find(goal, np.ones(len(self.streams)), TOKENS)
        return self._places[number]

    def _lay(self, number: int) -> list[list[list[Item]]]:
        """The packs of every step of a window."""
        window = self.window(number)
        steps = min(self.pack.window, self.steps - number * self.pack.window)
        columns = window.columns
        places = assign(window.stream, columns[:, TOKENS], columns[:, IMAGES], steps * self.global_batch)
        packs: list[list[Item]] = [[] for _ in range(steps * self.global_batch)]
        rows = zip(places.tolist(), window.stream.tolist(), window.index.tolist(), columns.tolist(), strict=True)
        for place, s, index, row in rows:
            source, language, _ = self.streams[s].name
            packs[place].append(Item(source, index, language, s, row[TOKENS], row[LOSS], row[IMAGES]))
        return [packs[i:i + self.global_batch] for i in range(0, len(packs), self.global_batch)]

    # --- accounts ------------------------------------------------------------------------------------------------

    def counts(self, step: int) -> np.ndarray:
        """Columns [streams, 4] (samples, tokens, loss tokens, images) of the first `step` steps."""
        number, place = (self.windows, 0) if step >= self.steps else divmod(step, self.pack.window)
        columns = self._order.columns(self._order.counts(self._place(number)))
        for earlier in range(step - place, step):
            for item in (item for pack in self.batch(earlier) for item in pack):
                columns[item.stream] += (1, item.tokens, item.loss, item.images)
        return columns

    def consumed(self, step: int) -> dict[tuple[str, str, str], dict[str, float]]:
        """What the first `step` steps read, per (source, language, modality). `epochs`: passes over the samples."""
        result: dict[tuple[str, str, str], dict[str, float]] = {}
        for stream, row in zip(self.streams, self.counts(step).tolist(), strict=True):
            epoch = stream.epoch_of(row[SAMPLES], SAMPLES)
            part = (row[SAMPLES] - int(stream.before(epoch)[SAMPLES])) / len(stream.members(epoch).index)
            counts = {"samples": row[SAMPLES], "tokens": row[TOKENS], "loss_tokens": row[LOSS], "images": row[IMAGES],
                      "epochs": round(epoch + part, 4)}
            before = result.get(stream.name, dict.fromkeys(counts, 0))      # a source may be named twice
            result[stream.name] = {k: v + before[k] for k, v in counts.items()}
        return result

    def realised(self, step: int) -> dict[str, float]:
        """The target language's share of what the first `step` steps read of `mixture.sources`, in each unit."""
        counts = self.counts(step)
        whole = counts[self._counted].sum(0)
        part = counts[self._counted & self._target].sum(0)
        return {unit: float(part[c] / whole[c]) if whole[c] else 0.0 for unit, c in UNITS.items()}

    # --- identity ------------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Everything the plan depends on, as plain data, and what follows from it."""
        return {"algorithm": ALGORITHM, "mixture": asdict(self.mixture), "pack": asdict(self.pack),
                "global_batch": self.global_batch, "steps": self.steps,
                "tokens_per_step": round(self.tokens_per_step, 3),
                "data": {name: pool.fingerprint for name, pool in sorted(self.pools.items())},
                "streams": [{"source": s.name[0], "language": s.name[1], "modality": s.name[2],
                             "share": round(float(w), 12), "samples": len(s.full.index),
                             "tokens": int(s.full.total[TOKENS])}
                            for s, w in zip(self.streams, self.shares, strict=True)]}

    @property
    def fingerprint(self) -> str:
        """16 hex digits. Runs with the same fingerprint read the same samples at every step."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:16]

    def difference(self, other: Mapping[str, Any]) -> list[str]:
        """Lines "key: theirs -> ours" where another plan's description differs from this one."""
        return difference(other, self.describe())


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines "key: before -> now" where two descriptions of plans differ."""
    theirs, ours = _flat(before), _flat(json.loads(json.dumps(now)))
    return [f"{key}: {theirs.get(key, 'absent')} -> {ours.get(key, 'absent')}"
            for key in sorted(theirs.keys() | ours.keys()) if theirs.get(key) != ours.get(key)]


def _costs(packs: list[list[Item]]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and images of each pack."""
    return (np.array([sum(item.tokens for item in pack) for pack in packs]),
            np.array([sum(item.images for item in pack) for pack in packs]))


def check_world(global_batch: int, world: int, micro_batch: int = 1) -> None:
    """Raise UserError unless every rank gets the same number of whole micro-batches."""
    if global_batch % (world * micro_batch):
        raise UserError(f"train.global_batch {global_batch} is not a multiple of {world} ranks x runtime.micro_batch "
                        f"{micro_batch}: change one of them")


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        places = {f"{place}.{key}" if place else key: inner for key, inner in value.items()}
        return {k: v for name, inner in places.items() for k, v in _flat(inner, name).items()}
    if isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
        return {k: v for i, inner in enumerate(value) for k, v in _flat(inner, f"{place}[{i}]").items()}
    return {place: value}
