"""From a mixture to streams: which samples of a source are read in which language, and each stream's share.

Pure functions over arrays. The image-text samples of a source form one pool at every ratio. Ordered by u(id, seed),
with those that have no target-language text last, its first k samples are read in the target language; k is where
their share of the mixture's unit comes nearest to the asked ratio. Where fewer samples are asked for than the pool
holds (or in the unfinished last epoch) a systematic sample along the same order is read, so every ratio reads the
same images.
"""
from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from core.config import Mixture, Source
from core.errors import UserError
from core.order import COLUMNS, IMAGES, LOSS, SAMPLES, TOKENS, Members, Stream, mix

_NOTHING = 1e-9          # a smaller share is none


@dataclass
class Pool:
    """A subset as the plan sees it. Lengths are per language, -1 where a sample cannot be read in it.

    tokens: with images expanded, after the cut. loss: supervised targets. `identity` names data and tokenizer."""

    name: str                          # "emoji-eu/name"
    modality: str                      # image | text
    id_hash: np.ndarray = field(repr=False)                  # uint64 [n]
    images: np.ndarray = field(repr=False)                   # int32 [n]
    tokens: Mapping[str, np.ndarray] = field(repr=False)     # int32 [n]
    loss: Mapping[str, np.ndarray] = field(repr=False)
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


@dataclass
class Share:
    """A stream and its share of the whole. Streams of one `row` are one source; `counted`: by mixture.samples."""

    stream: Stream
    share: float
    row: int
    counted: bool


@dataclass
class _Part:
    """One language of a source: the asked part of the source, and the units that its samples hold over the run."""

    stream: Stream
    asked: float
    units: float


def make_streams(mixture: Mixture, unit: int, pools: Mapping[str, Pool]) -> list[Share]:
    """The streams of a mixture; their shares sum to 1.

    Raises UserError for shares that make no sense or sources without a sample in the asked language."""
    text_share = _text_share(mixture)
    wanted = _wanted(mixture, unit, pools)
    split = [_split(mixture, unit, pools[_name(source)], samples, _seed(mixture.seed, row, _name(source)))
             for row, (source, _, samples) in enumerate(wanted)]
    result = []
    for row, ((_, share, _), parts, exact) in enumerate(zip(wanted, split, _near(split, mixture), strict=True)):
        whole = sum(part.units for part in parts)
        for part in parts:
            inside = part.units / whole if exact else part.asked
            result.append(Share(part.stream, share * inside * (1 - text_share), row, True))
    for language, share in _text_languages(mixture) if text_share else ():
        result += _text_streams(mixture, unit, pools, language, text_share * share)
    if not result:
        raise UserError("the mixture is empty: name at least one of mixture.sources or mixture.text_only.sources")
    return result


def _text_streams(mixture: Mixture, unit: int, pools: Mapping[str, Pool], language: str, share: float) -> list[Share]:
    found = [(row, s, pools[_name(s)]) for row, s in enumerate(mixture.text_only.sources, len(mixture.sources))]
    found = [(row, s, pool) for row, s, pool in found if pool.usable(language).any()]
    if not found:
        raise UserError(f"no text-only source has text in '{language}': add one to mixture.text_only.sources")
    whole = sum(s.weight for _, s, _ in found)
    return [Share(_stream(pool, language, np.flatnonzero(pool.usable(language)), unit,
                          _seed(mixture.seed, row, f"{_name(s)}/{language}")),
                  share * s.weight / whole, row, not mixture.sources) for row, s, pool in found]


def _text_share(mixture: Mixture) -> float:
    text = mixture.text_only
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
    return float(_units(pool, language, np.flatnonzero(pool.usable(language)), unit).mean())


def _split(mixture: Mixture, unit: int, pool: Pool, samples: int, seed: int) -> list[_Part]:
    """The base- and target-language streams of one source."""
    base, target, ratio = mixture.base_language, mixture.target_language, mixture.target_ratio
    has_base, has_target = pool.usable(base), pool.usable(target)
    members = np.flatnonzero(has_base | has_target)
    members = members[np.argsort(_rank(pool.id_hash[members], mixture.seed, has_target[members]), kind="stable")]
    epochs, left = divmod(samples, len(members))
    chosen = _systematic(len(members), left)
    times = epochs + chosen
    units = {language: times * _units(pool, language, members, unit) for language in (base, target)}
    k = _threshold(ratio, units[target], units[base], int(has_target[members].sum()))
    parts = []
    for language, rows, part in ((base, slice(k, None), 1 - ratio), (target, slice(0, k), ratio)):
        if part < _NOTHING:
            continue
        read = pool.usable(language)[members[rows]]
        full, rest = np.sort(members[rows][read]), np.sort(members[rows][read & chosen[rows]])
        if not len(full):
            raise UserError(f"{pool.name} has no sample left to read in '{language}' at target_ratio {ratio}")
        if epochs == 0 and len(rest):
            full, rest = rest, rest[:0]           # less than one epoch: the same images at every ratio
        stream = _stream(pool, language, full, unit, seed, epochs, rest)
        parts.append(_Part(stream, part, float(units[language][rows].sum())))
    return parts


def _near(sources: list[list[_Part]], mixture: Mixture) -> list[bool]:
    """For each source: do its streams get what their samples hold instead of what was asked?

    A finite set cannot meet every ratio exactly. What it gives is taken if that is less than half a sample off, in the
    source, over all sources and over those that take it: then every image is read equally often in the end."""
    target = [sum(p.units for p in parts if p.stream.name[1] == mixture.target_language) for parts in sources]
    whole = [sum(p.units for p in parts) for parts in sources]
    off = [t - mixture.target_ratio * w for t, w in zip(target, whole, strict=True)]
    half = 0.5 * sum(whole) / mixture.samples
    near = [abs(o) <= half and all(p.units > 0 for p in parts) for o, parts in zip(off, sources, strict=True)]
    together = abs(sum(off)) <= half and abs(sum(o for o, n in zip(off, near, strict=True) if n)) <= half
    return [n and together for n in near]


def _rank(hashes: np.ndarray, seed: int, has_target: np.ndarray) -> np.ndarray:
    """uint64 keys that sort by u(id, seed), what has no target-language text behind all that has."""
    return (mix(hashes, seed, 1) >> np.uint64(1)) | (~has_target).astype(np.uint64) << np.uint64(63)


def _units(pool: Pool, language: str, index: np.ndarray, unit: int) -> np.ndarray:
    """Units of each sample in `language`, int64; 0 where it cannot be read in it."""
    lengths = (pool.loss if unit == LOSS else pool.tokens).get(language)
    if lengths is None:
        return np.zeros(len(index), np.int64)
    found = lengths[index]
    return (found > 0).astype(np.int64) if unit == SAMPLES else np.maximum(found, 0).astype(np.int64)


def _systematic(n: int, wanted: int) -> np.ndarray:
    """bool [n] with `wanted` true, spread so evenly that every prefix holds its part to within one."""
    steps = (np.arange(n + 1, dtype=np.int64) * wanted) // n
    return np.diff(steps) > 0


def _threshold(ratio: float, target: np.ndarray, base: np.ndarray, candidates: int) -> int:
    """How many of the first `candidates` samples are read in the target language: where their share of all units comes
    nearest to `ratio`, at least one and not all. target, base: units of each sample in either language."""
    if candidates == 0 or ratio < _NOTHING or 1 - ratio < _NOTHING:
        return candidates if ratio > 0.5 else 0
    here, there, whole = np.cumsum(target[:candidates]), np.cumsum(base[:candidates]), int(base.sum())

    def share(k: int) -> float:
        part = int(here[k - 1]) if k else 0
        return part / max(1, part + whole - (int(there[k - 1]) if k else 0))

    low, high = 0, candidates                     # the share grows with k
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if share(middle) < ratio else (low, middle)
    best = high if share(high) - ratio < ratio - share(low) else low
    return min(max(best, 1), len(target) - 1)


def _stream(pool: Pool, language: str, index: np.ndarray, unit: int, seed: int, epochs: int = 0,
            rest: np.ndarray | Sequence[int] = ()) -> Stream:
    full = Members(index, pool.columns(language, index))
    if full.total[unit] == 0:
        raise UserError(f"{pool.name} in '{language}' holds nothing that mixture.unit counts: choose sample or token")
    part = Members(np.asarray(rest), pool.columns(language, np.asarray(rest))) if len(rest) else None
    return Stream((pool.name, language, pool.modality), full, seed, unit, epochs, part)


def _seed(seed: int, number: int, name: str) -> int:
    return int(mix(number, seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")))


def _name(source: Source) -> str:
    return f"{source.data}/{source.subset}"
