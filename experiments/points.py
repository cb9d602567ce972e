"""The points of a grid: the product of its axes, zipped axes side by side, what the conditions let through. Pure."""
from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from core.errors import UserError
from experiments.grid import Grid, Value
from experiments.words import text

COMPARISON = re.compile(r"\s*(<=|>=|!=|<|>)\s*(\S+)\s*$")
_COMPARE = {"<": lambda a, b: a < b, ">": lambda a, b: a > b, "<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b,
            "!=": lambda a, b: a != b}
Point = Mapping[str, Value]      # axis: value


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
    comparison = COMPARISON.match(wanted) if isinstance(wanted, str) else None
    if comparison:
        sign, bound = comparison.groups()
        try:
            return _COMPARE[sign](float(label), float(bound))
        except (TypeError, ValueError):
            return sign == "!=" and text(label) != bound
    return text(label) == text(wanted)
