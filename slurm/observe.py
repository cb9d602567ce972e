"""From Slurm's jobs and our submissions to one `Observation` per run: what `experiments.state` judges by. Pure but for
the two commands in `slurm.queue`, however many runs there are.

A run's newest submitted element counts. What Slurm cancelled because a parent failed, and what we withdrew, is as if it
had not been submitted; what a person cancelled is cancelled. An ended job whose attempt left its own record adds
nothing to it."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from core.errors import UserError
from experiments.state import Observation, Where
from experiments.store import Stored
from slurm import commands
from slurm import queue as slurm_queue
from slurm.queue import Job, Queue
from slurm.submissions import Submission, key_of, newest, read
from slurm.triage import Evidence, triage

_MISFITS = {"BadConstraints": "no node has what it asks for", "PartitionTimeLimit": "longer than its partition allows",
            "PartitionNodeLimit": "its partition allows another number of nodes",
            "InvalidAccount": "its account is unknown", "InvalidQOS": "its QOS is unknown",
            "AccountNotAllowed": "its account is not allowed there", "QOSNotAllowed": "its QOS is not allowed there",
            "AssocMaxWallDurationPerJobLimit": "longer than its account allows",
            "QOSMaxWallDurationPerJobLimit": "longer than its QOS allows"}
_PLAIN = {"Priority": "waits for its turn", "Resources": "waits for free nodes", "Dependency": "waits for its parents",
          "BeginTime": "requeued, waits for Slurm's pause", "JobArrayTaskLimit": "waits for the array's throttle",
          "JobHeldAdmin": "held by an administrator",
          "QOSMaxSubmitJobPerUserLimit": "the site's limit on jobs", "ReqNodeNotAvail": "its nodes are not available",
          **{reason: f"{words}: mend the profile, then cancel, retry, submit" for reason, words in _MISFITS.items()}}


def observe(study: Path, runs: Sequence[Stored], queue: Queue | None = None) -> tuple[dict[str, Observation], Queue]:
    """{run id: Observation} for the runs that were submitted, and the queue that it was read from."""
    submissions = read(study)
    submitted = newest(submissions)
    queue = queue or _look(lenient=not submissions)
    unknown = [one for run in runs if not run.done and _is_open(run) and run.id in submitted
               for one, index in [submitted[run.id]] if one.element(index) not in queue.jobs]
    if unknown:
        slurm_queue.add_history(queue, {one.job: one.name for one in unknown})
    seen = {}
    for run in runs:
        if run.id in submitted and not run.done:
            one, index = submitted[run.id]
            seen[run.id] = judge(one, index, run, queue)
    return seen, queue


def _look(lenient: bool) -> Queue:
    """The queue. Nothing was submitted yet: a plan can then be made anywhere, also where no Slurm answers."""
    try:
        return slurm_queue.look(patience=0.0 if lenient else commands.PATIENCE)
    except UserError:
        if lenient:
            return Queue()
        raise


def judge(submission: Submission, index: int, run: Stored, queue: Queue) -> Observation:
    """One run's observation from its newest element."""
    id_ = submission.element(index)
    job = queue.jobs.get(id_)
    waits_for = submission.parents.get(run.id, {})
    if run.id in submission.withdrawn and (job is None or job.ended):
        return Observation(Where.ABSENT, id_)
    if job is None:
        return _vanished(id_, run, queue)
    if job.waits:
        where, why = (Where.HELD if job.held else Where.QUEUED), _PLAIN.get(job.reason, job.reason)
        if job.reason == "JobHeldUser":
            why = f"held by hand: `scontrol release {id_}`" if submission.state == "released" else \
                "its submitter did not come to release it: `begira submit` does"
        return Observation(where, id_, why, nodes=job.nodes, waits_for=waits_for)
    if not job.ended:
        return Observation(Where.RUNNING, id_, nodes=job.nodes, waits_for=waits_for)
    return _ended(id_, job, run, bool(waits_for))


def _ended(id_: str, job: Job, run: Stored, had_parents: bool) -> Observation:
    if job.state == "CANCELLED" and not run.attempts:
        by_slurm = job.reason == "DependencyNeverSatisfied" or (had_parents and (
            job.by == slurm_queue.SLURM or (not job.started and job.by in ("", "0"))))
        if by_slurm and not _was_cancelled_by_person(job):
            return Observation(Where.ABSENT, id_)
    if job.state == "COMPLETED":
        return Observation(Where.ENDED, id_)
    ours = run.attempts[-1] if run.attempts and run.attempts[-1].job == id_ else None
    if ours is not None and ours.outcome and job.state != "CANCELLED":
        return Observation(Where.ENDED, id_)
    verdict = triage(Evidence(job.state, job.exit_code, job.exit_signal, job.nodes))
    if verdict.cause == "unknown" and not run.attempts:  # its environment, most likely: no line of ours was reached
        verdict = replace(verdict, reason="its job ended before it began: `begira logs` says where it told why")
    return Observation(Where.ENDED, id_, verdict.reason, verdict.cause, job.nodes)


def _was_cancelled_by_person(job: Job) -> bool:
    return job.reason.startswith("JobHeldUser") or job.by not in ("", "0", slurm_queue.SLURM)


def _vanished(id_: str, run: Stored, queue: Queue) -> Observation:
    """Neither squeue nor sacct has it: an attempt that is still open was killed unseen, which uses up budget."""
    ours = run.attempts[-1] if run.attempts and run.attempts[-1].job == id_ else None
    if ours is None or ours.outcome:
        return Observation(Where.ABSENT, id_)
    why = "its job is gone" + (" without a trace" if queue.accounting else " and accounting does not answer")
    return Observation(Where.ENDED, id_, why, "killed")


def _is_open(run: Stored) -> bool:
    """Whether only Slurm can say how its newest job ended."""
    return not run.attempts or run.attempts[-1].outcome in (None, "stopped")


def strays(study: Path, queue: Queue, submissions: Sequence[Submission]) -> list[str]:
    """Ids of this study's live jobs that no submission knows: a submitter was killed between sbatch and its note."""
    known: Mapping[str, str] = {one.key: one.job for one in submissions if one.job}
    found = []
    for job in queue.live():
        key = key_of(study, job.name)
        if key is not None and known.get(key, "") != job.id.partition("_")[0]:
            found.append(job.id.partition("_")[0])
    return sorted(set(found))
