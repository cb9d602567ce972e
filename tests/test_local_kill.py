"""A study on this machine survives kill -9 of its driver and of its workers at any moment: equal results."""
from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.begira_process import TINY, Begira, end, ranks_of, wait_until

SLOW = ("base.delay=0.03", "base.steps=12")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    begira = Begira(tmp_path_factory.mktemp("undisturbed"))
    begira("submit", TINY, *SLOW)
    return begira.results()


def test_driver_killed_at_random_moments(tmp_path, undisturbed):
    """kill -9 of the driver: nothing of it lives on, the next call goes on, results are equal."""
    begira, dice = Begira(tmp_path), random.Random(1)
    for round_ in range(4):
        driver = begira.start("submit", TINY, *SLOW)
        wait_until(lambda: ranks_of(begira.runs) if round_ % 2 else saved_and_running(begira))  # noqa: B023
        time.sleep(0.1 * dice.random())
        driver.kill()
        end(driver)
        wait_until(lambda: not ranks_of(begira.runs), 10)
    begira("submit", TINY, *SLOW)
    assert begira.results() == undisturbed
    firsts = [record["first_step"] for record in begira.attempts("*/*") if record["attempt"] > 1]
    assert any(firsts), "no attempt went on from a checkpoint: the kills hit nothing"


def saved_and_running(begira: Begira) -> list[str]:
    """Runs that are being executed and have saved some of their steps."""
    return [run for run in ranks_of(begira.runs).values()
            if list(begira.runs.glob(f"tiny/*/{run}/checkpoints/step_000002"))]


def test_workers_killed_at_random_moments(tmp_path, undisturbed):
    """kill -9 of ranks: the driver notices, runs them again within the budget, results are equal."""
    begira, dice, hit = Begira(tmp_path), random.Random(2), []
    driver = begira.start("submit", TINY, *SLOW)
    try:
        for _ in range(4):
            # twice at most the same run: more than that without progress is more than its budget
            victims = wait_until(lambda: [rank for rank, run in ranks_of(begira.runs).items() if hit.count(run) < 2])
            victim = dice.choice(victims)
            hit.append(ranks_of(begira.runs).get(victim, ""))
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            time.sleep(0.1 + 0.3 * dice.random())
        out, err = driver.communicate(timeout=60)
    finally:
        end(driver)
    assert driver.returncode == 0, out + err
    assert begira.results() == undisturbed
    assert "killed" in {record["cause"] for record in begira.attempts("*/*")}


def test_fork_server_killed(tmp_path, undisturbed):
    """kill -9 of the process that forks the ranks takes them with it; the driver starts another one."""
    begira = Begira(tmp_path)
    driver = begira.start("submit", TINY, *SLOW)
    try:
        wait_until(lambda: ranks_of(begira.runs))
        (server,) = (int(stat.parent.name) for stat in Path("/proc").glob("[0-9]*/stat")
                     if parent_of(stat) == driver.pid and b"slurm.forkserver" in (stat.parent / "cmdline").read_bytes())
        os.kill(server, signal.SIGKILL)
        out, err = driver.communicate(timeout=60)
    finally:
        end(driver)
    assert driver.returncode == 0 and "fork server ended" in out, out + err
    assert begira.results() == undisturbed


def parent_of(stat: Path) -> int:
    """Pid of a process's parent; 0 if the process is gone."""
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_logs_are_followed_over_attempts(tmp_path):
    """From the first one, which is killed, to the end of the second, and no further."""
    begira = Begira(tmp_path)
    driver = begira.start("submit", TINY, "backbone=llama", "target_ratio=0", "encoder.delay=0", "llama.delay=0",
                          "finetune.delay=1", "finetune.fail={kind: kill, step: 3, attempts: 1}")
    try:
        (log,) = wait_until(lambda: list(begira.runs.glob("tiny/finetune/*/logs/0001_*.log")))
        followed = begira("logs", log.parts[-3], "-f")
        out, err = driver.communicate(timeout=60)
    finally:
        end(driver)
    assert driver.returncode == 0, out + err
    assert "attempt 1 of" in followed and "attempt 2 of" in followed and followed.rstrip().endswith(": done")


def test_logs_of_a_run_without_an_attempt_end(tmp_path):
    """A rank that died before it could open one has left a log all the same."""
    begira = Begira(tmp_path)
    begira("submit", TINY, "backbone=llama", "target_ratio=0")
    (run,) = begira.runs.glob("tiny/finetune/*")
    for path in (*run.glob("attempts/*"), run / "DONE"):
        path.unlink()
    assert "finetune" in begira("logs", run.name, "-f")


def test_budget_ends_a_run_that_is_always_killed(tmp_path):
    """Three attempts without progress, then FAILED for good; its children do not start; `retry` resets the budget."""
    begira = Begira(tmp_path)
    how = "llama.fail={kind: kill, step: 0, attempts: 4}"
    begira("submit", TINY, "backbone=latxa", how, code=1)
    assert [record["cause"] for record in begira.attempts("llama/*")] == ["killed"] * 3
    states = {row["stage"]: row["state"] for row in begira.json("status", TINY, how)}
    assert states["finetune"] == "blocked" and states["latxa"] == "blocked" and states["llama"] in ("lost", "failed")
    begira("submit", TINY, "backbone=latxa", how, code=1)
    assert len(begira.attempts("llama/*")) == 3
    begira("retry", TINY, how, "stage=llama")
    begira("submit", TINY, "backbone=latxa", how)
    assert len(begira.attempts("llama/*")) == 5 and len(begira.results()) == 7


def test_two_nodes_of_two_ranks(tmp_path):
    """Ranks get torch's environment; one that fails takes the others with it and is named as the culprit."""
    begira = Begira(tmp_path)
    how = ("base.delay=0.5", "finetune.fail={kind: code, step: 0, rank: 3, attempts: 1}")
    begira("submit", TINY, "target_ratio=0", "backbone=llama", "finetune.runtime.nodes=2",
           "finetune.runtime.ranks_per_node=2", "encoder.delay=0", "llama.delay=0", *how, code=1)
    record = begira.attempts("finetune/*")[-1]
    assert record["outcome"] == "failed" and record["cause"] == "code" and record["world_size"] == 4
    assert record["error"]["rank"] == 3 and record["error"]["node"] == "node1"
    assert "stages.py" in record["error"]["where"]
    rows = begira.json("status", TINY, "stage=finetune", "state=failed")
    assert len(rows) == 1 and "broken on purpose" in rows[0]["reason"]
    assert not ranks_of(begira.runs)


def test_code_errors_are_never_retried(tmp_path):
    begira = Begira(tmp_path)
    begira("submit", TINY, "target_ratio=0", "backbone=llama", "finetune.fail={kind: code}", code=1)
    begira("submit", TINY, "target_ratio=0", "backbone=llama", "finetune.fail={kind: code}", code=1)
    assert len(begira.attempts("finetune/*")) == 1
    journal = [json.loads(line) for line in (begira.runs / "tiny" / "journal.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "submit" for event in journal) == 1


def test_hang_is_found_and_the_run_goes_on(tmp_path):
    """A rank that sleeps: its stacks are stored, it is killed and run again. A healthy slow run is left alone."""
    begira = Begira(tmp_path)
    begira.environment["BEGIRA_HANG_PATIENCE"] = "1.5"
    begira("submit", TINY, "target_ratio=0", "backbone=llama", "finetune.fail={kind: hang, step: 1, attempts: 1}",
           "llama.delay=0.4")
    first, second = begira.attempts("finetune/*")
    assert (first["outcome"], first["cause"]) == ("lost", "hang") and second["first_step"] == 1
    (stacks,) = begira.runs.glob("tiny/finetune/*/logs/*.stacks")
    assert "_misbehave" in stacks.read_text()
    assert len(begira.attempts("llama/*")) == 1
