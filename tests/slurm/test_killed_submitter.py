"""A submitter that is killed anywhere leaves no unknown job and nothing doubled; the next one completes its work."""
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from slurm import submissions
from slurm.queue import look
from tests.cluster.cluster import REPOSITORY


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [6, pytest.param(25, marks=pytest.mark.slow)])
def test_submit_survives_kill(desk, kills):
    grid = desk.grid(f"killed{kills}", {
        "encoder": {"steps": 1},
        "align": {"steps": 1, "parents": {"encoder": "encoder"}},
        "finetune": {"steps": 1, "parents": {"align": "align"}},
        "evaluate": {"steps": 1, "parents": {"finetune": "finetune"}},
    }, {"seed": {"key": "encoder.start", "values": [1, 2, 3, 4]},
        "ratio": {"key": "finetune.factor", "values": [2, 3, 5, 7, 11], "name": "r{}"}})
    random_times = random.Random(kills)
    before = len(desk.sbatch_calls())
    for _ in range(kills):
        submitter = subprocess.Popen([sys.executable, "-m", "begira", "submit", str(grid)], cwd=REPOSITORY,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        calls = random_times.randint(0, 9)  # of sbatch, and then a moment more
        limit = time.monotonic() + 20
        while submitter.poll() is None and len(desk.sbatch_calls()) < before + calls and time.monotonic() < limit:
            time.sleep(0.005)
        time.sleep(random_times.uniform(0, 0.4))
        os.kill(submitter.pid, signal.SIGKILL)
        submitter.wait()
    time.sleep(0.5)  # an sbatch that outlived its submitter
    assert desk.submit(grid) == 0
    states = desk.wait(grid, seconds=200)
    assert len(states) == 48 and set(states.values()) == {"done"}
    study = desk.folder / "runs" / f"killed{kills}"
    assert all(len(desk.attempts(desk.path(grid, name))) == 1 for name in states)
    known = submissions.read(study)
    assert {one.state for one in known} == {"released"}
    ours = [job for job in look().live() if submissions.key_of(study, job.name)]
    assert not ours, "no job is left that nobody knows"
    assert {p.name for p in (study / "slurm").iterdir()} == {one.key for one in known} | {"wanted.json"}
    assert not list(study.rglob(".*.tmp"))
    calls = len(desk.sbatch_calls())
    assert desk.submit(grid) == 0 and len(desk.sbatch_calls()) == calls
