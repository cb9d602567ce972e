"""Parallel sentences out of a data set's text-only subsets: what a translator is trained on and measured with. Pure.

A record's languages are cut at line breaks and sentences alike; where both sides fall into equally many pieces, these
are pairs. A held-out part is chosen by the hash of the record's id. Nothing that is to be translated later is learned
from: its texts and their human translations are kept apart (`answers`).
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.config import Source
from core.errors import UserError
from core.shards import DataSet
from data_tools import segments
from data_tools.shards import id_hash

Pair = tuple[str, str]


@dataclass(frozen=True)
class Bitext:
    """Pairs (source, target), each source text once."""

    train: list[Pair]
    held_out: list[Pair]


def bitext(sources: Iterable[Source], root: Path | str, languages: tuple[str, str], share: float, characters: int,
           apart: Iterable[Pair] = ()) -> Bitext:
    """Pairs of at most `characters` a side; `share` of the records are held out.

    A sentence that a held-out record holds, or that stands in `apart`, is not among those to train on. Raises UserError
    if no pair is left."""
    train: dict[str, str] = {}
    held_out: dict[str, str] = {}
    for identity, pair in _pairs(sources, root, languages):
        if max(map(len, pair)) <= characters:
            chosen = held_out if id_hash(f"held out/{identity}") / 2**64 < share else train
            chosen.setdefault(*pair)
    avoided = {_bare(text) for text in (*held_out, *(pair[0] for pair in apart))}
    kept = [pair for pair in train.items() if _bare(pair[0]) not in avoided]
    if not kept:
        raise UserError(f"no pair of {' and '.join(languages)} sentences to train on: name parallel text-only subsets "
                        "under `sources`")
    return Bitext(kept, list(held_out.items()))


def answers(sources: Iterable[Source], root: Path | str, languages: tuple[str, str]) -> list[Pair]:
    """The different answers of image subsets whose records hold both languages, in the order of the data set."""
    found: dict[str, str] = {}
    for record in _records(sources, root, languages):
        found.setdefault(*(record["turns"][language][-1]["content"] for language in languages))
    return list(found.items())


def aligned(source: str, target: str) -> list[Pair]:
    """Pieces of two texts that translate each other: lines, then sentences; [] where the numbers of lines differ."""
    lines = source.split("\n"), target.split("\n")
    if len(lines[0]) != len(lines[1]):
        return []
    result = []
    for pair in zip(*lines, strict=True):
        cut = [[part for fixed, part in segments.cut(line) if not fixed] for line in pair]
        result += list(zip(*cut, strict=True)) if len(cut[0]) == len(cut[1]) else [pair]
    return [pair for pair in result if all(pair)]


def _pairs(sources: Iterable[Source], root: Path | str, languages: tuple[str, str]) -> Iterator[tuple[str, Pair]]:
    for record in _records(sources, root, languages):
        texts = [record["turns"][language][-1]["content"] for language in languages]
        if record["source"] == "cldr-names":           # "name: keyword, keyword": the keywords do not correspond
            texts = [text.partition(": ")[0] for text in texts]
        for pair in aligned(*texts):
            yield record["id"], pair


def _records(sources: Iterable[Source], root: Path | str, languages: tuple[str, str]) -> Iterator[dict]:
    for source in sources:
        subset = DataSet(Path(root) / source.data).subset(source.subset)
        for i in range(len(subset)):
            record = subset.record(i)
            if all(language in record["turns"] for language in languages):
                yield record


def _bare(text: str) -> str:
    return text.strip(" .:!?").casefold()
