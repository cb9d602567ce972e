"""The command line's `key=value`: an axis of the grid, or a dotted key of a stage or a shared value.

    target_ratio=[0,0.2]   backbone=latxa   finetune.train.lr.backbone=1e-5   data.target=cy
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from core.errors import UserError
from experiments.grid import Axis, Grid, Value, plain_value
from experiments.points import COMPARISON
from experiments.words import nearest, text


def parse(words: Iterable[str]) -> dict[str, Any]:
    """{key: typed value}. Raises UserError for a word without `=` or a value that is no YAML."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    result: dict[str, Any] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise UserError(f"'{word}' is not key=value")
        if COMPARISON.match(value):  # for selectors; ">" and "!" mean something else in YAML
            result[key] = value
            continue
        try:
            result[key] = OmegaConf.to_container(OmegaConf.create(f"value: {value}"), resolve=False)["value"]
        except (yaml.YAMLError, ValueError, OmegaConfBaseException) as error:
            raise UserError(f"'{word}': the value is not valid YAML ({str(error).splitlines()[0]})") from error
    return result


def apply(grid: Grid, overrides: dict[str, Any]) -> Grid:
    """The grid with these axes narrowed or replaced and these keys set, in place."""
    zipped = {name: group for group in grid.zipped for name in group}
    for key, value in overrides.items():
        if key in grid.axes:
            wanted = value if isinstance(value, list) else [value]
            if key in zipped:
                _filter_zipped(grid, key, zipped[key], wanted)
            else:
                grid.axes[key].values = [_value(grid.axes[key], label) for label in wanted]
            grid.axes[key].varies |= len(wanted) > 1
        elif "." in key:
            for axis in grid.axes.values():
                if any(key in value.settings for value in axis.values):
                    raise UserError(f"'{key}' is set by axis {axis.name}: write {axis.name}=VALUE")
            grid.set(key, value)
        else:
            stages = [f"{stage}.KEY" for stage in grid.stages]
            raise UserError(f"unknown key '{key}': {nearest(key, [*grid.axes, *stages])}")
    return grid


def _value(axis: Axis, label: Any) -> Value:
    """The axis's value of that label; an axis with a key takes new ones, too."""
    for value in axis.values:
        if text(value.label) == text(label):
            return value
    if axis.keys and not any(value.settings != dict.fromkeys(axis.keys, value.label) for value in axis.values):
        return plain_value(axis, label)
    raise UserError(f"axis {axis.name} has no value '{text(label)}': "
                    f"{nearest(text(label), [text(value.label) for value in axis.values])}")


def _filter_zipped(grid: Grid, key: str, group: list[str], wanted: list[Any]) -> None:
    """Zipped axes are narrowed together."""
    labels = [text(value.label) for value in grid.axes[key].values]
    for label in wanted:
        if text(label) not in labels:
            raise UserError(f"axis {key} is zipped and has no value '{text(label)}': {nearest(text(label), labels)}")
    kept = [number for number, label in enumerate(labels) if label in {text(one) for one in wanted}]
    for name in group:
        grid.axes[name].values = [grid.axes[name].values[number] for number in kept]
