"""Encoded samples -> the rows of a micro-batch: `Packed`, what the training step reads. Pure: no files, no order.

    packed = collate([[Document(encoded, stream, key), ...], ...], pad_id)      # one list per pack
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from core.encode import Encoded

IGNORE = -100


@dataclass
class Packed:
    """`micro_batch` packs as rows of equal length; the shorter ones end in pad tokens, each a document of its own.

    input_ids, position_ids, labels: int64 [rows, length]. position_ids restart at 0 with every document. labels are
    aligned: position t predicts labels[t], -100 where nothing is asked; they never reach across documents.
    pixels: float32 [images, 3, H, W] in the order of the placeholders, or None without an image.
    streams: int64 [loss_tokens], index into `plan.streams` of every supervised token, in the order of
    labels[labels != -100].
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    pixels: torch.Tensor | None
    streams: torch.Tensor
    images: int = 0
    tokens: int = 0                                                    # without padding
    loss_tokens: int = 0
    keys: list[str] = field(default_factory=list)                      # "data/subset:key:language", in order
    corrupt: list[tuple[int, str]] = field(default_factory=list)       # (place in keys, "key: reason")

    @property
    def samples(self) -> int:
        return len(self.keys)


@dataclass
class Document:
    """One encoded sample in its slot; `problem` says why it is a filler."""

    encoded: Encoded
    stream: int
    key: str
    problem: str = ""


def filler(pad_id: int) -> Encoded:
    """A document of one token that asks for nothing."""
    return Encoded(np.array([pad_id], np.int64), np.zeros(1, bool))


def collate(packs: Sequence[Sequence[Document]], pad_id: int) -> Packed:
    """Packs as rows of one micro-batch."""
    packs = [pack or [Document(filler(pad_id), 0, "")] for pack in packs]
    length = max(sum(len(d.encoded.ids) for d in pack) for pack in packs)
    ids = np.full((len(packs), length), pad_id, np.int64)
    positions = np.zeros((len(packs), length), np.int64)
    labels = np.full((len(packs), length), IGNORE, np.int64)
    streams, pixels, keys, corrupt, tokens = [], [], [], [], 0
    for row, pack in enumerate(packs):
        place = 0
        for document in pack:
            coded = document.encoded
            n = len(coded.ids)
            ids[row, place:place + n] = coded.ids
            positions[row, place:place + n] = np.arange(n)
            labels[row, place:place + n - 1] = np.where(coded.supervised[1:], coded.ids[1:], IGNORE)
            streams.append(np.full(np.count_nonzero(coded.supervised[1:]), document.stream, np.int64))
            if coded.pixels is not None:
                pixels.append(coded.pixels)
            place += n
            if document.problem:
                corrupt.append((len(keys), f"{document.key}: {document.problem}"))
            if document.key:
                keys.append(document.key)
        tokens += place
    images = np.concatenate(pixels) if pixels else None
    supervised = torch.from_numpy(np.concatenate(streams))
    return Packed(torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(labels),
                  None if images is None else torch.from_numpy(images), supervised,
                  0 if images is None else len(images), tokens, len(supervised), keys, corrupt)
