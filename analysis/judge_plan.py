"""What is to be judged: free answers of finished evaluations, paired or one by one, as a list of plain records.

Runs that differ only in the seed are one condition. For every item each two conditions meet once, by one run each; the
runs are drawn by the hash of the item and the two names, so that the plan depends on the runs alone, never on chance
or on what was judged before. The same items are taken in every language. Asking is `analysis.judge`'s."""
from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.items import reading
from analysis.stores import Stored
from core.errors import UserError

COLUMNS = ("item", "subset", "task", "kind", "language", "concept", "prompt", "references", "prediction", "status")
Key = tuple[str, str, str, str]  # subset, task, item, language


@dataclass(frozen=True)
class Scope:
    """Whose answers. items: how many per subset, task and language (0: all)."""

    tasks: tuple[str, ...] = ()          # none named: all with free answers
    languages: tuple[str, ...] = ()      # none named: all
    items: int = 100


@dataclass
class Question:
    """An item in one language, with the answers of the runs by run id."""

    key: Key
    concept: str
    prompt: str
    reference: str
    answers: dict[str, str] = field(default_factory=dict)


@dataclass
class Answered:
    """The questions in order, the runs by id, and the runs of each condition."""

    questions: dict[Key, Question]
    runs: dict[str, Stored]
    conditions: dict[str, list[str]]


def answered(runs: Iterable[Stored], scope: Scope, seed_axis: str = "seed") -> Answered:
    """The free answers of all finished evaluations among `runs`.

    Raises UserError if there are none."""
    found = {run.id: run for run in runs if run.done and run.is_evaluation and (run.path / "items.parquet").exists()}
    questions: dict[Key, Question] = {}
    for run in found.values():
        _read(run, scope, questions)
    if not questions:
        raise UserError("no finished evaluation holds free answers to judge (items of kind generate): `begira status` "
                        "shows which are done; --task and --language must be theirs")
    conditions = conditions_of(found.values(), seed_axis)
    return Answered(_limited(questions, scope.items), found, conditions)


def conditions_of(runs: Iterable[Stored], seed_axis: str = "seed") -> dict[str, list[str]]:
    """{label: run ids}: runs that differ in nothing but the seed. Labels list the axes that vary, e.g. "llama, 0.2"."""
    runs = sorted(runs, key=lambda run: run.id)
    axes = sorted({axis for run in runs for axis in run.axes} - {seed_axis})
    varying = [axis for axis in axes if len({str(run.axes.get(axis)) for run in runs}) > 1]
    found: dict[str, list[str]] = {}
    for run in runs:
        label = ", ".join(f"{axis.replace('_', ' ')} {run.axes.get(axis)}" for axis in varying)
        found.setdefault(label or run.name, []).append(run.id)
    return dict(sorted(found.items()))


def _read(run: Stored, scope: Scope, questions: dict[Key, Question]) -> None:
    import pyarrow.parquet as pq

    path = run.path / "items.parquet"
    filters: list[tuple] = [("kind", "=", "generate")]
    filters += [("task", "in", scope.tasks)] if scope.tasks else []
    filters += [("language", "in", scope.languages)] if scope.languages else []
    with reading(path):
        frame = pq.read_table(path, columns=list(COLUMNS), filters=filters).to_pylist()
    for row in frame:
        key = row["subset"], row["task"], row["item"], row["language"]
        if key not in questions:
            questions[key] = Question(key, row["concept"] or row["item"], row["prompt"] or "",
                                      " / ".join(row["references"] or ()))
        questions[key].answers[run.id] = (row["prediction"] or "").strip() if row["status"] == "ok" else ""


def _limited(questions: dict[Key, Question], items: int) -> dict[Key, Question]:
    """The first `items` of each subset, task and language by the hash of concept and item."""
    groups: dict[tuple, list[Question]] = {}
    for question in questions.values():
        subset, task, _, language = question.key
        groups.setdefault((subset, task, language), []).append(question)
    chosen = []
    for group in groups.values():
        group.sort(key=lambda one: (digest(one.concept), digest(one.key[2])))
        chosen += group[:items] if items else group
    return {one.key: one for one in sorted(chosen, key=lambda one: one.key)}


def pairs(found: Answered, per_item: int = 0) -> list[tuple[Question, str, str]]:
    """(question, run, run) of all that meet, the first of the two by name of its condition.

    Raises UserError with fewer than two conditions."""
    if len(found.conditions) < 2:
        raise UserError("only one condition has finished, so there is nothing to compare: wait for a second, or grade "
                        "answers one by one with --prompt rubric-1")
    met = []
    for question in found.questions.values():
        present = {label: [run for run in runs if run in question.answers] for label, runs in found.conditions.items()}
        here = list(itertools.combinations([label for label, runs in present.items() if runs], 2))
        if per_item:
            here = sorted(here, key=lambda two: digest("meet", *question.key[:3], *two))[:per_item]
        for one, two in sorted(here):
            met.append((question, *(_drawn(present[label], question, one, two, label) for label in (one, two))))
    return met


def _drawn(runs: Sequence[str], question: Question, one: str, two: str, label: str) -> str:
    return runs[int(digest(*question.key[:3], one, two, label), 16) % len(runs)]


def pair_records(found: Answered, judge: dict[str, Any], per_item: int = 0) -> list[dict[str, Any]]:
    """Two records per meeting, one for each order. `judge`: the fields that name the judge (see `record`)."""
    return [record(question, judge, left, right) for question, one, two in pairs(found, per_item)
            for left, right in ((one, two), (two, one))]


def rubric_records(found: Answered, judge: dict[str, Any]) -> list[dict[str, Any]]:
    """One record per answer."""
    return [record(question, judge, run, "") for question in found.questions.values()
            for run in sorted(question.answers)]


def record(question: Question, judge: dict[str, Any], left: str, right: str) -> dict[str, Any]:
    """A judgement that is to be made. `id` names it; `answers` is the hash of what would be judged, for a run that is
    evaluated again may answer otherwise."""
    subset, task, item, language = question.key
    identity = {**judge, "subset": subset, "task": task, "item": item, "language": language, "left": left,
                "right": right}
    said = [question.answers[run] for run in (left, right) if run]
    return {"id": digest(json.dumps(identity, sort_keys=True)), **identity, "concept": question.concept,
            "answers": digest(question.prompt, *said), "same": len(said) == 2 and said[0] == said[1]}


def digest(*parts: str) -> str:
    """16 hex digits of the parts' hash."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def picture(found: Answered, question: Question) -> bytes | None:
    """The item's image file, where the data set is at hand."""
    from analysis.samples import image_of

    run = found.runs[next(iter(question.answers))]
    return image_of(run, question.key[0], question.key[2])
