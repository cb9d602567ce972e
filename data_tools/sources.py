"""`begira data build SOURCE`: a public data set declared in `sources/SOURCE.yaml` becomes parallel shards.

    about, licence, origin       for people and the manifest
    converter, kind, subset      which function of `data_tools.converters`; image | text | evaluation; the subset's name
    data                         `parallel`: both languages in one row; or a location per language, joined by `join`
    fields                       our name -> column; `{lang}` in it stands for the language
    images                       column: encoded in the row | file: a name below images=FOLDER | url: see download
    prompts, words, task         what a converter needs besides

Every row is accounted for: kept, or skipped with its reason; so is a translation that a kept row goes without because
it is none ("eu skipped: empty caption"). A missing field stops the build and is named.
"""
from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.structured import require
from data_tools import converters, tables
from data_tools.concepts import unit
from data_tools.converters import Reader, Skip
from data_tools.dataset import Sample, building
from data_tools.pictures import Pictures, sniff

FOLDER = Path(__file__).with_name("sources")
# code that decides the samples: a change in one of them makes a data set be built anew
RECIPE_FILES = ("concepts.py", "converters.py", "dataset.py", "pictures.py", "shards.py", "sources.py", "tables.py")


@dataclass
class Options:
    """What `begira data build SOURCE key=value` accepts; an empty one keeps what the source's YAML says."""

    base: str = "en"
    data: str = ""               # location of the rows: of both languages, or of the base language
    target_data: str = ""        # location of the target language's rows where it has its own
    split: str = ""
    images: str = ""             # folder of image files, or of a download
    limit: int = 0               # rows to read, 0: all
    characters: int = 6000       # a longer text-only document is cut into pieces
    require_target: bool = False # drop rows without the target language (evaluation always does)

    def __post_init__(self) -> None:
        require("", self, limit=0, characters=2)


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def recipe(name: str, lang: str, options: Options) -> str:
    """Hash of what decides the result: declaration, options, code, and the names, sizes and times of local files: the
    rows, and the journals of a download or, where images are files of their own, these files' names."""
    entry = load(name)
    split = options.split or entry.get("split", "train")
    files = [path for place in locations(entry, lang, options) for path in tables.files(place, split)]
    images = Path(options.images) if options.images else None
    if images:
        files += sorted(images.glob("*.jsonl"))
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    # names alone: asking a shared file system for the size of every image takes as long as building
    named = sorted(str(path) for path in images.rglob("*")) if images and "url" not in entry.get("images", {}) else []
    digest = hashlib.sha256(json.dumps([name, lang, entry, asdict(options), states, named], sort_keys=True).encode())
    for file in RECIPE_FILES:
        digest.update((Path(__file__).parent / file).read_bytes())
    return digest.hexdigest()


def locations(entry: Mapping[str, Any], lang: str, options: Options) -> list[str]:
    """Where the rows are: one location for both languages, or that of the base and that of the target language."""
    data = entry["data"]
    if "parallel" in data:
        return [options.data or data["parallel"]]
    if entry.get("monolingual"):
        places, missing = [options.data or data.get(lang, "")], "data"
    else:
        places = [options.data or data.get(options.base, ""), options.target_data or data.get(lang, "")]
        missing = "data" if not places[0] else "target_data" if entry["kind"] == "evaluation" and not places[1] else ""
    if missing and not all(places):
        raise UserError(f"this source names no location for the rows it needs: set {missing}=FILE, FOLDER or hub id")
    return [p for p in places if p]


def build(name: str, out: Path, lang: str, options: Options, recipe: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Write the data set of a source to `out` and return its manifest, with `rows` as the account of every row."""
    entry, counts = load(name), Counter()
    say("reading rows")
    samples = convert(name, entry, lang, options, counts)
    with building(out, out.name, [options.base, lang]) as data:
        data.subset(entry["subset"], entry["kind"], samples)
        kept = data.subsets[entry["subset"]]["samples"]
        if not kept:
            raise UserError(f"source '{name}' gave no sample: {dict(counts) or 'it has no rows'}")
        places = locations(entry, lang, options)
        sources = [{"name": place, "version": entry.get("version", ""), "licence": entry["licence"],
                    "origin": entry["origin"], "sha256": ""} for place in places]
        return data.finish(sources, recipe=recipe, rows={"samples": kept, **counts})


def convert(name: str, entry: Mapping[str, Any], lang: str, options: Options, counts: Counter) -> Iterator[Sample]:
    """Samples of a source; `counts` ends with rows, kept and the reasons of those that were skipped.

    Rows are those of the base language; the reasons of a target language's own rows have its code before them."""
    split = options.split or entry.get("split", "train")
    places = locations(entry, lang, options)
    languages = [lang] if entry.get("monolingual") else [options.base, lang]
    pictures = Pictures(name, entry["images"], options.images) if entry.get("images") else None
    streams = [tables.rows(place, split, entry.get("config", "")) for place in places]
    if len(streams) == 2:
        join, repeats = entry["join"], entry.get("repeats", False)
        if not repeats:
            again = f"skipped: {join} stands twice"
            streams = [tables.once(streams[0], join, lambda: counts.update(["rows", again])),
                       tables.once(streams[1], join, lambda: counts.update([f"{lang} {again}"]))]
        groups = tables.aligned(*streams, join, repeats)
    else:
        groups = ((row,) * len(languages) if "parallel" in entry["data"] else (row,) for row in streams[0])
    seen: Counter = Counter()
    for number, group in enumerate(islice(groups, options.limit or None)):
        counts["rows"] += 1
        readers = [Reader(name, row, entry.get("fields", {}), language, entry)
                   for row, language in zip(group, languages, strict=False) if row is not None]
        own = str(readers[0].get("id") if "id" in entry.get("fields", {}) else number)
        seen[own] += 1
        try:
            made = list(_samples(entry, readers, own, seen[own], pictures, options, counts))
        except Skip as reason:
            counts[f"skipped: {reason}"] += 1
            continue
        counts["kept"] += 1
        yield from made


def _samples(entry: Mapping[str, Any], readers: list[Reader], own: str, time: int, pictures: Pictures | None,
             options: Options, counts: Counter) -> Iterator[Sample]:
    """Samples of one row; `own` is its id, which stands there for the `time`-th time. Counts unusable translations."""
    first = readers[0]
    identity = f"{first.source}/{own}" + (f"#{time}" if time > 1 else "")
    image = pictures.get(first.row) if pictures else None
    extension = sniff(image) if image else None
    if pictures and image is None:
        raise Skip("no image")
    if pictures and extension is None:
        raise Skip("image is no PNG, JPEG or WebP")
    record = {"id": identity, "source": first.source, "license": entry["licence"]}
    if entry["kind"] == "evaluation":
        yield Sample(record | _evaluation(entry, readers), image, extension or "png")
        return
    convert, turns = converters.TRAINING[entry["converter"]], {}
    for reader in readers:
        try:
            turns[reader.language] = convert(reader, unit(f"prompt/{identity}"))
        except Skip as reason:
            if reader is first or options.require_target:
                raise
            counts[f"{reader.language} skipped: {reason}"] += 1
    if options.require_target and len(turns) < 2:
        raise Skip("no target language")
    if entry["converter"] == "text":
        yield from _documents(record, turns, options.characters)
    else:
        yield Sample({**record, "turns": turns, "meta": {}}, image, extension or "png")


def _evaluation(entry: Mapping[str, Any], readers: list[Reader]) -> dict[str, Any]:
    """An item asks the same in every language, so both must be there, with as many options and the same answer."""
    if len(readers) < 2:
        raise Skip("no target language")
    items = {reader.language: converters.EVALUATION[entry["converter"]](reader) for reader in readers}
    one = next(iter(items.values()))
    if any(len(i["options"]) != len(one["options"]) or i["answer"] != one["answer"] for i in items.values()):
        raise Skip("the languages differ in options or answer")
    sides = {part: {lang: item[part] for lang, item in items.items()} for part in ("prompt", "options", "references")}
    return {"task": entry["task"], "kind": one["kind"], **sides, "options": sides["options"] if one["options"] else {},
            "answer": one["answer"],
            "meta": {"concept": "", "set": "all", "style": "", "category": ""}}


def _documents(record: dict[str, Any], turns: dict[str, Any], characters: int) -> Iterator[Sample]:
    """Text-only documents; long ones in pieces, but side by side only where the languages give as many pieces."""
    cut = {lang: list(converters.pieces(t[0]["content"], characters)) for lang, t in turns.items()}
    together = len({len(p) for p in cut.values()}) == 1
    for group in ([cut] if together else [{lang: p} for lang, p in cut.items()]):
        label = "" if together else f"{next(iter(group))}/"
        for number in range(len(next(iter(group.values())))):
            sides = {lang: [{"role": "assistant", "content": p[number]}] for lang, p in group.items()}
            yield Sample({**record, "id": f"{record['id']}/{label}{number}", "turns": sides, "meta": {}})
