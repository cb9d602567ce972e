"""The local backend: a study's runs as processes of this machine, in the foreground, with the behaviour of Slurm's.

Slots are processes: as many as cores, or one per GPU where there are any. A run of several "nodes" takes as many
times its ranks. What is running is known by the locks that running processes hold, so any process can observe it.
"""
from __future__ import annotations

import os
import re
import signal
import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from core.errors import UserError
from core.files import read_json
from experiments import provenance, store
from experiments.checks import check_runs
from experiments.expand import Study
from experiments.lock import Held, hold, is_held
from experiments.reconcile import Action
from experiments.state import Observation, State, Where
from experiments.store import Stored
from slurm.backend import Plan


class Local:
    """This machine, with `slots` processes at a time (default: BEGIRA_SLOTS, else GPUs, else cores)."""

    name = "local"

    def __init__(self, slots: int | None = None):
        self.devices = gpus()
        self.slots = slots or _asked() or len(self.devices) or _cores()

    def observe(self, study: str, runs: Sequence[Stored]) -> dict[str, Observation]:
        """RUNNING where a process holds the run's lock, QUEUED where a living driver still means to start it."""
        folder = store.study_path(study)
        driver = read_json(folder / "driver.json", {}) if is_held(folder / ".driver.lock") else {}
        listed = set(driver.get("runs", []))
        seen = {}
        for run in runs:
            if is_held(run.path / ".lock"):
                seen[run.id] = Observation(Where.RUNNING, run.attempts[-1].job if run.attempts else "")
            elif run.id in listed and not run.done:
                seen[run.id] = Observation(Where.QUEUED, reason="waits for a slot")
        return seen

    def plan(self, study: Study, actions: Sequence[Action]) -> Plan:
        plan = Plan(study, list(actions))
        starts = plan.starts
        plan.findings = check_runs([action.run for action in starts])
        plan.details = {"slots": self.slots, "runs": [{"id": a.run.id, "name": a.run.name, "action": str(a.kind),
                                                       "reason": a.reason} for a in actions]}
        for stage in study.grid.stages:
            mine = [action for action in actions if action.run.stage == stage]
            new = [action for action in mine if action.starts]
            if mine:
                plan.lines.append(f"{stage}: {len(mine)} run{'s' * (len(mine) != 1)}, {len(new)} to run")
        if starts:
            plan.lines.append(f"{len(starts)} of {len(actions)} runs to run on this machine, {self.slots} processes "
                              f"at a time; {study.points} grid points share what they can")
        else:
            plan.lines.append(_nothing(actions))
            plan.lines += [f"{action.run.name}: {action.reason}" for action in actions
                           if action.status.state not in (State.DONE, State.QUEUED)]
        return plan

    def submit(self, plan: Plan) -> int:
        """Run what is to be run, in the foreground. Raises UserError if another process is at it."""
        from slurm.driver import Driver, announce
        from slurm.table import View

        folder = store.study_path(plan.study.name)
        if not plan.starts and not is_held(folder / ".driver.lock"):
            return int(any(action.status.state is not State.DONE for action in plan.actions))
        try:
            with hold(folder / ".driver.lock", wait=0.5):
                store.write_study(plan.study)
                announce(plan.study.name, [action.run.id for action in plan.starts])
                environment = provenance.capture(folder)
                for action in plan.starts:
                    store.create(action.run, environment)
                return Driver(plan.study, environment, self.slots, self.devices, View(plan.study.name)).run()
        except Held:
            who = read_json(folder / "driver.json", {})
            raise UserError(f"study {plan.study.name} is being run by process {who.get('pid')} on {who.get('host')}: "
                            f"`begira status {plan.study.name} --watch` shows it") from None

    def cancel(self, study: str, runs: Sequence[Stored], save: bool) -> list[str]:
        """Signal the ranks of those that run here; a driver sees the request (experiments.store.ask_for) itself."""
        driven = is_held(store.study_path(study) / ".driver.lock")
        ended = []
        for run in runs:
            if not is_held(run.path / ".lock"):
                continue
            ended.append(run.id)
            record = run.attempts[-1].record if run.attempts else {}
            if not driven and record.get("host") == socket.gethostname() and record.get("outcome") is None:
                with suppress(ProcessLookupError):
                    os.kill(int(record["pid"]), signal.SIGUSR2 if save else signal.SIGKILL)
        return ended


def _nothing(actions: Sequence[Action]) -> str:
    """Why nothing is to be started."""
    states = Counter(action.status.state for action in actions)
    if set(states) == {State.DONE}:
        return f"nothing to do: all {len(actions)} runs are done"
    return "nothing to start: " + ", ".join(f"{number} {state}" for state, number in states.items())


def _asked() -> int:
    """BEGIRA_SLOTS; 0 where it is not set."""
    text = os.environ.get("BEGIRA_SLOTS", "")
    if text and not (text.isdecimal() and int(text)):
        raise UserError(f"BEGIRA_SLOTS is '{text}': give a number of processes, 1 or more")
    return int(text or 0)


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    found = [re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*")]
    return sorted((match[1] for match in found if match), key=int)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
