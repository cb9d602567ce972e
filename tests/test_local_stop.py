"""Ctrl-C, time limit, preemption and cancel on this machine: the run saves, leaves, and goes on at its next step."""
from __future__ import annotations

import itertools
import os
import signal
import time

import pytest

from tests.begira_process import TINY, Begira, end, ranks_of, wait_until

ONE = ("target_ratio=0", "backbone=llama", "encoder.delay=0", "llama.delay=0", "base.delay=0.05", "base.steps=40")


@pytest.fixture
def begira(tmp_path):
    return Begira(tmp_path)


@pytest.fixture
def finetuning(begira):
    """A driver whose finetune run has made some steps."""
    driver = begira.start("submit", TINY, *ONE)
    wait_until(lambda: list(begira.runs.glob("tiny/finetune/*/checkpoints/step_000003")))
    yield driver
    end(driver)


def test_interrupt_saves_and_stops(begira, finetuning):
    """Ctrl-C: exit code 75, the run saved; the same command goes on where it stopped and ends with everything done."""
    finetuning.send_signal(signal.SIGINT)
    out, _ = finetuning.communicate(timeout=20)
    assert finetuning.returncode == 75 and "stopped" in out
    (stopped,) = begira.attempts("finetune/*")
    assert (stopped["outcome"], stopped["cause"]) == ("stopped", "interrupted")
    begira("submit", TINY, *ONE)
    first, second = begira.attempts("finetune/*")
    assert second["first_step"] == first["last_step"] == first["saved_step"] and second["last_step"] == 40
    began = time.monotonic()
    assert "all 4 runs are done" in begira("submit", TINY, *ONE)
    assert time.monotonic() - began < 3


def test_preemption_requeues(begira, finetuning):
    """SIGUSR2 and SIGTERM to a rank: it saves and the driver starts it again, without using up its attempts."""
    for number in (signal.SIGUSR2, signal.SIGTERM):
        before = len(begira.attempts("finetune/*"))
        (rank,) = wait_until(lambda: ranks_of(begira.runs))
        os.kill(rank, number)
        wait_until(lambda before=before: len(begira.attempts("finetune/*")) > before)
    assert finetuning.wait(20) == 0
    records = begira.attempts("finetune/*")
    assert [record["outcome"] for record in records] == ["stopped", "stopped", "done"]
    for earlier, later in itertools.pairwise(records):
        assert later["first_step"] == earlier["saved_step"]


def test_time_limit_saves_and_requeues(begira):
    """A run that is longer than its limit is signalled before it, saves, and goes on in further attempts."""
    begira("submit", TINY, *ONE, "finetune.runtime.time_minutes=0.02", "finetune.runtime.signal_seconds=0.4")
    records = begira.attempts("finetune/*")
    assert len(records) > 1 and {record["cause"] for record in records[:-1]} == {"time_limit"}
    assert records[-1]["outcome"] == "done"


def test_run_that_does_not_stop_is_killed_at_its_limit(begira):
    """The negative of the above: nothing saved, nothing obeyed, so the budget ends it."""
    begira("submit", TINY, *ONE, "finetune.runtime.time_minutes=0.01", "finetune.runtime.signal_seconds=0.2",
           "finetune.fail={kind: hang}", code=1)
    records = begira.attempts("finetune/*")
    assert [(record["outcome"], record["cause"]) for record in records] == [("lost", "time_limit")] * 3


def test_cancel_keeps_a_run_away_until_retry(begira):
    long = (*ONE, "finetune.steps=2000")
    driver = begira.start("submit", TINY, *long)
    try:
        wait_until(lambda: list(begira.runs.glob("tiny/finetune/*/checkpoints/step_000003")))
        assert "1 run cancelled" in begira("cancel", TINY, *long, "stage=finetune")
        driver.communicate(timeout=20)
    finally:
        end(driver)
    assert driver.returncode == 1
    begira("submit", TINY, *long, code=1)
    (record,) = begira.attempts("finetune/*")
    assert record["outcome"] == "stopped" and record["cause"] == "cancelled" and record["saved_step"] >= 3
    states = {row["state"] for row in begira.json("status", TINY, *long)}
    assert states == {"cancelled", "blocked"}
    begira("retry", TINY, *long, "state=cancelled")
    driver = begira.start("submit", TINY, *long)
    try:
        wait_until(lambda: len(begira.attempts("finetune/*")) == 2 and begira.json("status", TINY, "state=running"))
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=20)
    finally:
        end(driver)
    assert begira.attempts("finetune/*")[-1]["first_step"] == record["saved_step"]


def test_a_living_driver_sees_what_others_ask_for(begira):
    """While it runs: a failed run shows as failed, a retry of it is picked up, a cancelled queued run never begins."""
    begira.environment["BEGIRA_SLOTS"] = "2"
    words = ("encoder.delay=0.05", "encoder.steps=240", "llama.fail={kind: code, attempts: 1}",
             "finetune.delay=0", "base.delay=0")
    driver = begira.start("submit", TINY, *words, "backbone=llama")
    try:
        wait_until(lambda: begira.attempts("llama/*") and begira.attempts("llama/*")[0]["outcome"])
        wait_until(lambda: any(row["state"] == "failed" for row in begira.json("status", TINY, *words)))
        assert "1 run cancelled" in begira("cancel", TINY, *words, "stage=evaluate", "target_ratio=0", "backbone=llama")
        assert "1 run to be retried" in begira("retry", TINY, *words, "stage=llama")
        out, err = driver.communicate(timeout=60)
    finally:
        end(driver)
    assert driver.returncode == 1, out + err
    assert [record["outcome"] for record in begira.attempts("llama/*")] == ["failed", "done"]
    states = {row["name"]: row["state"] for row in begira.json("status", TINY, *words, "backbone=llama")}
    assert states.pop("evaluate r0 llama") == "cancelled" and set(states.values()) == {"done"}
    assert len(begira.attempts("evaluate/*")) == 1


def test_second_driver_is_refused(begira):
    """A study is run by one driver, a run by one process; both say who has it, and `status` sees it from outside."""
    long = (*ONE, "finetune.steps=2000")
    driver = begira.start("submit", TINY, *long)
    try:
        wait_until(lambda: list(begira.runs.glob("tiny/finetune/*/heartbeat.json")))
        (rank,) = wait_until(lambda: len(found := ranks_of(begira.runs)) == 1 and found)  # a parent may still be ending
        begira("submit", TINY, *long, code=2)
        assert "is being run by process" in begira.error
        states = {row["stage"]: row["state"] for row in begira.json("status", TINY, *long)}
        assert states == {"finetune": "running", "evaluate": "queued"}
        begira("run", str(next(begira.runs.glob("tiny/finetune/*"))), code=3)
        assert "being run by another process" in begira.error and list(ranks_of(begira.runs)) == [rank]
    finally:
        end(driver)
