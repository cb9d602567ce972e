"""Building a data set: several subsets of shards, written in one or many processes, and the manifest that names them.

    <data set>/manifest.json                     written last: a folder without it is not a data set
    <data set>/<subset>/...                      see `data_tools.shards`

Everything is built in a folder beside the data set and renamed into place, so a stopped build leaves the old data set,
or nothing. What goes into a shard depends on the part it belongs to and on `Limits`, never on the number of processes.
"""
from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
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
        """Write one subset in this process. `kind` is image, text or evaluation."""
        with ShardWriter(self.folder, name, self.languages, limits) as writer:
            for sample in samples:
                writer.write(sample.record, sample.image, sample.extension)
        self.subsets[name] = {"kind": kind, "samples": writer.samples, "words": writer.words, "shards": writer.entries}

    def subset_in_parts(self, name: str, kind: str, make: Callable[[Any], Iterable[Sample]], parts: Sequence[Any],
                        processes: int = 1, limits: Limits = DEFAULT_LIMITS) -> None:
        """Write one subset from `make(part)` for every part, in several processes; each part has shards of its own.

        The bytes depend on the parts alone. `make` and the parts are pickled; forked workers inherit what is loaded."""
        jobs = [(self.folder, name, list(self.languages), limits, make, part, n) for n, part in enumerate(parts)]
        if processes > 1 and len(jobs) > 1:
            from concurrent.futures import ProcessPoolExecutor

            with ProcessPoolExecutor(min(processes, len(jobs))) as pool:
                done = list(pool.map(_write_part, jobs))
        else:
            done = [_write_part(job) for job in jobs]
        entries, seen = [], 0
        for part_entries, _, _ in done:
            for entry in part_entries:
                entries.append(_renumber(self.folder, name, entry, seen))
                seen += 1
        for number in range(len(jobs)):
            shutil.rmtree(self.folder / f".{name}.{number:05d}", ignore_errors=True)
        words = {language: sum(w[language] for _, w, _ in done) for language in self.languages}
        self.subsets[name] = {"kind": kind, "samples": sum(n for _, _, n in done), "words": words, "shards": entries}

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


def _write_part(job: tuple) -> tuple[list[dict[str, Any]], dict[str, int], int]:
    folder, name, languages, limits, make, part, number = job
    with ShardWriter(folder, f".{name}.{number:05d}", languages, limits) as writer:
        for sample in make(part):
            writer.write(sample.record, sample.image, sample.extension)
    return writer.entries, writer.words, writer.samples


def _renumber(folder: Path, subset: str, entry: dict[str, Any], number: int) -> dict[str, Any]:
    (folder / subset).mkdir(exist_ok=True)
    target = {"file": f"{subset}/{number:06d}.tar", "index": f"{subset}/{number:06d}.idx.npz"}
    for key, name in target.items():
        os.replace(folder / entry[key], folder / name)
    return {**entry, **target}


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
