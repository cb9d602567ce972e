"""A user's desk in front of a test cluster: writes grids, runs begira's verbs, waits, reads what the runs left."""
from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from core.files import read_json
from experiments import store
from experiments.expand import Study
from slurm import studies
from tests.cluster.cluster import REPOSITORY, Cluster

STAGES = "tests.slurm.stages"
FINAL = {"done", "failed", "cancelled", "blocked"}


class Desk:
    """Context manager: binds BEGIRA_RUNS and the cluster's commands to this process, and unbinds them."""

    def __init__(self, cluster: Cluster, folder: Path):
        self.cluster, self.folder = cluster, folder
        self.profile = "virtual"
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> Desk:
        values = {**self.cluster.variables, "BEGIRA_CLUSTER": "virtual",
                  **{f"BEGIRA_{name.upper()}": str(self.folder / name) for name in ("runs", "data", "models")}}
        self._before = {key: os.environ.get(key) for key in values}
        os.environ.update(values)
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.run("scancel", "-Q", f"--user={os.environ.get('USER') or 'root'}", check=False)
        for key, value in self._before.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)

    # -- grids
    def grid(self, name: str, stages: Mapping[str, Any], axes: Mapping[str, Any] | None = None,
             targets: list[str] | None = None) -> Path:
        """A grid file; `stages`: name -> {"parents", "runtime", ...config of tests.slurm.stages.count}."""
        body: dict[str, Any] = {"name": name, "stages": {}, "axes": dict(axes or {})}
        for stage, settings in stages.items():
            config = {"steps": 3, "start": 1, "factor": 3, **settings}
            function = config.pop("function", "count")
            body["stages"][stage] = {"function": f"{STAGES}:{function}", "parents": config.pop("parents", {}),
                                     "runtime": config.pop("runtime", {}), "config": config}
        body["targets"] = targets or [list(stages)[-1]]
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(body, sort_keys=False))
        return path

    def profiled(self, **values: Any) -> str:
        """A variant of the virtual profile; becomes the one that is used."""
        path = self.folder / "profile.yaml"
        path.write_text(yaml.safe_dump({"inherit": "virtual", **values}))
        self.profile = os.environ["BEGIRA_CLUSTER"] = str(path)
        return self.profile

    # -- verbs
    def study(self, grid: Path) -> Study:
        return studies.open_study(str(grid))

    def submit(self, grid: Path) -> int:
        study = self.study(grid)
        backend = studies.choose_backend(None, study.name)
        return studies.submit(studies.plan(study, backend), backend)

    def begira(self, *words: str, **popen: Any) -> subprocess.CompletedProcess[str]:
        """The command line in a process of its own."""
        return subprocess.run([sys.executable, "-m", "begira", *words], cwd=REPOSITORY, capture_output=True, text=True,
                              timeout=240, **popen)

    def states(self, grid: Path) -> dict[str, str]:
        """{run's name: state}."""
        study = self.study(grid)
        seen = studies.look(study, studies.choose_backend(None, study.name), everything=False)
        return {run.name: str(seen.statuses[run.id].state) for run in study.runs}

    def look(self, grid: Path) -> studies.Look:
        study = self.study(grid)
        return studies.look(study, studies.choose_backend(None, study.name), everything=False)

    # -- waiting and reading
    def wait(self, grid: Path, wanted: set[str] = FINAL, seconds: float = 120.0) -> dict[str, str]:
        """Until every run is in one of the wanted states."""
        self.until(lambda: set(self.states(grid).values()) <= wanted, seconds, lambda: self.describe(grid), every=1.0)
        return self.states(grid)

    def until(self, ready: Callable[[], Any], seconds: float = 60.0, describe: Callable[[], str] = str,
              every: float = 0.25) -> Any:
        deadline = time.monotonic() + seconds * max(1.0, os.getloadavg()[0] / os.cpu_count() / 2)
        while not (found := ready()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:.0f} s: {describe()}")
            time.sleep(every)
        return found

    def path(self, grid: Path, name: str) -> Path:
        study = self.study(grid)
        return store.run_path(next(run for run in study.runs if run.name == name))

    def beat(self, path: Path, step: int) -> Callable[[], bool]:
        return lambda: read_json(path / "heartbeat.json", {}).get("step", -1) >= step

    def attempts(self, path: Path) -> list[Any]:
        return store.read_run(path).attempts

    def job(self, path: Path) -> str:
        """Slurm's id of the newest job of a run."""
        return store.read_run(path).attempts[-1].job

    def rows(self, job: str) -> list[str]:
        """States of all executions of a job, from sacct."""
        text = self.cluster.run("sacct", "-X", "-D", "-n", "-P", "-j", job, "-o", "State", check=False)
        return [line.split()[0] for line in text.splitlines() if line.strip()]

    def sbatch_calls(self) -> list[int]:
        """Exit statuses of every sbatch so far."""
        return [status for status, _ in self.cluster.calls("sbatch")]

    def describe(self, grid: Path) -> str:
        queue = self.cluster.run("squeue", "-r", "-o", "%i %j %T %r %N", check=False)
        logs = "".join(f"\n--- {p}\n{p.read_text(errors='replace')[-1500:]}"
                       for p in sorted((self.folder / "runs").glob("*/slurm/*/*.log"))[-3:])
        logs += "".join(f"\n--- {p}\n{p.read_text(errors='replace')[-1500:]}"
                        for p in sorted((self.folder / "runs").glob("*/*/*/logs/*.log"))[-3:])
        return f"{self.states(grid)}\n{queue}{logs}"
