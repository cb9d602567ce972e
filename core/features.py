"""Features of a frozen vision encoder, computed once per data set and kept beside it, for towers and data that are
small.

    data/<name>/<subset>/features-<key>.npz      digest: uint8 [images, 16]; features: float32 [images, tokens,
    channels]

The key covers the encoder's weights, the dtype it runs in, the layer, the image processor and the shards, so any run
with the same ones reads the file. Images are computed in batches of fixed make-up: what a run reads does not depend on
restarts. An image that cannot be decoded has no row, and is treated as broken where it would have been without the
cache. A table that lacks a sample which could not be read, though the index calls it sound, is used and not kept. For
the full-size study this is no option: its features would fill terabytes.
"""
from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from core import caches
from core.assemble import vision_features
from core.encode import Encoder
from core.errors import UserError
from core.pixels import open_image
from core.shards import Corrupt, Subset

BATCH = 64
LIMIT = 2 << 30          # bytes of all tables together


class Features:
    """features(image file's bytes) -> float32 [tokens, channels]. Raises KeyError for an image without a row."""

    def __init__(self) -> None:
        self.rows: dict[bytes, np.ndarray] = {}

    def __call__(self, image: bytes) -> np.ndarray:
        return self.rows[_digest(image)]


def compute(subsets: Mapping[str, Subset], encoder: Encoder, tower: Any, layer: int, select: str, weights: str
            ) -> Features:
    """Features of every image of `subsets`, from the files where they are there, else computed and written.

    weights: hash of the tower's (core.parts.weights_hash). An image that several subsets hold is computed once. Raises
    UserError where the tables would be larger than LIMIT."""
    found, size = Features(), 0
    settings = f"{weights} {tower.dtype} {layer} {select} {encoder.pixels.processor.to_json_string()}"
    for subset in (s for s in subsets.values() if s.images.any()):
        key = hashlib.sha256(f"{settings} {subset.fingerprint}".encode()).hexdigest()[:16]
        path = subset.folder / f"features-{key}.npz"
        table = caches.load(path)
        if table is None:
            table, sound = _table(subset, encoder, tower, layer, select, found, LIMIT - size)
            if sound:
                caches.save(path, table)
        size += table["features"].nbytes
        found.rows.update(zip((digest.tobytes() for digest in table["digest"]), table["features"], strict=True))
    return found


@torch.no_grad()
def _table(subset: Subset, encoder: Encoder, tower: Any, layer: int, select: str, known: Features, room: int
           ) -> tuple[dict[str, np.ndarray], bool]:
    """The arrays of the file, and whether every sample that is not flagged as bad could be read."""
    sound = True
    pending: dict[bytes, np.ndarray] = {}
    done: dict[bytes, np.ndarray] = {}

    def flush() -> None:
        if pending:
            pixels = torch.from_numpy(np.stack(list(pending.values()))).to(tower.device, tower.dtype)
            computed = vision_features(tower, pixels, layer, select).float().cpu().numpy()
            done.update(zip(pending, computed, strict=True))
            pending.clear()
            if computed[0].nbytes * int(subset.images.sum()) > room:
                raise UserError(f"the features of {subset.name} would fill more than {LIMIT >> 30} GiB: set "
                                "runtime.cache_features=false")

    for row in np.flatnonzero((subset.images > 0) & ~subset.bad):
        try:
            image = subset.read(int(row))[1]
            digest = _digest(image)
            if digest in known.rows:
                done[digest] = known.rows[digest]
            elif digest not in done and digest not in pending:
                pending[digest] = encoder.pixels(open_image(image))
        except Corrupt:
            sound = False
            continue
        except (OSError, ValueError):
            continue
        if len(pending) == BATCH:
            flush()
    flush()
    digests = np.frombuffer(b"".join(done), np.uint8).reshape(-1, 16)
    features = np.stack(list(done.values())) if done else np.zeros((0, 1, 1), np.float32)
    return {"digest": digests, "features": features}, sound


def _digest(image: bytes) -> bytes:
    return hashlib.blake2b(image, digest_size=16).digest()
