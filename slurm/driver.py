"""The local backend's loop: start what is ready, watch what runs, stop when asked, until nothing is left to do.

It decides nothing itself: after every change it reads the run directories and asks `experiments.reconcile` again, so
what it does next is what a new call of `begira submit` would do. All its state is in files but for its processes.
"""
from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core.files import write_json
from experiments import attempts, store
from experiments.expand import Desired, Study
from experiments.lock import Held, is_held
from experiments.reconcile import Action, reconcile, statuses
from experiments.state import Observation, State, Status, Where
from slurm.processes import Job, Server, ServerDied
from slurm.progress import rows
from slurm.table import View

REREAD = 5.0        # seconds between looks at what other processes changed (cancel, retry)


class Driver:
    """Runs a study's runs on `slots` processes at a time."""

    def __init__(self, study: Study, environment: Mapping[str, Any], slots: int, devices: list[str], view: View):
        self.study, self.environment, self.slots, self.view = study, environment, slots, view
        self.free_devices = list(devices)
        self.jobs: dict[str, Job] = {}
        self.records = store.read_runs(study.runs)
        self.server: Server | None = None
        self.stopping = 0
        self.last_read = time.time()
        self.listed: list[str] | None = None

    def run(self) -> int:
        """0 when every run is done, 75 when stopped, 1 when something failed."""
        previous = {number: signal.signal(number, self._asked) for number in
                    (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            while self._step():
                pass
        finally:
            for job in self.jobs.values():
                job.kill("interrupted")
            if self.server:
                self.server.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self._verdict()

    def statuses(self) -> dict[str, Status]:
        seen = {}
        for run in self.study.runs:
            if run.id in self.jobs:
                seen[run.id] = Observation(Where.RUNNING, self.jobs[run.id].launch)
            elif run.id in self.records and is_held(self.records[run.id].path / ".lock"):
                seen[run.id] = Observation(Where.RUNNING, reason="in another process")
        return statuses(self.study.runs, self.records, seen, time.time())

    def _step(self) -> bool:
        """One turn; False when there is nothing left to wait for."""
        current = self.statuses()
        actions = reconcile(self.study.runs, current)
        self._announce(actions)
        if not self.stopping:
            self._start(actions, current)
        elif self.stopping > 1:
            for job in self.jobs.values():
                job.kill("interrupted")
        elsewhere = [run for run, status in current.items() if status.state.live and run not in self.jobs]
        if not self.jobs and (self.stopping or not elsewhere):
            self.view.close(rows(self.study.runs, self.records, current, time.time()))
            return False
        self._wait(current)
        return True

    def _wait(self, current: Mapping[str, Status]) -> None:
        """Until a process begins or ends, a person asks for something, or a second has passed."""
        deadline = time.time() + 1.0
        changed = False
        while not changed and time.time() < deadline:
            stopping = self.stopping
            if self.server:
                changed = self._events()
            else:
                time.sleep(0.2)
            for job in self.jobs.values():
                job.watch(time.time())
            changed = changed or stopping != self.stopping
        if everything := time.time() > self.last_read + REREAD:
            self.last_read = time.time()
        self._reread(run.id for run in self.study.runs if run.id in self.jobs or everything)
        for id_, job in self.jobs.items():
            record = self.records.get(id_)
            if record:
                job.see(record, time.time())
            if record and record.request.get("kind") == "cancel":
                job.ask_to_stop(signal.SIGUSR2 if record.request.get("save", True) else signal.SIGKILL, "cancelled")
        self.view.update(rows(self.study.runs, self.records, current, time.time()))

    def _reread(self, ids: Iterable[str]) -> None:
        for id_ in list(ids):
            if (found := store.read_run(store.run_path(self.study.by_id[id_]))) is not None:
                self.records[id_] = found

    def _announce(self, actions: Sequence[Action]) -> None:
        means = [action.run.id for action in actions if action.starts and not self.stopping]
        if (listed := [*self.jobs, *means]) != self.listed:
            self.listed = listed
            announce(self.study.name, listed)

    def _events(self) -> bool:
        """Take the server's news; True if a job ended."""
        ended = False
        try:
            events = self.server.poll(0.2)
        except ServerDied as died:
            self.view.say(f"{died}; its runs begin again")
            self.server.close()
            self.server = None
            for job in list(self.jobs.values()):
                job.codes = dict.fromkeys(range(job.run.world_size), -signal.SIGKILL)
                self._end(job)
            return True
        for event in events:
            launch, _, rank = (event.get("spawned") or event.get("exited") or "").partition(":")
            job = next((job for job in self.jobs.values() if job.launch == launch), None)
            if job is None:
                continue
            if "spawned" in event:
                job.pids[int(rank)] = event["pid"]
                if job.asked:
                    job.send(signal.SIGINT if self.stopping else signal.SIGUSR2)
            else:
                job.codes[int(rank)] = event["code"]
                job.first_exit = job.first_exit or time.time()
            if job.over:
                self._end(job)
                ended = True
        return ended

    def _start(self, actions: list[Action], current: Mapping[str, Status]) -> None:
        """As many ready runs as fit, those with the longest way behind them first."""
        ready = [action.run for action in actions if action.starts and
                 all(current[parent].state is State.DONE for _, parent in action.run.parents.values())]
        weights = critical_path(self.study, self.records)
        used = sum(job.run.world_size for job in self.jobs.values())
        for run in sorted(ready, key=lambda run: -weights[run.id]):
            if self.jobs and used + run.world_size > self.slots:
                continue  # a smaller one may fit; a run that is larger than the machine runs alone
            used += run.world_size
            self._launch(run, current[run.id])

    def _launch(self, run: Desired, status: Status) -> None:
        if self.server is None:
            self.server = Server(sorted({one.function.partition(":")[0] for one in self.study.runs}),
                                 store.study_path(self.study.name) / "server.log")
        path = store.create(run, self.environment)
        for attempt in attempts.list_attempts(path):
            if attempt.outcome is None:
                attempts.close_attempt(path, attempt.number, "lost", status.cause or "lost", status.reason)
        devices = [self.free_devices.pop(0) for _ in range(run.world_size) if self.free_devices]
        job = Job(run, path, devices, number=status.attempts + 1)
        self.jobs[run.id] = job
        job.start(self.server)
        store.journal(run.study, "start", run=run.id, launch=job.launch, attempt=job.number)
        self.view.say(f"{run.name}: started" + (f" (attempt {job.number}: {status.reason})" if job.number > 1 else ""))

    def _end(self, job: Job) -> None:
        """Close the attempt's record if its ranks could not, and take the run's directory as it is now."""
        del self.jobs[job.run.id]
        self.free_devices.extend(job.devices)
        close_record(job)
        self._reread([job.run.id])
        status = self.statuses()[job.run.id]
        store.journal(job.run.study, "end", run=job.run.id, launch=job.launch, state=str(status.state))
        took = f" in {time.time() - job.started:.0f} s" if status.state is State.DONE else ""
        self.view.say(f"{job.run.name}: {status.state}{took}" + (f" ({status.reason})" if status.reason else ""))

    def _asked(self, number: int, frame: Any) -> None:
        self.stopping += 1
        for job in self.jobs.values():
            job.ask_to_stop(signal.SIGINT, "interrupted")
        self.view.note("saving and stopping; once more stops at once without saving")

    def _verdict(self) -> int:
        states = [status.state for status in self.statuses().values()]
        if all(state is State.DONE for state in states):
            return 0
        return 75 if self.stopping else 1


def close_record(job: Job) -> None:
    """Outcome and cause of a job's attempt, where its ranks left none or knew less than we do."""
    mine = [attempt for attempt in attempts.list_attempts(job.path) if attempt.record.get("launch") == job.launch]
    if (job.path / "DONE").exists():
        if mine:
            attempts.close_attempt(job.path, mine[-1].number, "done")
        return
    code = next((code for code in job.codes.values() if code not in (0, 75)), 0)
    if not mine:
        if code == Held.EXIT_CODE or is_held(job.path / ".lock"):
            return  # another process runs it; nothing of ours happened
        attempts.open_attempt(job.path, job.number, job.launch, "local", job.launch, "", job.run.world_size)
    number = mine[-1].number if mine else job.number
    if mine and mine[-1].outcome == "stopped" and job.ended:
        attempts.close_attempt(job.path, number, "stopped", job.ended, mine[-1].reason, amend=True)
    elif job.ended:
        attempts.close_attempt(job.path, number, "cancelled" if job.ended == "cancelled" else "lost", job.ended,
                               f"ended before it had saved ({job.ended.replace('_', ' ')})")
    elif code < 0:
        attempts.close_attempt(job.path, number, "lost", "killed", f"a process was killed by signal {-code}")
    else:
        attempts.close_attempt(job.path, number, "failed", "user" if code == 2 else "unknown",
                               f"a process ended with code {code}; see {job.path / 'logs'}")


def critical_path(study: Study, records: Mapping[str, store.Stored]) -> dict[str, float]:
    """Seconds from each run's start to the end of the longest chain that hangs on it; 60 where a stage is not known."""
    children = study.children()
    took: dict[str, list[float]] = {}
    for run in study.runs:
        for attempt in records[run.id].attempts if run.id in records else []:
            if attempt.outcome == "done" and attempt.ended:
                took.setdefault(run.stage, []).append(attempt.ended - attempt.started)
    weights: dict[str, float] = {}
    for run in reversed(study.runs):
        known = took.get(run.stage)
        own = sum(known) / len(known) if known else 60.0
        weights[run.id] = own + max((weights[child] for child in children[run.id]), default=0.0)
    return weights


def announce(study: str, runs: Sequence[str]) -> None:
    """driver.json: who runs the study, and what it runs or still means to start, for `status` in another process."""
    write_json(store.study_path(study) / "driver.json",
               {"pid": os.getpid(), "host": socket.gethostname(), "runs": list(runs)})
