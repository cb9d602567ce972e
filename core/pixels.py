"""Image bytes -> the array that a vision tower reads.

`open_image` is the one way in which begira opens an image (training, encoder stage, evaluation, `ask`): RGB,
transparency on white. `Pixels` applies a transformers image processor (the PIL kind, no torchvision); an image that
already has the processor's size takes a short way round it, scale and shift per channel in one numpy expression, with
the same result.
"""
from __future__ import annotations

import io
from typing import Any

import numpy as np

MAX_PIXELS = 64 << 20    # more than this is refused before it is decoded


def open_image(data: bytes) -> Any:
    """The PIL image in mode RGB. Raises ValueError or OSError for what is no image, is cut short, or is too large."""
    from PIL import UnidentifiedImageError

    try:
        return _rgb(data)
    except UnidentifiedImageError:  # its own words name an object in memory
        raise UnidentifiedImageError("no image of a known kind") from None
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # decoders raise what they like on broken files
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _rgb(data: bytes) -> Any:
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}")
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


class Pixels:
    """pixels(image) -> float32 [3, H, W]. `size` is (H, W)."""

    def __init__(self, processor: Any):
        from PIL import Image

        self.processor = processor
        probe = self._full(Image.new("RGB", (64, 64)))
        self.size = (probe.shape[1], probe.shape[2])
        self._scale, self._shift = self._affine()

    def __call__(self, image: Any) -> np.ndarray:
        if self._scale is not None and (image.height, image.width) == self.size:
            array = np.asarray(image, np.float32).transpose(2, 0, 1)
            return array * self._scale + self._shift
        return self._full(image)

    def _full(self, image: Any) -> np.ndarray:
        return np.asarray(self.processor(images=[image], return_tensors="np")["pixel_values"][0], np.float32)

    def _affine(self) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
        """Scale and shift per channel for images of the final size, if that is all the processor does to them."""
        from PIL import Image

        noise = np.random.default_rng(0).integers(0, 256, (*self.size, 3), dtype=np.uint8)
        black, white = (self._full(Image.fromarray(np.full_like(noise, value))).mean((1, 2), keepdims=True)
                        for value in (0, 255))
        scale, shift = ((white - black) / 255).astype(np.float32), black.astype(np.float32)
        expected = self._full(Image.fromarray(noise))
        found = noise.astype(np.float32).transpose(2, 0, 1) * scale + shift
        if found.shape == expected.shape and np.abs(found - expected).max() < 1e-4:
            return scale, shift
        return None, None
