"""The record of every execution of a run: attempts/NNNN.json, and attempts/NNNN.rankRRRR.json for each failed rank.

An attempt is opened by rank 0 and closed by whoever sees its end: rank 0 itself, the launcher whose processes vanished,
or the next attempt. Its number is its fence: a process of an older one must not write (core.run.Run.check_fence).
"""
from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.files import read_json, write_json
from experiments.state import Attempt

_NUMBER = re.compile(r"(\d+)\.json")
_CHECKPOINT = re.compile(r"step_(\d+)")


def list_attempts(path: Path) -> list[Attempt]:
    """The attempts of a run directory, oldest first."""
    try:
        names = os.listdir(path / "attempts")
    except FileNotFoundError:
        return []
    numbers = sorted(int(match[1]) for name in names if (match := _NUMBER.fullmatch(name)))
    return [attempt for number in numbers if (attempt := read_attempt(path, number)) is not None]


def read_attempt(path: Path, number: int) -> Attempt | None:
    record = read_json(record_path(path, number))
    if record is None:
        return None
    return Attempt(number=int(record["attempt"]), outcome=record.get("outcome"), cause=record.get("cause") or "",
                   reason=record.get("reason") or "", started=record.get("started") or 0.0, ended=record.get("ended"),
                   first_step=record.get("first_step"), last_step=record.get("last_step"),
                   saved_step=record.get("saved_step"), job=str(record.get("job") or ""), record=record)


def record_path(path: Path, number: int) -> Path:
    return path / "attempts" / f"{number:04d}.json"


def rank_path(path: Path, number: int, rank: int) -> Path:
    return path / "attempts" / f"{number:04d}.rank{rank:04d}.json"


def open_attempt(path: Path, number: int, launch: str, backend: str, job: str, nodes: str, world_size: int) -> None:
    """Begin attempt `number`; attempts that are still open have ended unseen and are closed as lost."""
    for earlier in list_attempts(path):
        if earlier.outcome is None and earlier.number < number:
            close_attempt(path, earlier.number, "lost", cause="lost", reason="its processes vanished")
    write_json(record_path(path, number), {
        "attempt": number, "launch": launch, "started": time.time(), "ended": None, "backend": backend, "job": job,
        "host": socket.gethostname(), "nodes": nodes, "world_size": world_size, "pid": os.getpid(), "first_step": None,
        "last_step": None, "saved_step": None, "outcome": None, "cause": None, "reason": None, "error": None})


def close_attempt(path: Path, number: int, outcome: str, cause: str = "", reason: str = "",
                  amend: bool = False) -> None:
    """End an attempt. A failed rank's record names the culprit. An attempt that is closed stays so, unless `amend`."""
    record = read_json(record_path(path, number))
    if record is None or (record.get("outcome") and not amend):
        return
    error = culprit(path, number)
    vague = cause in ("", "unknown", "killed", "lost", "user")
    if outcome in ("lost", "failed") and error and (vague or error["cause"] != "rendezvous"):
        outcome, cause, reason = "failed", error["cause"], f"{error['type']}: {error['message']}"
    heartbeat = read_json(path / "heartbeat.json", {})
    if heartbeat.get("attempt") == number:
        record["first_step"] = heartbeat.get("first_step", record["first_step"])
        record["last_step"] = heartbeat.get("step")
    saved = newest_checkpoint(path)
    if saved is None and outcome == "stopped":  # a stage of finished pieces (evaluate, translate) keeps what it reached
        saved = record["last_step"]
    record.update(ended=time.time(), outcome=outcome, cause=cause or None, reason=reason or None, error=error,
                  saved_step=saved)
    write_json(record_path(path, number), record)


def write_rank_failure(path: Path, number: int, rank: int, node: str, error: Mapping[str, Any]) -> None:
    """What made this rank fail, beside the attempt's record: the first failure is found whoever died of it."""
    write_json(rank_path(path, number, rank), {"attempt": number, "rank": rank, "node": node,
                                               "host": socket.gethostname(), "time": time.time(), **error})


def culprit(path: Path, number: int) -> dict[str, Any] | None:
    """The record of the rank that failed first; a rank that only noticed another's end counts after those."""
    failed = [read_json(p) for p in sorted((path / "attempts").glob(f"{number:04d}.rank*.json"))]
    failed = [record for record in failed if record]
    return min(failed, key=lambda record: (record.get("cause") == "rendezvous", record["time"]), default=None)


def newest_checkpoint(path: Path) -> int | None:
    """Step of the newest finished checkpoint (checkpoints/step_NNNNNN)."""
    try:
        names = os.listdir(path / "checkpoints")
    except FileNotFoundError:
        return None
    return max((int(match[1]) for name in names if (match := _CHECKPOINT.fullmatch(name))), default=None)
