"""Time limits and preemption: all ranks stop at one step, save once, are requeued once, go on exactly there."""
import itertools
import subprocess
import sys

import pytest

from core.files import read_json
from tests.cluster.cluster import REPOSITORY
from tests.slurm.conftest import start
from tests.slurm.desk import Desk
from tests.slurm.stages import metrics

STEPS = {"steps": 60, "save_every": 1000, "children": 2, "runtime": {"nodes": 2, "ranks_per_node": 2}}


def undisturbed(steps, factor=3, start=1):
    values = [start]
    for _ in range(steps):
        values.append((values[-1] * factor + 1) % 1_000_003)
    return values


def check(desk, path, requeues):
    """Result, losses and accounting of a run that was asked to stop `requeues` times."""
    expected = undisturbed(60)
    assert read_json(path / "result.json")["value"] == expected[-1]
    rows = metrics(path)
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert [row["loss"] for row in rows] == [value / 1_000_003 for value in expected[1:]]
    attempts = desk.attempts(path)
    assert [a.outcome for a in attempts] == ["stopped"] * requeues + ["done"]
    assert all(later.first_step == earlier.last_step for earlier, later in itertools.pairwise(attempts))
    desk.until(lambda: desk.rows(desk.job(path)) == ["REQUEUED"] * requeues + ["COMPLETED"], 60,
               lambda: str(desk.rows(desk.job(path))), every=1)


def test_usr2_and_preemption_requeue_and_resume_exactly(desk):
    grid = desk.grid("signals", {"train": {**STEPS, "delay": 0.1}})
    desk.submit(grid)
    path = desk.path(grid, "train")
    desk.until(desk.beat(path, 5), 40, lambda: desk.describe(grid))
    follower = subprocess.Popen([sys.executable, "-m", "begira", "logs", str(path), "-f"], cwd=REPOSITORY, text=True,
                                stdout=subprocess.PIPE)
    desk.cluster.run("scancel", "--signal=USR2", desk.job(path))
    desk.until(lambda: len(desk.attempts(path)) == 2 and desk.beat(path, 15)(), 60, lambda: desk.describe(grid))
    urgent = desk.cluster.run("sbatch", "--parsable", "-p", "high", "--nodes=4", "--exclusive", "--time=1", "-o",
                              "/dev/null", "--wrap", "sleep 1").strip()
    desk.until(lambda: len(desk.attempts(path)) == 3, 90, lambda: desk.describe(grid) + urgent)
    desk.wait(grid)
    check(desk, path, 2)
    assert [a.cause for a in desk.attempts(path)] == ["preempted", "preempted", ""], "the limit is far"
    followed, _ = follower.communicate(timeout=30)
    assert follower.returncode == 0 and all(f"attempt {number} of" in followed for number in (2, 3))


@pytest.mark.slow
def test_preemption_without_a_warning_signal(tmp_path):
    """Sites without preempt_send_user_signal send SIGTERM and, seconds later, SIGKILL; Slurm requeues by itself."""
    cluster = start(preempt="plain")
    try:
        with Desk(cluster, tmp_path) as desk:
            grid = desk.grid("plain", {"train": {**STEPS, "delay": 0.1}})
            desk.submit(grid)
            path = desk.path(grid, "train")
            desk.until(desk.beat(path, 5), 40, lambda: desk.describe(grid))
            cluster.run("sbatch", "-p", "high", "--nodes=4", "--exclusive", "--time=1", "-o", "/dev/null", "--wrap",
                        "sleep 1")
            desk.until(lambda: len(desk.attempts(path)) == 2, 90, lambda: desk.describe(grid))
            assert desk.wait(grid) == {"train": "done"}, desk.describe(grid)
            first, second = desk.attempts(path)
            assert (first.outcome, first.cause) == ("stopped", "preempted") and second.first_step == first.last_step
            assert read_json(path / "result.json")["value"] == undisturbed(60)[-1]
    finally:
        cluster.stop()


def test_without_the_handlers_the_signal_kills(desk):
    """The control: a job that does not listen is ended by the same signal."""
    job = desk.cluster.run("sbatch", "--parsable", "--time=1", "-o", "/dev/null", "--wrap", "srun sleep 30").strip()
    desk.until(lambda: "RUNNING" in desk.cluster.run("squeue", "-h", "-j", job, "-o", "%T"), 20)
    subprocess.run(["sleep", "1"], check=True)
    desk.cluster.run("scancel", "--signal=USR2", job)
    desk.until(lambda: "FAILED" in desk.cluster.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T"), 20)
