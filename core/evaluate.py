"""Stage `evaluate`: a trained model answers every item in every language; each answer is kept, with its scores.

    blank parts (options without a look at the image) + units of items -> items/<data>/*.json -> items.parquet, metrics

A unit of work is computed once, by one rank, and written to its own file; a run that was stopped or killed goes on with
the units that are missing. What a unit holds depends on data and configuration alone, so ranks and restarts do not
change a bit of the result; units of other data, built anew since, lie in another folder and count for nothing. Not
here: asking (core.examiner), judging (core.summary).
"""
from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.config import EvaluateConfig, structured
from core.errors import Stopped, UserError
from core.files import read_json, replacing, write_json
from core.questions import Question, check, select, units
from core.run import Run
from core.score import LanguageIdentifier
from core.summary import judge, metrics, texts_by_language

COLUMNS = {"item": "string", "subset": "string", "task": "string", "kind": "string", "language": "string",
           "set": "string", "style": "string", "category": "string", "concept": "string", "likeness": "double",
           "prompt": "string", "options": "list<string>", "references": "list<string>", "answer": "int32",
           "scores": "list<double>", "scores_blank": "list<double>", "tokens": "list<int32>", "prediction": "string",
           "predicted": "int32", "correct": "bool", "correct_uncalibrated": "bool", "exact": "bool", "chrf": "double",
           "score": "double", "language_detected": "string", "status": "string", "error": "string"}
_BLANK_PART = 1024       # (prompt, option) pairs that are scored together on the blank image


def evaluate(run: Run) -> dict[str, Any]:
    """Ask everything, write items.parquet, return the metrics. Raises UserError, Stopped when asked to stop."""
    from core.distributed import joined
    from core.examiner import Examiner, load

    config = structured(EvaluateConfig, run.config)
    started = time.perf_counter()
    if not config.tasks:
        raise UserError("tasks is empty: name at least one evaluation subset")
    with joined(config.runtime.threads) as world:
        questions = select(config.tasks, config.runtime.data_root, config.generate)
        work = Work(run.path / "items" / fingerprint(questions), config, questions)
        missing = world.share(work.missing() if world.first else None)
        if missing:
            net, processor = load(config.model, run, config.runtime.models_root, config.dtype)
            examiner = Examiner(net, processor, world.device, config.batch)
            total = len(work.names)
            for start in range(0, len(missing), world.size):
                done = total - len(missing) + start
                if world.sum([run.stop_requested() is not None])[0]:
                    raise Stopped(run.stop_requested() or "another rank was asked to", done)
                if world.first:
                    run.heartbeat(done, total, "evaluate", force=start == 0)
                mine = missing[start:start + world.size]
                if world.rank < len(mine):
                    run.check_fence()
                    work.do(mine[world.rank], examiner)
        world.barrier()
        result = world.alone(lambda: finish(run, config, work)) or {}
    return {**result, "seconds": round(time.perf_counter() - started, 2)}


class Work:
    """The units of one evaluation by name, "blank-00000" and "items-00000", and their files below `folder`."""

    def __init__(self, folder: Path, config: EvaluateConfig, questions: Sequence[Question]):
        self.folder, self.config = folder, config
        self.units = units(questions, config.unit)
        pairs = blank_pairs(questions, config.languages) if config.calibrate else []
        self.blank = [pairs[start:start + _BLANK_PART] for start in range(0, len(pairs), _BLANK_PART)]
        self.names = [*(f"blank-{number:05d}" for number in range(len(self.blank))),
                      *(f"items-{number:05d}" for number in range(len(self.units)))]

    def missing(self) -> list[str]:
        return [name for name in self.names if not (self.folder / f"{name}.json").exists()]

    def do(self, name: str, examiner: Any) -> None:
        kind, number = name.split("-")
        if kind == "blank":
            found: Any = examiner.blank_scores(self.blank[int(number)], self.config.blanks)
        else:
            found = examiner.ask(self.units[int(number)], self.config.languages, self.config.max_new_tokens)
        write_json(self.folder / f"{name}.json", found)

    def blank_scores(self) -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], float] = {}
        for number, pairs in enumerate(self.blank):
            found.update(zip(pairs, read_json(self.folder / f"blank-{number:05d}.json"), strict=True))
        return found

    def rows(self) -> list[dict[str, Any]]:
        return [row for number in range(len(self.units)) for row in read_json(self.folder / f"items-{number:05d}.json")]


def fingerprint(questions: Sequence[Question]) -> str:
    """Of the shards that the questions lie in, as a folder's name."""
    found = sorted({(question.subset.name, question.subset.fingerprint) for question in questions})
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def blank_pairs(questions: Sequence[Question], languages: Sequence[str]) -> list[tuple[str, str]]:
    """Every distinct (prompt, option) of the items that can be asked, in order."""
    pairs: set[tuple[str, str]] = set()
    for question in questions:
        for language in languages:
            try:
                check(question.record, language)
            except ValueError:
                continue
            if question.kind == "choice":
                prompt, options = question.record["prompt"][language], question.record["options"][language]
                pairs.update((prompt, option) for option in options)
    return sorted(pairs)


def finish(run: Run, config: EvaluateConfig, work: Work) -> dict[str, Any]:
    """Judge the rows, write items.parquet, return what becomes result.json; the units' files are no longer needed."""
    raw = work.rows()
    free = any(row["kind"] != "choice" for row in raw)
    identifier = LanguageIdentifier(config.languages, texts_by_language(raw)) if free else None
    rows = judge(raw, work.blank_scores(), identifier)
    run.check_fence()
    write_parquet(run.path / "items.parquet", rows)
    result = {"metrics": metrics(rows, identifier), "items": len(rows),
              "errors": sum(row["status"] != "ok" for row in rows)}
    shutil.rmtree(work.folder.parent, ignore_errors=True)
    return result


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows as COLUMNS, zstd-compressed, replacing the file at once."""
    import pyarrow
    from pyarrow import parquet

    kinds = {"string": pyarrow.string(), "bool": pyarrow.bool_(), "int32": pyarrow.int32(), "double": pyarrow.float64()}

    def kind(name: str) -> pyarrow.DataType:
        return pyarrow.list_(kinds[name[5:-1]]) if name.startswith("list<") else kinds[name]

    schema = pyarrow.schema([(name, kind(of)) for name, of in COLUMNS.items()])
    table = pyarrow.table({name: [row[name] for row in rows] for name in COLUMNS}, schema=schema)
    with replacing(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")
