"""A stage's configuration at one point of a grid: settings laid in, interpolations resolved, defaults checked.

Pure. Which settings those are, and which runs follow, is decided in experiments.expand."""
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.config import SCHEMAS, resolve
from core.errors import UserError
from experiments.grid import SHARED, Grid, Stage, put
from experiments.words import one_of

_REFERENCE = re.compile(r"\$\{\s*((?:" + "|".join(SHARED) + r")\.[\w.\-]+)")


@dataclass(frozen=True)
class Configured:
    """A stage at a point: what it calls, with what, and which stages are its parents."""

    function: str
    config: dict[str, Any]
    parents: dict[str, str]          # role: stage


def is_plain(stage: str, key: str, value: Any) -> bool:
    """A setting of this stage's own configuration that changes nothing but its key."""
    head, _, rest = key.partition(".")
    return (head == stage and rest != "function" and not rest.startswith("parents.")
            and "${" not in json.dumps(value, default=str) and "parent:" not in str(value))


def configure(stage: Stage, settings: Mapping[str, Any], grid: Grid) -> Configured:
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
    return Configured(plain["function"], config, plain["parents"])


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


def set_parents(grid: Grid, stage: str) -> list[Any]:
    """Stages that settings make parents of `stage`."""
    settings = [grid.settings, *(value.settings for axis in grid.axes.values() for value in axis.values)]
    return [value for one in settings for key, value in one.items() if key.startswith(f"{stage}.parents.")]


def axes_of(grid: Grid, stage: Stage) -> set[str]:
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
