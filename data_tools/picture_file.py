"""What is done to a downloaded file before it is kept: is it an image, is it safe to decode, is it larger than needed.

Pure: nothing is fetched or written here."""
from __future__ import annotations

import hashlib
import io
import warnings
from typing import Any

from data_tools.check_sample import MAX_PIXELS
from data_tools.fingerprints import of_image
from data_tools.pictures import sniff


def prepare(data: bytes, side: int, least: int) -> dict[str, Any]:
    """{"status", "reason", "data"} and, if it is kept, extension, width, height, sha256 and likeness (hex).

    `side`: the longer side is reduced to so many pixels (0: as it is); `least`: smaller images are not kept. What is no
    PNG, JPEG or WebP but an image is kept as PNG. Status: ok, no image, broken, bomb, too small."""
    from PIL import Image

    lost = {"data": b""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            return {"status": "bomb", "reason": f"{image.width} x {image.height} pixels", **lost}
        if side:
            image.draft("RGB", (2 * side, 2 * side))          # a JPEG that is far too large is decoded smaller
        image.load()
    except Image.DecompressionBombError as error:
        return {"status": "bomb", "reason": str(error)[:80], **lost}
    except Image.UnidentifiedImageError:
        return {"status": "no image", "reason": "of no known format", **lost}
    except Exception as error:  # Pillow's decoders raise whatever they meet in a damaged file
        return {"status": "broken", "reason": (str(error) or type(error).__name__)[:80], **lost}
    if min(image.size) < least:
        return {"status": "too small", "reason": f"{image.width} x {image.height} pixels", **lost}
    extension = sniff(data)
    if side and max(image.size) > side:
        image = image.convert("RGB")
        image.thumbnail((side, side), Image.Resampling.HAMMING)  # a third of Lanczos's time; reducing needs no more
        data, extension = _encoded(image, "JPEG", quality=92), "jpg"
    elif extension is None:
        data, extension = _encoded(image.convert("RGB"), "PNG"), "png"
    return {"status": "ok", "reason": "", "data": data, "extension": extension, "width": image.width,
            "height": image.height, "sha256": hashlib.sha256(data).hexdigest(), "likeness": f"{of_image(image):016x}"}


def _encoded(image: Any, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
