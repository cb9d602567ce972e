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
REACH = 7                        # greatest distance that `Neighbours` finds without a miss
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


def views(image: Any) -> Iterator[Any]:
    """The image, its mirror image, and parts of it that a crop may have left: centre, corners and sides, two sizes."""
    yield image
    yield image.transpose(0)
    width, height = image.size
    for share in (0.9, 0.8, 0.65):
        for x in (0.0, 0.5, 1.0):
            for y in (0.0, 0.5, 1.0):
                left, top = int(x * (1 - share) * width), int(y * (1 - share) * height)
                yield image.crop((left, top, left + max(1, int(share * width)), top + max(1, int(share * height))))


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
        """Positions of all stored fingerprints at most `distance` (<= REACH) bits away, in order."""
        if distance > REACH:
            raise ValueError(f"distance {distance} is beyond {REACH}: some neighbours would be missed")
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
