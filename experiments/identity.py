"""Who a run is: ten hex digits of a hash over everything that can change its result, and nothing else.

The canonical form is JSON with sorted keys in which 1, 1.0 and 1e0 are one number. `runtime` (hardware, paths, workers,
logging) stays out, so a run has the same id on every cluster. A field that is added to a schema later carries the
metadata `omit_if_default`; ids from before its time then stay what they were. Pure: no disk, no clock.
"""
from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, get_args

from core.config import SCHEMAS
from core.errors import UserError
from core.structured import hints

LENGTH = 10  # hex digits: 40 bits, one collision expected at a million runs


def run_id(function: str, config: Mapping[str, Any], parents: Mapping[str, str]) -> str:
    """Id of the run of `function` with the resolved `config` and the parents {role: id}."""
    body = {"function": function, "config": identity_config(function, config), "parents": dict(parents)}
    return hashlib.sha256(canonical(body).encode()).hexdigest()[:LENGTH]


def identity_config(function: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a stage's configuration that is hashed."""
    kept = {key: value for key, value in config.items() if key != "runtime"}
    return _without_defaults(SCHEMAS.get(function), kept)


def canonical(value: Any) -> str:
    """One text for equal values: sorted keys, no blanks, whole floats as integers. UserError on NaN and infinity."""
    return json.dumps(_plain(value, ""), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any, place: str) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"configuration value '{place}' is {value}: give a finite number")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{place}.{key}" if place else str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{place}[{number}]") for number, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise UserError(f"configuration value '{place}' is a {type(value).__name__}: only numbers, text, lists and "
                    "mappings make a run")


def _without_defaults(schema: Any, value: Any) -> Any:
    """`value` without the fields that are marked `omit_if_default` and hold their default, at any depth."""
    if not (is_dataclass(schema) and isinstance(value, Mapping)):
        return value
    types = hints(schema)
    known = {field.name: field for field in fields(schema)}
    kept = {}
    for key, item in value.items():
        field = known.get(key)
        if field is None:
            kept[key] = item
            continue
        if field.metadata.get("omit_if_default") and canonical(item) == canonical(_default(field)):
            continue
        arguments = get_args(types[key])
        if arguments and isinstance(item, (list, tuple)):
            kept[key] = [_without_defaults(arguments[0], element) for element in item]
        else:
            kept[key] = _without_defaults(types[key], item)
    return kept


def _default(field: Any) -> Any:
    value = field.default if field.default is not MISSING else field.default_factory()
    return asdict(value) if is_dataclass(value) else value
