"""A process of an older attempt cannot write where a newer one runs: by attempt number, and by the watch beside it."""
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.files import write_json
from core.run import Fenced, Run

ROOT = Path(__file__).resolve().parent.parent
RANK = """
import os, subprocess, sys, time
watch = subprocess.Popen([sys.executable, "-m", "slurm.watch", sys.argv[1], "7.0", "7", "n1", "1", str(os.getpid())])
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "attempts").mkdir()
    write_json(tmp_path / "attempts" / "0001.json", {"attempt": 1})
    return Run(tmp_path)


def test_records_of_an_older_attempt_are_refused(run, monkeypatch):
    monkeypatch.setenv("BEGIRA_ATTEMPT", "1")
    run.log({"step": 1})
    run.heartbeat(1, 2, force=True)
    write_json(run.path / "attempts" / "0002.json", {"attempt": 2})
    for write in (lambda: run.log({"step": 2}), lambda: run.heartbeat(2, 2, force=True)):
        with pytest.raises(Fenced, match="attempt 2"):
            write()
    assert (run.path / "metrics.jsonl").read_text().count("\n") == 1
    monkeypatch.setenv("BEGIRA_ATTEMPT", "2")
    run.log({"step": 2})


def test_a_superseded_rank_is_killed_and_one_that_is_not_lives(run):
    write_json(run.path / "launch.json", {"launch": "6.0", "time": 1.0})
    rank = subprocess.Popen([sys.executable, "-c", RANK, str(run.path)], cwd=ROOT, stdout=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": str(ROOT)})
    rank.stdout.readline()
    try:
        time.sleep(2.5)
        assert rank.poll() is None, "a former launch's name, before rank 0 has taken over, is no reason"
        write_json(run.path / "launch.json", {"launch": "7.0", "time": 2.0})
        time.sleep(2.5)
        assert rank.poll() is None
        write_json(run.path / "launch.json", {"launch": "7.1", "time": 3.0})
        assert rank.wait(10) == -9
    finally:
        rank.kill()
        rank.wait()
        rank.stdout.close()
