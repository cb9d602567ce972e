"""Selectors: `stage=finetune state=failed target_ratio=0.2` picks runs of a study. Several values: `seed=[1,2]`."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from core.errors import UserError
from experiments.expand import Desired
from experiments.overrides import parse
from experiments.points import COMPARISON, fulfils
from experiments.state import State, Status
from experiments.words import one_of, text


def select(runs: Sequence[Desired], statuses: Mapping[str, Status], words: Iterable[str]) -> list[Desired]:
    """The runs that every selector fits. A word without `=` is a run id (or its beginning), or a name.

    Raises UserError for an unknown axis, value, stage or state, and for an id that no run has."""
    words = list(words)
    plain = [word for word in words if "=" not in word]
    wanted = parse(word for word in words if "=" in word)
    axes = {name for run in runs for name in run.axes}
    for key, value in wanted.items():
        one_of(key, [*sorted(axes), "stage", "state", "id", "name"], "unknown selector")
        choices = {"stage": {run.stage for run in runs}, "state": {str(state) for state in State}}.get(key)
        if key in axes:
            choices = {text(run.axes[key]) for run in runs if key in run.axes}
        for one in value if isinstance(value, list) else [value]:
            if choices and not COMPARISON.match(str(one)):
                one_of(text(one), sorted(choices), f"no {key}")
    for word in plain:
        if not any(_called(run, word) for run in runs):
            raise UserError(f"no run '{word}' in this study: `begira status` lists ids and names")
    return [run for run in runs if (not plain or any(_called(run, word) for word in plain))
            and all(_fits(run, statuses[run.id], key, value) for key, value in wanted.items())]


def _called(run: Desired, word: str) -> bool:
    return run.id.startswith(word) or run.name == word


def _fits(run: Desired, status: Status, key: str, value: object) -> bool:
    own = {"stage": run.stage, "state": str(status.state), "id": run.id, "name": run.name}
    if key in own:
        return fulfils(own[key], value)
    return key in run.axes and fulfils(run.axes[key], value)
