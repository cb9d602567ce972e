"""Runs -> one tidy table of scores, and beside it a table of costs and a list of what is missing.

The score table holds nothing that depends on when or where a run was executed: two executions of one study give the
same file, bit for bit. Ratios are those that were realised, taken from what the training consumed; `target_ratio` and
the other axes stand beside them as they were asked for."""
from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.stores import Stored, hashable, read_stores, superseded, training_of
from core.files import replacing
from core.run import SPENT
from experiments.expand import Desired

if TYPE_CHECKING:
    import pandas as pd

SCORE = ("benchmark", "subset", "language", "metric", "slice", "value", "n")
UNITS = ("sample", "token", "loss_token")
FIXED = ("study", "stage", "run", "name", "trained")


@dataclass
class Collected:
    """What the study says and what it took.

    scores: one row per run, benchmark, subset, language, metric and slice. costs: one row per run of any stage.
    missing: one row per run that should be there and is not finished. axes: names of the axis columns. left_out:
    evaluations in whose place the grid wants others; they are in none of these."""

    runs: list[Stored]
    scores: pd.DataFrame
    costs: pd.DataFrame
    missing: pd.DataFrame
    axes: list[str]
    left_out: list[Stored] = field(default_factory=list)


def collect(study_dirs: Iterable[Path | str], desired: Iterable[Desired] | None = None) -> Collected:
    """Read the stores of a study. `desired`: every evaluation that the grid asks for; without it nothing is left out,
    and the grid is taken to be the product of the axis values seen among evaluations."""
    runs = read_stores(study_dirs)
    desired = None if desired is None else list(desired)
    left_out = superseded(runs, desired or ())
    gone = {run.id for run in left_out}
    runs = [run for run in runs if run.id not in gone]
    axes = sorted({name for run in runs if run.is_evaluation for name in run.axes})
    return Collected(runs, score_table(runs, axes), cost_table(runs), missing_cells(runs, desired), axes, left_out)


def score_table(runs: list[Stored], axes: list[str]) -> pd.DataFrame:
    """The tidy table, sorted; an axis named like a fixed column gets the prefix "axis_"."""
    import pandas as pd

    by_id = {run.id: run for run in runs}
    columns: dict[str, list[Any]] = {}
    for run in runs:
        rows = run.result.get("metrics") or [] if run.done else []
        if not rows:
            continue
        parent = training_of(run, by_id)
        constant = {"study": run.spec.get("study"), "stage": run.stage, "run": run.id, "name": run.name,
                    "trained": parent.id if parent else None,
                    **{axis_column(axis): run.axes.get(axis) for axis in axes}, **consumption(parent)}
        for key in [*constant, *SCORE]:
            if key not in columns:
                columns[key] = [None] * len(columns.get("run", ()))
        for key in columns:
            columns[key] += [constant.get(key)] * len(rows) if key not in SCORE else [row.get(key) for row in rows]
    leading = [*FIXED, *(axis_column(axis) for axis in axes), *SCORE]
    empty = {name: pd.Series(dtype="float64" if name in ("value", "n") else "str") for name in leading}
    frame = pd.DataFrame(columns or empty)
    counts = [name for name in frame.columns if name.startswith(("samples_", "tokens_"))]
    frame[counts] = frame[counts].fillna(0).astype("int64")
    order = [*leading, *sorted(set(frame.columns) - set(leading))]
    keys = ["run", "benchmark", "subset", "language", "metric", "slice"]
    return frame[order].sort_values(keys, kind="stable", ignore_index=True)


def axis_column(axis: str) -> str:
    return f"axis_{axis}" if axis in (*FIXED, *SCORE) else axis


def consumption(parent: Stored | None) -> dict[str, Any]:
    """Realised ratios, samples and tokens per modality and language of the training behind a score."""
    if parent is None:
        return {}
    realised = parent.result.get("realised_ratio") or {}
    columns: dict[str, Any] = {f"realised_ratio_{unit}": realised.get(unit) for unit in UNITS}
    columns["steps"] = parent.result.get("steps")
    for row in parent.result["consumed"]:
        for unit in ("samples", "tokens"):
            key = f"{unit}_{row['modality']}_{row['language']}"
            columns[key] = columns.get(key, 0) + int(row[unit])
    return columns


def cost_table(runs: list[Stored]) -> pd.DataFrame:
    """Seconds and process-hours per run, and what they went into.

    A process is one rank: one GPU on a cluster, one worker process on a machine without. lost: attempts that failed.
    spent_*: what training kept, without starts and steps that were redone, in all and by what it went into."""
    import pandas as pd

    rows = []
    for run in runs:
        spans = [(_seconds(a), a.get("world_size") or 1, a.get("outcome")) for a in run.attempts]
        hours = sum(seconds * world for seconds, world, _ in spans) / 3600
        lost = sum(seconds * world for seconds, world, outcome in spans if outcome in ("failed", "lost")) / 3600
        executed = sum(max(0, (a.get("last_step") or 0) - (a.get("first_step") or 0)) for a in run.attempts)
        steps, spent = run.result.get("steps"), run.result.get("spent") or {}
        rows.append({"run": run.id, "name": run.name, "stage": run.stage, "state": run.state,
                     "attempts": len(run.attempts),
                     "backend": run.attempts[-1].get("backend") if run.attempts else None,
                     "processes": spans[-1][1] if spans else None, "seconds": sum(span[0] for span in spans),
                     "useful_seconds": run.result.get("seconds"), "process_hours": hours, "lost_hours": lost,
                     **{f"spent_{name}": spent[name] / 3600 if name in spent else None for name in SPENT},
                     "steps": steps, "redone_steps": max(0, executed - steps) if steps else 0,
                     "tokens_per_second": run.result.get("tokens_per_second")})
    return pd.DataFrame(rows)


def _seconds(attempt: Mapping[str, Any]) -> float:
    started, ended = _time(attempt.get("started")), _time(attempt.get("ended"))
    return max(0.0, ended - started) if started is not None and ended is not None else 0.0


def _time(value: Any) -> float | None:
    """Epoch seconds of a number or an ISO 8601 text."""
    if isinstance(value, str):
        return datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
    return float(value) if value is not None else None


def missing_cells(runs: list[Stored], desired: Iterable[Desired] | None) -> pd.DataFrame:
    """Runs that were created but are not done, and points of the grid without a run."""
    import pandas as pd

    evaluations = [run for run in runs if run.is_evaluation]
    axes = sorted({name for run in evaluations for name in run.axes})
    present = {_point(run.axes, axes) for run in evaluations}
    if desired is None:
        levels = [sorted({hashable(run.axes.get(axis)) for run in evaluations}, key=str) for axis in axes]
        asked = [dict(zip(axes, point, strict=True)) for point in itertools.product(*levels)] if axes else []
    else:
        asked = [dict(run.axes) for run in desired]
    rows = [{**run.axes, "stage": run.stage, "run": run.id, "name": run.name, "state": run.state}
            for run in runs if not run.done]
    rows += [{**point, "stage": "evaluate", "run": None, "name": None, "state": "not created"}
             for point in asked if _point(point, axes) not in present]
    return pd.DataFrame(rows, columns=["stage", "name", "state", "run", *axes])


def _point(axes: Mapping[str, Any], names: list[str]) -> tuple:
    return tuple(hashable(axes.get(name)) for name in names)


def write_tables(collected: Collected, out: Path) -> dict[str, Path]:
    """table.parquet and table.csv (scores), cost.csv, missing.csv below `out`; their paths."""
    paths = {name: Path(out) / name for name in ("table.parquet", "table.csv", "cost.csv", "missing.csv")}
    with replacing(paths["table.parquet"]) as temporary:
        collected.scores.to_parquet(temporary, index=False)
    frames = {"table.csv": collected.scores, "cost.csv": collected.costs, "missing.csv": collected.missing}
    for name, frame in frames.items():
        with replacing(paths[name]) as temporary:
            frame.to_csv(temporary, index=False)
    return paths
