"""A run as the code that executes it sees it: one directory with its configuration, its parents and its records.

    config.yaml  spec.json  env.json  attempts/0001.json  heartbeat.json  metrics.jsonl  tb/  logs/
    checkpoints/step_000400/  model/  items.parquet  result.json  DONE

A stage is a function `stage(run: Run) -> dict`; what it returns becomes `result.json`. Who creates the directory,
starts attempts and decides what runs next is not known here (experiments, slurm). Files are the only database.
"""
from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from core import stop
from core.errors import UserError
from core.files import append_line, read_json, write_json

# result.json's `spent` of a stage that trains step by step, in seconds times ranks: all that counts in its result, and
# of it waiting for data (the first rank's wait), writing checkpoints, validation
SPENT = ("all", "data", "checkpoints", "validation")


class Fenced(RuntimeError):
    """A newer attempt owns this run directory: this process must not write into it any more."""


@dataclass
class Run:
    path: Path
    _beat: float = field(default=0.0, repr=False)
    _first: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.path = Path(self.path)

    @cached_property
    def spec(self) -> dict[str, Any]:
        """id, name, study, stage, function, axes, parents: {role: {"stage", "id"}}."""
        spec = read_json(self.path / "spec.json")
        if spec is None:
            raise UserError(f"{self.path} is no run directory (no spec.json): `begira status GRID` lists a grid's runs")
        return spec

    @cached_property
    def config(self) -> dict[str, Any]:
        """The stage's resolved configuration; `core.config.structured` checks it. All but `runtime` is identity."""
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError

        path = self.path / "config.yaml"
        try:
            return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing: `begira submit` of the run's grid writes it again") from error
        except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
            raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}): remove it, then `begira submit` "
                            "of the run's grid writes it again") from error

    def parent(self, role: str) -> Run:
        """The run that plays `role` for this one, e.g. "encoder", "backbone", "align", "finetune"."""
        try:
            link = self.spec["parents"][role]
        except KeyError:
            name = self.spec["name"]
            raise UserError(f"run {name} has no parent '{role}': add it under `parents` in the grid") from None
        return Run(self.path.parent.parent / link["stage"] / link["id"])

    @property
    def id(self) -> str:
        return self.spec["id"]

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1; 0 when called by hand outside an attempt."""
        return int(os.environ.get("BEGIRA_ATTEMPT", "0"))

    @property
    def is_done(self) -> bool:
        return (self.path / "DONE").exists()

    @property
    def result(self) -> dict[str, Any]:
        return read_json(self.path / "result.json", {})

    def check_fence(self) -> None:
        """Raise Fenced if a newer attempt has begun. Called before every write that a newer attempt could see."""
        newest = max((int(p.stem) for p in (self.path / "attempts").glob("[0-9]*.json") if p.stem.isdigit()), default=0)
        if self.attempt and newest > self.attempt:
            raise Fenced(f"attempt {newest} of {self.path.name} has begun; attempt {self.attempt} stops writing")

    def heartbeat(self, step: int, total: int, phase: str = "train", force: bool = False, **extra: Any) -> None:
        """Tell the world how far it is: at most once a second unless `force`. Rank 0 calls it."""
        now = time.time()
        if not force and now - self._beat < 1.0:
            return
        self._beat = now
        self._first = step if self._first is None else self._first
        self.check_fence()
        write_json(self.path / "heartbeat.json",
                   {"attempt": self.attempt, "time": now, "step": step, "total": total, "phase": phase,
                    "first_step": self._first, **extra}, settled=False)

    def log(self, record: dict[str, Any]) -> None:
        """One line of metrics.jsonl. A record of training holds "step"."""
        self.check_fence()
        append_line(self.path / "metrics.jsonl", json.dumps(record))

    def stop_requested(self) -> str | None:
        """Why this process was asked to stop, or None. Ranks must agree on it (core.distributed) before acting."""
        return stop.requested()
