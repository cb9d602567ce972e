"""Perceptual fingerprints of images: 64 bits that stay nearly the same when an image is recompressed or resized. Pure.

The hash is the usual DCT one: grey, 32 x 32, the 8 x 8 lowest frequencies without the mean, each above or below their
median. Two images are alike if few bits differ. `Neighbours` finds all stored hashes within a distance without looking
at every pair: with four bands of 16 bits, two hashes that differ in at most 7 bits agree in one band up to one bit.
"""
from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

SIDE, KEPT, BANDS = 32, 8, 4
REACH = 7                        # greatest distance for which the bands miss nothing
_BASIS = np.cos(np.pi / SIDE * (np.arange(SIDE) + 0.5)[None] * np.arange(KEPT)[:, None])
_WEIGHTS = 1 << np.arange(63, -1, -1, dtype=np.uint64)
_POPULATION = np.array([bin(i).count("1") for i in range(1 << 16)], np.uint8)


def of_image(image: Any) -> int:
    """The fingerprint of a PIL image."""
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), 1), dtype=np.float64)
    low = (_BASIS @ grey @ _BASIS.T).reshape(-1)
    bits = low > np.median(low[1:])
    bits[0] = low[1:].std() > 1e-6  # the mean says nothing; a blank image gets a pattern of its own
    return int((bits * _WEIGHTS).sum(dtype=np.uint64))


def of_bytes(data: bytes) -> int:
    """The fingerprint of an encoded image. Raises what Pillow raises if it cannot be decoded."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return of_image(image)


Box = tuple[float, float, float]  # left, top and size as shares of the image; size below 0: mirrored


def views() -> Iterator[Box]:
    """The whole image, its mirror image, and parts that a crop may have left: three sizes in nine places."""
    yield 0.0, 0.0, 1.0
    yield 0.0, 0.0, -1.0
    for share in (0.92, 0.82, 0.7):
        for x in (0.0, 0.5, 1.0):
            for y in (0.0, 0.5, 1.0):
                yield x * (1 - share), y * (1 - share), share


def view(image: Any, box: Box) -> Any:
    """The part of a PIL image that a box names."""
    if box[2] < 0:
        return image.transpose(0)
    left, top, size = (max(0.0, min(1.0, v)) for v in box)
    width, height = image.size
    corner = int(left * width), int(top * height)
    return image.crop((*corner, min(width, corner[0] + max(1, round(size * width))),
                       min(height, corner[1] + max(1, round(size * height)))))


class Neighbours:
    """Stored fingerprints, found by likeness. `positions` are those of the array that was given."""

    def __init__(self, fingerprints: Iterable[int]):
        self.stored = np.fromiter(fingerprints, np.uint64)
        self.orders, self.keys = [], []
        for band in range(BANDS):
            part = self._band(self.stored, band)
            order = np.argsort(part, kind="stable")
            self.orders.append(order)
            self.keys.append(part[order])

    def find(self, fingerprint: int, distance: int) -> list[int]:
        """Positions of all stored fingerprints at most `distance` bits away, in order.

        Beyond REACH every stored one is looked at, which is fast up to some 100,000."""
        if distance > REACH:
            return np.flatnonzero(distances(self.stored, fingerprint) <= distance).tolist()
        candidates = []
        for band in range(BANDS):
            own = int(self._band(np.array([fingerprint], np.uint64), band)[0])
            wanted = np.array([own, *(own ^ (1 << bit) for bit in range(16))], np.uint16)
            starts = np.searchsorted(self.keys[band], wanted, "left")
            ends = np.searchsorted(self.keys[band], wanted, "right")
            candidates += [self.orders[band][a:b] for a, b in zip(starts, ends, strict=True) if b > a]
        if not candidates:
            return []
        found = np.unique(np.concatenate(candidates))
        return found[distances(self.stored[found], fingerprint) <= distance].tolist()

    @staticmethod
    def _band(values: np.ndarray, band: int) -> np.ndarray:
        return ((values >> np.uint64(16 * band)) & np.uint64(0xFFFF)).astype(np.uint16)


def distances(stored: np.ndarray, fingerprint: int) -> np.ndarray:
    """Number of differing bits, int."""
    difference = stored ^ np.uint64(fingerprint)
    parts = [((difference >> np.uint64(16 * b)) & np.uint64(0xFFFF)).astype(np.intp) for b in range(4)]
    return sum(_POPULATION[p].astype(int) for p in parts)
