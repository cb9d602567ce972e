"""From mappings to checked dataclasses: keys, types, and the ranges that a dataclass checks when it is built.

What the dataclasses of the stages are is in `core.config`. No import of torch: the command line reads this module."""
from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any, TypeVar

from core.errors import UserError

T = TypeVar("T")


def structured(schema: type[T], values: Mapping[str, Any]) -> T:
    """`values` over the defaults of the dataclass `schema`, typed and checked.

    Raises UserError that names the key, its place and the nearest valid key, or the value that has the wrong type."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    _check_keys(schema, values, "")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(dict(values)))
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"configuration key '{getattr(error, 'full_key', '?')}': {reason}") from error


def rebuilt(schema: Any, values: Any) -> Any:
    """The dataclass of a complete mapping whose keys and types are known to be right: only the ranges are checked, in
    a hundredth of the time of `structured`."""
    if is_dataclass(schema):
        return schema(**{key: rebuilt(hints(schema)[key], value) for key, value in values.items()})
    arguments = typing.get_args(schema)
    if arguments and isinstance(values, list):
        return [rebuilt(arguments[0], value) for value in values]
    return values


@cache
def hints(schema: type) -> dict[str, Any]:
    """{field: type} of a dataclass."""
    return typing.get_type_hints(schema)


def require(place: str, section: Any, **limits: float | tuple[Any, ...]) -> None:
    """UserError unless each of these fields of a dataclass is among the values of its tuple, or at least its number.

    place: what stands before the field in a configuration, e.g. "train."; "" at top level."""
    for name, limit in limits.items():
        value = getattr(section, name)
        if isinstance(limit, tuple):
            if value not in limit:
                raise UserError(f"{place}{name} is '{value}': choose {', '.join(map(str, limit))}")
        elif not value >= limit:  # also where it is no number at all (.nan)
            raise UserError(f"{place}{name} is {value}: it must be at least {limit}")


def require_share(key: str, value: float) -> None:
    """UserError unless `value` lies in 0..1."""
    if not 0 <= value <= 1:
        raise UserError(f"{key} is {value}: it must lie in 0..1")


def _check_keys(schema: Any, values: Any, place: str) -> None:
    if not is_dataclass(schema) or not isinstance(values, Mapping):
        return
    known = hints(schema)
    for key, value in values.items():
        where = f"{place}{key}"
        if is_dataclass(known.get(key)) and not isinstance(value, (Mapping, known[key])):
            inner = ", ".join(hints(known[key]))
            raise UserError(f"configuration key '{where}' is {value!r}: set a key of it ({inner})")
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1, 0.4)
            hint = f"did you mean '{place}{near[0]}'?" if near else f"valid keys: {', '.join(known)}"
            raise UserError(f"unknown configuration key '{where}': {hint}")
        arguments = typing.get_args(known[key])
        if arguments and isinstance(value, (list, tuple)):
            for number, element in enumerate(value):
                _check_keys(arguments[0], element, f"{where}[{number}].")
        else:
            _check_keys(known[key], value, f"{where}.")
