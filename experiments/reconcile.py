"""Desired minus observed gives actions. Pure, and idempotent: applied to the state that its actions lead to, it has
nothing left to do. `begira plan` prints what it returns and `begira submit` does exactly that.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from experiments.expand import Desired
from experiments.state import Observation, State, Status, judge


class Kind(str, Enum):
    SUBMIT = "submit"        # never begun
    RESUBMIT = "resubmit"    # begun, stopped or lost; goes on from its newest checkpoint
    RELINK = "relink"        # queued behind a parent's job that is no longer the one: wait for the new one
    CANCEL = "cancel"        # queued behind a parent that will never be done
    NOTHING = "nothing"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Action:
    kind: Kind
    run: Desired
    reason: str              # in words, for people
    status: Status           # what it was decided on

    @property
    def starts(self) -> bool:
        return self.kind in (Kind.SUBMIT, Kind.RESUBMIT)

    @property
    def waits_for_a_person(self) -> bool:
        """It is not done, and nothing is or will be under way for it."""
        return self.kind is Kind.NOTHING and self.status.state is not State.DONE and not self.status.state.live


class Records(Protocol):
    """What a run directory tells (experiments.store.Stored)."""

    done: bool
    attempts: list
    heartbeat: dict
    request: dict


def statuses(runs: Sequence[Desired], records: Mapping[str, Records], observations: Mapping[str, Observation],
             now: float) -> dict[str, Status]:
    """Status per run id, parents before children, so that a run whose parent cannot be had is BLOCKED."""
    result: dict[str, Status] = {}
    for run in runs:
        record, seen = records.get(run.id), observations.get(run.id, Observation())
        if record is None:
            status = judge(False, [], {}, {}, seen, now)
        else:
            status = judge(record.done, record.attempts, record.heartbeat, record.request, seen, now)
        culprit = next((stage for stage, parent in run.parents.values()
                        if parent in result and result[parent].ended_for_good), None)
        if culprit and status.state in (State.PLANNED, State.STOPPED, State.LOST, State.FAILED):
            status = replace(status, state=State.BLOCKED, reason=f"waits for {culprit}, which cannot be had")
        result[run.id] = status
    return result


def reconcile(runs: Sequence[Desired], observed: Mapping[str, Status]) -> list[Action]:
    """One action per run, parents before children."""
    actions: dict[str, Action] = {}
    hopeless: set[str] = set()
    for run in runs:
        status = observed[run.id]
        lost = next((parent for _, parent in run.parents.values() if parent in hopeless), None)
        action = actions[run.id] = _action(run, status, lost, observed, actions)
        waiting = not status.state.live and status.state is not State.DONE
        if status.ended_for_good or action.kind is Kind.CANCEL or (lost and waiting):
            hopeless.add(run.id)
    return list(actions.values())


def _action(run: Desired, status: Status, lost: str | None, observed: Mapping[str, Status],
            actions: Mapping[str, Action]) -> Action:
    """What to do about one run; `lost` is a parent that will never be done."""
    state = status.state
    if state is State.DONE:
        return Action(Kind.NOTHING, run, "done", status)
    parents = [parent for _, parent in run.parents.values()]
    if state in (State.HELD, State.QUEUED):
        if lost:
            return Action(Kind.CANCEL, run, f"its parent {lost} cannot be had", status)
        if _links_are_stale(status, parents, observed, actions):
            return Action(Kind.RELINK, run, "its parent has a new job", status)
        return Action(Kind.NOTHING, run, _because(state, status), status)
    if state.live:
        return Action(Kind.NOTHING, run, _because(state, status), status)
    if lost and not status.ended_for_good:
        status = replace(status, state=State.BLOCKED, reason=f"its parent {lost} cannot be had")
    if status.state is State.BLOCKED:
        return Action(Kind.NOTHING, run, _because(State.BLOCKED, status), status)
    if state is State.PLANNED:
        return Action(Kind.RESUBMIT if status.attempts else Kind.SUBMIT, run, status.reason or "not yet run", status)
    if status.may_retry:
        return Action(Kind.RESUBMIT, run, _because(state, status), status)
    remedy = "; mend it, then `begira retry`"
    if state is State.CANCELLED:
        remedy = "" if "begira retry" in status.reason else "; `begira retry` takes it up again"
    return Action(Kind.NOTHING, run, _because(state, status) + remedy, status)


def _links_are_stale(status: Status, parents: Sequence[str], observed: Mapping[str, Status],
                     actions: Mapping[str, Action]) -> bool:
    """It waits for a job of a parent that is not done and has, or gets, another job."""
    for parent in parents:
        if parent not in observed or parent not in status.waits_for or observed[parent].state is State.DONE:
            continue
        gets_new = parent in actions and (actions[parent].starts or actions[parent].kind is Kind.RELINK)
        if gets_new or observed[parent].job != status.waits_for[parent]:
            return True
    return False


def _because(state: State, status: Status) -> str:
    words = str(state) + (f": {status.reason}" if status.reason else "")
    return words + (f" ({status.used} fruitless attempts)" if status.used > 1 else "")
