"""What a grid's YAML may hold, by key: mappings, lists, texts. Checked before anything is done with it, so that a slip
is named by its place. What the keys mean is in `experiments.grid`."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.errors import UserError
from experiments.words import known

_TEXT: tuple[type, ...] = (str, int, float)
_LIST, _MAPPING = (list,), (dict,)
Shape = dict[str, tuple[tuple[type, ...], tuple[type, ...]]]    # key: kinds of the value, kinds of what it holds or ()

SHARED = ("data", "base")
GRID: Shape = {
    "name": (_TEXT, ()), "inherit": (_TEXT, ()), "description": (_TEXT, ()), "stages": (_MAPPING, _MAPPING),
    "targets": (_TEXT + _LIST, _TEXT), "axes": (_MAPPING, ()), "zip": (_LIST, _LIST), "include": (_LIST, _MAPPING),
    "exclude": (_LIST, _MAPPING), "set": (_MAPPING, ()), "analysis": (_MAPPING, ()),
    **dict.fromkeys(SHARED, (_MAPPING, ()))}
STAGE: Shape = {"function": (_TEXT, ()), "parents": (_MAPPING, _TEXT), "config": (_TEXT + _LIST + _MAPPING, ()),
                "runtime": (_MAPPING, ())}
AXIS: Shape = {"key": (_TEXT + _LIST, _TEXT), "keys": (_TEXT + _LIST, _TEXT), "values": (_TEXT + _LIST + _MAPPING, ()),
               "name": (_TEXT, ())}
_WORDS = {dict: "a mapping {key: value}", list: "a list [a, b]", str: "a text"}


def check_document(document: Mapping[str, Any]) -> None:
    """Of one file, before it is laid over what it inherits. Raises UserError naming the key and what it takes."""
    check_shape(document, GRID, "")
    for name, stage in (document.get("stages") or {}).items():
        check_shape(stage or {}, STAGE, f"stages.{name}")


def check_shape(body: Mapping[str, Any], shape: Shape, place: str) -> None:
    known(body, shape, place)
    for key, value in body.items():
        kinds, inner = shape[key]
        where = f"{place}.{key}".lstrip(".")
        _check(value, kinds, where)
        for name, item in _items(value) if inner else ():
            _check(item, inner, f"{where}{name}")


def _items(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, list):
        return [(f"[{number}]", item) for number, item in enumerate(value)]
    return [(f".{key}", item) for key, item in value.items()] if isinstance(value, dict) else []


def _check(value: Any, kinds: tuple[type, ...], where: str) -> None:
    """None is nothing, and may stand everywhere."""
    if value is not None and not isinstance(value, kinds):
        wanted = " or ".join(words for kind, words in _WORDS.items() if kind in kinds)
        raise UserError(f"{where} is {value!r}: give {wanted}")
