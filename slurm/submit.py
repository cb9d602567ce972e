"""Handing arrays to Slurm through submitit, so that a submitter may be killed at any point.

For every array: note the intent, sbatch it *held*, note its id; when all are noted, cancel the jobs that they replace
and release them. What was not noted never runs and is cancelled by its name the next time. What is pickled is one run
directory's path per element."""
from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.errors import UserError
from experiments import store
from slurm import commands, observe, submissions
from slurm.arrays import Array
from slurm.job import Job
from slurm.profile import Profile
from slurm.queue import Queue
from slurm.resources import Request
from slurm.submissions import BEGINS, Submission

EARLY = 120             # seconds: Slurm's signal before the limit may come 60 early, and a job begin before its script
_OF_THE_SITE = ("SLURM_CONF", "SLURM_ACCOUNT")     # not of the job
_ROOTS = ("BEGIRA_RUNS", "BEGIRA_DATA", "BEGIRA_MODELS")


def recover(study: Path, queue: Queue) -> list[str]:
    """Finish or undo what a killed submitter left; returns what was done, in words. Hold the study's lock."""
    done = []
    known = submissions.read(study)
    if strays := observe.strays(study, queue, known):
        commands.cancel(strays)
        done.append(f"cancelled {len(strays)} job(s) that were submitted but never noted")
    withdrawn = {one.element(index) for one in known for index, run in enumerate(one.runs) if run in one.withdrawn}
    if left := sorted(job.id for job in queue.live() if job.waits and job.id in withdrawn):
        commands.cancel(left)
        done.append(f"cancelled {len(left)} job(s) that others were to replace")
    numbers = {one.job for one in known if one.state == "released"}
    stuck = [job.id for job in queue.live() if job.held and "launch failed" in job.reason
             and job.id.partition("_")[0] in numbers]
    if stuck:  # a node could not start them; Slurm holds them until somebody looks
        commands.release(stuck)
        done.append(f"released {len(stuck)} job(s) that a node could not start")
    for one in known:
        if one.state == "intent":
            submissions.remove(study, one)
        elif one.state == "submitted":
            release(study, one)
            done.append(f"released job {one.job}")
    return done


def submit(study: Path, arrays: Sequence[Array], paths: Mapping[str, Path], profile: Profile, code: Path,
           avoided: Sequence[str] = (), replaced: Sequence[str] = ()) -> list[Submission]:
    """Submit the arrays in order, cancel the jobs in `replaced`, release; returns the arrays with their job ids. Hold
    the study's lock.

    Jobs are kept off the nodes in `avoided`. Where Slurm refuses an array, those before it wait for nothing that comes
    after them, and go. UserError then."""
    commands.need("sbatch", "srun")  # submitit looks for the latter
    made: list[Submission] = []
    submissions.withdraw(study, replaced)
    try:
        for array in arrays:
            made.append(_submit_held(study, array, arrays, made, paths, profile, code, avoided))
    finally:
        commands.cancel(replaced)
        for one in made:
            release(study, one)
    return made


def _submit_held(study: Path, array: Array, arrays: Sequence[Array], made: Sequence[Submission],
                 paths: Mapping[str, Path], profile: Profile, code: Path, avoided: Sequence[str]) -> Submission:
    """One array in Slurm's hands, held, its job id noted; `made` are the arrays before it."""
    waits = {run.id: {one.run: _job(one, made) for one in array.waits(arrays, index)}
             for index, run in enumerate(array.runs)}
    intent = submissions.propose(study, array.stage, [run.id for run in array.runs],
                                 [paths[run.id] for run in array.runs], waits)
    folder = submissions.folder(study) / intent.key
    executor = _executor(folder, profile, code)
    executor.update_parameters(**parameters(intent, array, folder, profile, code, made))
    if avoided:
        executor.update_parameters(exclude=",".join(avoided))
    one = replace(intent, job=_sbatch(executor, intent), state="submitted")
    submissions.write(study, one)
    store.journal(study.name, "sbatch", job=one.job, name=one.name, stage=one.stage, runs=one.runs)
    return one


def release(study: Path, one: Submission) -> None:
    commands.release([one.job])
    submissions.write(study, replace(one, state="released"))
    store.journal(study.name, "release", job=one.job)


def parameters(one: Submission, array: Array, folder: Path, profile: Profile, code: Path,
               made: Sequence[Submission]) -> dict[str, Any]:
    """What submitit is given. One task per GPU: each rank is a process that Slurm places, binds, signals and cleans up
    itself, `--kill-on-bad-exit` sees each one's end, and no launcher stands between a rank and its signals."""
    wanted = array.request
    log = str(folder / "%j.log")
    more = {"requeue": True, "hold": True, "kill-on-invalid-dep": "yes", "distribution": "block", "chdir": str(code),
            "output": log}
    values: dict[str, Any] = {
        "job_name": one.name, "time": wanted.minutes, "nodes": wanted.nodes, "ntasks_per_node": wanted.ranks_per_node,
        "cpus_per_task": wanted.cpus_per_rank, "signal_delay_s": wanted.signal_seconds, "stderr_to_stdout": True,
        "array_parallelism": profile.throttle or len(array.runs), "wckey": "begira", "use_srun": True,
        "setup": setup(profile, code, folder, wanted),
        "teardown": ["code=$?", f"{python(profile)} -u -m slurm.epilogue $code", "exit $?"],
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={wanted.cpus_per_rank}", "--open-mode=append",
                      f"--output={log}", f"--error={log}"],
        **{key: value for key, value in (("partition", wanted.partition), ("qos", wanted.qos),
                                         ("account", profile.account), ("constraint", profile.constraint)) if value},
        **gpus(profile, wanted)}
    if wanted.memory_gb:
        values["mem"] = f"{int(wanted.memory_gb * 1024)}MB"
    if wanted.whole_nodes:
        values.update(exclusive=True, mem="0")  # 0: all; without it, a site's default per core, however little that is
    if array.element_wise >= 0:
        values["dependency"] = f"aftercorr:{made[array.element_wise].job}"
    elif array.after:
        values["dependency"] = "afterok:" + ":".join(_job(one, made) for one in array.after)
    return {**values, "additional_parameters": more}


def gpus(profile: Profile, wanted: Request) -> dict[str, Any]:
    if not wanted.gpus_per_node or profile.gres == "none":
        return {}
    count = wanted.gpus_per_node
    return {"gres": f"gpu:{count}"} if profile.gres == "gres" else {"gpus_per_node": count}


def setup(profile: Profile, code: Path, folder: Path, wanted: Request) -> list[str]:
    """Shell lines before srun. The snapshot shadows any installed begira, and the checkout is not in the way."""
    here = store.roots()
    values = {"BEGIRA_HANG_SLACK": str(profile.hang_seconds), **profile.environment, "PYTHONPATH": str(code),
              "PYTHONUNBUFFERED": "1", "BEGIRA_SUBMISSION": str(folder),
              "BEGIRA_RUNS": str(here.runs), "BEGIRA_DATA": str(here.data), "BEGIRA_MODELS": str(here.models)}
    if profile.interface:
        values = {"GLOO_SOCKET_IFNAME": profile.interface, "NCCL_SOCKET_IFNAME": profile.interface, **values}
    if profile.offline:
        values["HF_HUB_OFFLINE"] = "1"
    exports = [f"export {key}={shlex.quote(value)}" for key, value in values.items()]
    listen = "trap : TERM"  # what ends the job must not end this script: the epilogue still has to note it
    limit_from = wanted.minutes * 60 - wanted.signal_seconds - EARLY
    begin = ["export BEGIRA_BEGUN=$(date +%s)", f"export BEGIRA_LIMIT_FROM=$((BEGIRA_BEGUN + {limit_from}))",
             f"echo {BEGINS}${{SLURM_RESTART_COUNT:-0}}"]
    return [listen, *begin, *profile.setup, *exports, f"cd {shlex.quote(str(code))}"]


def python(profile: Profile) -> str:
    return profile.python or shlex.quote(sys.executable)


def _executor(folder: Path, profile: Profile, code: Path) -> Any:
    import submitit

    return submitit.SlurmExecutor(folder=folder, python=python(profile), max_num_timeout=1000)


def _sbatch(executor: Any, one: Submission) -> str:
    """The array's job id. Raises UserError with Slurm's words, and what was noted is taken back, if it is refused."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with outside_a_job():
            jobs = executor.submit_array([Job(path) for path in one.paths])
    except (FailedJobError, FailedSubmissionError) as error:
        submissions.remove(Path(one.paths[0]).parent.parent, one)
        words = " ".join(str(error).replace("sbatch: error: ", "").split())[-300:]
        remedy = "set the profile's max_jobs to the site's limit, and ending jobs submit the rest" \
            if "submit limit" in words else "mend the profile or the stage's `runtime`, then `begira submit` again"
        raise UserError(f"Slurm refused {one.stage}: {words}: {remedy}") from None
    return str(jobs[0].job_id).partition("_")[0]


@contextmanager
def outside_a_job() -> Iterator[None]:
    """Hide from a new job that it is submitted from inside one; which cluster and which account are meant stays known:
    profiles take them from the environment, in the jobs of that job as well."""
    import submitit

    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    ours = [name for name in os.environ if name.startswith("BEGIRA_") and name not in _ROOTS]
    kept = {name: os.environ[name] for name in _OF_THE_SITE if name in os.environ}
    with submitit.helpers.clean_env(extra_names=ours):
        os.environ.update(kept)
        yield


def _job(one: Any, made: Sequence[Submission]) -> str:
    """Slurm's id of what is waited for."""
    return made[one.array].element(one.index) if one.array >= 0 else one.job
