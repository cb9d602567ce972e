"""Cheap real stages for the tests on Slurm: ranks that count, agree, save and stop as training does, without torch.

The ranks of a run agree through files of the run directory: at each step every rank says whether it was asked to stop,
and all act on the same word. What is left (value, losses) depends on the configuration and the parents alone."""
from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from core.errors import Stopped
from core.files import read_json, write_json
from core.run import Run


def count(run: Run) -> dict:
    """`steps` steps of value = value * factor + parents + 1. Saves every `save_every` steps and when asked to stop."""
    config, rank, world = run.config, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    steps, value, step = int(config.get("steps", 3)), int(config.get("start", 1)), 0
    parents = sum(run.parent(role).result["value"] for role in sorted(run.spec["parents"]))
    saved = sorted((run.path / "checkpoints").glob("step_*"))
    if saved:
        state = read_json(saved[-1])
        step, value = state["step"], state["value"]
    agree(run, rank, world, step, "loaded")  # a run that has nothing left to do ends, and its checkpoints go
    if config.get("children"):
        _fork_children(int(config["children"]))
    if rank == 0:
        run.heartbeat(step, steps, force=True)
    while step < steps:
        misbehave(run, config.get("fail"), step, rank)
        time.sleep(float(config.get("delay", 0.0)))
        step, value = step + 1, (value * int(config.get("factor", 3)) + parents + 1) % 1_000_003
        asked = agree(run, rank, world, step)
        if rank == 0:
            run.log({"step": step, "loss": value / 1_000_003, "attempt": run.attempt, "time": time.time()})
            if asked or step % int(config.get("save_every", 1)) == 0:
                save(run, step, value, float(config.get("save_seconds", 0.0)))
            run.heartbeat(step, steps, force=True)
        if asked:
            agree(run, rank, world, step, "saved")
            raise Stopped(asked, step)
    return {"value": value, "steps": steps, "world": world}


def train(run: Run) -> dict:
    """core.train:finetune, interrupted: attempt i at the step that the study's name lists i-th, "disturbed-3-p6-t9".

    A number: its job gets USR2. p: a job of the high partition takes its nodes. t: it goes on to its time limit."""
    from core import train as stages

    plain, events = stages._batches, run.spec["study"].split("-")[1:]
    kind, wanted = "", 0
    if run.attempt <= len(events):
        event = events[run.attempt - 1]
        kind, wanted = event.rstrip("0123456789"), int(event.lstrip("pt"))

    def batches(*arguments):
        def feed(start):
            for step, micros in enumerate(plain(*arguments)(start), start + 1):
                if os.environ["RANK"] == "0" and step == wanted:
                    interrupt(run, kind, step)
                yield micros
        return feed

    stages._batches = batches
    return stages.finetune(run)


def interrupt(run: Run, kind: str, step: int) -> None:
    """Let happen what `train` says, and wait until this process was told to stop."""
    if kind == "p":
        subprocess.run(["sbatch", "-p", "high", "--nodes=4", "--exclusive", "--time=1", "-o", "/dev/null", "--wrap",
                        "sleep 1"], check=True)
    elif not kind:
        tell = ["scancel", "--signal=USR2", os.environ["SLURM_JOB_ID"]]
        subprocess.run(["env", "--ignore-signal=USR2", *tell], check=True)  # it is a process of the job itself
    deadline = time.monotonic() + 150
    while not run.stop_requested() and time.monotonic() < deadline:
        run.heartbeat(step, 0, "save")  # a phase of its own: this wait is no hang
        time.sleep(0.25)


def save(run: Run, step: int, value: int, seconds: float) -> None:
    run.heartbeat(step, 0, "save", force=True)
    time.sleep(seconds)
    run.check_fence()
    write_json(run.path / "checkpoints" / f"step_{step:06d}", {"step": step, "value": value})


def agree(run: Run, rank: int, world: int, step: int, what: str = "step") -> str:
    """The first reason that any rank was asked to stop for, the same on all ranks; a barrier as well."""
    folder = run.path / "agree" / f"{os.environ['BEGIRA_LAUNCH']}.{step}.{what}"
    if world == 1:
        return run.stop_requested() or ""
    write_json(folder / str(rank), run.stop_requested() or "")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        words = [read_json(folder / str(other)) for other in range(world)]
        if None not in words:
            return next((word for word in words if word), "")
        time.sleep(0.02)
    raise TimeoutError(f"rank {rank} is alone at step {step}")


def misbehave(run: Run, how: dict | None, step: int, rank: int) -> None:
    """{"kind", "step", "rank", "attempts"}: fail so at that step of that rank, in the first `attempts` attempts."""
    if not how or step != how.get("step", 0) or rank != how.get("rank", 0) or run.attempt > how.get("attempts", 99):
        return
    kind = how["kind"]
    if kind == "code":
        raise ValueError("broken on purpose")
    if kind == "nan":
        raise FloatingPointError("the loss is not finite")
    if kind == "gpu":
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
    if kind == "disk":
        raise OSError(28, "No space left on device")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "memory":
        hoard = []
        while True:
            hoard.append(bytearray(b"x" * (16 << 20)))
            time.sleep(0.1)
    if kind == "hang":
        time.sleep(3600)


def _fork_children(count: int) -> None:
    """Data workers: children that must neither act on a signal that is meant for the run nor outlive it."""
    parent = os.getpid()
    for _ in range(count):
        if os.fork() == 0:
            while os.getppid() == parent:
                time.sleep(0.1)
            os._exit(0)


def metrics(path: Path) -> list[dict]:
    import json

    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
