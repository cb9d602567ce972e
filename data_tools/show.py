"""`begira data show DIR`: what a data set holds, as plain data, as a page, and a contact sheet to look at.

Counts come from the manifest and the index; tokens from counting with a tokenizer folder, or from the files that
training left beside the shards (`lengths-<key>.npz`: with chat template and image tokens). `check` judges, not this.
"""
from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from core.files import replacing, write_text
from core.shards import Corrupt, DataSet, Subset
from data_tools import page, statistics
from data_tools.shards import texts

CELL, ACROSS = 64, 16            # pixels and images per row of the PNG sheet


def show(path: Path | str, tokenizer: Path | str | None = None, sheet: Path | str | None = None,
         images: int = 96) -> dict[str, Any]:
    """Describe the data set; write <sheet>.png and <sheet>.html (default: contact-sheet in the data set's folder), and
    statistics.html beside them.

    Returns {"name", "languages", "fingerprint", "subsets": [row...], "sources", "text", "sheet": [paths], "page"}; a
    row holds subset, kind, samples, images, bad, words, characters and tokens by language (tokens: with `tokenizer`
    only), tokens_per_word (fertility), tokens_as_trained by length file, lengths (quartiles of characters per sample),
    histogram, without_text and languages_found (`data_tools.statistics`) and twenty_percent: what a ratio of 0.2 of the
    samples is in tokens. Raises UserError if `path` is no data set."""
    try:
        return _show(DataSet(path), Path(sheet) if sheet else Path(path) / "contact-sheet", tokenizer, images)
    except Corrupt as error:
        raise UserError(f"{error}: `begira data check {path}` names all that is broken") from error


def _show(data: DataSet, target: Path, tokenizer: Path | str | None, images: int) -> dict[str, Any]:
    count = _counter(tokenizer) if tokenizer else None
    rows = [_row(data.subset(name), entry, count) for name, entry in sorted(data.manifest["subsets"].items())]
    chosen = [pick for entry in rows if entry["images"] for pick in _picks(data.subset(entry["subset"]), images)]
    written = write_sheet(target, data.name, chosen) if chosen else []
    result = {"name": data.name, "languages": data.languages, "fingerprint": data.manifest.get("fingerprint"),
              "subsets": rows, "sources": data.manifest.get("sources", []), "text": data.manifest.get("text", []),
              "concepts": data.manifest.get("concepts"), "sheet": [str(p) for p in written]}
    return {**result, "page": str(page.write(target.with_name("statistics.html"), result))}


def _row(subset: Subset, entry: dict[str, Any], count: Any) -> dict[str, Any]:
    chars = {lang: c[c >= 0] for lang, c in subset.chars.items()}
    words = dict(entry["words"])
    tokens = _count_tokens(subset, count) if count is not None else {}
    trained = {}
    for path in sorted(subset.folder.glob("lengths-*.npz")):
        with np.load(path) as stored:
            trained[path.stem.removeprefix("lengths-")] = {
                k.removeprefix("tokens_"): int(stored[k][stored[k] > 0].sum()) for k in stored
                if k.startswith("tokens_")}
    # what training counted holds the template and the image's tokens too, so it says nothing about words
    fertility = {lang: round(n / words[lang], 3) for lang, n in tokens.items() if words.get(lang)}
    return {"subset": subset.subset, "kind": subset.kind, "samples": len(subset), "images": int(subset.images.sum()),
            "bad": int(subset.bad.sum()), "words": words, "present": {lang: len(c) for lang, c in chars.items()},
            "characters": {lang: int(c.sum()) for lang, c in chars.items()}, "tokens": tokens,
            "tokens_per_word": fertility, "tokens_as_trained": trained,
            "lengths": {lang: np.percentile(c, [0, 25, 50, 75, 100]).astype(int).tolist() if len(c) else []
                        for lang, c in chars.items()},
            "histogram": statistics.histogram(subset), "without_text": statistics.without_text(subset),
            "languages_found": statistics.languages_found(subset), "twenty_percent": _shares(subset, 0.2),
            "megabytes": round(sum(s["bytes"] for s in entry["shards"]) / 1e6, 1), "shards": len(entry["shards"])}


def _shares(subset: Subset, ratio: float) -> dict[str, dict[str, float]]:
    """What a target ratio of so many samples is in tokens and in supervised tokens, by file of token lengths.

    Over the samples that hold both languages; the file says what was counted (template and image tokens included)."""
    base, *targets = subset.languages
    result = {}
    for path in sorted(subset.folder.glob("lengths-*.npz")):
        with np.load(path) as stored:
            for target in targets:
                if not all(f"{kind}_{lang}" in stored for kind in ("tokens", "loss") for lang in (base, target)):
                    continue
                both = (stored[f"tokens_{base}"] > 0) & (stored[f"tokens_{target}"] > 0)
                means = {kind: [float(stored[f"{kind}_{lang}"][both].mean()) if both.any() else 0.0
                                for lang in (base, target)] for kind in ("tokens", "loss")}
                result[f"{path.stem.removeprefix('lengths-')} {target}"] = {
                    "samples": ratio, **{kind: round(ratio * t / (ratio * t + (1 - ratio) * b), 4) if t else 0.0
                                         for kind, (b, t) in means.items()}}
    return result


def _counter(tokenizer: Path | str) -> Any:
    """A function from a list of texts to their number of tokens, for a folder that transformers can load."""
    from transformers import AutoTokenizer

    if not Path(tokenizer).is_dir():
        raise UserError(f"tokenizer folder {tokenizer} does not exist: give a folder that holds tokenizer.json")
    try:
        loaded = AutoTokenizer.from_pretrained(str(tokenizer))
    except (OSError, ValueError) as error:
        raise UserError(f"{tokenizer} holds no tokenizer that transformers can load: give a folder that holds "
                        "tokenizer.json") from error
    return lambda batch: sum(map(len, loaded(batch, add_special_tokens=False)["input_ids"]))


def _count_tokens(subset: Subset, count: Any, batch: int = 1000) -> dict[str, int]:
    totals = dict.fromkeys(subset.languages, 0)
    for start in range(0, len(subset), batch):
        records = [subset.read(i)[0] for i in range(start, min(start + batch, len(subset)))]
        for language in totals:
            parts = [text for record in records for text in texts(record, language) or ()]
            totals[language] += count([p.replace("<image>", "").strip() for p in parts]) if parts else 0
    return totals


def _picks(subset: Subset, number: int) -> list[tuple[Subset, int]]:
    """The samples with an image whose id hashes are smallest: a fair choice that stays the same."""
    with_image = np.flatnonzero(subset.images)
    return [(subset, int(i)) for i in with_image[np.argsort(subset.id_hash[with_image])][:number]]


def write_sheet(target: Path, title: str, chosen: Sequence[tuple[Subset, int]]) -> list[Path]:
    """<target>.png: images alone, a block of rows per subset; <target>.html: with id and text of both languages."""
    from PIL import Image

    samples = [(subset, *subset.read(i)) for subset, i in chosen]
    rows: dict[str, list] = {}
    for subset, record, data in samples:
        rows.setdefault(subset.subset, []).append((record, data))
    height = sum(-(-len(r) // ACROSS) for r in rows.values())
    canvas, line = Image.new("RGB", (ACROSS * CELL, max(1, height) * CELL), "white"), 0
    for members in rows.values():
        for number_in, (_, data) in enumerate(members):
            place = (number_in % ACROSS * CELL, (line + number_in // ACROSS) * CELL)
            canvas.paste(_thumbnail(data), place)
        line += -(-len(members) // ACROSS)
    png, page = target.with_suffix(".png"), target.with_suffix(".html")
    with replacing(png) as temporary:
        canvas.save(temporary, "PNG")
    write_text(page, _page(title, rows))
    return [png, page]


def _thumbnail(data: bytes | None) -> Any:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data or b"")).convert("RGB")
        image.thumbnail((CELL - 4, CELL - 4))
        return image
    except (OSError, ValueError, Image.DecompressionBombError):
        return Image.new("RGB", (CELL - 4, CELL - 4), "red")  # what cannot be decoded is seen at a glance


def _page(title: str, rows: dict[str, Iterable[tuple[dict[str, Any], bytes | None]]]) -> str:
    style = ("body{font:14px sans-serif;margin:1em}figure{display:inline-block;width:11em;vertical-align:top}"
             "img{width:64px;height:64px;object-fit:contain}figcaption{overflow-wrap:anywhere}small{color:#666}")
    parts = [f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{style}</style>"
             f"<h1>{html.escape(title)}</h1>"]
    for name, members in rows.items():
        parts.append(f"<h2>{html.escape(name)}</h2>")
        for record, data in members:
            source = base64.b64encode(data or b"").decode()
            lines = "<br>".join(f"<b>{lang}</b> {html.escape(text)}" for lang, text in captions(record).items())
            parts.append(f"<figure><img alt='' src='data:image;base64,{source}'><figcaption>{lines}<br>"
                         f"<small>{html.escape(record['id'])}</small></figcaption></figure>")
    return "\n".join(parts)


def captions(record: dict[str, Any]) -> dict[str, str]:
    """What the sample should be answered with, by language."""
    if "turns" in record:
        return {language: turns[-1]["content"] for language, turns in record["turns"].items()}
    return {language: " | ".join(record["references"][language]) for language in record["prompt"]}
