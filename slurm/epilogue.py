"""What runs in the batch script after srun has ended, however: sees to the attempt's record and decides what next.

    done                           exit 0: jobs that wait for it may start
    stopped, or a cause that is worth another attempt      scontrol requeue: the same job goes on
    needs another kind of job (more memory), cancelled, failed for good      exit 1: jobs that wait for it are cancelled

The batch script survives when all ranks are killed (out of memory, a hang), which no handler inside a rank does. What
needs a new job, and runs that had no room under the site's limits, are submitted from here (`slurm.cluster`)."""
from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import read_json, write_json, write_text
from experiments import attempts, store
from experiments.lock import Held, is_held
from experiments.state import Attempt, Observation, State, Where, judge
from slurm.job import launch_name
from slurm.sizes import REMEDY
from slurm.submissions import BEGINS, load
from slurm.triage import Evidence, Verdict, triage
from slurm.watch import LAUNCH

LOG_BYTES = 65536
GOES_ON = 75
ENDS_ALL = ("disk_full", "asset")       # the next run would fail the same way: a person has to mend it first
OUTCOMES = {"cancelled": "cancelled", "killed": "lost", "hang": "lost", "preempted": "lost", "time_limit": "lost",
            "node_failure": "lost"}     # others: failed


def main(code: int) -> int:
    """Exit code of the job."""
    folder = Path(os.environ["BEGIRA_SUBMISSION"])
    submission = load(folder)
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID") or 0)
    run = Path(submission.paths[index])
    launch, job = launch_name(), submission.element(index)
    if (run / "DONE").exists():
        _relay(run, anyway=False)
        return 0
    attempt = settle(run, launch, job, code, folder / f"{os.environ['SLURM_JOB_ID']}.log")
    if attempt is None:
        return GOES_ON
    return _requeue_or_end(run, attempt, job)


def settle(run: Path, launch: str, job: str, code: int, log: Path) -> Attempt | None:
    """The record of this launch's attempt, closed with what is known; None if another launch owns the run now, or
    another process held it all along: a new record would fence that one."""
    if _superseded(run, launch):
        return None
    mine = [one for one in attempts.list_attempts(run) if one.record.get("launch") == launch]
    if not mine and (code == Held.EXIT_CODE or is_held(run / ".lock")):
        return None
    if not mine:
        number = max((one.number for one in attempts.list_attempts(run)), default=0) + 1
        attempts.open_attempt(run, number, launch, "slurm", job, os.environ.get("SLURM_JOB_NODELIST", ""), 0)
    else:
        number = mine[-1].number
    attempt = attempts.read_attempt(run, number)
    verdict = triage(gather(run, launch, number, code, log, listening=bool(mine)))
    if attempt.outcome is None:
        attempts.close_attempt(run, number, OUTCOMES.get(verdict.cause, "failed"), verdict.cause, verdict.reason)
    elif attempt.outcome == "failed" and attempt.cause in ("", "unknown", "rendezvous"):
        if verdict.cause not in ("unknown", "user") and verdict.cause != attempt.cause:
            attempts.close_attempt(run, number, OUTCOMES.get(verdict.cause, "failed"), verdict.cause, verdict.reason,
                                   amend=True)
    elif attempt.outcome == "stopped" and (_was_cancelled(run) or verdict.cause == "cancelled"):
        attempts.close_attempt(run, number, "cancelled", "cancelled", "cancelled after it had saved", amend=True)
    _note_place(run, number, verdict)
    return attempts.read_attempt(run, number)


def _superseded(run: Path, launch: str) -> bool:
    """Another launch took the run over after this script began: this node was thought dead, and has no say any more."""
    owner = read_json(run / LAUNCH, {})
    return owner.get("launch", launch) != launch and owner["time"] > float(os.environ.get("BEGIRA_BEGUN") or 0)


def gather(run: Path, launch: str, number: int, code: int, log: Path, listening: bool) -> Evidence:
    mine = _tail(log).rpartition(BEGINS)[2]  # a requeued job goes on in the same file
    text = mine + "".join(_tail(path) for path in sorted((run / "logs").glob(f"{launch}_*.log")))
    hang = read_json(run / "attempts" / f"{number:04d}.hang.json", {})
    signal_number = code - 128 if code > 128 else 0
    return Evidence(exit_code=code, exit_signal=signal_number, nodes=os.environ.get("SLURM_JOB_NODELIST", ""),
                    failure=attempts.culprit(run, number) or {}, hang=hang, log=text, listening=listening)


def _requeue_or_end(run: Path, attempt: Attempt, job: str) -> int:
    stored = store.read_run(run)
    status = judge(stored.done, stored.attempts, {}, stored.request, Observation(Where.ENDED), time.time())
    needs_new_job = attempt.cause == "memory_host" or (attempt.cause == "time_limit" and attempt.outcome == "lost")
    again = status.may_retry and not needs_new_job
    if attempt.cause == "memory_gpu" and status.state is State.FAILED:  # the same again would fail the same way
        again = _halve_micro_batch(run)
    if not _runs(job):
        return GOES_ON
    if again and _requeue(job):
        return GOES_ON
    if attempt.outcome != "cancelled" and attempt.cause not in ENDS_ALL:
        _relay(run, anyway=status.may_retry)
    return 1


def _requeue(job: str) -> bool:
    """Ask Slurm to run this job again; False where the site forbids it: then a new job has to."""
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
        return True
    except (OSError, subprocess.SubprocessError) as error:
        _say(f"requeue refused ({error}): a new job has to go on, which `begira submit` makes")
        return False


def _runs(job: str) -> bool:
    """False where scancel, or Slurm for a preemption, is ending this job: a requeue would bring it back to life.

    `job` is 123_4, never SLURM_JOB_ID: an array's last element bears the number of the whole array."""
    try:
        done = subprocess.run(["squeue", "--noheader", f"--jobs={job}", "--format=%T"], capture_output=True, text=True,
                              timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return True
    return "RUNNING" in done.stdout.split()


def _was_cancelled(run: Path) -> bool:
    return read_json(run / "request.json", {}).get("kind") == "cancel"


def _halve_micro_batch(run: Path) -> bool:
    """Twice the accumulation for the same global batch: the result stays, the memory halves. False if it is 1."""
    from omegaconf import OmegaConf

    config = OmegaConf.load(run / "config.yaml")
    now = int(OmegaConf.select(config, "runtime.micro_batch", default=1))
    if now < 2:
        return False
    learned = {**read_json(run / REMEDY, {}), "micro_batch": now // 2}
    write_json(run / REMEDY, learned)
    OmegaConf.update(config, "runtime.micro_batch", now // 2)
    write_text(run / "config.yaml", OmegaConf.to_yaml(config))
    _say(f"out of GPU memory: micro-batch {now} becomes {now // 2}")
    return True


def _note_place(run: Path, number: int, verdict: Verdict) -> None:
    """Which node and rank were to blame, beside the cause."""
    path = attempts.record_path(run, number)
    record: dict[str, Any] = read_json(path, {})
    if record and (verdict.node or verdict.rank is not None):
        write_json(path, {**record, "culprit": {"node": verdict.node, "rank": verdict.rank}})


def _relay(run: Path, anyway: bool) -> None:
    """Let the study go on: what waits for room, or for a new job, is submitted by this ending one. Whatever goes wrong
    with that, how this job ends is decided: on its exit code hang the jobs that wait for it."""
    try:
        from slurm.cluster import continue_study

        continue_study(run.parent.parent.name, run.name, anyway)
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        _say(f"the rest of the study was not looked at: {error}")


def _tail(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - LOG_BYTES))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _say(text: str) -> None:
    sys.stderr.write(f"begira: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
