"""A panel of held-out images with what three models answer in both languages.

Which items are shown is decided by the hash of their concept, never by the answers. Images come from the evaluation
data set where it is at hand (core.shards); without it the panel has words only."""
from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from analysis.answers import Answers
from analysis.stores import Stored
from analysis.study import Study
from analysis.wording import percent
from core.errors import UserError
from core.files import read_json

COLUMNS = ("item", "task", "language", "subset", "kind", "concept", "options", "answer", "prediction", "correct",
           "status")
SHOWN = 6


@dataclass
class Sample:
    """One image: its name per language, and per model and language the answer with whether it is right."""

    concept: str
    image: bytes | None
    names: dict[str, str]
    answers: list[dict[str, tuple[str, bool | None]]]


@dataclass
class Panel:
    models: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    task: str = ""


def panel(study: Study, answers: Answers, shown: int = SHOWN) -> Panel:
    """The lowest ratio, the claimed and the highest, on the first backbone without text-only data, first seed."""
    q = study.questions
    chosen = _models(study, answers)
    made = Panel([label for label, _ in chosen], [q.target_language, q.base_language], task=q.benchmark)
    tables = [_answers(run, study, q.benchmark) for _, run in chosen]
    if not tables or not len(tables[0]):
        return made
    first = tables[0]
    for concept in sorted(set(first["concept"].dropna()), key=_hash)[:shown]:
        rows = [table[table["concept"] == concept].drop_duplicates("language").set_index("language")
                for table in tables]
        if not set(made.languages) <= set(rows[0].index):
            continue
        names = {code: _right(rows[0].loc[code]) for code in made.languages}
        given = [{code: _given(row, code) for code in made.languages} for row in rows]
        item = rows[0].iloc[0]
        image = image_of(chosen[0][1], str(item["subset"]), str(item["item"]))
        made.samples.append(Sample(concept, image, names, given))
    return made


def _models(study: Study, answers: Answers) -> list[tuple[str, Stored]]:
    q = study.questions
    levels = study.levels(q.ratio_axis)
    if not levels:
        return []
    claim = answers.ratio.details.get("claim", q.claim)
    wanted = list(dict.fromkeys([levels[0], min(levels, key=lambda level: abs(level - claim)), levels[-1]]))
    by_id = {run.id: run for run in study.collected.runs}
    found = []
    for level in wanted:
        rows = study.runs[study.runs[q.ratio_axis] == level]
        for axis, value in ((q.backbone_axis, q.backbone[:1]), (q.text_axis, [q.text_only.get("none")])):
            if axis in rows and value and (rows[axis].astype(str) == str(value[0])).any():
                rows = rows[rows[axis].astype(str) == str(value[0])]
        if q.seed_axis in rows:
            rows = rows.sort_values(q.seed_axis, kind="stable")
        found.append((f"{percent(level)} {study.target}", by_id[rows.index[0]]))
    return found


def _answers(run: Stored, study: Study, task: str) -> Any:
    """Choice items of the task on the first held-out subset of one run."""
    import pyarrow.parquet as pq

    path = run.path / "items.parquet"
    names = [name for name in COLUMNS if name in pq.read_schema(path).names]
    frame = pq.read_table(path, columns=names, filters=[("task", "=", task)]).to_pandas()
    subsets = study.subsets(study.items("score"))
    if "subset" in frame and subsets:
        frame = frame[frame["subset"] == subsets[0]]
    return frame[frame["kind"] == "choice"]


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode()).hexdigest()


def _right(row: Any) -> str:
    options, answer = row["options"], row["answer"]
    return str(options[int(answer)]) if options is not None and 0 <= answer < len(options) else "?"


def _given(rows: Any, language: str) -> tuple[str, bool | None]:
    if language not in rows.index:
        return "–", None
    row = rows.loc[language]
    return (str(row["prediction"]), bool(row["correct"])) if row["status"] == "ok" else ("(failed)", False)


def image_of(run: Stored, subset: str, item: str) -> bytes | None:
    """The image of an item from the data set that the run was evaluated on, or None where it is not at hand."""
    from core.shards import Corrupt

    config = _config(run)
    root = (config.get("runtime") or {}).get("data_root", "data")
    for task in config.get("tasks") or []:
        if subset.rpartition("/")[2] not in (task.get("subset"), ""):
            continue
        try:
            opened = _opened(root, task["data"], task["subset"])
            digest = int.from_bytes(hashlib.blake2b(item.encode()).digest()[:8], "big")
            for row in np.flatnonzero(opened.id_hash == np.uint64(digest)):
                record, image = opened.read(int(row))
                if record.get("id") == item:
                    return image
        except (UserError, Corrupt, OSError):
            return None
    return None


@lru_cache(maxsize=4)
def _opened(root: str, data: str, subset: str) -> Any:
    from core.shards import open_subset

    return open_subset(root, data, subset)


def _config(run: Stored) -> dict[str, Any]:
    import yaml

    path = run.path / "config.yaml"
    return (yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}) if path.exists() \
        else {}


def chance(study: Study) -> float | None:
    """Share of right answers by guessing among the options of the deciding benchmark; None if it has none."""
    run = next((run for run in study.collected.runs if run.id in study.runs.index), None)
    if run is None or study.questions.measure != "score":
        return None
    frame = _answers(run, study, study.questions.benchmark)
    sizes = np.array([len(options) for options in frame["options"] if options is not None and len(options)])
    return float((1 / sizes).mean()) if len(sizes) else None


def data_sets(study: Study) -> list[dict[str, Any]]:
    """Manifests of the data sets that the evaluations name, where they are at hand: for licences and hashes."""
    found: dict[str, dict[str, Any]] = {}
    for run in study.collected.runs:
        if run.is_evaluation and run.done:
            config = _config(run)
            root = Path((config.get("runtime") or {}).get("data_root", "data"))
            for task in config.get("tasks") or []:
                if task.get("data") and task["data"] not in found:
                    found[task["data"]] = read_json(root / task["data"] / "manifest.json", {})
            break
    return [{"name": name, **manifest} for name, manifest in found.items()]
