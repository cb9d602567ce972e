"""Names that people type: how a value is written, and what a mistyped name probably meant. Knows nothing of grids."""
from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from core.errors import UserError


def one_of(name: Any, choices: Iterable[str], what: str) -> None:
    choices = list(choices)  # what people write may have no hash
    if name not in choices:
        raise UserError(f"{what} '{name}': {nearest(str(name), choices)}")


def known(mapping: Mapping[str, Any], keys: Iterable[str], place: str) -> None:
    for key in mapping:
        one_of(key, list(keys), f"unknown key in {place}" if place else "unknown key")


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint for an unknown word: "did you mean 'x'?", or all choices."""
    choices = [str(choice) for choice in choices]
    near = difflib.get_close_matches(word, choices, 1, 0.5)
    return f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(choices) or '(none)'}"


def text(label: Any) -> str:
    """A label as people read and type it: 0.2, not 0.20000000000000001; 1, not 1.0; true, not True."""
    if isinstance(label, bool):
        return str(label).lower()
    return f"{label:.10g}" if isinstance(label, float) else str(label)
