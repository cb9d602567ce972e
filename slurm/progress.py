"""One row per run for people and for `--json`: state, step, speed, time to go, why it waits. Pure but for the clock."""
from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.expand import Desired
from experiments.state import State, Status
from experiments.store import Stored


@dataclass
class Row:
    """What `status` shows of one run. Steps are optimiser steps, `eta` seconds."""

    id: str
    name: str
    stage: str
    state: str
    step: int | None = None
    total: int | None = None
    eta: float | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    attempts: int = 0
    reason: str = ""
    cause: str = ""
    job: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rows(runs: Sequence[Desired], records: Mapping[str, Stored], current: Mapping[str, Status],
         now: float) -> list[Row]:
    """A row per run, in the grid's order."""
    return [_row(run, records.get(run.id), current[run.id], now) for run in runs]


def _row(run: Desired, record: Stored | None, status: Status, now: float) -> Row:
    row = Row(run.id, run.name, run.stage, str(status.state), status.step, status.total, attempts=status.attempts,
              reason=status.reason, cause=status.cause, job=status.job)
    if record is None or status.state not in (State.RUNNING, State.DONE):
        return row
    newest = last_metrics(record.path)
    row.loss, row.tokens_per_second = newest.get("loss"), newest.get("tokens_per_second")
    if status.state is State.DONE:  # its last heartbeat may be older than its end
        row.step = row.total
        return row
    beat, last = record.heartbeat, record.attempts[-1] if record.attempts else None
    first = beat.get("first_step")
    if last and row.step is not None and row.total and first is not None and row.step > first:
        row.eta = (beat["time"] - last.started) / (row.step - first) * (row.total - row.step) - (now - beat["time"])
        row.eta = max(row.eta, 0.0)
    return row


def last_metrics(path: Path) -> dict[str, Any]:
    """The newest complete record of metrics.jsonl that holds a loss, from its last 8 kB; {} if there is none."""
    try:
        with open(path / "metrics.jsonl", "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 8192))
            lines = stream.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and "loss" in record:
            return record
    return {}


def counts(table: Sequence[Row]) -> dict[str, int]:
    """Runs per state, in the order of the states."""
    found = [row.state for row in table]
    return {str(state): found.count(str(state)) for state in State if str(state) in found}


def duration(seconds: float | None) -> str:
    """1:02:03, 2:03 or 0:03; empty for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
