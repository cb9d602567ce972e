"""Cheap real stages for the tests of grids and backends: they count, save after each step, obey stop, and can be told
to fail. What they leave depends on configuration and parents only: a disturbed study equals an undisturbed one."""
from __future__ import annotations

import os
import time

from core.errors import Stopped
from core.files import read_json, replacing, replacing_folder, write_json
from core.run import Run


def count(run: Run) -> dict:
    """`steps` steps of state = state * factor + parents' values + start, each saved; rank 0 writes."""
    config, rank = run.config, int(os.environ.get("RANK", "0"))
    total, step, value = int(config["steps"]), 0, config["start"]
    parents = sum(run.parent(role).result["value"] for role in sorted(run.spec["parents"]))
    saved = sorted((run.path / "checkpoints").glob("step_*"))
    if saved:
        step, value = (read_json(saved[-1])[key] for key in ("step", "value"))
    if rank == 0:
        run.heartbeat(step, total, force=True)
    while step < total:
        time.sleep(float(config.get("delay", 0.0)))
        _misbehave(run, config.get("fail"), step, rank)
        step, value = step + 1, (value * config["factor"] + parents + 1) % 1_000_003
        if rank == 0:
            run.check_fence()
            run.log({"step": step, "loss": 1.0 / step, "tokens_per_second": 100.0})
            write_json(run.path / "checkpoints" / f"step_{step:06d}", {"step": step, "value": value})
            run.heartbeat(step, total, force=True)
        if run.stop_requested() and config.get("obey", True):
            raise Stopped(run.stop_requested(), step)
    return {"value": value, "steps": total, "world": int(os.environ.get("WORLD_SIZE", "1"))}


def pieces(run: Run) -> dict:
    """One file after another, none of them twice."""
    total = int(run.config["steps"])
    for number in range(1, total + 1):
        if (run.path / f"piece-{number:02d}").exists():
            continue
        if run.stop_requested():
            raise Stopped(run.stop_requested(), number - 1)
        run.heartbeat(number - 1, total, "evaluate", force=True)
        time.sleep(float(run.config["delay"]))
        (run.path / f"piece-{number:02d}").touch()
    return {}


def product(run: Run) -> dict:
    """A folder and a file; the first attempt is killed in the middle of each."""
    with replacing_folder(run.path / "model") as folder, replacing(run.path / "checkpoints" / "step_000001") as state:
        (folder / "weights").write_text("half")
        state.write_text("half")
        _misbehave(run, run.config["fail"], 0, 0)
    return {}


def read(run: Run) -> dict:
    """A stage without steps: doubles its parents' values."""
    return {"value": 2 * sum(run.parent(role).result["value"] for role in run.spec["parents"])}


def _misbehave(run: Run, how: dict | None, step: int, rank: int) -> None:
    """{"kind", "step", "rank", "attempts"}: fail so at that step of that rank in the first `attempts` attempts."""
    if not how or step != how.get("step", 0) or rank != how.get("rank", 0) or run.attempt > how.get("attempts", 99):
        return
    if how["kind"] == "code":
        raise ValueError("broken on purpose")
    if how["kind"] == "kill":
        os.kill(os.getpid(), 9)
    if how["kind"] == "exit":
        os._exit(7)
    if how["kind"] == "hang":
        time.sleep(3600)
