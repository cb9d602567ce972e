"""From the translations of all chunks to a data set in which the target language stands beside the source.

A record gets the target language only if every one of its texts has a translation that passed the gates; the others
lose it, if they had it, and are listed, with reasons, in `rejected.jsonl` of the new data set. A damaged sample, which
`data_tools.translate` passed over, is left out and counted (`damaged`). Nothing is translated here.
"""
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.config import TranslateConfig, structured
from core.errors import UserError
from core.files import write_text
from core.run import Run
from core.shards import Corrupt, DataSet
from data_tools.dataset import Sample, building
from data_tools.pictures import sniff
from data_tools.shards import id_hash, texts
from data_tools.translate import blocks_of, is_wanted, read_lines, subset_names

Table = dict[int, tuple[str, list[str]]]     # hash of a text -> its translation, reasons against it


def merge(runs: Sequence[Path | str], out: Path | str) -> dict[str, Any]:
    """Write the data set `out` from complete `translate` runs, one per chunk, and return its manifest.

    Raises UserError if a chunk is missing, unfinished or stands twice, or the runs do not belong together."""
    opened = [Run(Path(path)) for path in runs]
    config = _common(opened)
    table, engine = _table([run.path for run in opened])
    out, data = Path(out), DataSet(Path(config.runtime.data_root) / config.data)
    languages = list(dict.fromkeys([*data.manifest["languages"], config.target_language]))
    counts: Counter = Counter()
    rejected: list[str] = []
    with building(out, out.name, languages) as made:
        for name, subset in data.manifest["subsets"].items():
            chosen = name in subset_names(data, config)
            made.subset(name, subset["kind"], _samples(data, name, config if chosen else None, table, engine, counts,
                                                       rejected))
        write_text(made.folder / "rejected.jsonl", "".join(rejected))
        source = {"name": "translation", "version": "", "licence": "that of the translated texts",
                  "origin": f"machine translation by {engine}", "sha256": ""}
        extra = {k: v for k, v in data.manifest.items() if k in ("concepts", "styles", "rows", "text")}
        return made.finish([*data.manifest["sources"], source], **extra,
                           translation={"engine": engine, "language": config.target_language, **counts})


def _common(runs: Sequence[Run]) -> TranslateConfig:
    """The configuration that all runs share but for the chunk."""
    if not runs:
        raise UserError("no translate run given: name the run directories of all chunks")
    configs = [structured(TranslateConfig, run.config) for run in runs]
    unfinished = [str(run.path) for run in runs if not run.is_done]
    if unfinished:
        raise UserError(f"{len(unfinished)} translate runs are not done, e.g. {unfinished[0]}: submit the grid again")
    plain = [{k: v for k, v in run.config.items() if k not in ("chunk", "runtime")} for run in runs]
    if any(p != plain[0] for p in plain):
        raise UserError("these runs translate different things: give the runs of one grid, with one engine")
    chunks = Counter(c.chunk for c in configs)
    missing = sorted(set(range(configs[0].chunks)) - set(chunks))
    twice = sorted(c for c, n in chunks.items() if n > 1)
    if missing or twice:
        raise UserError(f"chunks of {configs[0].chunks}: missing {missing}, twice {twice}: give every chunk once")
    return configs[0]


def _table(runs: Sequence[Path]) -> tuple[Table, str]:
    table: Table = {}
    engines: Counter = Counter()
    for path in blocks_of(runs):
        for line in read_lines(path):
            key = int(line["id"], 16)
            if key in table:
                raise UserError(f"{path}: text {line['id']} is translated twice: the runs overlap")
            table[key] = line["translation"], line["reasons"]
            engines[line["engine"]] += 1
    return table, ", ".join(name for name, _ in engines.most_common())


def _samples(data: DataSet, name: str, config: TranslateConfig | None, table: Table, engine: str, counts: Counter,
             rejected: list[str]) -> Iterator[Sample]:
    subset = data.subset(name)
    for i in range(len(subset)):
        try:
            record, image = subset.read(i)
        except Corrupt:
            counts["damaged"] += 1
            continue
        if config is not None and is_wanted(record, config):
            counts["records"] += 1
            reasons = add(record, config.source_language, config.target_language, table)
            counts["rejected" if reasons else "translated"] += 1
            if reasons:
                pairs = [(text, table.get(id_hash(text), ("",))[0]) for text in texts(record, config.source_language)]
                rejected.append(json.dumps({"id": record["id"], "reasons": reasons, "texts": pairs},
                                           ensure_ascii=False) + "\n")
            else:
                record["meta"] = {**record.get("meta", {}), "translated": engine}
        yield Sample(record, image, (sniff(image) or "png") if image else "png")


def add(record: dict[str, Any], source: str, target: str, table: Mapping[int, tuple[str, list[str]]]) -> list[str]:
    """Put the target language beside the source in place; returns the reasons why not, then the record has it not."""
    reasons: list[str] = []

    def translated(text: str) -> str:
        made, against = table.get(id_hash(text), ("", ["not translated"]))
        reasons.extend(against if text.strip() else ())
        return made if text.strip() else text

    if "turns" in record:
        sides: dict[str, Any] = {"turns": [{**turn, "content": translated(turn["content"])}
                                           for turn in record["turns"][source]]}
    else:
        sides = {"prompt": translated(record["prompt"][source])}
        for part in ("options", "references"):
            if source in record[part]:
                sides[part] = [translated(text) for text in record[part][source]]
        if len({o.casefold() for o in sides.get("options", ())}) < len(sides.get("options", ())):
            reasons.append("option")
    for part in sides:
        record[part].pop(target, None)
    if not reasons:
        for part, value in sides.items():
            record[part][target] = value
        assert texts(record, target) is not None
    return list(dict.fromkeys(reasons))
