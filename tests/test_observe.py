"""From squeue, sacct and a run's own records to one state: the whole chain, in a matrix of cases."""
import time

import pytest

from experiments.state import Attempt, State, judge
from experiments.store import Stored
from slurm import observe
from slurm.queue import Queue, expand, parse_sacct, parse_squeue
from slurm.submissions import Submission

NAME = "study.train.0123456789abcdef"
OPEN = Attempt(1, started=1.0, job="7_0")


def closed(outcome, cause="", saved=None):
    return Attempt(1, outcome, cause, "why", 1.0, 2.0, 0, saved, saved, "7_0")


def state_of(line="", sacct="", attempts=(), done=False, request=None, parents=None, accounting=True, beat=None,
             withdrawn=()):
    """State and cause of the run that is element 0 of array 7."""
    run = Stored("path", {"id": "r", "name": "r"}, list(attempts), {}, request or {}, done)
    queue = Queue({job.id: job for job in parse_squeue(line)}, accounting)
    for job in parse_sacct(sacct):
        queue.jobs.setdefault(job.id, job)
    one = Submission("89abcdef", NAME, "train", ["r", "s"], ["path", "path2"], "released", "7",
                     parents={"r": {"p": "6_0"}} if parents else {}, withdrawn=list(withdrawn))
    seen = observe.judge(one, 0, run, queue)
    now = time.time()
    heartbeat = {"attempt": 1, "time": now - beat, "step": 3, "total": 9} if beat is not None else {}
    status = judge(done, list(attempts), heartbeat, request or {}, seen, now)
    return status.state, status.cause


def line(state, reason="None", nodes=""):
    return f"7_0|{NAME}|{state}|{reason}|{nodes}"


def row(state, code="0:0", start="2026-01-01T00:00:00"):
    return f"7_0|{NAME}|{state}|{code}|n1|{start}"


CASES = [
    # what squeue says
    (line("PENDING", "Priority"), {}, State.QUEUED, ""),
    (line("PENDING", "Dependency"), {"parents": True}, State.QUEUED, ""),
    (line("PENDING", "JobHeldUser"), {}, State.HELD, ""),
    (line("PENDING", "launch failed requeued held"), {}, State.HELD, ""),
    (line("PENDING", "BeginTime"), {"attempts": [closed("stopped", "preempted", 3)]}, State.QUEUED, ""),
    (line("REQUEUED"), {"attempts": [OPEN]}, State.QUEUED, ""),
    (line("RUNNING", nodes="n1"), {}, State.STARTING, ""),
    (line("CONFIGURING"), {}, State.STARTING, ""),
    (line("RUNNING", nodes="n1"), {"attempts": [OPEN], "beat": 2}, State.RUNNING, ""),
    (line("RUNNING", nodes="n1"), {"attempts": [OPEN], "beat": 5000}, State.STALE, "hang"),
    (line("RUNNING", nodes="n1"), {"attempts": [closed("stopped", "preempted", 3)], "beat": 2}, State.STARTING, ""),
    (line("SUSPENDED"), {"attempts": [OPEN], "beat": 2}, State.RUNNING, ""),
    (line("COMPLETING"), {"attempts": [OPEN], "beat": 2}, State.RUNNING, ""),
    (line("STOPPED"), {"attempts": [OPEN], "beat": 2}, State.RUNNING, ""),
    # DONE is the marker, nothing else
    (line("RUNNING"), {"attempts": [closed("done")], "done": True}, State.DONE, ""),
    (line("FAILED"), {"attempts": [closed("done")], "done": True}, State.DONE, ""),
    (line("COMPLETED"), {"attempts": [OPEN]}, State.LOST, "lost"),
    # ended: the run's own record first, then Slurm's
    (line("FAILED", "NonZeroExitCode"), {"attempts": [closed("failed", "code")]}, State.FAILED, "code"),
    (line("FAILED", "NonZeroExitCode"), {"attempts": [closed("failed", "nan")]}, State.FAILED, "nan"),
    (line("TIMEOUT"), {"attempts": [OPEN]}, State.LOST, "time_limit"),
    (line("NODE_FAIL"), {"attempts": [OPEN]}, State.LOST, "node_failure"),
    (line("OUT_OF_MEMORY"), {"attempts": [OPEN]}, State.LOST, "memory_host"),
    (line("PREEMPTED"), {"attempts": [OPEN]}, State.LOST, "preempted"),
    (line("CANCELLED"), {"attempts": [OPEN]}, State.CANCELLED, "cancelled"),
    (line("CANCELLED"), {"attempts": [closed("stopped", "preempted", 3)]}, State.CANCELLED, "cancelled"),
    (line("CANCELLED", "Priority"), {}, State.CANCELLED, "cancelled"),
    (line("CANCELLED", "DependencyNeverSatisfied"), {"parents": True}, State.PLANNED, ""),
    (line("FAILED"), {}, State.FAILED, "unknown"),
    # we withdrew it ourselves, which is no person's word
    (line("CANCELLED", "Priority"), {"withdrawn": ["r"]}, State.PLANNED, ""),
    (line("CANCELLED", "Priority"), {"withdrawn": ["s"]}, State.CANCELLED, "cancelled"),
    (line("PENDING", "Dependency"), {"withdrawn": ["r"]}, State.QUEUED, ""),
    ("", {"sacct": row("CANCELLED by 1000", start="Unknown"), "withdrawn": ["r"]}, State.PLANNED, ""),
    # squeue has forgotten it
    ("", {"sacct": row("TIMEOUT"), "attempts": [OPEN]}, State.LOST, "time_limit"),
    ("", {"sacct": row("CANCELLED by 1000"), "attempts": [OPEN]}, State.CANCELLED, "cancelled"),
    ("", {"sacct": row("CANCELLED by 0", start="Unknown"), "parents": True}, State.PLANNED, ""),
    ("", {"sacct": row("CANCELLED by 1000", start="Unknown"), "parents": True}, State.CANCELLED, "cancelled"),
    ("", {"sacct": row("CANCELLED"), "parents": True}, State.PLANNED, ""),  # nobody's number: Slurm itself
    ("", {"sacct": row("REQUEUED") + "\n" + row("NODE_FAIL"), "attempts": [OPEN]}, State.LOST, "node_failure"),
    ("", {"sacct": row("FAILED", "0:11"), "attempts": [OPEN]}, State.LOST, "unknown"),
    # and accounting does not answer
    ("", {"accounting": False, "attempts": [OPEN]}, State.LOST, "killed"),
    ("", {"accounting": False, "attempts": [closed("stopped", "time_limit", 3)]}, State.STOPPED, "time_limit"),
    ("", {"accounting": False}, State.PLANNED, ""),
    # a person's word
    (line("RUNNING"), {"attempts": [OPEN], "beat": 1, "request": {"kind": "cancel"}}, State.RUNNING, ""),
    ("", {"attempts": [closed("stopped")], "request": {"kind": "cancel"}}, State.CANCELLED, "cancelled"),
]


@pytest.mark.parametrize("text, more, state, cause", CASES, ids=range(len(CASES)))
def test_state(text, more, state, cause):
    assert state_of(text, **more) == (state, cause)


@pytest.mark.parametrize("state, says", [("submitted", "begira submit"), ("released", "scontrol release 7_0")])
def test_a_held_job_says_who_lets_it_go(state, says):
    one = Submission("89abcdef", NAME, "train", ["r", "s"], ["path", "path2"], state, "7")
    queue = Queue({"7_0": parse_squeue(line("PENDING", "JobHeldUser"))[0]})
    assert says in observe.judge(one, 0, Stored("path", {"id": "r", "name": "r"}), queue).reason


def test_array_ids():
    assert expand("7_[0,2-4%2]") == ["7_0", "7_2", "7_3", "7_4"]
    assert expand("7_3") == ["7_3"] and expand("7") == ["7"] and expand("7_0.batch") == []


def test_pending_rows_of_sacct_are_not_an_end():
    assert not any(job.ended for job in parse_sacct(f"7_[0-1]|{NAME}|PENDING|0:0|None assigned|Unknown"))


def test_a_job_of_the_users_may_have_any_name():
    job, = parse_squeue("9|x| |y|RUNNING|None|n1")
    assert (job.id, job.name, job.state, job.nodes) == ("9", "x| |y", "RUNNING", "n1")
    job, = parse_sacct("9|x| |y|FAILED|3:0|n1|2026-01-01T00:00:00")
    assert (job.id, job.name, job.state, job.exit_code, job.nodes) == ("9", "x| |y", "FAILED", 3, "n1")


def test_strays_are_jobs_of_this_study_that_no_submission_knows(tmp_path):
    from slurm.submissions import mark

    ours = f"x.train.{mark(tmp_path)}"
    text = "\n".join([f"1_0|{ours}00000001|PENDING|JobHeldUser|", f"2|{ours}00000002|RUNNING|None|",
                      "3|x.train.ffffffff00000003|PENDING|JobHeldUser|", "4|other|RUNNING|None|",
                      f"5|{ours}00000005|CANCELLED|None|"])
    known = [Submission("00000002", f"{ours}00000002", "train", ["r"], ["p"], "released", "2")]
    queue = Queue({job.id: job for job in parse_squeue(text)})
    assert observe.strays(tmp_path, queue, known) == ["1"]
