"""What the encoder is trained on: every image of some subsets, once, in one array, with the texts that describe it.

The first source names the images; an image of a further source (the same image with other words, e.g. keywords) adds
the comma-separated phrases of its answer to the image's name. Not here: how images and texts are compared
(core.encoder).
"""
from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.config import Source
from core.errors import UserError
from core.lengths import CORRUPT_SHARE
from core.pixels import open_image
from core.shards import Corrupt, open_subset


@dataclass
class Captions:
    pixels: torch.Tensor             # uint8 (images, 3, size, size)
    name_of: torch.Tensor            # (images,): number of the image's name
    names: list[str]
    phrases: list[list[str]]         # per name, the name itself among them
    vocabulary: dict[str, int]

    def __post_init__(self) -> None:
        self.name_words = self._padded(self.names)
        self._phrase_words = self._padded([phrase for own in self.phrases for phrase in own])
        counts = torch.tensor([len(own) for own in self.phrases])
        self._first, self._count = counts.cumsum(0) - counts, counts

    def draw_phrases(self, generator: torch.Generator) -> torch.Tensor:
        """One random phrase for every name, as padded word numbers (names, longest)."""
        pick = (torch.rand(len(self._count), generator=generator) * self._count).long()
        return self._phrase_words[self._first + pick]

    def channel_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each colour channel, of values in 0 to 1."""
        values = self.pixels.float() / 255.0
        return values.mean((0, 2, 3)), values.std((0, 2, 3))

    def _padded(self, texts: list[str]) -> torch.Tensor:
        numbers = [[self.vocabulary[word] for word in words(text)] for text in texts]
        longest = max(map(len, numbers))
        padding = len(self.vocabulary)
        return torch.tensor([own + [padding] * (longest - len(own)) for own in numbers])


def words(text: str) -> list[str]:
    """Lower-case words; a text without any is one word, so that no text is empty."""
    return re.findall(r"\w+", text.lower()) or [text]


def collect(sources: list[Source], data_root: Path | str, size: int, language: str) -> Captions:
    """Read the images of `sources` and their texts in `language` (`options[answer]` of evaluation items).

    Samples that the index marks as bad are left out, and so are unreadable ones. Raises UserError if more than 5 % are
    unreadable, or nothing is left."""
    images: dict[bytes, tuple[np.ndarray, str]] = {}
    phrases: dict[str, dict[str, None]] = {}
    unreadable = total = 0
    for number, source in enumerate(sources):
        subset = open_subset(data_root, source.data, source.subset)
        for position in np.flatnonzero(~subset.bad):
            total += 1
            try:
                record, image = subset.read(int(position))
                text = caption(record, language)
                if image is None or text is None:
                    continue
                digest = hashlib.blake2b(image, digest_size=16).digest()
                if number == 0:
                    if digest not in images:
                        images[digest] = (decode(image, size), text)
                    phrases.setdefault(text, {})[text] = None
                elif digest in images:
                    own = phrases[images[digest][1]]
                    own.update((phrase.strip(), None) for phrase in text.split(",") if phrase.strip())
            except (Corrupt, OSError, ValueError, LookupError, TypeError, AttributeError):
                unreadable += 1
    if not images or unreadable > CORRUPT_SHARE * total:
        raise UserError(f"{unreadable} of {total} samples of {', '.join(f'{s.data}/{s.subset}' for s in sources)} are "
                        f"unreadable and {len(images)} have an image with a '{language}' text: see `begira data check`")
    names = list(phrases)
    position_of = {name: number for number, name in enumerate(names)}
    vocabulary: dict[str, int] = {}
    for own in phrases.values():
        for phrase in own:
            for word in words(phrase):
                vocabulary.setdefault(word, len(vocabulary))
    pixels = torch.from_numpy(np.stack([image for image, _ in images.values()])).permute(0, 3, 1, 2).contiguous()
    return Captions(pixels, torch.tensor([position_of[name] for _, name in images.values()]), names,
                    [list(own) for own in phrases.values()], vocabulary)


def caption(record: dict[str, Any], language: str) -> str | None:
    """The last answer of a training sample, the right option of an evaluation item; None if it is not in `language`."""
    if "turns" in record:
        answers = [turn["content"] for turn in record["turns"].get(language, ()) if turn["role"] == "assistant"]
        return answers[-1].strip() if answers else None
    options = record.get("options", {}).get(language)
    return options[record["answer"]].strip() if options and record.get("task") == "naming" else None


def decode(image: bytes, size: int) -> np.ndarray:
    """uint8 (size, size, 3), resized as the saved image processor does it."""
    from PIL import Image

    picture = open_image(image)
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture)
