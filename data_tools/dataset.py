"""Building a data set: several subsets of shards, and the manifest that names them.

    <data set>/manifest.json                     written last: a folder without it is not a data set
    <data set>/<subset>/...                      see `data_tools.shards`

Everything is built in a folder beside the data set and renamed into place, so a stopped build leaves the old data set,
or nothing. What goes into a shard depends on the samples and on `Limits` alone.
"""
from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import naming_a_full_disk, write_json
from data_tools.shards import DEFAULT_LIMITS, Limits, ShardWriter

SCHEMA = 1


@dataclass
class Sample:
    """`record` is the JSON of the sample (its "id" is unique in the data set), `image` the encoded file or None."""

    record: dict[str, Any]
    image: bytes | None = None
    extension: str = "png"


@dataclass
class DataSetWriter:
    """One data set under construction in `folder`; see `building`, which makes it appear in one step."""

    folder: Path
    name: str
    languages: Sequence[str]
    subsets: dict[str, Any] = field(default_factory=dict)

    def subset(self, name: str, kind: str, samples: Iterable[Sample], limits: Limits = DEFAULT_LIMITS) -> None:
        """Write one subset. `kind` is image, text or evaluation."""
        with ShardWriter(self.folder, name, self.languages, limits) as writer:
            for sample in samples:
                writer.write(sample.record, sample.image, sample.extension)
        self.subsets[name] = {"kind": kind, "samples": writer.samples, "words": writer.words, "shards": writer.entries}

    def finish(self, sources: Sequence[dict[str, Any]], **extra: Any) -> dict[str, Any]:
        """Write the manifest and return it. `extra` are further fields, e.g. `recipe`."""
        manifest = {"schema": SCHEMA, "name": self.name, "languages": list(self.languages), "created_by": "begira",
                    "sources": list(sources), "subsets": self.subsets,
                    "fingerprint": fingerprint(self.subsets), **extra}
        write_json(self.folder / "manifest.json", manifest)
        return manifest


def fingerprint(subsets: dict[str, Any]) -> str:
    """sha256 over the shard hashes, in order of subset name and shard."""
    lines = [f"{name} {shard['sha256']}\n" for name in sorted(subsets) for shard in subsets[name]["shards"]]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def building(out: Path | str, name: str, languages: Sequence[str]) -> Iterator[DataSetWriter]:
    """Give a writer for the data set `out`, which appears (replacing an older one) when the block ends well.

    Raises UserError where `out` holds something that is not a data set, or the disk is full."""
    out = Path(out)
    _clear_leftovers(out)
    if out.exists() and (not out.is_dir() or (not (out / "manifest.json").exists() and any(out.iterdir()))):
        raise UserError(f"{out} exists and is no data set (no manifest.json): choose another folder or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder, old = _beside(out, os.getpid(), "building"), _beside(out, os.getpid(), "old")
    try:
        with naming_a_full_disk(out):
            folder.mkdir()
            yield DataSetWriter(folder, name, list(languages))
            if not (folder / "manifest.json").exists():
                raise RuntimeError("the block ended without DataSetWriter.finish")
            if out.exists():
                os.rename(out, old)
            os.rename(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _beside(out: Path, process: int | str, what: str) -> Path:
    return out.with_name(f".{out.name}.{socket.gethostname()}.{process}.{what}")


def _clear_leftovers(out: Path) -> None:
    """Remove what killed builders of `out` on this machine left, and put back a data set killed between two renames."""
    for path in sorted(out.parent.glob(_beside(out, "*", "*").name)):
        owner = path.name.split(".")[-2]
        if not owner.isdigit() or Path(f"/proc/{owner}").exists():
            continue
        if path.name.endswith(".old") and not out.exists():
            os.rename(path, out)
        else:
            shutil.rmtree(path, ignore_errors=True)
