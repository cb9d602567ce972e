"""The page of `begira data show`: tables and histograms of a data set in one HTML file that loads nothing.

It shows what `data_tools.show` found and computes nothing but the widths of bars. The images are on the contact sheet.
"""
from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.files import write_text
from data_tools.statistics import EDGES

STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;font-variant-numeric:tabular-nums}
h2{margin-top:2em}.wide{overflow-x:auto}table{border-collapse:collapse}
th,td{padding:.2em .8em .2em 0;text-align:right;border-bottom:1px solid #8884}
th:first-child,td:first-child{text-align:left}small{color:#777}
figure{display:inline-block;margin:0 1.5em 1em 0;vertical-align:top}text{font-size:9px;fill:currentColor}
rect{fill:#0072b2}
"""


def write(path: Path, result: Mapping[str, Any]) -> Path:
    """Write the page of one data set to `path`."""
    name = html.escape(result["name"])
    parts = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{STYLE}</style>'
             f"<h1>{name}</h1><p>Languages: {html.escape(', '.join(result['languages']))}. "
             f"Fingerprint {html.escape(str(result['fingerprint'])[:16])}.</p>"]
    rows, languages = result["subsets"], result["languages"]
    parts += ["<h2>Subsets</h2>", _table(
        ["subset", "kind", "samples", "images", *(f"words {lang}" for lang in languages), "MB"],
        ([row["subset"], row["kind"], row["samples"], row["images"], *(row["words"].get(k) for k in languages),
          row["megabytes"]] for row in rows))]
    parts += ["<h2>What is missing</h2>", _table(
        ["subset", *(f"images without {lang} text" for lang in languages), "marked as broken"],
        ([row["subset"], *(row["without_text"].get(k) for k in languages), row["bad"]] for row in rows
         if row["images"]))]
    parts += _tokens(rows, languages)
    parts += ["<h2>Languages found</h2>", "<p><small>Recognised in a sample of the texts of four words and more; short "
              "texts of few kinds are often mistaken.</small></p>", _table(
        ["subset", "declared", "recognised"],
        ([row["subset"], lang, ", ".join(f"{code} {share:.0%}" for code, share in list(found.items())[:4])]
         for row in rows for lang, found in row["languages_found"].items()))]
    parts += ["<h2>Lengths</h2><p><small>Samples by characters of their text in one language.</small></p>"]
    parts += [_bars(f"{row['subset']}, {lang}", counts) for row in rows for lang, counts in row["histogram"].items()]
    parts += ["<h2>Sources</h2>", _table(["name", "version", "licence", "origin"], (
        [one.get(key, "") for key in ("name", "version", "licence", "origin")] for one in result["sources"]))]
    write_text(path, "\n".join(parts) + "</html>\n")
    return path


def _tokens(rows: Sequence[Mapping[str, Any]], languages: Sequence[str]) -> list[str]:
    """Fertility, and what 20 % of the samples is in tokens."""
    fertile = [[row["subset"], *(row["tokens"].get(k) for k in languages), *(row["tokens_per_word"].get(k)
               for k in languages)] for row in rows if row["tokens"]]
    shares = [[row["subset"], key.split()[-1], f"{share['samples']:.0%}", f"{share['tokens']:.1%}",
               f"{share['loss']:.1%}", key.split()[0]] for row in rows if row["kind"] == "image"
              for key, share in row["twenty_percent"].items()]
    parts = []
    if fertile:
        parts += ["<h2>Tokens</h2>", _table(["subset", *(f"tokens {lang}" for lang in languages), *(
            f"tokens per word {lang}" for lang in languages)], fertile)]
    if shares:
        parts += ["<h2>What 20 % means</h2>", "<p><small>A share of the samples, in tokens as training counts them "
                  "(template and image included) and in supervised tokens.</small></p>", _table(
                      ["subset", "language", "samples", "tokens", "supervised tokens", "token lengths"], shares)]
    return parts


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>\n" for row in rows)
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    return f'<div class="wide"><table><tr>{titles}</tr>\n{cells}</table></div>'


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else html.escape(str(value))


def _bars(title: str, counts: Sequence[int]) -> str:
    """A histogram as SVG: a bar per class, its least length below, its number above."""
    step, height, most = 30, 70, max([*counts, 1])
    parts = []
    for i, (edge, number) in enumerate(zip(EDGES, counts, strict=True)):
        tall = round(height * number / most, 1)
        parts.append(f'<rect x="{i * step + 2}" y="{height + 12 - tall}" width="{step - 4}" height="{tall}"/>'
                     f'<text x="{i * step + 2}" y="{height + 24}">{edge}</text>')
        if number:
            parts.append(f'<text x="{i * step + 2}" y="{height + 9 - tall}">{number:,}</text>')
    width = step * len(EDGES)
    return (f'<figure><figcaption>{html.escape(title)}</figcaption><svg width="{width}" height="{height + 28}" '
            f'role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg></figure>')
