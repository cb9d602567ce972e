"""States and actions: pure functions over plain data. What is observed decides, and doing it twice does nothing."""
from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.expand import Desired, expand
from experiments.grid import load
from experiments.reconcile import Kind, reconcile, statuses
from experiments.state import CAUSES, Attempt, Observation, State, Where, judge, may_retry, used_budget
from tests.begira_process import TINY

NOW = time.time()


@dataclass
class Record:
    """What a run directory would tell."""

    done: bool = False
    attempts: list = field(default_factory=list)
    heartbeat: dict = field(default_factory=dict)
    request: dict = field(default_factory=dict)


def beat(attempt: int, age: float = 1.0) -> dict:
    return {"attempt": attempt, "time": NOW - age, "step": 5, "total": 10}


def ended(number: int, outcome: str, cause: str = "", saved: int | None = None) -> Attempt:
    return Attempt(number, outcome, cause, cause, saved_step=saved)


RUNS = expand(load(TINY)).runs
CHAIN = [Desired(f"id{number}", f"run {number}", "s", f"stage{number}", "m:f", {},
                 {"before": (f"stage{number - 1}", f"id{number - 1}")} if number else {}, {}) for number in range(3)]
FORK = [*CHAIN, Desired("id3", "run 3", "s", "stage3", "m:f", {}, {"a": ("stage0", "id0"), "b": ("stage2", "id2")}, {})]
Q, R, E = Observation(Where.QUEUED, "7", "Priority"), Observation(Where.RUNNING, "7"), Where.ENDED


@pytest.mark.parametrize("record, seen, state", [
    (Record(), Observation(), State.PLANNED),
    (Record(done=True), R, State.DONE),
    (Record(done=True, attempts=[ended(1, "failed", "code")]), Observation(), State.DONE),
    (Record(), Observation(Where.HELD), State.HELD),
    (Record(), Q, State.QUEUED),
    (Record(attempts=[ended(1, "stopped", "preempted", 3)]), Q, State.QUEUED),
    (Record(), R, State.STARTING),
    (Record(attempts=[Attempt(1)], heartbeat=beat(1)), R, State.RUNNING),
    (Record(attempts=[Attempt(2)], heartbeat=beat(1)), R, State.STARTING),
    (Record(attempts=[Attempt(1)], heartbeat=beat(1, 5000)), R, State.STALE),
    (Record(attempts=[Attempt(1)], heartbeat=beat(1)), Observation(), State.LOST),
    (Record(attempts=[Attempt(1)]), Observation(E, cause="time_limit"), State.LOST),
    (Record(attempts=[Attempt(1)]), Observation(E, cause="cancelled"), State.CANCELLED),
    (Record(attempts=[ended(1, "stopped", "interrupted", 3)]), Observation(), State.STOPPED),
    (Record(attempts=[ended(1, "failed", "code")]), Observation(), State.FAILED),
    (Record(attempts=[ended(1, "lost", "killed")]), Observation(), State.LOST),
    (Record(attempts=[ended(1, "done")]), Observation(), State.LOST),
    (Record(), Observation(E, cause="memory_host"), State.FAILED),
    (Record(), Observation(E, cause="cancelled"), State.CANCELLED),
    (Record(), Observation(E), State.PLANNED),
    (Record(request={"kind": "cancel"}), Observation(), State.CANCELLED),
    (Record(request={"kind": "cancel"}), R, State.STARTING),
    (Record(attempts=[ended(1, "failed", "code")], request={"kind": "retry", "after_attempt": 1}), Observation(),
     State.PLANNED),
    (Record(attempts=[ended(1, "failed", "code"), ended(2, "failed", "code")],
            request={"kind": "retry", "after_attempt": 1}), Observation(), State.FAILED),
    (Record(request={"kind": "retry", "after_attempt": 0, "job": "7"}), Observation(E, "7", cause="cancelled"),
     State.PLANNED),
    (Record(request={"kind": "retry", "after_attempt": 0, "job": "7"}), Observation(E, "8", cause="cancelled"),
     State.CANCELLED),
])
def test_state(record, seen, state):
    assert judge(record.done, record.attempts, record.heartbeat, record.request, seen, NOW).state is state


def test_backend_tells_the_cause_of_a_mute_end():
    """A process that was killed leaves no word: what the backend knows counts; a record of its own counts more."""
    mute = judge(False, [Attempt(1)], {}, {}, Observation(E, cause="memory_host", reason="out of memory"), NOW)
    assert (mute.cause, mute.reason, mute.may_retry) == ("memory_host", "out of memory", True)
    told = judge(False, [ended(1, "failed", "code")], {}, {}, Observation(E, cause="memory_host"), NOW)
    assert (told.cause, told.may_retry) == ("code", False)


@pytest.mark.parametrize("attempts, used", [
    ([], 0), ([ended(1, "lost", "killed")], 1), ([ended(1, "lost", "killed", 5)], 0),
    ([ended(1, "lost", "killed", 5), ended(2, "lost", "killed", 5)], 1),
    ([ended(1, "lost", "killed"), ended(2, "lost", "killed"), ended(3, "lost", "killed", 5)], 0),
    ([ended(n, "stopped", "preempted", 5) for n in range(1, 9)], 0),
    ([ended(n, "stopped", "time_limit", 5) for n in range(1, 4)], 2),
    ([ended(n, "lost", "node_failure") for n in range(1, 9)], 0),
    ([ended(n, "failed", "node_failure") for n in range(1, 4)], 3),
    ([ended(n, "lost", "lost") for n in range(1, 9)], 0)])
def test_budget_counts_attempts_without_progress(attempts, used):
    assert used_budget(attempts) == used


def test_causes_and_their_worth():
    assert not may_retry("code", 1) and not may_retry("user", 1) and not may_retry("nan", 1)
    assert may_retry("unknown", 1) and not may_retry("unknown", 2) and not may_retry("memory_gpu", 1)
    assert may_retry("killed", 2) and not may_retry("killed", 3)
    assert all(may_retry(cause, 2) and not may_retry(cause, 3) for cause, worth in CAUSES.items() if worth is None)


def kinds(runs, records=None, seen=None) -> dict[str, Kind]:
    current = statuses(runs, records or {}, seen or {}, NOW)
    return {action.run.id: action.kind for action in reconcile(runs, current)}


def test_fresh_study_is_submitted_whole():
    assert set(kinds(RUNS).values()) == {Kind.SUBMIT}


def test_queued_and_running_are_left_alone():
    assert set(kinds(RUNS, {}, {run.id: Q for run in RUNS}).values()) == {Kind.NOTHING}


def test_failed_parent_blocks_and_cancels_its_queued_children():
    failed = {"id0": Record(attempts=[ended(1, "failed", "code")])}
    assert list(kinds(CHAIN, failed).values()) == [Kind.NOTHING] * 3
    assert list(kinds(CHAIN, failed, {"id1": Q, "id2": Q}).values()) == [Kind.NOTHING, Kind.CANCEL, Kind.CANCEL]
    failed["id0"].request = {"kind": "retry", "after_attempt": 1}
    assert list(kinds(CHAIN, failed).values()) == [Kind.RESUBMIT, Kind.SUBMIT, Kind.SUBMIT]


def test_what_waits_for_a_person_is_told_by_its_state():
    """Also a run that stopped often enough without a further step: its reason begins with none of the bad words."""
    spent = {"id0": Record(attempts=[ended(n, "stopped", "time_limit") for n in range(1, 4)])}
    first, *others = reconcile(CHAIN, statuses(CHAIN, spent, {}, NOW))
    assert first.waits_for_a_person and first.status.state is State.STOPPED
    assert all(one.waits_for_a_person and one.status.state is State.BLOCKED for one in others)
    well = {"id0": Record(done=True), "id1": Record(attempts=[ended(1, "stopped", "time_limit", 3)])}
    assert not any(one.waits_for_a_person for one in reconcile(CHAIN, statuses(CHAIN, well, {"id2": Q}, NOW)))


@pytest.mark.parametrize("record, seen", [(Record(), Observation(E, cause="cancelled")),
                                          (Record(request={"kind": "cancel"}), Observation())])
def test_however_it_was_cancelled_the_way_back_is_said_once(record, seen):
    run = expand(load(TINY)).runs[0]
    action, = reconcile([run], statuses([run], {run.id: record}, {run.id: seen}, time.time()))
    assert action.reason.count("`begira retry` takes it up again") == 1


def test_grandchild_of_a_cancelled_run_is_not_submitted():
    failed = {"id0": Record(attempts=[ended(1, "failed", "code")])}
    assert list(kinds(CHAIN, failed, {"id1": Q}).values()) == [Kind.NOTHING, Kind.CANCEL, Kind.NOTHING]


def test_child_of_a_resubmitted_parent_is_linked_to_its_new_job():
    behind = Observation(Where.QUEUED, "8", "Dependency", waits_for={"id0": "7"})
    lost = {"id0": Record(attempts=[ended(1, "lost", "node_failure")])}
    assert list(kinds(CHAIN[:2], lost, {"id1": behind}).values()) == [Kind.RESUBMIT, Kind.RELINK]
    assert list(kinds(CHAIN[:2], {}, {"id0": R, "id1": behind}).values()) == [Kind.NOTHING, Kind.NOTHING]
    moved = Observation(Where.QUEUED, "9")
    assert list(kinds(CHAIN[:2], {}, {"id0": moved, "id1": behind}).values()) == [Kind.NOTHING, Kind.RELINK]
    done = {"id0": Record(done=True)}
    assert list(kinds(CHAIN[:2], done, {"id1": behind}).values()) == [Kind.NOTHING, Kind.NOTHING]


records = st.builds(Record, st.booleans(), st.lists(st.builds(
    ended, st.just(1), st.sampled_from(["done", "stopped", "failed", "lost"]), st.sampled_from(sorted(CAUSES)),
    st.none() | st.integers(1, 9)), max_size=4))
sights = st.builds(Observation, st.sampled_from(list(Where)), st.just("7"))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_applied_twice_does_nothing(data):
    """From any state of a store: after its actions are carried out, reconcile wants nothing more."""
    held = {run.id: data.draw(records) for run in FORK}
    seen = {run.id: data.draw(sights) for run in FORK}
    jobs = dict(seen)
    for action in reconcile(FORK, statuses(FORK, held, seen, NOW)):
        if action.starts or action.kind is Kind.RELINK:
            jobs[action.run.id] = Observation(Where.QUEUED, "8")
        elif action.kind is Kind.CANCEL:
            jobs[action.run.id] = Observation()
    again = reconcile(FORK, statuses(FORK, held, jobs, NOW))
    assert {action.kind for action in again} == {Kind.NOTHING}, [(a.kind, a.run.name, a.reason) for a in again]
