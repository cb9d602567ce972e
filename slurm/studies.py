"""What the command line does with a study: look at it, plan, submit, cancel, retry. The same for every backend."""
from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError
from experiments import overrides, store
from experiments.expand import Desired, Study, expand
from experiments.grid import load
from experiments.reconcile import reconcile, statuses
from experiments.select import select
from experiments.state import State, Status
from experiments.store import Stored
from slurm.backend import Backend, Plan
from slurm.progress import Row, rows


@dataclass
class Look:
    """A study as it stands now; `runs` also holds runs of earlier overrides that the grid alone does not name."""

    study: Study
    runs: list[Desired]
    records: dict[str, Stored]
    statuses: dict[str, Status]

    def rows(self, chosen: Sequence[Desired] | None = None) -> list[Row]:
        return rows(self.runs if chosen is None else chosen, self.records, self.statuses, time.time())


def open_study(reference: str, words: Iterable[str] = ()) -> Study:
    """The grid of that name or file with `key=value` laid over it, expanded."""
    return expand(overrides.apply(load(reference), overrides.parse(words)))


def parted(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of the words after GRID: the dotted `key=value`, which belong to the grid, and the selectors."""
    words = list(words)
    dotted = [word for word in words if "=" in word and "." in word.partition("=")[0]]
    return dotted, [word for word in words if word not in dotted]


def choose_backend(cluster: str | None, study: str) -> Backend:
    """By name: `local` or a cluster's profile. Default: BEGIRA_CLUSTER, else where the study was submitted last."""
    name = cluster or os.environ.get("BEGIRA_CLUSTER") or last_cluster(study)
    if name == "local":
        from slurm.local import Local

        return Local()
    from slurm.cluster import Cluster

    return Cluster(name)


def last_cluster(study: str) -> str:
    submitted = [event for event in store.read_journal(study) if event["event"] == "submit"]
    return submitted[-1].get("cluster", "local") if submitted else "local"


def look(study: Study, backend: Backend, everything: bool = True) -> Look:
    """Read the run directories, ask the backend, judge."""
    records = store.read_study(study.name) if everything else store.read_runs(study.runs)
    runs = list(study.runs)
    for record in records.values():
        if record.id not in study.by_id and (record.attempts or record.done):
            runs.append(store.desired_of(record))
    seen = backend.observe(study.name, list(records.values()))
    return Look(study, runs, records, statuses(runs, records, seen, time.time()))


def status_rows(study: Study, backend: Backend, words: Iterable[str]) -> list[Row]:
    """The rows of the selected runs."""
    seen = look(study, backend)
    return seen.rows(select(seen.runs, seen.statuses, words))


def chosen_ids(study: Study, words: Iterable[str]) -> set[str]:
    """Ids of the selected runs."""
    seen = look(study, choose_backend(None, study.name))
    return {run.id for run in select(seen.runs, seen.statuses, words)}


def finished(study: Study) -> list[Path]:
    """The directories of the runs that the study is for (its targets). UserError unless all are DONE."""
    wanted = study.targets
    records = store.read_runs(wanted)
    missing = [run.name for run in wanted if run.id not in records or not records[run.id].done]
    if missing:
        raise UserError(f"{len(missing)} of {len(wanted)} runs of {study.name} are not done ({missing[0]}, ...): "
                        "`begira submit` runs them")
    return [records[run.id].path for run in wanted]


def plan(study: Study, backend: Backend) -> Plan:
    """What `submit` would do now. The one function behind `begira plan` and `begira submit`."""
    seen = look(study, backend, everything=False)
    return backend.plan(study, reconcile(study.runs, seen.statuses))


def submit(plan: Plan, backend: Backend) -> int:
    """Do what the plan says. Raises UserError, and starts nothing, if a grave finding stands."""
    grave = [finding for finding in plan.findings if finding.grave]
    if grave and plan.starts:
        more = f" (and {len(grave) - 1} more: `begira plan` lists them)" if grave[1:] else ""
        raise UserError(f"{grave[0]}{more}")
    if linked := store.share(plan.study.runs):
        store.journal(plan.study.name, "share", runs=[run.id for run in linked])
    if plan.starts:
        store.journal(plan.study.name, "submit", cluster=backend.name, runs=[action.run.id for action in plan.starts])
    return backend.submit(plan)


def cancel(study: Study, backend: Backend, words: Iterable[str], save: bool) -> list[Desired]:
    """Ask every selected run that is not done to stay away until a retry, and end those that run. Returns them."""
    seen = look(study, backend)
    chosen = [run for run in select(seen.runs, seen.statuses, words)
              if run.id in seen.records and seen.statuses[run.id].state not in (State.DONE, State.CANCELLED)]
    for run in chosen:
        store.ask_for(seen.records[run.id].path, "cancel", save=save)
    backend.cancel(study.name, [seen.records[run.id] for run in chosen], save)
    store.journal(study.name, "cancel", runs=[run.id for run in chosen], save=save)
    return chosen


def retry(study: Study, backend: Backend, words: Iterable[str]) -> list[Desired]:
    """Let selected runs that ended (failed, lost, cancelled) begin again; `submit` then starts them. Returns them."""
    seen = look(study, backend)
    ended = (State.FAILED, State.LOST, State.CANCELLED, State.STOPPED)
    chosen = [run for run in select(seen.runs, seen.statuses, words) if seen.statuses[run.id].state in ended]
    for run in chosen:
        store.ask_for(seen.records[run.id].path, "retry", job=seen.statuses[run.id].job)
    store.journal(study.name, "retry", runs=[run.id for run in chosen])
    return chosen
