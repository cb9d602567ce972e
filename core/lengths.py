"""Token lengths of a subset, counted once per tokenizer and kept beside it, and the pools of a mixture made from them.

    data/<name>/<subset>/lengths-<encoder key>.npz      tokens_<language>, loss_<language>: int32 [samples]; data: the
                                                        fingerprint of the shards they were counted on
Any number of processes may count at the same time: each writes a complete file and renames it, all of them the same.
A file of another tokenizer, template, cut or number of image tokens has another name; one of other shards is counted
anew. Counts of shards in which a sample cannot be read that the index calls sound are not kept: once the shards are
mended their fingerprint is the same, and the counts are not.
"""
from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from core import caches
from core.config import Mixture
from core.encode import Encoder
from core.errors import UserError
from core.shards import Corrupt, Subset, open_subset
from core.shares import Pool

CORRUPT_SHARE = 0.05     # of a subset or of what was read: with more broken samples a run does not go on
_CHUNK = 2048
log = logging.getLogger(__name__)


def open_subsets(mixture: Mixture, data_root: Path | str) -> dict[str, Subset]:
    """The subsets that a mixture names, by "data/subset"."""
    sources = [*mixture.sources, *(mixture.text_only.sources if _reads_text(mixture) else ())]
    return {f"{s.data}/{s.subset}": open_subset(data_root, s.data, s.subset) for s in sources}


def pools(mixture: Mixture, subsets: dict[str, Subset], encoder: Encoder) -> dict[str, Pool]:
    """What `core.mixture.Plan` reads of each subset. Samples that the index marks as bad, or that cannot be encoded,
    are left out. Raises UserError if the latter are too many."""
    result = {}
    for name, subset in subsets.items():
        counted = lengths(subset, encoder, (mixture.base_language, mixture.target_language))
        _name_left_out(subset, counted)
        tokens = {k: np.where(subset.bad, -1, t) for k, (t, _) in counted.items()}
        loss = {k: np.where(subset.bad, -1, v) for k, (_, v) in counted.items()}
        modality = "image" if subset.kind == "image" else "text"
        result[name] = Pool(name, modality, subset.id_hash, subset.images, tokens, loss,
                            f"{subset.fingerprint} {encoder.key}")
    return result


def _name_left_out(subset: Subset, counted: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Log the samples that have text in a language and cannot be encoded in it."""
    left_out = np.zeros(subset.n, bool)
    for language, (tokens, _) in counted.items():
        left_out |= (subset.chars[language] >= 0) & (tokens < 0)
    left_out &= ~subset.bad
    if not left_out.any():
        return
    keys = ", ".join(subset.key(i) for i in np.flatnonzero(left_out)[:10])
    told = f"{left_out.sum()} of {subset.n} samples of {subset.name} cannot be encoded ({keys}, ...)"
    if left_out.sum() > CORRUPT_SHARE * subset.n:
        raise UserError(f"{told}: `begira data check` says why; `--mark` leaves them out")
    log.warning("%s and are left out", told)


def lengths(subset: Subset, encoder: Encoder, languages: Iterable[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{language: (tokens, supervised targets)}, int32 [samples]; from the file where it holds them, else counted."""
    path = subset.folder / f"lengths-{encoder.key}.npz"
    known = _load(path, subset)
    wanted = [k for k in dict.fromkeys(languages) if k in subset.chars]
    missing = [k for k in wanted if k not in known]
    if missing:
        counted, sound = _count(subset, encoder, missing)
        known |= counted
        if sound:
            _save(path, subset, known)
    return {k: known[k] for k in wanted}


def _count(subset: Subset, encoder: Encoder, languages: list[str]
           ) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], bool]:
    """The lengths, and whether every sample that is not flagged as bad could be read."""
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {k: [] for k in languages}
    sound = True
    for start in range(0, subset.n, _CHUNK):
        rows = range(start, min(start + _CHUNK, subset.n))
        records = [_record(subset, i) for i in rows]
        sound &= all(record is not None or subset.bad[i] for i, record in zip(rows, records, strict=True))
        for language in languages:
            parts[language].append(encoder.lengths(records, language, subset.images[rows.start:rows.stop].tolist()))
    empty = np.zeros(0, np.int32)
    return {k: (np.concatenate([empty, *(t for t, _ in p)]), np.concatenate([empty, *(v for _, v in p)]))
            for k, p in parts.items()}, sound


def _record(subset: Subset, i: int) -> dict | None:
    try:
        return subset.record(i)
    except Corrupt:
        return None


def _load(path: Path, subset: Subset) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    arrays = caches.load(path) or {}
    if str(arrays.get("data")) != subset.fingerprint:
        return {}
    names = [n.removeprefix("tokens_") for n in arrays if n.startswith("tokens_")]
    return {n: (arrays[f"tokens_{n}"], arrays[f"loss_{n}"]) for n in names}


def _save(path: Path, subset: Subset, known: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    arrays = {f"{kind}_{k}": a for k, pair in known.items() for kind, a in zip(("tokens", "loss"), pair, strict=True)}
    caches.save(path, {"data": np.array(subset.fingerprint), **arrays})


def _reads_text(mixture: Mixture) -> bool:
    return mixture.text_only.language != "none" and (mixture.text_only.share > 0 or not mixture.sources)
