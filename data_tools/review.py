"""A review sheet for a native speaker: translations beside their sources, marked in a browser, read back as post-edits.

    write(data set, page.html)            a sample of records, as many of each stratum: subset, accepted or reason
    apply(data set, marks.json, out)      the data set again: corrected texts replaced, bad records without the language

The page is one file and works without a server; its button saves `marks.json`. A mark belongs to a source text by the
text's hash, so marks made on another version of the data set are told apart, not misapplied.
"""
from __future__ import annotations

import base64
import html
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any

from core.errors import UserError
from core.files import read_json, write_text
from core.shards import DataSet
from data_tools.concepts import unit
from data_tools.dataset import Sample, building
from data_tools.pictures import sniff
from data_tools.shards import texts
from data_tools.translate import identity, read_lines

VERDICTS = ("good", "corrected", "bad")


def write(data_set: Path | str, page: Path | str, language: str, number: int = 100) -> dict[str, int]:
    """Write the review page with `number` records; returns how many of each stratum it holds.

    Raises UserError if the data set has no machine translation into `language`."""
    data = DataSet(data_set)
    source = data.manifest["languages"][0]
    strata = defaultdict(list)
    for subset, record, image, reasons, pairs in _translated(data, source, language):
        strata[f"{subset}: {reasons[0] if reasons else 'accepted'}"].append((record, image, reasons, pairs))
    if not strata:
        raise UserError(f"{data_set} holds no machine translation into '{language}': merge translations first")
    for rows in strata.values():
        rows.sort(key=lambda row: unit(f"review/{row[0]}"))
    chosen, counts = [], Counter()
    for depth in range(max(map(len, strata.values()))):
        for name, rows in sorted(strata.items()):
            if depth < len(rows) and len(chosen) < number:
                chosen.append((name, *rows[depth]))
                counts[name] += 1
    write_text(page, _page(data.name, language, chosen))
    return dict(counts)


def _translated(data: DataSet, source: str, language: str) -> Iterator[tuple]:
    """(subset, record id, image, reasons, [(source text, translation)]) of every machine-translated record."""
    rejected = {line["id"]: line for line in read_lines(data.path / "rejected.jsonl")} if (
        data.path / "rejected.jsonl").exists() else {}
    for name in data.manifest["subsets"]:
        subset = data.subset(name)
        for i in range(len(subset)):
            record, image = subset.read(i)
            line = rejected.get(record["id"])
            if line is not None:
                yield name, record["id"], image, line["reasons"], [tuple(pair) for pair in line["texts"]]
            elif "translated" in record.get("meta", {}) and texts(record, language) is not None:
                yield name, record["id"], image, [], list(zip(texts(record, source), texts(record, language),
                                                              strict=True))


def _page(name: str, language: str, chosen: list[tuple]) -> str:
    template = Template(Path(__file__).with_name("review.html").read_text(encoding="utf-8"))
    articles = "\n".join(_article(language, *row) for row in chosen)
    return template.substitute(name=html.escape(name, quote=True), language=html.escape(language), articles=articles)


def _article(language: str, stratum: str, record: str, image: bytes | None, reasons: list[str],
             pairs: list[tuple[str, str]]) -> str:
    picture = f'<img alt="" src="data:image;base64,{base64.b64encode(image).decode()}">' if image else "<span></span>"
    rows = [f'<p>{html.escape(before)}</p><textarea rows="2" lang="{language}" data-id="{identity(before)}">'
            f"{html.escape(after)}</textarea>" for before, after in dict.fromkeys(map(tuple, pairs))]
    escaped = html.escape(record, quote=True)
    marks = [f'<label><input type="radio" name="{escaped}" value="{v}">{v}</label>' for v in VERDICTS]
    why = f" — {html.escape(', '.join(reasons))}" if reasons else ""
    return (f'<article data-record="{escaped}">{picture}<div>{"".join(rows)}{" ".join(marks)} '
            f'<input class="note" placeholder="note"> <small>{html.escape(stratum)} {escaped}{why}</small></div>'
            "</article>")


def apply(data_set: Path | str, marks: Path | str, out: Path | str) -> dict[str, Any]:
    """Write `out` with the marks applied; returns the manifest, with the counts of verdicts as `review`.

    Raises UserError if the marks are of another data set or name records or texts that it does not have."""
    data, read = DataSet(data_set), read_json(marks)
    if not isinstance(read, dict) or read.get("data") != data.name:
        raise UserError(f"{marks} holds no marks of data set '{data.name}': save them from its own review page")
    source, language, wanted = data.manifest["languages"][0], read["language"], {m["record"]: m for m in read["marks"]}
    done: Counter = Counter()
    out = Path(out)

    def samples(name: str) -> Iterator[Sample]:
        subset = data.subset(name)
        for i in range(len(subset)):
            record, image = subset.read(i)
            mark = wanted.pop(record["id"], None)
            if mark is not None:
                _apply(record, mark, source, language, str(marks))
                done[mark["verdict"]] += 1
            yield Sample(record, image, (sniff(image) or "png") if image else "png")

    with building(out, out.name, data.languages) as made:
        for name, entry in data.manifest["subsets"].items():
            made.subset(name, entry["kind"], samples(name))
        if wanted:
            raise UserError(f"{marks} marks records that the data set does not have, e.g. {next(iter(wanted))}")
        kept = {k: v for k, v in data.manifest.items() if k in ("concepts", "styles", "rows", "text", "translation")}
        return made.finish(data.manifest["sources"], **kept,
                           review={"reviewer": read.get("reviewer", ""), "language": language, **done})


def _apply(record: dict[str, Any], mark: dict[str, Any], source: str, language: str, place: str) -> None:
    """One mark on one record, in place."""
    if mark["verdict"] not in VERDICTS:
        raise UserError(f"{place}: verdict '{mark['verdict']}' of {record['id']}: choose one of {', '.join(VERDICTS)}")
    parts = [record[part] for part in ("turns", "prompt", "options", "references") if part in record]
    if mark["verdict"] == "bad":
        for part in parts:
            part.pop(language, None)
        return
    after = {text["id"]: text["after"] for text in mark["texts"]}
    before = texts(record, source) or []
    if {identity(text) for text in before} != set(after):
        raise UserError(f"{place}: the texts of {record['id']} changed since the review page was made: make a new one")
    for part in parts:
        if source in part:
            part[language] = _like(part[source], after)
    record["meta"] = {**record.get("meta", {}), "reviewed": mark["verdict"]}


def _like(value: Any, after: dict[str, str]) -> Any:
    """The source's structure (a text, texts, turns) with the reviewed texts in it."""
    if isinstance(value, str):
        return after[identity(value)]
    return [{**v, "content": after[identity(v["content"])]} if isinstance(v, dict) else after[identity(v)]
            for v in value]
