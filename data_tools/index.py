"""Reading tars that others made: their samples in order, and the sidecar index (`data_tools.shards.Index`) for them.

Samples are what WebDataset takes for one: neighbouring members with the same path up to the first dot of the file name.
Nothing is repaired here; what is wrong is told by `data_tools.check`.
"""
from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import replacing, sha256
from data_tools.dataset import fingerprint
from data_tools.shards import Index, id_hash, image_size, texts

IMAGES = ("png", "jpg", "jpeg", "webp")


class Truncated(Exception):
    """The tar ends before its end; `key` is the last sample that was seen."""

    def __init__(self, key: str):
        super().__init__(f"the tar is cut off after sample '{key}'")
        self.key = key


@dataclass
class Entry:
    """One sample of a tar: member data by extension as (offset, size in bytes), and extensions that came twice."""

    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)

    @property
    def image(self) -> str | None:
        """The extension of the sample's image."""
        return next((e for e in self.members if e in IMAGES), None)


def scan(path: Path) -> Iterator[Entry]:
    """Samples of a tar in order. Raises Truncated at the place where the file is cut off or is no tar any more."""
    entry: Entry | None = None
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if entry is not None and entry.key != key:
                    yield entry
                    entry = None
                entry = entry or Entry(key)
                if extension.lower() in entry.members:
                    entry.repeated.append(extension.lower())
                entry.members[extension.lower()] = member.offset_data, member.size
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise Truncated(entry.key if entry else "(none)") from error
    if entry is not None:
        yield entry
    if not _ends(path):
        raise Truncated(entry.key if entry else "(none)")


def _ends(path: Path) -> bool:
    """A tar closes with two blocks of zeros; one that is cut between two members does not."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        stream.seek(max(0, size - 1024))
        return size >= 1024 and not any(stream.read())


def build_index(path: Path | str, languages: Sequence[str]) -> dict[str, Any]:
    """Write `<shard>.idx.npz` beside a tar and return its manifest entry, with `words` per language added.

    A sample whose JSON is broken keeps its row, marked bad. Raises UserError if the tar is cut off."""
    path, index, words = Path(path), Index(list(languages)), dict.fromkeys(languages, 0)
    try:
        with open(path, "rb") as stream:
            for entry in scan(path):
                _add_row(stream, entry, index, words)
    except Truncated as error:
        raise UserError(f"{path}: {error}: fetch or write this shard again") from error
    target = path.with_name(f"{path.stem}.idx.npz")
    with replacing(target) as temporary:
        index.save(temporary)
    return {"file": path.name, "index": target.name, "sha256": sha256(path), "bytes": path.stat().st_size,
            "samples": len(index.rows), "words": words}


def _add_row(stream: Any, entry: Entry, index: Index, words: dict[str, int]) -> None:
    def read(extension: str) -> bytes:
        stream.seek(entry.members[extension][0])
        return stream.read(entry.members[extension][1])

    record, bad = {}, 0
    try:
        record = json.loads(read("json"))
        bad = int(not isinstance(record, dict))
    except (KeyError, ValueError):
        bad = 1
    record = {} if bad else record
    width = height = 0
    if entry.image:
        width, height = image_size(read(entry.image))
        bad |= int(not width)
    json_place, image_place = entry.members.get("json", (0, 0)), entry.members.get(entry.image or "", (0, 0))
    identity = id_hash(str(record.get("id", entry.key)))
    index.rows.append((entry.key.encode(), *json_place, *image_place, identity, width, height, bad))
    counts = []
    for language in index.languages:
        try:
            parts = texts(record, language)
            words[language] += sum(len(p.split()) - p.count("<image>") for p in parts or ())
        except (AttributeError, KeyError, TypeError):
            parts = None
        counts.append(-1 if parts is None else sum(map(len, parts)))
    index.chars.append(tuple(counts))


def adopt(folder: Path | str, languages: Sequence[str], kind: str, sources: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make a data set of a folder of tars made by others: index every `<subset>/*.tar` and write the manifest.

    Tars that lie in the folder itself form the subset "data"."""
    from core.files import write_json
    from data_tools.dataset import SCHEMA

    folder, subsets = Path(folder), {}
    for path in sorted(folder.rglob("*.tar")):
        entry = build_index(path, languages)
        place = path.parent.relative_to(folder).as_posix()
        name = "data" if place == "." else place
        subset = subsets.setdefault(name, {"kind": kind, "samples": 0, "words": dict.fromkeys(languages, 0),
                                           "shards": []})
        for language, count in entry.pop("words").items():
            subset["words"][language] += count
        subset["samples"] += entry["samples"]
        prefix = "" if place == "." else f"{place}/"
        subset["shards"].append({**entry, "file": prefix + entry["file"], "index": prefix + entry["index"]})
    if not subsets:
        raise UserError(f"{folder} holds no tar: give the folder of a WebDataset")
    manifest = {"schema": SCHEMA, "name": folder.name, "languages": list(languages), "created_by": "begira",
                "sources": list(sources), "subsets": subsets, "fingerprint": fingerprint(subsets)}
    write_json(folder / "manifest.json", manifest)
    return manifest
