"""A grid's runs: the product of its axes, one run per stage and point, each distinct run once.

Pure. Runs with equal id are one run, so shared parents appear once by construction. Each run carries the axes that it
depends on (those that change its configuration or an ancestor's) and a name that shows only what differs.
"""
from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from core.config import Runtime, check_ranges
from core.errors import UserError
from experiments.configure import Configured, axes_of, configure, get, is_plain, set_parents
from experiments.grid import SHARED, Grid, put
from experiments.identity import run_id
from experiments.points import Point, points
from experiments.words import text


@dataclass(frozen=True)
class Desired:
    """One run as the grid wants it: plain data."""

    id: str
    name: str
    study: str
    stage: str
    function: str
    axes: Mapping[str, Any]
    parents: Mapping[str, tuple[str, str]]     # role: (stage, id)
    config: Mapping[str, Any]                  # resolved, with runtime

    @property
    def runtime(self) -> dict[str, Any]:
        return {**asdict(Runtime()), **(self.config.get("runtime") or {})}

    @property
    def world_size(self) -> int:
        return int(self.runtime["nodes"]) * int(self.runtime["ranks_per_node"])

    def spec(self) -> dict[str, Any]:
        """What spec.json holds."""
        return {"id": self.id, "name": self.name, "study": self.study, "stage": self.stage, "function": self.function,
                "axes": dict(self.axes),
                "parents": {role: {"stage": stage, "id": id_} for role, (stage, id_) in self.parents.items()}}


@dataclass
class Study:
    """A grid and its runs, parents before children."""

    grid: Grid
    runs: list[Desired]
    points: int = 0
    by_id: dict[str, Desired] = field(init=False)

    def __post_init__(self) -> None:
        self.by_id = {run.id: run for run in self.runs}

    @property
    def name(self) -> str:
        return self.grid.name

    @property
    def targets(self) -> list[Desired]:
        """The runs that the study is for: those of the grid's target stages."""
        return [run for run in self.runs if run.stage in self.grid.targets]

    def children(self) -> dict[str, list[str]]:
        """Ids of the runs that read each run's product."""
        result: dict[str, list[str]] = {run.id: [] for run in self.runs}
        for run in self.runs:
            for _, parent in run.parents.values():
                result[parent].append(run.id)
        return result


@dataclass
class _Draft:
    stage: str
    function: str
    config: dict[str, Any]
    parents: dict[str, tuple[str, str]]
    axes: dict[str, Any]


def expand(grid: Grid) -> Study:
    """All runs of the grid. Raises UserError for a bad key, a missing role, or a circle of parents."""
    maker = _Maker(grid)
    count = 0
    for point in points(grid):
        count += 1
        for target in grid.targets:
            maker.run(target, point, ())
    if not count:
        raise UserError(f"grid {grid.name}: no point is left after `include` and `exclude`")
    return Study(grid, maker.desired(), count)


@contextmanager
def _naming(stage: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"stage {stage}: {error}") from None


class _Maker:
    """Collects runs over all points; equal configurations are resolved once."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.cache: dict[str, Configured] = {}
        self.drafts: dict[str, _Draft] = {}
        self.touching = {name: axes_of(grid, stage) for name, stage in grid.stages.items()}
        self.known: dict[tuple, tuple[str, str, set[str]]] = {}
        self.numbers: dict[tuple, type] = {}
        self.reach: dict[str, set[str]] = {}

    def run(self, stage: str, point: Point, below: tuple[str, ...]) -> tuple[str, str, set[str]]:
        """Stage, id and relevant axes of the run of `stage` at `point`; its ancestors are made first."""
        if stage in below:
            raise UserError(f"stages are parents of each other in a circle: {' -> '.join((*below, stage))}")
        key = (stage, *(text(value.label) for name, value in point.items() if name in self._reaching(stage)))
        if key not in self.known:
            self.known[key] = self._made(stage, point, below)
        return self.known[key]

    def _reaching(self, stage: str) -> set[str]:
        """Axes that touch the stage or any stage that could be its ancestor."""
        if stage not in self.reach:
            seen, todo = set(), [stage]
            while todo:
                name = todo.pop()
                if name not in seen and name in self.grid.stages:
                    seen.add(name)
                    todo += [*self.grid.stages[name].parents.values(), *set_parents(self.grid, name)]
            self.reach[stage] = set().union(*(self.touching[name] for name in seen))
        return self.reach[stage]

    def _made(self, stage: str, point: Point, below: tuple[str, ...]) -> tuple[str, str, set[str]]:
        draft = self._configured(stage, point)
        axes, parents = set(self.touching[stage]), {}
        for role, parent in draft.parents.items():
            where, id_, inherited = self.run(str(parent), point, (*below, stage))
            parents[role] = (where, id_)
            axes |= inherited
        id_ = run_id(draft.function, draft.config, {role: link[1] for role, link in parents.items()})
        labels = {name: value.label for name, value in point.items() if name in axes}
        known = self.drafts.get(id_)
        if known is None:
            known = self.drafts[id_] = _Draft(stage, draft.function, draft.config, parents, labels)
        else:  # reached from several points: only what they agree on belongs to the run
            known.axes = {k: v for k, v in known.axes.items() if k in labels and text(labels[k]) == text(v)}
        return known.stage, id_, axes

    def _configured(self, name: str, point: Point) -> Configured:
        """The stage at this point. Checking a configuration takes long, so plain keys are checked one by one, once for
        each value, and then laid together; what a value could change elsewhere (shared values, parents, the function,
        interpolations) is resolved as a whole."""
        settings = dict(self.grid.settings)
        for axis, value in point.items():
            if axis in self.touching[name]:
                settings.update(value.settings)
        plain = {key: value for key, value in settings.items() if is_plain(name, key, value)}
        whole = {key: value for key, value in settings.items() if key not in plain
                 and key.partition(".")[0] in (name, *SHARED)}
        draft = self._checked(name, whole)
        if not plain:
            return draft
        config = deepcopy(draft.config)
        for key, value in plain.items():
            put(config, key.split(".")[1:], self._value(name, whole, key, value), key, False)
        with _naming(name):
            check_ranges(draft.function, config)
        return replace(draft, config=config)

    def _value(self, name: str, whole: Mapping[str, Any], key: str, value: Any) -> Any:
        """The value as the schema has it. Of numbers (seeds, ratios) the first of its type stands for all: their
        ranges are checked when all values are laid together."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        kind = (name, key, type(value), json.dumps(whole, default=str))
        if number and kind in self.numbers:
            return self.numbers[kind](value)
        checked = get(self._checked(name, {**whole, key: value}).config, key.partition(".")[2])
        if number and checked == value:
            self.numbers[kind] = type(checked)
        return checked

    def _checked(self, name: str, settings: Mapping[str, Any]) -> Configured:
        key = name + json.dumps(settings, default=str)
        if key not in self.cache:
            with _naming(name):
                self.cache[key] = configure(self.grid.stages[name], settings, self.grid)
        return self.cache[key]

    def desired(self) -> list[Desired]:
        study = self.grid.name
        varying = [name for name, axis in self.grid.axes.items() if axis.varies]
        runs = []
        for id_, draft in self.drafts.items():
            shown = [self.grid.axes[name].show(draft.axes[name]) for name in varying if name in draft.axes]
            runs.append(Desired(id_, " ".join([draft.stage, *shown]), study, draft.stage, draft.function,
                                draft.axes, draft.parents, draft.config))
        return runs
