"""A grid as its YAML file states it: stages, shared values, axes. Read, inherited, merged, checked; not yet expanded.

    name: mini-${data.target}         # default: the file's name
    inherit: other                    # start from another grid; what stands here is laid over it
    data: {target: eu}                # shared values, used as ${data.target} in stages, config files and axes
    base: {seed: 0}
    stages:
      finetune:
        function: core.train:finetune
        parents: {align: align}       # role: stage
        config: [paper/finetune, {train: {seed: 1}}]   # files below experiments/configs or mappings, merged in order
        runtime: {nodes: 2}           # does not enter the identity
    targets: [evaluate]               # default: the last stage. What no target needs is not run
    axes:
      target_ratio: {key: finetune.mixture.target_ratio, values: [0, 0.2], name: "r{}"}
      backbone:                       # named values: each sets dotted keys of stages or of shared values
        llama: {}
        latxa: {align.parents.backbone: adapt}
    zip: [[a, b]]                     # these axes advance together instead of as a product
    include: [{backbone: latxa}]      # if given, only points that match one of these are kept
    exclude: [{target_ratio: "> 0.5", backbone: llama}]
    analysis: {margin: 0.03}          # what the report decides and how (analysis.questions); no run depends on it
    set: {finetune.train.clip: 0.5}   # dotted keys, for every point (what `key=value` on the command line does)

`experiments.expand` turns it into runs, `experiments.overrides` applies the command line's `key=value`.
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.config import SCHEMAS
from core.errors import UserError
from experiments.grid_file import CONFIGS, document_of, find, listed, merged, read_yaml, resolved
from experiments.grid_shape import AXIS, SHARED, check_document, check_shape
from experiments.words import nearest, one_of, text


@dataclass(frozen=True)
class Value:
    """One value of an axis: its label and the dotted keys that it sets."""

    label: Any
    settings: Mapping[str, Any]


@dataclass
class Axis:
    name: str
    keys: list[str]                    # what a plain value sets; empty for named values
    values: list[Value]
    form: str                          # how a run's name shows it, e.g. "r{}"
    varies: bool = False               # more than one value in the file: names show it also when one is picked

    def show(self, label: Any) -> str:
        return self.form.replace("{}", text(label))


@dataclass
class Stage:
    name: str
    function: str
    parents: dict[str, str]
    config: dict[str, Any]             # merged, interpolations not yet resolved


@dataclass
class Grid:
    title: str                         # the name as written; `name` has the shared values filled in
    stages: dict[str, Stage]
    targets: list[str]
    axes: dict[str, Axis]
    shared: dict[str, Any] = field(default_factory=dict)
    zipped: list[list[str]] = field(default_factory=list)
    include: list[dict[str, Any]] = field(default_factory=list)
    exclude: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    document: dict[str, Any] = field(default_factory=dict)  # the merged YAML, for study.yaml

    @property
    def name(self) -> str:
        """The study's name, which is its folder's."""
        name = str(resolved({**self.shared, "name": self.title}, f"name '{self.title}'")["name"])
        if not name or "/" in name or name.startswith("."):
            raise UserError(f"name '{name}' cannot name a folder")
        return name

    def resolved(self) -> dict[str, Any]:
        """The document with name and shared values as they stand now, filled in where `analysis` uses them."""
        outer = {key: self.document[key] for key in ("description", "analysis") if key in self.document}
        filled = resolved({**self.shared, **outer}, "description, analysis")
        return {**self.document, **filled, "name": self.name}

    def set(self, key: str, value: Any) -> None:
        """Set a dotted key of a stage, for every point, or of a shared value, which must exist."""
        check_key(self, key)
        head, _, rest = key.partition(".")
        if head in SHARED:
            put(self.shared, [head, *rest.split(".")], value, key, strict=True)
        else:
            self.settings[key] = value


def load(reference: str | Path) -> Grid:
    """The grid of that file, or of that name in experiments/grids. Raises UserError naming file, key and remedy."""
    path = find(reference)
    document = document_of(path)
    try:
        return build(document, path)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None


def build(document: Mapping[str, Any], path: Path) -> Grid:
    """A checked Grid from a merged document."""
    check_document(document)
    bodies = document.get("stages") or {}
    stages = {name: _stage(name, body) for name, body in bodies.items() if body is not None}
    if not stages:
        raise UserError("a grid needs `stages`")
    axes = {name: _axis(name, body) for name, body in (document.get("axes") or {}).items() if body is not None}
    grid = Grid(title=str(document.get("name") or path.stem), stages=stages,
                targets=listed(document.get("targets")) or [list(stages)[-1]], axes=axes,
                shared={key: dict(document.get(key) or {}) for key in SHARED},
                zipped=[list(group) for group in document.get("zip") or []],
                include=list(document.get("include") or []), exclude=list(document.get("exclude") or []),
                source=str(path), document=dict(document))
    for key, value in (document.get("set") or {}).items():
        grid.set(key, value)
    check(grid)
    return grid


def check(grid: Grid) -> None:
    """Every name that the grid mentions exists. Raises UserError with the nearest valid name."""
    for target in grid.targets:
        one_of(target, grid.stages, "targets: no stage")
    for stage in grid.stages.values():
        for role, parent in stage.parents.items():
            one_of(parent, grid.stages, f"stages.{stage.name}.parents.{role}: no stage")
    for axis in grid.axes.values():
        for value in axis.values:
            for key in value.settings:
                check_key(grid, key, f"axes.{axis.name}: ")
    for group in grid.zipped:
        for name in group:
            one_of(name, grid.axes, "zip: no axis")
    for condition in [*grid.include, *grid.exclude]:
        for name in condition:
            one_of(name, grid.axes, "include/exclude: no axis")


def check_key(grid: Grid, key: str, place: str = "") -> None:
    """A dotted key starts with a stage or with `data.`/`base.`; what follows is checked when runs are made."""
    head, _, rest = str(key).partition(".")
    if not rest or head not in (*grid.stages, *SHARED):
        raise UserError(f"{place}unknown key '{key}': {nearest(head, [*grid.stages, *SHARED])}")


def _stage(name: str, body: Mapping[str, Any]) -> Stage:
    if not (isinstance(name, str) and re.fullmatch(r"[\w-]+", name)) or name in SHARED:
        raise UserError(f"stages.{name}: a stage's name is a text of letters, digits, _ and -, for it names a folder, "
                        f"and is not one of {', '.join(SHARED)}")
    function = str(body.get("function", ""))
    if not re.fullmatch(r"[^\s:]+:[^\s:]+", function):
        raise UserError(f"stages.{name}.function is '{function}': write module:function, e.g. core.train:finetune")
    if function not in SCHEMAS and function.partition(".")[0] in {own.partition(".")[0] for own in SCHEMAS}:
        raise UserError(f"stages.{name}.function: no stage function '{function}': {nearest(function, SCHEMAS)}")
    config: dict[str, Any] = {}
    for entry in listed(body.get("config")):
        config = merged(config, entry if isinstance(entry, Mapping) else read_yaml(CONFIGS / entry))
    if body.get("runtime"):
        config = merged(config, {"runtime": body["runtime"]})
    return Stage(name, function, dict(body.get("parents") or {}), config)


def _axis(name: str, body: Any) -> Axis:
    if not isinstance(body, Mapping):
        raise UserError(f"axes.{name}: write {{key: STAGE.KEY, values: [...]}} or named values")
    spec = body if "values" in body else {"values": body}
    check_shape(spec, AXIS, f"axes.{name}")
    keys = listed(spec.get("key")) + listed(spec.get("keys"))
    values = spec["values"]
    axis = Axis(name, keys, [], str(spec.get("name") or f"{name}={{}}"))
    if isinstance(values, Mapping):
        axis.values = [Value(label, _settings(axis, value)) for label, value in values.items()]
    else:
        axis.values = [plain_value(axis, label) for label in listed(values)]
    if not axis.values:
        raise UserError(f"axes.{name} has no values")
    axis.varies = len(axis.values) > 1
    return axis


def put(target: dict[str, Any], path: list[str], value: Any, key: str, strict: bool) -> None:
    """Set a dotted key in nested mappings; with `strict` it must exist already. Raises UserError naming `key`."""
    for place, part in enumerate(path):
        if strict and part not in target:
            raise UserError(f"unknown key '{key}': {nearest(part, target)}")
        if place == len(path) - 1:
            target[part] = value
        else:
            if not isinstance(target.get(part), dict):
                target[part] = {}
            target = target[part]


def plain_value(axis: Axis, label: Any) -> Value:
    if not axis.keys:
        raise UserError(f"axes.{axis.name}: the plain value {text(label)} needs a `key` that it sets")
    return Value(label, dict.fromkeys(axis.keys, label))


def _settings(axis: Axis, value: Any) -> dict[str, Any]:
    if axis.keys:
        return dict.fromkeys(axis.keys, value)
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"axes.{axis.name}: a named value is a mapping of dotted keys")
    return dict(value or {})
