"""`begira run RUN_DIR`: execute one run, as every rank of a job does, and leave a record of how it ended.

Exit codes: 0 done, 75 stopped and can go on, 3 another process is at it, 2 a mistake that its reader can mend, 1
everything else. The result and the DONE marker are written by rank 0; every rank that fails writes what happened. No
torch here: the stage brings it.

Environment of a rank: RANK, WORLD_SIZE, ... as torch has them; BEGIRA_LAUNCH, equal on all ranks of one start and new
at each; BEGIRA_NODE, BEGIRA_BACKEND and BEGIRA_JOB, for the record; BEGIRA_LIMIT_FROM, the second before which SIGUSR2
cannot mean the time limit. BEGIRA_ATTEMPT is set here.
"""
from __future__ import annotations

import errno
import importlib
import os
import shutil
import socket
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core import staging, stop
from core.errors import Stopped, UserError
from core.files import sweep, write_json, write_text
from core.run import Fenced, Run
from experiments import attempts
from experiments.lock import Held, hold
from experiments.symptoms import symptom

WAIT_FOR_RANK_0 = 300.0     # seconds that the other ranks wait for the attempt to be opened
# seconds that the processes of a former attempt get to vanish
WAIT_FOR_LOCK = float(os.environ.get("BEGIRA_WAIT_FOR_LOCK", "10"))
_NETWORK = ("Connection reset by peer", "Connection closed by peer", "Connection refused", "Broken pipe",
            "Timed out waiting", "NCCL")


def execute(run_dir: Path | str) -> int:
    """Run this rank's share of the run in `run_dir`; returns the exit code of the process."""
    run = Run(Path(run_dir).absolute())
    rank = int(os.environ.get("RANK", "0"))
    try:
        run.spec  # noqa: B018  (raises UserError where there is no run)
        if run.is_done:
            return 0
        if rank != 0:
            _wait_for_attempt(run)
            return _attempt(run, rank)
        with hold(run.path / ".lock", WAIT_FOR_LOCK):
            _open_attempt(run)
            _say(f"{run.spec['name']}: attempt {run.attempt} of {run.spec['function']} on {_node()}, "
                 f"{os.environ.get('WORLD_SIZE', '1')} ranks")
            code = _attempt(run, rank)
            _say(f"{run.spec['name']}: {attempts.read_attempt(run.path, run.attempt).outcome}")
            return code
    except Held:
        _say(f"run {run.path.name} is being run by another process: nothing to do here")
        return Held.EXIT_CODE
    except (UserError, Fenced) as error:
        _say(str(error))
        return 2 if isinstance(error, UserError) else 1


def load(function: str) -> Callable[[Run], dict[str, Any] | None]:
    """The stage function "module:name". Raises UserError if there is none."""
    module, _, name = function.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            raise UserError(f"stage function {function}: no module {error.name}") from error
        raise
    if found is None:
        raise UserError(f"stage function {function}: {module} has no '{name}'")
    return found


def classify(error: BaseException) -> str:
    """The cause (a key of experiments.state.CAUSES) that an exception stands for."""
    kind, number = type(error).__name__, getattr(error, "errno", None) or getattr(error.__cause__, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    if isinstance(error, UserError):
        return "user"
    if isinstance(error, FloatingPointError) or "Diverged" in kind:
        return "nan"
    if told := symptom(f"{kind}: {error}"):
        return told[0]
    if kind == "OutOfMemoryError":
        return "memory_gpu"
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return "memory_host"
    if kind.startswith("Dist") or any(word in str(error) for word in _NETWORK):
        return "rendezvous"
    return "code"


def _attempt(run: Run, rank: int) -> int:
    """Call the stage and record its end."""
    stop.install()
    begun = time.time()
    try:
        _check_parents(run)
        if staged := staging.stage(run.config):
            _say(f"{run.spec['name']}: {staged}")
        result = load(run.spec["function"])(run) or {}
        if rank == 0:
            _finish(run, {"seconds": time.time() - begun, **result})
        return 0
    except Stopped as stopped:
        if rank == 0:
            attempts.close_attempt(run.path, run.attempt, "stopped", _why_stopped(stopped.reason), stopped.reason)
        return Stopped.EXIT_CODE
    except Fenced as fenced:
        _say(str(fenced))
        return 1
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return _failed(run, rank, error)


def _finish(run: Run, result: dict[str, Any]) -> None:
    run.check_fence()
    write_json(run.path / "result.json", result)
    write_text(run.path / "DONE", time.strftime("%Y-%m-%dT%H:%M:%S%z\n"))
    attempts.close_attempt(run.path, run.attempt, "done")
    if int((run.config.get("runtime") or {}).get("keep_checkpoints", 1)) <= 1:  # nothing will go on from it
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)


def _failed(run: Run, rank: int, error: BaseException) -> int:
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    cause = classify(error)
    if cause != "user":
        sys.stderr.write("".join(lines))
    _say(f"rank {rank} failed ({cause}): {error}")
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    try:
        run.check_fence()
        attempts.write_rank_failure(run.path, run.attempt, rank, _node(), {
            "type": type(error).__name__, "message": str(error), "where": where, "cause": cause,
            "traceback": "".join(lines).splitlines()[-20:]})
        if rank == 0:
            time.sleep(_grace(cause))
            attempts.close_attempt(run.path, run.attempt, "failed", cause, f"{type(error).__name__}: {error}")
    except (OSError, UserError, Fenced) as second:  # a full disk, say: the log still has it
        _say(f"the failure could not be recorded: {second}")
    return 2 if cause == "user" else 1


def _grace(cause: str) -> float:
    """A rank that only lost touch with another gives that one a moment to write its own record first."""
    return 1.0 if cause == "rendezvous" else 0.0


def _open_attempt(run: Run) -> None:
    sweep(run.path)
    number = max((attempt.number for attempt in attempts.list_attempts(run.path)), default=0) + 1
    attempts.open_attempt(run.path, number, os.environ.get("BEGIRA_LAUNCH") or uuid.uuid4().hex,
                          os.environ.get("BEGIRA_BACKEND", "hand"), os.environ.get("BEGIRA_JOB", ""), _node(),
                          int(os.environ.get("WORLD_SIZE", "1")))
    os.environ["BEGIRA_ATTEMPT"] = str(number)


def _wait_for_attempt(run: Run) -> None:
    """Ranks other than 0 learn the attempt's number from the record that carries their launch."""
    launch = os.environ.get("BEGIRA_LAUNCH")
    if not launch:
        raise UserError("RANK is set but BEGIRA_LAUNCH is not: start all ranks of a run with one BEGIRA_LAUNCH")
    deadline = time.monotonic() + WAIT_FOR_RANK_0
    while time.monotonic() < deadline:
        for attempt in reversed(attempts.list_attempts(run.path)):
            if attempt.record.get("launch") == launch:
                os.environ["BEGIRA_ATTEMPT"] = str(attempt.number)
                return
        time.sleep(0.02)
    raise UserError(f"rank 0 of run {run.path.name} did not begin within {WAIT_FOR_RANK_0:.0f} s: see its log")


def _check_parents(run: Run) -> None:
    for role, link in run.spec["parents"].items():
        if not run.parent(role).is_done:
            raise UserError(f"parent {link['stage']}/{link['id']} ({role}) is not done: `begira submit` runs it first")


def _why_stopped(reason: str) -> str:
    """A cause for what `core.stop` heard."""
    if "SIGINT" in reason or "interrupt" in reason:
        return "interrupted"
    early = time.time() < float(os.environ.get("BEGIRA_LIMIT_FROM") or 0)
    return "time_limit" if "limit" in reason and not early else "preempted"


def _node() -> str:
    return os.environ.get("BEGIRA_NODE") or os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _say(text: str) -> None:
    sys.stderr.write(f"begira: {text}\n")
    sys.stderr.flush()
