"""Writing shards: tar files that WebDataset can read, each with a sidecar index.

    <data set>/<subset>/000000.tar               <key>.json and, for an image sample, <key>.png|jpg|webp before it
    <data set>/<subset>/000000.idx.npz           one row per sample, see `Index`

The same samples give the same bytes: members have no time, no owner and a fixed order. Whole data sets and their
manifest are `data_tools.dataset`'s business, reading is `core.shards`'s, indexing tars of others `data_tools.index`'s.
"""
from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 512
_EMPTY = bytes(BLOCK)
_FLUSH = 1 << 20
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

# the constant parts of a member's header: the name's padding with mode, uid and gid; time; type to the end
_MODE = b"0000444\0" + b"0000000\0" * 2
_PADDING = [bytes(100 - n) + _MODE for n in range(101)]
_TIME = b"\0" + b"00000000000\0"
_END = b"0" + bytes(100) + b"ustar\x0000" + bytes(BLOCK - 265)
_CONSTANT_SUM = sum(_MODE) + sum(_TIME) + sum(_END) + 8 * 0x20  # the checksum counts its own field as blanks


@dataclass(frozen=True)
class Limits:
    """How large one shard may become. A shard closes before the sample that would exceed either."""

    size: int = 256 << 20        # bytes
    samples: int = 50_000


DEFAULT_LIMITS = Limits()


@dataclass
class Index:
    """The sidecar of one shard, row i = i-th sample of the tar. Offsets are those of the members' data, in bytes."""

    languages: Sequence[str]
    rows: list[tuple] = field(default_factory=list)      # key, json offset, size, image offset, size, hash, w, h, bad
    chars: list[tuple[int, ...]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write `path` (.npz without pickle; numpy gives its members a constant date, so the bytes repeat)."""
        names = ("key", "json_offset", "json_size", "image_offset", "image_size", "id_hash", "width", "height", "bad")
        kinds = ("S", "i8", "i8", "i8", "i8", "u8", "i4", "i4", "u1")
        columns = list(zip(*self.rows, strict=True)) or [()] * len(names)
        arrays = {n: np.array(c, dtype=k if c or k != "S" else "S1")
                  for n, c, k in zip(names, columns, kinds, strict=True)}
        chars = np.array(self.chars, dtype="i4").reshape(len(self.rows), len(self.languages))
        arrays |= {f"chars_{language}": chars[:, i] for i, language in enumerate(self.languages)}
        with open(path, "wb") as stream:
            np.savez(stream, **arrays)


def id_hash(identity: str) -> int:
    """First 8 bytes, big-endian, of blake2b(id): what the mixture draws languages and order from."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=64).digest()[:8], "big")


def texts(record: dict[str, Any], language: str) -> list[str] | None:
    """Everything a model may read or write in `language` in this record; None if the language is absent."""
    turns = record.get("turns")
    if turns is not None:
        return [t["content"] for t in turns[language]] if language in turns else None
    prompt = record.get("prompt", {}).get(language)
    if prompt is None:
        return None
    return [prompt, *record.get("options", {}).get(language, ()), *record.get("references", {}).get(language, ())]


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) in pixels from the file's header; (0, 0) if it cannot be read."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0


def tar_header(name: bytes, size: int) -> bytes:
    """A ustar header of a regular file, mode 0444, no owner, time 0. `name` holds at most 100 bytes."""
    if len(name) > 100 or size >= 1 << 33:
        raise ValueError(f"tar member {name!r} of {size} bytes does not fit a ustar header")
    digits = b"%011o" % size
    total = _CONSTANT_SUM + sum(name) + sum(digits)
    return b"".join((name, _PADDING[len(name)], digits, _TIME, b"%06o\0 " % total, _END))


class ShardWriter:
    """Writes one subset into `folder` as shards within `limits`; `close` returns their manifest entries.

    Keys are the hex digits of the id's hash: unique, and the same however the work is divided. Raises ValueError for an
    id that stands twice in the subset."""

    def __init__(self, folder: Path | str, subset: str, languages: Sequence[str], limits: Limits = DEFAULT_LIMITS,
                 first: int = 0):
        self.folder, self.subset, self.languages, self.limits = Path(folder), subset, list(languages), limits
        self.entries: list[dict[str, Any]] = []
        self.words = dict.fromkeys(self.languages, 0)
        self.samples = 0
        self._number, self._stream, self._keys = first, None, set()
        (self.folder / subset).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.close()
        elif self._stream is not None:
            self._stream.close()

    def write(self, record: dict[str, Any], image: bytes | None = None, extension: str = "png") -> None:
        """Add one sample. The record must hold "id"; see the format in the module's head."""
        text = _encode(record).encode()
        number = id_hash(record["id"])
        if number in self._keys:
            raise ValueError(f"two samples of subset '{self.subset}' have the id '{record['id']}'")
        self._keys.add(number)
        need = 2 * BLOCK + len(text) + (2 * BLOCK + len(image) if image is not None else 0)
        if self._stream is not None and (self._size + need > self.limits.size
                                         or len(self._index.rows) >= self.limits.samples):
            self._finish()
        if self._stream is None:
            self._start()
        key = b"%016x" % number
        image_offset = width = height = bad = 0
        if image is not None:
            width, height = image_size(image)
            bad = int(not width)
            image_offset = self._add(b"%s.%s" % (key, extension.encode()), image)
        json_offset = self._add(key + b".json", text)
        self._index.rows.append((key, json_offset, len(text), image_offset, len(image or b""), number, width, height,
                                 bad))
        self._index.chars.append(tuple([self._count(record, language) for language in self.languages]))
        self.samples += 1

    def _count(self, record: dict[str, Any], language: str) -> int:
        parts = texts(record, language)
        if parts is None:
            return -1
        self.words[language] += sum([len(p.split()) - p.count("<image>") for p in parts])
        return sum(map(len, parts))

    def _add(self, name: bytes, data: bytes) -> int:
        padding = -len(data) % BLOCK
        self._parts += (tar_header(name, len(data)), data, _EMPTY[:padding])
        offset = self._size + BLOCK
        self._size = offset + len(data) + padding
        self._waiting += BLOCK + len(data) + padding
        if self._waiting >= _FLUSH:
            self._flush()
        return offset

    def _start(self) -> None:
        self._file = f"{self.subset}/{self._number:06d}"
        self._stream = open(self.folder / f"{self._file}.tar", "wb", buffering=0)  # noqa: SIM115
        self._hash, self._index, self._size = hashlib.sha256(), Index(self.languages), 0
        self._parts, self._waiting = [], 0
        self._number += 1

    def _flush(self) -> None:
        block = memoryview(b"".join(self._parts))
        self._hash.update(block)
        while block:
            block = block[self._stream.write(block):]
        self._parts, self._waiting = [], 0

    def _finish(self) -> None:
        self._parts.append(bytes(2 * BLOCK))
        self._flush()
        self._stream.close()
        self._stream = None
        self._index.save(self.folder / f"{self._file}.idx.npz")
        self.entries.append({"file": f"{self._file}.tar", "index": f"{self._file}.idx.npz",
                             "sha256": self._hash.hexdigest(), "bytes": self._size + 2 * BLOCK,
                             "samples": len(self._index.rows)})

    def close(self) -> list[dict[str, Any]]:
        if self._stream is not None:
            self._finish()
        return self.entries
