"""`begira run RUN_DIR`: its exit codes, its records, its lock, and that DONE means done. Real processes."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from core.errors import UserError
from experiments import execute, store
from experiments.attempts import list_attempts
from experiments.expand import Desired, expand
from experiments.grid import load
from experiments.identity import run_id
from experiments.state import Observation, Where, judge
from slurm.epilogue import settle
from tests.begira_process import ROOT, TINY, end, wait_until


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("BEGIRA_RUNS", str(tmp_path / "runs"))


def run_dir(function: str = "tests.stages:count", parents=None, **config):
    config = {"steps": 3, "delay": 0, "start": 1, "factor": 2, **config}
    id_ = run_id(function, config, {})
    return store.create(Desired(id_, "a run", "study", "stage", function, {}, parents or {}, config), {})


def start(path, **environment) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(ROOT / "begira.py"), "run", str(path)], text=True,
                            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), **environment})


def attempts(path) -> list[dict]:
    return [json.loads(one.read_text()) for one in sorted((path / "attempts").glob("????.json"))]


def finish(process: subprocess.Popen) -> tuple[int, str]:
    _, error = process.communicate(timeout=60)
    return process.returncode, error


def test_done_leaves_result_marker_and_record():
    path = run_dir()
    assert finish(start(path))[0] == 0
    assert (path / "DONE").exists() and json.loads((path / "result.json").read_text())["value"] == 15
    (record,) = attempts(path)
    assert (record["outcome"], record["first_step"], record["last_step"], record["saved_step"]) == ("done", 0, 3, 3)
    assert finish(start(path)) == (0, "") and len(attempts(path)) == 1, "a second call does nothing"


@pytest.mark.parametrize("keep, left", [(1, False), (2, True)])
def test_what_only_serves_going_on_goes_when_the_run_is_done(keep, left):
    path = run_dir(runtime={"keep_checkpoints": keep})
    assert finish(start(path))[0] == 0
    assert (path / "DONE").exists() and (path / "checkpoints").exists() == left


def test_pieces_that_are_kept_count_as_progress():
    """A stage that finishes piece after piece has no checkpoint; three time limits must not end it."""
    path = run_dir(function="tests.stages:pieces", steps=20, delay=0.2)
    for _ in range(3):
        before = len(list(path.glob("piece-*")))
        process = start(path)
        try:
            wait_until(lambda known=before: len(list(path.glob("piece-*"))) > known)
            process.send_signal(signal.SIGUSR2)
            assert finish(process)[0] == 75
        finally:
            end(process) if process.returncode is None else None
    found = list_attempts(path)
    assert [a.cause for a in found] == ["time_limit"] * 3
    assert sorted({a.saved_step for a in found}) == [a.saved_step for a in found] and found[0].saved_step > 0
    assert judge(False, found, {}, {}, Observation(Where.ENDED), time.time()).may_retry
    mute = [replace(a, saved_step=None) for a in found]
    assert not judge(False, mute, {}, {}, Observation(Where.ENDED), time.time()).may_retry


@pytest.mark.parametrize("number, limit_in, cause", [
    (signal.SIGUSR2, 0, "time_limit"), (signal.SIGUSR2, 3600, "preempted"), (signal.SIGTERM, 0, "preempted"),
    (signal.SIGINT, 0, "interrupted")])
def test_stop_saves_and_goes_on(number, limit_in, cause):
    """SIGUSR2 long before the time limit cannot be about that."""
    path = run_dir(delay=0.1, steps=12)
    process = start(path, BEGIRA_LIMIT_FROM=str(time.time() + limit_in))
    try:
        wait_until(lambda: (path / "checkpoints" / "step_000002").exists())
        process.send_signal(number)
        code, _ = finish(process)
    finally:
        end(process) if process.returncode is None else None
    (record,) = attempts(path)
    assert code == 75 and (record["outcome"], record["cause"]) == ("stopped", cause)
    assert 2 <= record["saved_step"] < 12 and not (path / "DONE").exists()


def test_failure_is_recorded_with_its_place():
    path = run_dir(fail={"kind": "code", "step": 1})
    code, error = finish(start(path))
    (record,) = attempts(path)
    assert code == 1 and "Traceback" in error and not (path / "DONE").exists()
    assert (record["outcome"], record["cause"], record["reason"]) == ("failed", "code", "ValueError: broken on purpose")
    rank = json.loads((path / "attempts" / "0001.rank0000.json").read_text())
    assert rank["where"].partition(":")[0].endswith("stages.py") and "broken on purpose" in rank["traceback"][-1]


def test_mistakes_exit_with_2_and_one_line(tmp_path):
    assert finish(start(tmp_path))[0] == 2
    code, error = finish(start(run_dir("tests.stages:cuont")))
    assert code == 2 and "tests.stages has no 'cuont'" in error and "Traceback" not in error
    path = run_dir(parents={"encoder": ("stage", "0000000000")}, steps=4)
    code, error = finish(start(path))
    assert code == 2 and "0000000000" in error and attempts(path)[0]["cause"] == "user"


@pytest.mark.parametrize("config, says", [(None, "is missing: `begira submit`"), ("a: [1", "cannot be read (while"),
                                          ("a: ${b}", "cannot be read (Interpolation")])
def test_a_configuration_that_cannot_be_read_is_named(config, says):
    path = run_dir()
    (path / "config.yaml").unlink() if config is None else (path / "config.yaml").write_text(config)
    code, error = finish(start(path))
    assert code == 2 and says in error and "Traceback" not in error and f"{path}/config.yaml" in error


def test_killed_run_is_taken_up_and_its_attempt_closed():
    path = run_dir(fail={"kind": "kill", "step": 2, "attempts": 1})
    assert finish(start(path))[0] == -9 and attempts(path)[0]["outcome"] is None
    assert finish(start(path))[0] == 0
    first, second = attempts(path)
    assert (first["outcome"], first["cause"]) == ("lost", "lost") and second["first_step"] == 2
    assert json.loads((path / "result.json").read_text())["value"] == 15


def test_what_a_killed_attempt_left_unfinished_goes_with_the_next():
    path = run_dir("tests.stages:product", fail={"kind": "kill", "attempts": 1}, runtime={"keep_checkpoints": 2})
    (path / ".request.json.0a.tmp").touch()          # another process may be writing it now

    def unfinished():
        return sorted(p.name.split(".")[1] for p in path.rglob(".*") if p.suffix in (".tmp", ".old"))

    assert finish(start(path))[0] == -9 and unfinished() == ["model", "request", "step_000001"]
    assert finish(start(path))[0] == 0 and unfinished() == ["request"]
    assert (path / "model" / "weights").exists() and (path / "checkpoints" / "step_000001").exists()


def test_two_ranks_share_an_attempt():
    path = run_dir(fail={"kind": "code", "step": 0, "rank": 1, "attempts": 1}, delay=0.2)
    ranks = [start(path, RANK=str(rank), WORLD_SIZE="2", BEGIRA_LAUNCH="x1", BEGIRA_NODE=f"n{rank}") for rank in (1, 0)]
    codes = [finish(rank)[0] for rank in ranks]
    assert codes == [1, 0] and len(attempts(path)) == 1
    rank = json.loads((path / "attempts" / "0001.rank0001.json").read_text())
    assert rank["rank"] == 1 and rank["node"] == "n1"


def test_one_process_per_run():
    path = run_dir(delay=0.2, steps=20)
    first = start(path)
    try:
        wait_until(lambda: (path / "heartbeat.json").exists())
        code, error = finish(start(path, BEGIRA_WAIT_FOR_LOCK="0"))
        assert code == 3 and "another process" in error and len(attempts(path)) == 1
    finally:
        end(first)


@pytest.mark.parametrize("code", [3, 137])
def test_a_job_that_finds_its_run_held_leaves_it_to_its_holder(tmp_path, code):
    """The batch script's part: with an attempt of its own it would close and fence the one that runs. 137 is what srun
    says when the other ranks were killed first."""
    path = run_dir(delay=0.2, steps=8)
    holder = start(path)
    try:
        wait_until(lambda: (path / "heartbeat.json").exists())
        assert settle(path, "7.0", "7", code, tmp_path / "7.log") is None
        assert finish(holder)[0] == 0
    finally:
        end(holder)
    assert [record["outcome"] for record in attempts(path)] == ["done"]
    free = run_dir(start=2)
    assert settle(free, "7.0", "7", 137, tmp_path / "7.log").cause == "killed", "a run that nobody holds is its own"


@pytest.mark.parametrize("error, cause", [
    (ValueError("x"), "code"), (UserError("x"), "user"), (MemoryError(), "memory_host"), (FloatingPointError(), "nan"),
    (OSError(28, "No space left on device"), "disk_full"), (RuntimeError("Connection reset by peer"), "rendezvous"),
    (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), "memory_gpu"),
    (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "memory_gpu"),
    (RuntimeError("CUDA driver error: out of memory"), "memory_gpu"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "memory_gpu"),
    (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "node_failure"),
    (RuntimeError("NCCL error: unhandled cuda error, unspecified launch failure"), "node_failure"),
    (RuntimeError("NCCL error: remote process exited"), "rendezvous"),
    (RuntimeError("CUDA error: device-side assert triggered"), "code"),
    (type("OfflineModeIsEnabled", (ConnectionError,), {})("no net"), "asset")])
def test_causes(error, cause):
    assert execute.classify(error) == cause


def test_full_disk_behind_a_users_error():
    wrapped = UserError("no space left")
    wrapped.__cause__ = OSError(122, "quota")
    assert execute.classify(wrapped) == "disk_full"


def test_every_stage_function_of_the_grids_exists():
    """What the repository's grids call can be imported and is a function."""
    from experiments.grid_file import names

    functions = {run.function for name in [*names(), TINY] for run in expand(load(name)).runs}
    assert all(callable(execute.load(function)) for function in functions)
