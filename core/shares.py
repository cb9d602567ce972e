"""From a mixture to streams: which samples of a source are read in which language, and each stream's share of the whole.

Pure functions over arrays. The image-text samples of a source form one pool at every ratio. Ordered by u(id, seed), with those
that have no target-language text last, its first k samples are read in the target language; k is where their share of the
mixture's unit comes nearest to the asked ratio. Where fewer samples are asked for than the pool holds (or in the unfinished
last epoch) a systematic sample along the same order is read, so every ratio reads the same images.
"""
from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from core.config import Mixture, Source
from core.errors import UserError
from core.order import COLUMNS, IMAGES, LOSS, SAMPLES, TOKENS, Members, Stream, mix, uniform


@dataclass
class Pool:
    """A subset as the plan sees it. Lengths are per language, -1 where a sample cannot be read in it.

    tokens: with images expanded, after the cut. loss: supervised targets. `identity` names data and tokenizer."""

    name: str                          # "emoji-eu/name"
    modality: str                      # image | text
    id_hash: np.ndarray                # uint64 [n]
    images: np.ndarray                 # int32 [n]
    tokens: Mapping[str, np.ndarray]   # int32 [n]
    loss: Mapping[str, np.ndarray]
    identity: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of `identity` and of every array that the plan reads."""
        total = hashlib.sha256(f"{self.name}\n{self.modality}\n{self.identity}\n".encode())
        for array in (self.id_hash, self.images, *(a[k] for a in (self.tokens, self.loss) for k in sorted(a))):
            total.update(np.ascontiguousarray(array).data)
        return total.hexdigest()[:16]

    def usable(self, language: str) -> np.ndarray:
        """bool [n]: can be read in `language`."""
        found = self.tokens.get(language)
        return found > 0 if found is not None else np.zeros(len(self.id_hash), bool)

    def columns(self, language: str, index: np.ndarray) -> np.ndarray:
        """Table [m, 4] of the samples `index` in `language`."""
        table = np.empty((len(index), COLUMNS), np.int32)
        table[:, SAMPLES] = 1
        table[:, TOKENS] = self.tokens[language][index]
        table[:, LOSS] = self.loss[language][index]
        table[:, IMAGES] = self.images[index]
        return table


def make_streams(mixture: Mixture, unit: int, pools: Mapping[str, Pool]) -> tuple[list[Stream], list[float], list[bool]]:
    """Streams, their shares of the whole (sum 1), and whether each belongs to `mixture.sources`.

    Raises UserError for shares that make no sense or sources without a sample in the asked language."""
    _check(mixture)
    text_share = _text_share(mixture)
    streams, shares = [], []
    for number, (source, share, samples) in enumerate(_wanted(mixture, unit, pools)):
        for stream, part in _split(mixture, unit, pools[_name(source)], samples, _seed(mixture.seed, number, _name(source))):
            streams.append(stream)
            shares.append(share * part * (1 - text_share))
    counted = [True] * len(streams)
    for language, share in _text_languages(mixture) if text_share else ():
        sources = [s for s in mixture.text_only.sources if pools[_name(s)].usable(language).any()]
        if not sources:
            raise UserError(f"no text-only source has text in '{language}': add one to mixture.text_only.sources")
        whole = sum(s.weight for s in sources)
        for number, source in enumerate(sources):
            pool, index = pools[_name(source)], np.flatnonzero(pools[_name(source)].usable(language))
            seed = _seed(mixture.seed, number, f"{_name(source)}/{language}")
            streams.append(_stream(pool, language, index, unit, seed))
            shares.append(text_share * share * source.weight / whole)
            counted.append(not mixture.sources)
    if not streams:
        raise UserError("the mixture is empty: name at least one of mixture.sources or mixture.text_only.sources")
    return streams, shares, counted


def _check(mixture: Mixture) -> None:
    if not 0 <= mixture.target_ratio <= 1:
        raise UserError(f"mixture.target_ratio is {mixture.target_ratio}: it must lie in 0..1")
    if not 0 <= mixture.text_only.share <= 1:
        raise UserError(f"mixture.text_only.share is {mixture.text_only.share}: it must lie in 0..1")
    if mixture.samples < 1:
        raise UserError(f"mixture.samples is {mixture.samples}: it must be at least 1")
    for source in [*mixture.sources, *mixture.text_only.sources]:
        if source.weight <= 0:
            raise UserError(f"the weight of source {_name(source)} is {source.weight}: it must be above 0")


def _text_share(mixture: Mixture) -> float:
    text = mixture.text_only
    if text.language not in ("none", "base", "target", "both"):
        raise UserError(f"mixture.text_only.language is '{text.language}': choose none, base, target or both")
    if not mixture.sources:
        return 1.0
    share = 0.0 if text.language == "none" else text.share
    if share == 1:
        raise UserError("mixture.text_only.share is 1 beside image-text sources: lower it, or remove mixture.sources")
    if share > 0 and not text.sources:
        raise UserError("mixture.text_only asks for a share but names no sources")
    return share


def _text_languages(mixture: Mixture) -> list[tuple[str, float]]:
    base, target = mixture.base_language, mixture.target_language
    return {"none": [], "base": [(base, 1.0)], "target": [(target, 1.0)],
            "both": [(base, 0.5), (target, 0.5)]}[mixture.text_only.language]


def _wanted(mixture: Mixture, unit: int, pools: Mapping[str, Pool]) -> list[tuple[Source, float, int]]:
    """(source, share of the sources, samples of the run): the samples do not depend on the ratio."""
    if not mixture.sources:
        return []
    weights = np.array([s.weight for s in mixture.sources]) / sum(s.weight for s in mixture.sources)
    rate = weights / [_mean_units(pools[_name(s)], mixture, unit) for s in mixture.sources]
    exact = rate / rate.sum() * mixture.samples
    samples = np.floor(exact).astype(int)
    largest = np.argsort(samples - exact, kind="stable")
    samples[largest[:mixture.samples - samples.sum()]] += 1
    if unit == SAMPLES:
        weights = samples / mixture.samples       # at the end every source has been read a whole number of times
    return [(s, float(w), int(n)) for s, w, n in zip(mixture.sources, weights, samples, strict=True) if w > 0]


def _mean_units(pool: Pool, mixture: Mixture, unit: int) -> float:
    language = next((k for k in (mixture.base_language, mixture.target_language) if pool.usable(k).any()), None)
    if language is None:
        raise UserError(f"{pool.name} has no usable sample in '{mixture.base_language}' or '{mixture.target_language}'")
    return float(pool.columns(language, np.flatnonzero(pool.usable(language)))[:, unit].mean())


def _split(mixture: Mixture, unit: int, pool: Pool, samples: int, seed: int) -> list[tuple[Stream, float]]:
    """The base- and target-language streams of one source and their parts of it (sum 1)."""
    base, target, ratio = mixture.base_language, mixture.target_language, mixture.target_ratio
    has_base, has_target = pool.usable(base), pool.usable(target)
    members = np.flatnonzero(has_base | has_target)
    members = members[np.lexsort((members, uniform(pool.id_hash[members], mixture.seed), ~has_target[members]))]
    epochs, left = divmod(samples, len(members))
    chosen = _systematic(len(members), left)
    times = epochs + chosen
    units = {k: np.where(ok[members], _units(pool, k, members, unit), 0) for k, ok in ((base, has_base), (target, has_target))}
    k = _threshold(ratio, np.cumsum(times * units[target]), np.cumsum(times * units[base]), int(has_target[members].sum()))
    parts = []
    for language, rows, part in ((base, slice(k, None), 1 - ratio), (target, slice(0, k), ratio)):
        if part == 0:
            continue
        read = pool.usable(language)[members[rows]]
        full, rest = np.sort(members[rows][read]), np.sort(members[rows][read & chosen[rows]])
        if not len(full):
            raise UserError(f"{pool.name} has no sample left to read in '{language}' at target_ratio {ratio}")
        if epochs == 0 and len(rest):
            full, rest = rest, rest[:0]           # less than one epoch: the same images at every ratio
        parts.append((_stream(pool, language, full, unit, seed, epochs, rest), part, float((times * units[language])[rows].sum())))
    whole = sum(amount for *_, amount in parts)
    # a ratio that the finite set cannot meet exactly is not corrected for where it is less than half a sample off
    exact = all(abs(amount / whole - part) * whole <= 0.5 * whole / samples for _, part, amount in parts) if whole else False
    return [(stream, amount / whole if exact else part) for stream, part, amount in parts]


def _units(pool: Pool, language: str, index: np.ndarray, unit: int) -> np.ndarray:
    if language not in pool.tokens:
        return np.zeros(len(index), np.int64)
    return pool.columns(language, index)[:, unit].astype(np.int64)


def _systematic(n: int, wanted: int) -> np.ndarray:
    """bool [n] with `wanted` true, spread so evenly that every prefix holds its part to within one."""
    steps = (np.arange(n + 1, dtype=np.int64) * wanted) // n
    return np.diff(steps) > 0


def _threshold(ratio: float, target: np.ndarray, base: np.ndarray, candidates: int) -> int:
    """How many of the first `candidates` samples are read in the target language; from running sums in either language."""
    if ratio in (0, 1) or candidates == 0:
        return candidates if ratio else 0
    here = np.concatenate([[0], target[:candidates]]).astype(float)
    there = base[-1] - np.concatenate([[0], base[:candidates]]).astype(float)
    share = here / np.maximum(here + there, 1)
    return int(np.clip(np.abs(share - ratio).argmin(), 1, len(target) - 1))


def _stream(pool: Pool, language: str, index: np.ndarray, unit: int, seed: int, epochs: int = 0,
            rest: np.ndarray | Sequence[int] = ()) -> Stream:
    full = Members(index, pool.columns(language, index))
    if full.total[unit] == 0:
        raise UserError(f"{pool.name} in '{language}' holds nothing that mixture.unit counts: choose unit sample or token")
    part = Members(np.asarray(rest), pool.columns(language, np.asarray(rest))) if len(rest) else None
    return Stream((pool.name, language, pool.modality), full, seed, unit, epochs, part)


def _seed(seed: int, number: int, name: str) -> int:
    return int(mix(number, seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")))


def _name(source: Source) -> str:
    return f"{source.data}/{source.subset}"
