"""A grid's runs: the product of its axes, one run per stage and point, each distinct run once.

Pure. Runs with equal id are one run, so shared parents appear once by construction. Each run carries the axes that it
depends on (those that change its configuration or an ancestor's) and a name that shows only what differs.
"""
from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from core.config import SCHEMAS, Runtime, resolve
from core.errors import UserError
from experiments.grid import SHARED, Grid, Stage, Value, put
from experiments.identity import run_id
from experiments.words import one_of, text

_REFERENCE = re.compile(r"\$\{\s*((?:" + "|".join(SHARED) + r")\.[\w.\-]+)")
_CONDITION = re.compile(r"\s*(<=|>=|!=|<|>)\s*(\S+)\s*$")
_COMPARE = {"<": lambda a, b: a < b, ">": lambda a, b: a > b, "<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b,
            "!=": lambda a, b: a != b}
Point = Mapping[str, Value]


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


def points(grid: Grid) -> Iterator[Point]:
    """Every combination of axis values that the conditions let through; zipped axes advance together."""
    grouped = {name for group in grid.zipped for name in group}
    tracks: list[list[dict[str, Value]]] = []
    done: set[str] = set()
    for name, axis in grid.axes.items():
        if name in done:
            continue
        group = next((g for g in grid.zipped if name in g), [name]) if name in grouped else [name]
        lengths = {member: len(grid.axes[member].values) for member in group}
        if len(set(lengths.values())) > 1:
            raise UserError(f"zip: axes have different lengths ({', '.join(f'{k}: {v}' for k, v in lengths.items())})")
        done.update(group)
        tracks.append([{member: grid.axes[member].values[i] for member in group} for i in range(len(axis.values))])
    for combination in itertools.product(*tracks):
        point = {name: value for part in combination for name, value in part.items()}
        ordered = {name: point[name] for name in grid.axes}
        kept = not grid.include or any(matches(ordered, condition) for condition in grid.include)
        if kept and not any(matches(ordered, condition) for condition in grid.exclude):
            yield ordered


def matches(point: Point, condition: Mapping[str, Any]) -> bool:
    """True if every axis that the condition names has that label, one of those labels, or fulfils "> 0.5"."""
    return all(fulfils(point[name].label, wanted) for name, wanted in condition.items())


def fulfils(label: Any, wanted: Any) -> bool:
    """True if a label is the wanted one, one of several, or fulfils a comparison such as "> 0.5"."""
    if isinstance(wanted, (list, tuple)):
        return any(fulfils(label, one) for one in wanted)
    comparison = _CONDITION.match(wanted) if isinstance(wanted, str) else None
    if comparison:
        sign, bound = comparison.groups()
        try:
            return _COMPARE[sign](float(label), float(bound))
        except (TypeError, ValueError):
            return sign == "!=" and text(label) != bound
    return text(label) == text(wanted)


class _Maker:
    """Collects runs over all points; equal configurations are resolved once."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.cache: dict[str, _Draft] = {}
        self.drafts: dict[str, _Draft] = {}
        self.touching = {name: _axes_of(grid, stage) for name, stage in grid.stages.items()}

    def run(self, stage: str, point: Point, below: tuple[str, ...]) -> tuple[str, str, set[str]]:
        """Stage, id and relevant axes of the run of `stage` at `point`; its ancestors are made first."""
        if stage in below:
            raise UserError(f"stages are parents of each other in a circle: {' -> '.join((*below, stage))}")
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

    def _configured(self, name: str, point: Point) -> _Draft:
        """The stage at this point. Checking a configuration takes long, so plain keys are checked one by one, once for
        each value, and then laid together; what a value could change elsewhere (shared values, parents, the function,
        interpolations) is resolved as a whole."""
        settings = dict(self.grid.settings)
        for axis, value in point.items():
            if axis in self.touching[name]:
                settings.update(value.settings)
        plain = {key: value for key, value in settings.items() if _is_plain(name, key, value)}
        whole = {key: value for key, value in settings.items() if key not in plain
                 and key.partition(".")[0] in (name, *SHARED)}
        draft = self._checked(name, whole)
        if not plain:
            return draft
        config = deepcopy(draft.config)
        for key, value in plain.items():
            path = key.partition(".")[2]
            put(config, path.split("."), get(self._checked(name, {**whole, key: value}).config, path), key, False)
        return replace(draft, config=config)

    def _checked(self, name: str, settings: Mapping[str, Any]) -> _Draft:
        key = name + json.dumps(settings, default=str)
        if key not in self.cache:
            try:
                self.cache[key] = _configure(self.grid.stages[name], settings, self.grid)
            except UserError as error:
                raise UserError(f"stage {name}: {error}") from None
        return self.cache[key]

    def desired(self) -> list[Desired]:
        varying = [name for name, axis in self.grid.axes.items() if axis.varies]
        runs = []
        for id_, draft in self.drafts.items():
            shown = [self.grid.axes[name].show(draft.axes[name]) for name in varying if name in draft.axes]
            runs.append(Desired(id_, " ".join([draft.stage, *shown]), self.grid.name, draft.stage, draft.function,
                                draft.axes, draft.parents, draft.config))
        return runs


def _is_plain(stage: str, key: str, value: Any) -> bool:
    """A setting of this stage's own configuration that changes nothing but its key."""
    head, _, rest = key.partition(".")
    return (head == stage and rest != "function" and not rest.startswith("parents.")
            and "${" not in json.dumps(value, default=str) and "parent:" not in str(value))


def _configure(stage: Stage, settings: Mapping[str, Any], grid: Grid) -> _Draft:
    """The stage with the settings laid in, interpolations resolved and the schema's defaults filled in."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    body = {"function": stage.function, "parents": dict(stage.parents), "config": json.loads(json.dumps(stage.config))}
    shared = json.loads(json.dumps(grid.shared))
    schema = stage.function in SCHEMAS
    for key, value in settings.items():
        head, _, rest = key.partition(".")
        if head in SHARED:
            put(shared, [head, *rest.split(".")], value, key, strict=True)
        elif head == stage.name:
            part, _, remainder = rest.partition(".")
            if rest == "function":
                body["function"] = value
            elif part == "parents" and remainder:
                body["parents"][remainder] = value
            else:
                strict = not schema and part != "runtime"
                put(body["config"], rest.split("."), value, key, strict)
    try:
        plain = OmegaConf.to_container(OmegaConf.create({**shared, "stage": body}), resolve=True)["stage"]
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    for role, parent in plain["parents"].items():
        one_of(parent, grid.stages, f"parents.{role}: no stage")
    _check_roles(plain["config"], plain["parents"])
    config = resolve(plain["function"], plain["config"])
    return _Draft(stage.name, plain["function"], config, plain["parents"], {})


def _check_roles(value: Any, parents: Mapping[str, str], place: str = "") -> None:
    """Every "parent:ROLE" in a configuration has a parent of that role."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_roles(item, parents, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            _check_roles(item, parents, place)
    elif isinstance(value, str) and value.startswith("parent:"):
        one_of(value.removeprefix("parent:"), parents, f"{place} is {value} but `parents` has no")


def _axes_of(grid: Grid, stage: Stage) -> set[str]:
    """Axes with a value that sets a key of the stage, or a shared value that the stage reads."""
    result = set()
    own = {**grid.settings}
    for axis in grid.axes.values():
        for value in axis.values:
            own.update(value.settings)
    mine = json.dumps([stage.config, stage.parents, {k: v for k, v in own.items() if k.startswith(stage.name + ".")}])
    references = set(_REFERENCE.findall(mine))
    while True:  # shared values may be made of shared values
        further = {r for key in references for r in _REFERENCE.findall(json.dumps(get(grid.shared, key), default=str))}
        if further <= references:
            break
        references |= further
    for axis in grid.axes.values():
        for key in (key for value in axis.values for key in value.settings):
            if key.startswith(stage.name + ".") or any((r + ".").startswith(key + ".") or key.startswith(r + ".")
                                                       for r in references):
                result.add(axis.name)
    return result


def get(mapping: Any, key: str) -> Any:
    for part in key.split("."):
        mapping = mapping.get(part) if isinstance(mapping, Mapping) else None
    return mapping
