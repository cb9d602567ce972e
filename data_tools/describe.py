"""What `begira data build`, `check` and `show` print: their plain results as text. Nothing is read or written here."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

LISTED = 40      # findings that are printed one by one


def built(result: Mapping[str, Any]) -> str:
    """Where the data set is, what it holds, whether anything was done, and which rows of the source are not in it."""
    manifest = result["manifest"]
    subsets = manifest["subsets"]
    samples = sum(entry["samples"] for entry in subsets.values())
    done = f"built in {result['seconds']:.0f} s" if result["state"] == "built" else "complete already, nothing was done"
    lines = [f"{result['path']}: {done}; {samples:,} samples in {len(subsets)} subsets"]
    rows = manifest.get("rows", {})
    lost = "; ".join(f"{count:,} {reason}" for reason, count in rows.items() if "skipped" in reason)
    lines += [f"of {rows['rows']:,} rows {rows['kept']:,} were kept; {lost}"] if lost else []
    lines += [f"text: {note}" for note in manifest.get("text", []) if isinstance(note, str)]
    return "\n".join(lines)


def checked(folder: Path, findings: Sequence[Mapping[str, Any]]) -> str:
    """One line per finding (the first ones), then the sum."""
    lines = [": ".join(str(one[key]) for key in ("file", "sample", "problem", "detail") if one[key])
             for one in findings[:LISTED]]
    if len(findings) > LISTED:
        lines.append(f"... and {len(findings) - LISTED} more; --json lists all")
    errors = Counter(one["problem"] for one in findings if one["level"] == "error")
    notes = len(findings) - sum(errors.values())
    verdict = ", ".join(f"{number} x {problem}" for problem, number in errors.items()) or "sound"
    return "\n".join([*lines, f"{folder}: {verdict}" + (f" ({notes} notes)" if notes else "")])


def shown(result: Mapping[str, Any]) -> str:
    """A table of the subsets, the sources with their licences, and where the contact sheet is."""
    languages = result["languages"]
    head = ["subset", "kind", "samples", "images", "bad", *(f"words {code}" for code in languages),
            *(f"tokens {code}" for code in languages)]
    rows = [[one["subset"], one["kind"], one["samples"], one["images"], one["bad"],
             *(one["words"].get(code) for code in languages),
             *((one.get("tokens") or {}).get(code) for code in languages)]
            for one in result["subsets"]]
    lines = [f"{result['name']}: {', '.join(languages)}", *_aligned([head, *rows])]
    lines += [f"source: {one.get('name')} {one.get('version', '')}".rstrip()
              + f", {one.get('licence', 'no licence given')}" for one in result["sources"]]
    lines += [f"20 % of the samples of {one['subset']} ({key.split()[-1]}) are {share['tokens']:.1%} of its tokens and "
              f"{share['loss']:.1%} of its supervised tokens (lengths-{key.split()[0]})"
              for one in result["subsets"] if one["kind"] == "image"
              for key, share in one.get("twenty_percent", {}).items()]
    lines += [f"{number:,} images of {one['subset']} have no text in {language}" for one in result["subsets"]
              for language, number in one["without_text"].items() if number]
    lines += [f"{one['subset']}: the {language} texts are rather in {next(iter(found))}" for one in result["subsets"]
              for language, found in one["languages_found"].items() if next(iter(found)) != language]
    return "\n".join([*lines, *(f"contact sheet: {path}" for path in result["sheet"]), f"page: {result['page']}"])


def _aligned(rows: Iterable[Sequence[Any]]) -> list[str]:
    """Rows as columns of text; numbers with thousands marks, to the right. A column without any value is left out."""
    cells = [["" if cell is None else f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row]
             for row in rows]
    kept = [column for column in range(len(cells[0])) if any(row[column] for row in cells[1:])]
    widths = {column: max(len(row[column]) for row in cells) for column in kept}
    return ["  ".join(row[c].ljust(widths[c]) if c < 2 else row[c].rjust(widths[c]) for c in kept).rstrip()
            for row in cells]
