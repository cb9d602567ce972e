"""`begira next`: the smaller grid that would decide what a study left open. No run is repeated that decides nothing.

Only conditions that enter an undecided contrast get more seeds: half of what `analysis.answers.further_seeds` finds,
for that number is an estimate too, and what the next look decides costs no further run; at most MOST_AT_ONCE in one
go. The new grid inherits the old one and keeps its name, so that its runs join the same study and share its parents;
reporting the old grid afterwards reads all of them."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.answers import Answers
from analysis.study import Study
from core.errors import UserError
from core.files import write_text

MOST_AT_ONCE = 6


def wanted_seeds(answers: Answers, most: int = MOST_AT_ONCE) -> np.ndarray:
    """Further seeds per condition (C,), the largest that an undecided question asks for."""
    more = np.zeros(len(answers.estimates.conditions) if answers.estimates else 0, int)
    for one in answers.all():
        if one.verdict == "not decided" and one.further_seeds and len(one.weights):
            used = np.abs(one.weights) > 1e-12
            more[used] = np.maximum(more[used], min((one.further_seeds + 1) // 2, most))
    return more


def further_points(study: Study, answers: Answers, most: int = MOST_AT_ONCE) -> list[dict[str, Any]]:
    """Axis values of the runs to add, each with a seed that its condition does not have yet."""
    estimates, axis = answers.estimates, study.questions.seed_axis
    points = []
    for number, count in enumerate(wanted_seeds(answers, most)):
        if not count:
            continue
        used = _seeds_of(study, estimates, number)
        fresh = [seed for seed in range(max(used, default=-1) + 1 + count) if seed not in used][:count]
        condition = {name: _plain(value) for name, value in estimates.conditions.iloc[number].items()}
        points += [{**condition, axis: seed} for seed in fresh]
    return points


def _seeds_of(study: Study, estimates: Any, number: int) -> set[int]:
    axis = study.questions.seed_axis
    if axis not in study.runs:
        return set()
    rows = study.runs[np.logical_and.reduce([study.runs[name].astype(str) == str(value) for name, value in
                                             estimates.conditions.iloc[number].items()])]
    return {int(seed) for seed in rows[axis].dropna()}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def next_grid(study: Study, answers: Answers, grid: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The grid document that runs `further_points`. `source`: what it inherits, a grid's name or file.

    Raises UserError when everything is decided or nothing would be by more seeds."""
    points = further_points(study, answers)
    if not points:
        undecided = [one.key for one in answers.all() if one.verdict == "not decided" and one.contrast is not None]
        unasked = "".join(f"; {one.key} cannot be asked: {one.reason}" for one in answers.all() if one.contrast is None)
        every = "every question that can be asked is" if unasked else "every question is"
        raise UserError(f"{every} decided: nothing to run{unasked}" if not undecided else
                        f"no number of further seeds is expected to decide {', '.join(undecided)}: more evaluation "
                        f"items or a wider margin would{unasked}")
    axis = study.questions.seed_axis
    seeds = sorted({point[axis] for point in points})
    return {"name": grid.get("name"), "inherit": source,
            "description": f"{len(points)} further models towards what is open in {grid.get('name')}",
            "axes": {axis: {"values": seeds}}, "include": _merged(points, axis)}


def _merged(points: list[dict[str, Any]], axis: str) -> list[dict[str, Any]]:
    """Points that differ only in the seed as one condition with a list of seeds."""
    groups: dict[tuple, dict[str, Any]] = {}
    for point in points:
        key = tuple((name, value) for name, value in point.items() if name != axis)
        groups.setdefault(key, {**dict(key), axis: []})[axis].append(point[axis])
    return list(groups.values())


def write_grid(document: Mapping[str, Any], path: Path) -> Path:
    import yaml

    write_text(path, yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True))
    return path
