"""Where a source's images come from: a column of the rows, a folder of files, or what `data_tools.download` fetched.

Gives encoded bytes and their true extension; nothing is decoded here.
"""
from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from data_tools.shards import id_hash

_MAGIC = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpg"), (b"RIFF", "webp"))


def sniff(data: bytes) -> str | None:
    """png, jpg or webp by the first bytes, None for anything else."""
    for magic, extension in _MAGIC:
        if data.startswith(magic) and (extension != "webp" or data[8:12] == b"WEBP"):
            return extension
    return None


class Store:
    """Images that `data_tools.download` laid down: tars and a JSON-lines record per id. Found by URL, read by pread."""

    def __init__(self, folder: Path):
        """Raises UserError where `folder` is no download or a journal is damaged."""
        hashes, places = [], []
        self.files = sorted(folder.glob("*.tar"))
        if not self.files:
            raise UserError(f"{folder} holds no downloaded images (*.tar): run the download first")
        for number, file in enumerate(self.files):
            for url, offset, size in _images(file.with_suffix(".jsonl")):
                hashes.append(id_hash(url))
                places.append((number, offset, size))
        order = np.argsort(np.array(hashes, np.uint64))
        self.hashes = np.array(hashes, np.uint64)[order]
        self.places = np.array(places, np.int64).reshape(-1, 3)[order]
        self.open: dict[int, int] = {}

    def get(self, url: str) -> bytes | None:
        """The image of this URL, None if it was not downloaded."""
        wanted = np.uint64(id_hash(url))
        at = int(np.searchsorted(self.hashes, wanted))
        if at == len(self.hashes) or self.hashes[at] != wanted:
            return None
        file, offset, size = (int(v) for v in self.places[at])
        if file not in self.open:
            self.open[file] = os.open(self.files[file], os.O_RDONLY)
        return os.pread(self.open[file], size, offset)

    def close(self) -> None:
        for descriptor in self.open.values():
            os.close(descriptor)
        self.open.clear()


def _images(journal: Path) -> Iterator[tuple[str, int, int]]:
    """(url, offset, size) of the images of a block. A last line that a kill cut in two is no image yet."""
    if not journal.exists():
        raise UserError(f"{journal.with_suffix('.tar')} has no {journal.name} beside it: set images= to the folder of "
                        "a download (`out` of the stage download)")
    text = journal.read_bytes()
    for number, line in enumerate(text[:text.rfind(b"\n") + 1].splitlines(), 1):
        try:
            record = json.loads(line)
            if record["status"] == "ok":
                yield record["url"], record["offset"], record["size"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{journal}, line {number}, names no download ({type(error).__name__}: {error}): remove "
                            "the file and its tar, then run the download again") from error


class Pictures:
    """`how` is the source's `images`: {"column" | "file" | "url": name of the field}; `root` is given by the user."""

    def __init__(self, source: str, how: Mapping[str, str], root: str):
        self.source, self.how, self.root = source, how, Path(root) if root else None
        self.store: Store | None = None
        if "url" in how:
            if self.root is None:
                raise UserError(f"source '{source}' holds URLs only: download the images first and set images=FOLDER")
            self.store = Store(self.root)
        elif "file" in how and (self.root is None or not self.root.is_dir()):
            given = f"{root} is no folder, " if root else ""
            raise UserError(f"source '{source}' names image files: {given}set images=FOLDER that holds them")

    def get(self, row: Mapping[str, Any]) -> bytes | None:
        """The encoded image of a row, None if there is none. Raises UserError without such a column."""
        kind, column = next(iter(self.how.items()))
        if column not in row:
            raise UserError(f"source '{self.source}': the data has no image field '{column}' (fields: "
                            f"{', '.join(row)}): set images.{kind} in its YAML")
        value = row[column]
        if self.store is not None:
            return self.store.get(value) if isinstance(value, str) else None
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            path = (self.root or Path()) / value
            return path.read_bytes() if path.is_file() else None
        return bytes(value) if isinstance(value, (bytes, bytearray)) else None
