"""The evaluation items of a run: which samples are asked, and in which order they are worked through.

A sample of an evaluation subset holds the same question in every language, so one `Question` is asked in each of them.
Questions that share an image stand together, and a fixed number of them forms a unit of work; units depend on the data
and the configuration alone, never on ranks or restarts. Not here: scoring (core.likelihood), what is made of the
answers (core.summary).
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import Task
from core.encode import IMAGE
from core.errors import UserError
from core.shards import Corrupt, Subset, open_subset

KINDS = ("choice", "generate", "vqa", "yes_no")


@dataclass
class Question:
    """`position`: where the sample lies in `subset`. A sample with unreadable JSON has a record of its key alone."""

    subset: Subset
    position: int
    record: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.record["id"])

    @property
    def task(self) -> str:
        return str(self.record.get("task", ""))

    @property
    def kind(self) -> str:
        return str(self.record.get("kind", ""))

    @property
    def meta(self) -> dict[str, Any]:
        meta = self.record.get("meta")
        return meta if isinstance(meta, dict) else {}

    def image(self) -> bytes | None:
        """The image file. Raises Corrupt."""
        return self.subset.read(self.position)[1]


def select(tasks: Sequence[Task], data_root: Path | str, generate: bool = True) -> list[Question]:
    """The questions of all tasks, image by image; without `generate` those with options to choose from alone.

    Raises UserError for a subset or task name that does not exist, and where nothing is left to ask."""
    chosen: dict[tuple[str, int], Question] = {}
    for task in tasks:
        subset = open_subset(data_root, task.data, task.subset)
        if subset.kind != "evaluation":
            raise UserError(f"{subset.name} is of kind '{subset.kind}': tasks.subset must name evaluation items")
        questions = [_read(subset, position) for position in range(subset.n)]
        known = {question.task for question in questions}
        if missing := [name for name in task.tasks if name not in known]:
            has = ", ".join(sorted(filter(None, known)))
            raise UserError(f"{subset.name} has no task '{missing[0]}': it has {has}")
        for question in limited(questions, task):
            if generate or question.kind in ("choice", ""):
                chosen[subset.name, question.position] = question
    if not chosen:
        where = ", ".join(f"{task.data}/{task.subset}" for task in tasks)
        raise UserError(f"{where}: nothing to ask{'' if generate else ' without generate=true'}: name other tasks")
    return sorted(chosen.values(), key=lambda q: (q.subset.name, str(q.meta.get("style", "")), _concept(q), q.id))


def limited(questions: Iterable[Question], task: Task) -> list[Question]:
    """`task.limit` questions of each task name (0: all), the same ones at any order of the data.

    They are taken by the hash of their concept, so that all tasks ask about the same things and a smaller limit asks a
    part of what a larger one asks. A sample that cannot be read is of no task and always kept: it is an error."""
    groups: dict[str, list[Question]] = {}
    for question in questions:
        if not task.tasks or question.task in (*task.tasks, ""):
            groups.setdefault(question.task, []).append(question)
    result = []
    for name, group in groups.items():
        group.sort(key=lambda q: (hashlib.blake2b(_concept(q).encode(), digest_size=8).digest(), q.id))
        result += group[:task.limit] if task.limit and name else group
    return result


def units(questions: Sequence[Question], size: int) -> list[list[Question]]:
    """Consecutive groups of `size` questions."""
    return [list(questions[start:start + size]) for start in range(0, len(questions), size)]


def check(record: dict[str, Any], language: str) -> None:
    """Raise ValueError, saying what is wrong, for an item that cannot be asked in `language`.

    choice: options, the right one is `answer`. generate: references; an empty list says that there are none, and the
    item is for judges (see `is_open`). vqa: references are the annotators' answers, and `accepted` may list forms that
    count in full. yes_no: options are the words for yes and for no, in this order."""
    if record.get("kind") not in KINDS:
        raise ValueError(f"unknown kind '{record.get('kind')}'")
    prompt = _side(record, "prompt", language)
    if not isinstance(prompt, str):
        raise ValueError(f"no prompt in '{language}'")
    if prompt.count(IMAGE) > 1:
        raise ValueError(f"{prompt.count(IMAGE)} images in the prompt in '{language}', there can be one")
    for part in ("options", "references", "accepted"):
        if _side(record, part, language) not in (None, texts(record, part, language)):
            raise ValueError(f"{part} in '{language}' that are no list of texts")
    if record["kind"] in ("choice", "yes_no"):
        options, answer = texts(record, "options", language), record.get("answer")
        if not options or not isinstance(answer, int) or not 0 <= answer < len(options):
            raise ValueError(f"no options in '{language}', or an answer that is none of them")
    elif not texts(record, "references", language) and not is_open(record, language):
        raise ValueError(f"no references in '{language}'")


def texts(record: dict[str, Any], part: str, language: str) -> list[str]:
    """The options, references or accepted forms of an item in a language; none where they are no list of texts."""
    found = _side(record, part, language)
    return found if isinstance(found, list) and all(isinstance(text, str) for text in found) else []


def _side(record: dict[str, Any], part: str, language: str) -> Any:
    """What a part of the item says in a language; None where it says nothing."""
    sides = record.get(part)
    return sides.get(language) if isinstance(sides, dict) else None


def is_open(record: dict[str, Any], language: str) -> bool:
    """Whether the item has no reference in `language` by design: its answers can be judged, and not matched."""
    return record.get("kind") == "generate" and _side(record, "references", language) == []


def _concept(question: Question) -> str:
    return str(question.meta.get("concept", question.id))


def _read(subset: Subset, position: int) -> Question:
    try:
        record = subset.record(position)
        return Question(subset, position, record if "id" in record else {**record, "id": subset.key(position)})
    except Corrupt:
        return Question(subset, position, {"id": subset.key(position)})
