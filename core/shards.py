"""Reading a data set: WebDataset tars with a sidecar index, so that any sample is two `pread` calls away.

    subset = open_subset(data_root, "emoji-eu", "name")     # or DataSet(path).subset("name")
    subset.n, subset.kind, subset.languages                 # kind: image | text | evaluation
    subset.id_hash  subset.chars["eu"]  subset.bad  subset.images  subset.width  subset.height     # arrays [n]
    record, image = subset.read(i)                          # parsed JSON, encoded image bytes or None
    subset.key(i), subset.name                              # "0123456789abcdef", "emoji-eu/name"

`read` raises `Corrupt` for one broken sample (the caller puts a filler in its place); a file or index that is missing,
or a shard of another size than the manifest says, is the user's to mend: UserError. Files stay open (few of them,
shared by forked workers: `pread` has no position). Not here: writing (data_tools.shards), shards behind a URL or a pipe
(core.urls), what is made of a sample (core.encode).
"""
from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from core import staging
from core.caches import DAMAGED
from core.errors import UserError
from core.files import read_json

SCHEMA = 1
MAX_OPEN = 32            # tar files that one subset holds open
_GAP = 64 << 10          # reads closer than this are announced to the kernel as one


class Corrupt(Exception):
    """One sample cannot be used: `key` says which, the message why."""

    def __init__(self, key: str, reason: str):
        super().__init__(f"{key}: {reason}")
        self.key, self.reason = key, reason

    def __reduce__(self) -> tuple:
        return Corrupt, (self.key, self.reason)


class DataSet:
    """The folder of a data set: its manifest and its subsets."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        manifest = read_json(self.path / "manifest.json")
        if manifest is None:
            raise UserError(f"no data set in {self.path} (no manifest.json): build it with `begira data build`")
        if manifest.get("schema") != SCHEMA:
            raise UserError(f"{self.path}/manifest.json has schema {manifest.get('schema')}, this version reads "
                            f"{SCHEMA}: build the data set anew")
        self.manifest: dict[str, Any] = manifest
        self.name = self.path.name
        self.languages: list[str] = list(manifest["languages"])

    def subset(self, name: str) -> Subset:
        if name not in self.manifest["subsets"]:
            known = ", ".join(sorted(self.manifest["subsets"])) or "none"
            raise UserError(f"data set {self.name} has no subset '{name}': it has {known}")
        return Subset(self, name)


def open_subset(data_root: Path | str, data: str, subset: str) -> Subset:
    """The subset of `data_root`/`data`. Raises UserError if it is not there, a shard is missing or cut short, or its
    index is missing or stale."""
    return DataSet(Path(data_root) / data).subset(subset)


class Subset:
    """All samples of a subset in shard order. Arrays have one element per sample; `images` counts 0 or 1."""

    def __init__(self, dataset: DataSet, subset: str):
        entry = dataset.manifest["subsets"][subset]
        self.dataset, self.subset = dataset, subset
        self.name = f"{dataset.name}/{subset}"
        self.kind: str = entry["kind"]
        self.languages = dataset.languages
        self.folder = dataset.path / subset
        self._entries = entry["shards"]
        self._shards = [dataset.path / shard["file"] for shard in self._entries]
        self.fingerprint = _digest([shard["sha256"] for shard in entry["shards"]])
        parts = [_index(dataset.path, shard) for shard in entry["shards"]]
        lengths = np.array([len(p["key"]) for p in parts], np.int64)

        def column(name: str, dtype: str) -> np.ndarray:
            return np.concatenate([p[name] for p in parts]) if parts else np.zeros(0, dtype)

        self._keys = column("key", "S1")
        # where a sample's members lie: [n, 5] = JSON offset, size, image offset, size, shard
        self._place = np.stack([column(f"{member}_{value}", "i8") for member in ("json", "image")
                                for value in ("offset", "size")] + [np.repeat(np.arange(len(parts)), lengths)], 1)
        self.id_hash = column("id_hash", "u8").astype(np.uint64, copy=False)
        self.width, self.height = column("width", "i4"), column("height", "i4")
        self.bad = column("bad", "u1").astype(bool)
        self.images = (self._place[:, 3] > 0).astype(np.int32)
        absent = np.full(len(self._keys), -1, np.int32)
        self.chars = {language: np.concatenate([p.get(f"chars_{language}", np.full(len(p["key"]), -1, np.int32))
                                                for p in parts]) if parts else absent for language in self.languages}
        self._open: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def n(self) -> int:
        return len(self._keys)

    def key(self, i: int) -> str:
        return self._keys[i].decode("utf-8", "replace")

    def read(self, i: int) -> tuple[dict[str, Any], bytes | None]:
        """The i-th sample: its JSON, and its image file's bytes or None. Raises Corrupt."""
        text, image = self.raw(i)
        return self._parse(i, text), image

    def record(self, i: int) -> dict[str, Any]:
        """The JSON of the i-th sample alone. Raises Corrupt."""
        offset, size, _, _, shard = self._place[i].tolist()
        return self._parse(i, self._bytes(i, shard, offset, size))

    def raw(self, i: int) -> tuple[bytes, bytes | None]:
        """Both members of the i-th sample, JSON and image, as they stand in the tar. Raises Corrupt."""
        text, text_size, image, image_size, shard = self._place[i].tolist()
        if not image_size:
            return self._bytes(i, shard, text, text_size), None
        first, end = min(text, image), max(text + text_size, image + image_size)
        if end - first - text_size - image_size > _GAP:
            return self._bytes(i, shard, text, text_size), self._bytes(i, shard, image, image_size)
        both = self._bytes(i, shard, first, end - first)           # neighbours: one call
        return both[text - first:text - first + text_size], both[image - first:image - first + image_size]

    def _parse(self, i: int, text: bytes) -> dict[str, Any]:
        try:
            record = json.loads(text)
        except ValueError as error:
            raise Corrupt(self.key(i), f"its JSON is broken ({error})") from error
        if not isinstance(record, dict):
            raise Corrupt(self.key(i), "its JSON is no object")
        return record

    def announce(self, indices: Iterable[int]) -> None:
        """Tell the kernel that these samples are read soon, neighbours as one stretch, so that it fetches ahead."""
        place = self._place[np.sort(np.fromiter(indices, np.int64))]
        text, text_size, image, image_size, shards = place.T
        starts = np.where(image_size > 0, np.minimum(image, text), text)
        ends = np.where(image_size > 0, np.maximum(image + image_size, text + text_size), text + text_size)
        breaks = np.flatnonzero((starts[1:] - ends[:-1] > _GAP) | (shards[1:] != shards[:-1]))
        for a, b in zip(np.r_[0, breaks + 1], np.r_[breaks, len(place) - 1], strict=True):
            if b >= a:
                os.posix_fadvise(self._descriptor(int(shards[a])), int(starts[a]), int(ends[b] - starts[a]),
                                 os.POSIX_FADV_WILLNEED)

    def close(self, close: Any = os.close) -> None:  # when the interpreter ends, `os` may be gone before this object
        while self._open:
            close(self._open.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()

    def _bytes(self, i: int, shard: int, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor(shard), size, offset)
        if len(data) != size:
            raise Corrupt(self.key(i), f"{self._shards[shard]} ends before byte {offset + size}, this sample's end")
        return data

    def _descriptor(self, shard: int) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        try:
            descriptor = os.open(staging.nearest(self._shards[shard], self._entries[shard]), os.O_RDONLY)
        except FileNotFoundError as error:
            raise UserError(f"shard {self._shards[shard]} is missing: restore it, or build the data anew") from error
        self._open[shard] = descriptor
        if len(self._open) > MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return descriptor


def _index(root: Path, shard: dict[str, Any]) -> dict[str, np.ndarray]:
    path = root / shard["index"]
    try:
        size = (root / shard["file"]).stat().st_size
    except FileNotFoundError as error:
        raise UserError(f"shard {root / shard['file']} is missing: restore it, or build the data set anew") from error
    if size != shard["bytes"]:  # half a copy, say
        raise UserError(f"shard {root / shard['file']} has {size} bytes, the manifest says {shard['bytes']}: restore "
                        "it, or build the data set anew")
    try:
        with np.load(path) as arrays:
            index = {name: arrays[name] for name in arrays.files}
    except FileNotFoundError as error:
        raise UserError(f"index {path} is missing: `begira data check {root}` says what else is, "
                        "or build the data set anew") from error
    except DAMAGED as error:
        raise UserError(f"index {path} cannot be read ({error}): remove it and build the data set anew") from error
    if len(index["key"]) != shard["samples"]:
        raise UserError(f"index {path} is stale: {len(index['key'])} rows, the manifest says {shard['samples']}: "
                        "build the data set anew")
    return index


def _digest(hashes: list[str]) -> str:
    import hashlib

    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
