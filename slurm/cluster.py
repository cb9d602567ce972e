"""The Slurm backend: a study's runs as job arrays of a site, submitted from a login node or from an ending job.

`plan` and `submit` are one computation; `submit` repeats it under the study's lock, on the state that it finds then,
and hands it to `slurm.submit`. Nothing is kept in this process: Slurm and the jobs' own epilogues go on without it."""
from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import read_json, write_json
from core.run import Run
from experiments import provenance, store
from experiments.checks import check_runs
from experiments.expand import Desired, Study
from experiments.lock import Held, hold
from experiments.reconcile import Action, Kind, reconcile, statuses
from experiments.state import Attempt, Observation, State, Where
from experiments.store import Stored
from slurm import commands, observe, resources, snapshot, submissions, submit
from slurm.arrays import Layout, arrange
from slurm.backend import Plan
from slurm.budget import Bill, bill
from slurm.profile import Profile, load
from slurm.queue import Queue
from slurm.sizes import overlay

WANTED = "wanted.json"
LOCK_SECONDS = 60.0      # that a submitter waits for another one of the same study
LINGER, PAUSE = 20.0, 2.0    # seconds that the last job waits for room, and between its looks


@dataclass
class Work:
    """What is to be done now: the arrays, what has no room, and the jobs that are to be withdrawn."""

    layout: Layout
    runtimes: dict[str, dict[str, Any]]
    withdrawn: list[str]
    bill: Bill


class Cluster:
    """The site of that profile (a name in slurm/profiles, or a file)."""

    def __init__(self, reference: str):
        self.profile: Profile = load(reference)
        self.reference = str(Path(reference).absolute()) if reference.endswith((".yaml", ".yml")) else reference
        self.name = self.reference
        self._queue: Queue | None = None
        self._seen: dict[str, Observation] = {}

    def observe(self, study: str, runs: Sequence[Stored]) -> Mapping[str, Observation]:
        self._seen, self._queue = observe.observe(store.study_path(study), runs)
        return self._seen

    def plan(self, study: Study, actions: Sequence[Action]) -> Plan:
        plan = Plan(study, list(actions))
        work = self.work(study.name, actions)
        plan.findings = check_runs([action.run for action in plan.starts]) + work.bill.findings
        plan.lines = work.bill.lines
        plan.details = work.bill.details
        return plan

    def submit(self, plan: Plan) -> int:
        """Submit what is to be submitted. 0: everything is done or under way; 1: something failed and stays so."""
        store.write_study(plan.study)
        actions = self.advance(plan.study.name, plan.study.runs, create=True)
        return int(any(a.waits_for_a_person and a.status.state is not State.CANCELLED for a in actions))

    def advance(self, study: str, runs: Sequence[Desired], create: bool = False, ended: str = "") -> list[Action]:
        """One reconciliation under the study's lock; returns the actions. UserError if another submitter holds it.

        `ended` is a run whose job is about to end, since we are called from inside it."""
        folder = store.study_path(study)
        try:
            with hold(folder / ".submit.lock", LOCK_SECONDS):
                return self._advance(study, folder, runs, create, ended)
        except Held:
            raise UserError(f"study {study} is being submitted by another process: try again when that is "
                            "through") from None

    def _advance(self, study: str, folder: Path, runs: Sequence[Desired], create: bool,
                 ended: str) -> list[Action]:
        from slurm import queue

        if submit.recover(folder, queue.look()):
            self._queue = None
        records = store.read_runs(runs)
        self.observe(study, list(records.values()))
        if ended in self._seen:
            self._seen[ended] = Observation(Where.ENDED, self._seen[ended].job)
        current = statuses(runs, records, self._seen, time.time())
        actions = reconcile(runs, current)
        work = self.work(study, actions)
        submitted = [run for array in work.layout.arrays for run in array.runs]
        if create:  # an ending job knows the runs by their directories: those that have no room as well
            environment = provenance.capture(folder)
            for run in submitted + work.layout.waiting:
                store.create(run, environment, work.runtimes.get(run.id))
        ending = self._seen[ended].job if ended in self._seen else ""
        _want(folder, self.reference, runs, work.layout.waiting, ending, self._jobs(study))
        if not work.layout.arrays and not work.withdrawn:
            return actions
        submit.submit(folder, work.layout.arrays, {run.id: store.run_path(run) for run in submitted}, self.profile,
                      snapshot.take(folder),
                      striking_nodes([one for record in records.values() for one in record.attempts], time.time()),
                      work.withdrawn)
        self._sweep(folder)
        return actions

    def work(self, study: str, actions: Sequence[Action]) -> Work:
        """Pure but for reading what former submissions asked for: arrays for the actions that start something."""
        starting = [a.run for a in actions if a.starts or a.kind is Kind.RELINK]
        stale = [self._seen[a.run.id].job for a in actions if a.kind in (Kind.RELINK, Kind.CANCEL)]
        runtimes = {run.id: overlay(self.profile, run) for run in starting}
        requests = {run.id: resources.request(self.profile, {**run.runtime, **runtimes[run.id]}, *_lessons(run))
                    for run in starting}
        done = {a.run.id for a in actions if a.status.state is State.DONE}
        live = {id_: seen.job for id_, seen in self._seen.items()
                if seen.where in (Where.HELD, Where.QUEUED, Where.RUNNING) and seen.job not in stale}
        layout = arrange(starting, requests, done, live, self.profile.max_array, self.room())
        under_way = bool(self._jobs(study))
        return Work(layout, runtimes, stale, bill(self.profile, layout, actions, runtimes, under_way))

    def room(self) -> int | None:
        """Array elements that may be submitted now; None: as many as one likes."""
        limits = [p.max_jobs for p in self.profile.usable if p.max_jobs] or [0]
        limit = min([n for n in (self.profile.max_jobs, min(limits)) if n], default=0)
        if not limit:
            return None
        return max(0, limit - len(self._queue.live() if self._queue else []))

    def nobody_follows(self, study: str) -> bool:
        """Runs wait for room, and of the study's live jobs none but such as have looked for it before they end."""
        wanted = read_json(submissions.folder(store.study_path(study)) / WANTED, {})
        return bool(wanted.get("no_room")) and self._jobs(study) <= set(wanted.get("ending", []))

    def _jobs(self, study: str) -> set[str]:
        """Ids of the study's live jobs, as of the last look."""
        folder, live = store.study_path(study), self._queue.live() if self._queue else []
        return {job.id for job in live if submissions.key_of(folder, job.name)}

    def cancel(self, study: str, runs: Sequence[Stored], save: bool) -> list[str]:
        """End the live jobs of these runs. With `save` a running one is signalled, saves and ends by itself."""
        seen = self.observe(study, runs)
        live = {id_: one for id_, one in seen.items() if one.where in (Where.HELD, Where.QUEUED, Where.RUNNING)}
        running = [one.job for one in live.values() if save and one.where is Where.RUNNING]
        if running:
            commands.cancel(running, "USR2")
        others = [one.job for one in live.values() if one.job not in running]
        if others:
            commands.cancel(others)
        return list(live)

    def _sweep(self, folder: Path) -> None:
        """Remove folders of arrays that ended long ago."""
        live = {job.id.partition("_")[0] for job in self._queue.live()} if self._queue else set()
        for one in submissions.read(folder):
            if one.job and one.job not in live and one.created < time.time() - submissions.KEEP:
                submissions.remove(folder, one)


def striking_nodes(attempts: Sequence[Attempt], now: float) -> list[str]:
    """Nodes that were to blame for two attempts within a day: new jobs avoid them."""
    blamed = Counter((a.record.get("culprit") or {}).get("node") for a in attempts
                     if a.cause in ("node_failure", "hang") and (a.ended or 0.0) > now - 86400)
    return sorted(node for node, count in blamed.items() if node and count > 1 and "[" not in node and "," not in node)


def _lessons(run: Desired) -> tuple[int, int]:
    """How many attempts ran out of host memory, and how many met the time limit before they had saved."""
    record = store.read_run(store.run_path(run))
    ended = record.attempts if record else []
    return (sum(a.cause == "memory_host" for a in ended),
            sum(a.cause == "time_limit" and a.outcome == "lost" for a in ended))


def _want(folder: Path, cluster: str, runs: Sequence[Desired], waiting: Sequence[Desired], ending: str,
          live: set[str]) -> None:
    """Note, for the jobs that end later, which runs are wanted where and which of them have no room; what was noted of
    others (another part of the grid) stays. `ending` is the job that looks now, if it is one: among the `live` ones it
    will not look again. Hold the study's lock."""
    path, mine = submissions.folder(folder) / WANTED, [run.id for run in runs]
    known = read_json(path, {})
    no_room = [id_ for id_ in known.get("no_room", []) if id_ not in mine] + [run.id for run in waiting]
    wanted = {"cluster": cluster, "runs": list(dict.fromkeys([*known.get("runs", []), *mine])), "no_room": no_room,
              "ending": sorted({*known.get("ending", []), ending} & live)}
    if wanted != known:
        write_json(path, wanted)


def continue_study(study: str, ended: str, anyway: bool = False) -> None:
    """What the ending job of run `ended` does: submit what had no room, or (`anyway`) what asks for a new job.

    An ending job takes up room itself. The last one of a study therefore waits a little for the room of those that end
    beside it: nobody comes after it."""
    wanted = read_json(submissions.folder(store.study_path(study)) / WANTED, {})
    if not wanted or not (anyway or wanted.get("no_room")):
        return
    cluster = Cluster(wanted["cluster"])
    ids = set(wanted["runs"])
    runs = [replace(store.desired_of(record), config=Run(record.path).config)
            for record in store.read_study(study).values() if record.id in ids]
    if not cluster.profile.relay:
        return
    deadline = time.monotonic() + LINGER
    cluster.advance(study, _parents_first(runs), ended=ended)
    while cluster.nobody_follows(study) and time.monotonic() < deadline:
        time.sleep(PAUSE)
        cluster.advance(study, _parents_first(runs), ended=ended)


def _parents_first(runs: Sequence[Desired]) -> list[Desired]:
    placed: dict[str, Desired] = {}
    left = {run.id: run for run in runs}
    while left:
        ready = [run for run in left.values() if not any(parent in left for _, parent in run.parents.values())]
        if not ready:
            raise UserError(f"runs are parents of each other: {', '.join(left)}")
        for run in ready:
            placed[run.id] = left.pop(run.id)
    return list(placed.values())
