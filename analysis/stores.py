"""Run directories of one or several stores, read once and merged: what ran, on which axes, from which parents, at
what cost.

The same run may lie in several stores (clusters), for its id says all that decides its result. Where two finished
copies disagree, nothing is chosen silently. This module reads JSON only; the items of evaluations are read by
analysis.items."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import read_json
from experiments.expand import Desired
from experiments.store import SHARED

TIMING = {"seconds", "tokens_per_second", "samples_per_second", "data_wait", "loss", "spent"}


@dataclass(frozen=True)
class Stored:
    """One run as it lies in a store."""

    path: Path
    spec: dict[str, Any]
    result: dict[str, Any]
    done: bool
    attempts: list[dict[str, Any]] = field(default_factory=list, compare=False)

    @property
    def id(self) -> str:
        return self.spec["id"]

    @property
    def name(self) -> str:
        return self.spec.get("name") or self.id

    @property
    def stage(self) -> str:
        return self.spec["stage"]

    @property
    def axes(self) -> dict[str, Any]:
        return self.spec.get("axes") or {}

    @property
    def parents(self) -> list[str]:
        return [link["id"] for link in (self.spec.get("parents") or {}).values()]

    @property
    def is_evaluation(self) -> bool:
        return self.spec.get("function", "").endswith(":evaluate") or (self.path / "items.parquet").exists()

    @property
    def state(self) -> str:
        """done, or what the last attempt came to, or waiting."""
        if self.done:
            return "done"
        return (self.attempts[-1].get("outcome") or "running") if self.attempts else "waiting"


def read_stores(study_dirs: Iterable[Path | str]) -> list[Stored]:
    """All runs below the study directories, each once, sorted by stage and id.

    Raises UserError for a directory without runs and for two finished copies of a run that disagree."""
    merged: dict[str, Stored] = {}
    for directory in map(Path, study_dirs):
        shared = read_json(directory / SHARED, {})
        found = [_read(path.parent, shared.get(path.parent.name)) for path in sorted(directory.glob("*/*/spec.json"))]
        if not found:
            raise UserError(f"no runs in {directory}: `begira submit GRID` makes them, or give the folder that holds "
                            "the stages (encoder, align, finetune, ...)")
        for run in found:
            merged[run.id] = _agreed(merged[run.id], run) if run.id in merged else run
    return sorted(merged.values(), key=lambda run: (run.stage, run.id))


def _read(path: Path, spec: dict[str, Any] | None) -> Stored:
    attempts = [read_json(file) for file in sorted((path / "attempts").glob("[0-9]*.json")) if file.stem.isdigit()]
    result = _parsed(path / "result.json")
    run = Stored(path, spec or _parsed(path / "spec.json"), result if isinstance(result, dict) else {},
                 (path / "DONE").exists(), attempts)
    if not isinstance(run.spec, dict) or not {"id", "stage"} <= set(run.spec):
        raise UserError(f"{path / 'spec.json'} is damaged: remove the run's folder, then `begira submit` makes it anew")
    wanted = ["metrics"] if run.spec.get("function", "").endswith(":evaluate") else []
    whole = isinstance(result, dict) and set(wanted) <= set(result)
    if run.done and (not whole or (wanted and not (path / "items.parquet").exists())):
        raise UserError(f"{path} is done, but its result.json or items.parquet is damaged or gone: remove its DONE, "
                        "then `begira submit` does it again")
    return run


def _parsed(path: Path) -> Any:
    """None where there is nothing, or no JSON."""
    try:
        return read_json(path)
    except UserError:
        return None


def _agreed(one: Stored, two: Stored) -> Stored:
    """The copy to use: a finished one; of two finished ones the first, if they say the same."""
    if one.done and two.done and _essence(one) != _essence(two):
        raise UserError(f"run {one.id} ({one.name}) has two different results, in {one.path} and {two.path}: keep one "
                        "of them, or report the stores one by one")
    return one if one.done or not two.done else two


def _essence(run: Stored) -> Any:
    """What two executions of one run must agree on. Losses differ in the last digits between kinds of hardware."""
    return {key: value for key, value in run.result.items() if key not in TIMING}


def superseded(runs: Iterable[Stored], desired: Iterable[Desired]) -> list[Stored]:
    """Evaluations that stand where the grid wants another: same stage and axes, other settings or data. Points that the
    grid does not name (seeds that `begira next` added, say) are nobody's to replace."""
    desired = list(desired)
    ids, places = {one.id for one in desired}, {place(one) for one in desired}
    return [run for run in runs if run.is_evaluation and run.id not in ids and place(run) in places]


def place(run: Stored | Desired) -> tuple[str, frozenset]:
    """Where a run stands in its study: its stage and axes."""
    return run.stage, frozenset((name, hashable(value)) for name, value in run.axes.items())


def hashable(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def ancestors(run: Stored, by_id: dict[str, Stored]) -> list[Stored]:
    """Parents, their parents and so on, nearest first, each once."""
    found: dict[str, Stored] = {}
    wanted = list(run.parents)
    while wanted:
        parent = by_id.get(wanted.pop(0))
        if parent is not None and parent.id not in found:
            found[parent.id] = parent
            wanted += parent.parents
    return list(found.values())


def training_of(run: Stored, by_id: dict[str, Stored]) -> Stored | None:
    """The run whose mixture an evaluation speaks about: its nearest ancestor that consumed data."""
    return next((parent for parent in ancestors(run, by_id) if parent.result.get("consumed")), None)
