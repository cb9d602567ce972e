"""The art of the emoji data set: eight open styles of Iconify's JSON packages, rendered to small RGB images.

Says which icon of a style shows a concept, and renders it: cropped to what is drawn, centred on white. Licences stand
in packages.yaml. Rendering needs no system library (resvg_py).
"""
from __future__ import annotations

import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from core.files import replacing
from data_tools.concepts import Concept, annotation, candidates
from data_tools.fetch import cache_folder, members, packages
from data_tools.workers import workers

# style -> (npm package, role); the held-out styles are never trained on, the development style tunes
STYLES = {
    "noto": ("@iconify-json/noto", "train"),
    "twemoji": ("@iconify-json/twemoji", "train"),
    "fluent": ("@iconify-json/fluent-emoji-flat", "train"),
    "noto-v1": ("@iconify-json/noto-v1", "train"),
    "emojione-v1": ("@iconify-json/emojione-v1", "train"),
    "fxemoji": ("@iconify-json/fxemoji", "dev"),
    "emojione": ("@iconify-json/emojione", "heldout"),
    "openmoji": ("@iconify-json/openmoji", "heldout"),
}
NEWEST_BY_NAME = 3.0  # sets without code points were drawn for Emoji <= 3: a newer name is an older, different drawing
SUPERSAMPLING = 2    # icons are drawn larger, cropped and then reduced


@dataclass
class Style:
    """One icon set: `pick` gives the SVG of a concept or None."""

    name: str
    icons: dict[str, Any]
    aliases: dict[str, Any]
    characters: dict[str, str]
    width: float
    height: float
    squeezed: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.squeezed = {slug.replace("-", ""): slug for slug in (*self.icons, *self.aliases)}

    @classmethod
    def load(cls, name: str, path: Path) -> Style:
        content = members(path, ["icons.json", "chars.json"])
        sheet = json.loads(content["icons.json"])
        return cls(name, sheet["icons"], sheet.get("aliases", {}), json.loads(content.get("chars.json", b"{}")),
                   sheet.get("width", 16), sheet.get("height", 16))

    def pick(self, concept: Concept, name: str) -> str | None:
        """The icon's SVG text: by code point where the set has them, else by CLDR's English name, else by Unicode's."""
        slug = self.characters.get(concept.code)
        if slug is None and not self.characters and concept.added <= NEWEST_BY_NAME:
            spellings = [slugify(name), slugify(concept.unicode_name)]
            slug = next((s for s in spellings if s in self.icons or s in self.aliases), None) or next(
                (self.squeezed[s.replace("-", "")] for s in spellings if s.replace("-", "") in self.squeezed), None)
        if slug is None:
            return None
        alias: dict[str, Any] = {}
        for _ in range(5):  # an alias may name another one
            if slug in self.icons:
                break
            alias = {**self.aliases[slug], **alias}
            slug = self.aliases[slug]["parent"]
        icon = {**self.icons[slug], **{k: v for k, v in alias.items() if k != "parent"}}
        if {"rotate", "hFlip", "vFlip"} & set(icon):
            return None  # a mirrored icon is another concept's drawing
        box = (icon.get("left", 0), icon.get("top", 0), icon.get("width", self.width), icon.get("height", self.height))
        return ('<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{box[0]} {box[1]} {box[2]} {box[3]}">{icon["body"]}</svg>')


def slugify(name: str) -> str:
    """Iconify's spelling of a name: "woman’s hat" -> "womans-hat"."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower().replace("'", "")
    return re.sub(r"[^a-z0-9]+", "-", plain.replace("&", "and")).strip("-")


def render(svg: str, size: int) -> bytes:
    """PNG bytes of the icon, `size` x `size` RGB on white. Raises UserError if the SVG cannot be drawn."""
    import resvg_py
    from PIL import Image

    large = size * SUPERSAMPLING
    try:
        data = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=large, height=large))
    except (ValueError, RuntimeError) as error:
        raise UserError(f"resvg_py cannot draw an icon ({error}): fetch the art packages again") from error
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox() or (0, 0, *image.size)
    image = image.crop(box)
    side = max(image.size)
    square = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    out = io.BytesIO()
    square.convert("RGB").resize((size, size), Image.Resampling.LANCZOS).save(out, "PNG")
    return out.getvalue()


def images(files: dict[str, Path], size: int, processes: int,
           done: Callable[[int, int], None] = lambda _n, _of: None) -> dict[tuple[str, str], bytes]:
    """(style, character) -> PNG of every concept of `candidates` that a style draws, rendered once per cache folder.

    `files` are the fetched packages by name. Which icon shows a concept goes by its English name, in every data set."""
    digests = [packages()[name].sha256 for name in (*(p for p, _ in STYLES.values()), "emoji-datasource")]
    key = hashlib.sha256(repr((digests, size, SUPERSAMPLING, NEWEST_BY_NAME)).encode()).hexdigest()[:16]
    path = cache_folder() / "icons" / f"{key}.npz"
    if not path.exists():
        _render_all(files, size, processes, path, done)
    with np.load(path) as stored:
        data, ends = stored["data"].tobytes(), stored["ends"].tolist()
        keys = zip(stored["style"].tolist(), stored["character"].tolist(), strict=True)
    return {key: data[start:end] for key, start, end in zip(keys, [0, *ends[:-1]], ends, strict=True)}


def _render_all(files: dict[str, Path], size: int, processes: int, path: Path,
                done: Callable[[int, int], None]) -> None:
    english = annotation(files["cldr-annotations-full"], "en")
    jobs = []
    for name, (package, _) in STYLES.items():
        style = Style.load(name, files[package])
        picked = ((c.character, style.pick(c, english[c.character][0])) for c in candidates(files["emoji-datasource"])
                  if c.character in english)
        jobs += [(name, character, svg) for character, svg in picked if svg]
    with workers(processes) as pool:
        results = []
        for data in pool.map(render, [svg for *_, svg in jobs], [size] * len(jobs), chunksize=64):
            results.append(data)
            done(len(results), len(jobs))
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, data=np.frombuffer(b"".join(results), np.uint8), ends=np.cumsum([len(r) for r in results]),
                 style=np.array([j[0] for j in jobs]), character=np.array([j[1] for j in jobs]))
