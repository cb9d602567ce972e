"""In which state a run is: one pure function over its marker, its attempts, its heartbeat and what the backend sees.

DONE comes from the marker alone, never from an exit code. What only the backend knows (queued, held, running) comes in
as an `Observation`; who makes it is not known here. Nothing in this module reads a file or a clock.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

BUDGET = 3          # attempts without progress before a run is left alone
STALE_AFTER = 900   # seconds without a heartbeat after which a running job is suspected to hang

# Why an attempt ended, and how many further attempts without progress that is worth. None: free, however often.
CAUSES: dict[str, int | None] = {
    "code": 0,              # an exception of ours or of a library: the same again would fail the same way
    "user": 0,              # a mistake that its reader can mend
    "asset": 0,             # a model folder or data set that is not there
    "nan": 0,               # diverged
    "disk_full": 0,
    "memory_gpu": 0,        # unless its next attempt takes less (slurm.epilogue halves the micro-batch)
    "cancelled": 0,         # a person said so
    "unknown": 1,
    "memory_host": 2,
    "hang": 2,
    "rendezvous": 2,        # the ranks did not find each other
    "killed": 2,            # a process vanished without a word
    "time_limit": 2,        # free as long as it saves progress
    "lost": None,           # the machine or the launcher went away: not the run's fault
    "node_failure": None,
    "preempted": None,
    "interrupted": None,
}


class State(str, Enum):
    PLANNED = "planned"      # nothing has happened, or a retry was asked for
    HELD = "held"            # submitted, not yet released
    QUEUED = "queued"
    STARTING = "starting"    # a job runs, no heartbeat of this attempt yet
    RUNNING = "running"
    STALE = "stale"          # a job runs, the heartbeat stands still
    STOPPED = "stopped"      # saved and left; goes on when submitted again
    LOST = "lost"            # vanished
    FAILED = "failed"
    CANCELLED = "cancelled"
    BLOCKED = "blocked"      # a parent cannot be had
    DONE = "done"

    def __str__(self) -> str:
        return self.value

    @property
    def live(self) -> bool:
        """A job of it exists."""
        return self in (State.HELD, State.QUEUED, State.STARTING, State.RUNNING, State.STALE)


class Where(str, Enum):
    """What the backend says of a run's newest job."""

    ABSENT = "absent"        # it knows of none
    HELD = "held"
    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"          # it is over; `cause` says how, where the backend knows


@dataclass(frozen=True)
class Observation:
    """One run as its backend sees it now."""

    where: Where = Where.ABSENT
    job: str = ""                                              # the backend's name for it
    reason: str = ""                                           # why it waits or how it ended, in words
    cause: str = ""                                            # a key of CAUSES, for ENDED
    nodes: str = ""
    waits_for: Mapping[str, str] = field(default_factory=dict)  # parent's run id: job that this one waits for


@dataclass(frozen=True)
class Attempt:
    """One execution of a run, as attempts/NNNN.json has it. Steps are optimiser steps; None where not known."""

    number: int
    outcome: str | None = None          # None (open) | done | stopped | failed | cancelled | lost
    cause: str = ""                     # a key of CAUSES
    reason: str = ""
    started: float = 0.0                # seconds since the epoch
    ended: float | None = None
    first_step: int | None = None
    last_step: int | None = None
    saved_step: int | None = None       # newest checkpoint when it ended, or what a stage without any had reached
    job: str = ""
    record: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Status:
    """The answer: what `status` shows and `reconcile` decides on."""

    state: State
    reason: str = ""
    cause: str = ""
    attempts: int = 0                   # ever made
    used: int = 0                       # of the budget, since the last retry
    may_retry: bool = True              # another attempt is allowed
    step: int | None = None
    total: int | None = None
    job: str = ""
    waits_for: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended_for_good(self) -> bool:
        """Without a person's word, this run never becomes DONE."""
        over = self.state in (State.FAILED, State.LOST, State.STOPPED) and not self.may_retry
        return over or self.state in (State.CANCELLED, State.BLOCKED)


def judge(done: bool, attempts: Sequence[Attempt], heartbeat: Mapping[str, Any], request: Mapping[str, Any],
          observation: Observation, now: float, stale_after: float = STALE_AFTER) -> Status:
    """State of one run; `request` is what a person last asked ({"kind": "retry"|"cancel", "after_attempt": n, "job"}).

    A retry also sets aside how the job that was then known (`job`) ended: it may have ended before it could begin."""
    if request.get("kind") == "retry" and observation.where is Where.ENDED and observation.job == request.get("job"):
        observation = Observation()
    last = attempts[-1] if attempts else None
    counted = [a for a in attempts if request.get("kind") != "retry" or a.number > int(request.get("after_attempt", 0))]
    status = Status(State.PLANNED, attempts=len(attempts), used=used_budget(counted), job=observation.job,
                    step=heartbeat.get("step"), total=heartbeat.get("total"), waits_for=observation.waits_for)
    if done:
        return replace(status, state=State.DONE)
    if observation.where is Where.HELD:
        return replace(status, state=State.HELD, reason=observation.reason)
    if observation.where is Where.QUEUED:
        return replace(status, state=State.QUEUED, reason=observation.reason)
    if observation.where is Where.RUNNING:
        return _running(status, last, heartbeat, now, stale_after)
    if request.get("kind") == "cancel":
        return replace(status, state=State.CANCELLED, reason="cancelled; `begira retry` takes it up again",
                       cause="cancelled", may_retry=False)
    if not counted:
        return _without_attempt(status, attempts, observation)
    return _ended(status, counted[-1], observation)


def used_budget(attempts: Sequence[Attempt]) -> int:
    """Ended attempts that neither saved progress nor ended for a free cause, since the last progress.

    A rank that fails by itself is never free: what it takes for a fault of its GPU may be one of a kernel of ours."""
    used, best = 0, -1
    for attempt in attempts:
        progressed = (attempt.saved_step or 0) > max(best, 0)
        best = max(best, attempt.saved_step or 0)
        if progressed:
            used = 0
        elif attempt.outcome == "failed" or (attempt.outcome in ("lost", "stopped")
                                             and CAUSES.get(attempt.cause, 1) is not None):
            used += 1
    return used


def may_retry(cause: str, used: int) -> bool:
    """Whether a run whose newest attempt ended of `cause` gets another one, `used` fruitless ones being behind it."""
    worth = CAUSES.get(cause, CAUSES["unknown"])
    return used <= BUDGET - 1 if worth is None else worth > 0 and used <= min(worth, BUDGET - 1)


def _running(status: Status, last: Attempt | None, heartbeat: Mapping[str, Any], now: float,
             stale_after: float) -> Status:
    beats = last is not None and last.outcome is None and heartbeat.get("attempt") == last.number
    if not beats:
        return replace(status, state=State.STARTING)
    age = now - float(heartbeat.get("time", 0.0))
    if age > stale_after:
        return replace(status, state=State.STALE, reason=f"no heartbeat for {age:.0f} s", cause="hang")
    return replace(status, state=State.RUNNING, reason=str(heartbeat.get("phase", "")))


def _without_attempt(status: Status, attempts: Sequence[Attempt], observation: Observation) -> Status:
    """No attempt that counts: never begun, to be retried, or a job that ended before it could open one."""
    if attempts:
        return replace(status, reason="to be retried")
    if observation.where is Where.ENDED and observation.cause:
        state = State.CANCELLED if observation.cause == "cancelled" else State.FAILED
        return replace(status, state=state, reason=observation.reason or "its job ended before it began",
                       cause=observation.cause, used=1, may_retry=may_retry(observation.cause, 1))
    return status


def _ended(status: Status, last: Attempt, observation: Observation) -> Status:
    """Nothing runs: the newest attempt tells, and the backend where it knows better (a killed process is mute)."""
    states = {"failed": State.FAILED, "stopped": State.STOPPED, "cancelled": State.CANCELLED}
    state = states.get(last.outcome or "", State.LOST)
    cause, reason = last.cause, last.reason
    knows = state is State.LOST or cause in ("", "unknown") or observation.cause == "cancelled"
    if observation.where is Where.ENDED and observation.cause and knows:
        cause, reason = observation.cause, observation.reason or reason
    if state is State.LOST:
        cause = cause or "lost"
        reason = reason or "its processes vanished"
        if last.outcome is None and CAUSES.get(cause, 1) is not None:
            status = replace(status, used=status.used + 1)
    if cause == "cancelled":
        state = State.CANCELLED
    return replace(status, state=state, reason=reason, cause=cause, may_retry=may_retry(cause, status.used))
