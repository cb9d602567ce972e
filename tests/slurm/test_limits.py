"""A site's limits on array indices and queued jobs are kept: nothing is refused, and ending jobs submit the rest."""
import pytest

from tests.slurm.conftest import start
from tests.slurm.desk import Desk


@pytest.fixture(scope="module")
def narrow():
    cluster = start(max_array=21, max_submit=30)
    yield cluster
    cluster.stop()


def test_120_runs_through_a_queue_of_30(narrow, tmp_path):
    with Desk(narrow, tmp_path) as desk:
        desk.profiled(max_array=21, max_jobs=30, memory_gb_per_rank=1)
        grid = desk.grid("many", {"train": {"steps": 1}}, {"seed": {"key": "train.start", "values": list(range(120))}})
        assert desk.submit(grid) == 0
        states = desk.wait(grid, seconds=280)
        assert len(states) == 120 and set(states.values()) == {"done"}
        assert set(desk.sbatch_calls()) == {0}


def test_a_part_without_any_room_is_submitted_by_the_job_of_another(desk):
    """Also after a further submit of the first part alone, and where the jobs that fill the limit end at the same time.
    While no job of the study lives, a person has to."""
    desk.profiled(max_jobs=2)
    grid = desk.grid("parts", {"train": {"delay": 0.1}}, {"steps": {"key": "train.steps", "values": [100, 101, 3]}})
    other = desk.cluster.run("sbatch", "--parsable", "--array=0-1", "--time=5", "-o", "/dev/null", "--wrap",
                             "sleep 300").strip()
    planned = desk.begira("submit", str(grid), "steps=3")
    assert planned.returncode == 0 and "1 jobs wait for room" in planned.stdout, planned.stdout + planned.stderr
    assert "call `begira submit` again" in planned.stdout
    desk.cluster.run("scancel", other)
    desk.until(lambda: not desk.cluster.run("squeue", "-h", "-j", other, check=False).strip(), 20)
    for part in ("[100,101]", "3", "[100,101]"):
        done = desk.begira("submit", str(grid), f"steps={part}")
        assert done.returncode == 0 and ("ending jobs submit them" in done.stdout) == (part == "3"), done.stdout
    assert desk.states(grid)["train steps=3"] == "planned", desk.describe(grid)
    assert set(desk.wait(grid, seconds=120).values()) == {"done"}, desk.describe(grid)


def test_a_larger_array_would_be_refused(narrow, tmp_path):
    """The control: without the profile's limits Slurm refuses, and that is said in one line."""
    with Desk(narrow, tmp_path) as desk:
        seeds = {"key": "train.start", "values": list(range(22))}
        grid = desk.grid("refused", {"train": {"steps": 1}}, {"seed": seeds})
        done = desk.begira("submit", str(grid))
        assert done.returncode == 2 and "Slurm refused train" in done.stderr, done.stderr
        assert "mend the profile" in done.stderr
        assert not [p for p in (tmp_path / "runs" / "refused" / "slurm").iterdir() if p.is_dir()]


def test_a_limit_that_the_profile_does_not_know_is_said_with_its_key(narrow, tmp_path):
    with Desk(narrow, tmp_path) as desk:
        grid = desk.grid("over", {"first": {"delay": 0.1}, "train": {"parents": {"first": "first"}}},
                         {"seed": {"key": "first.start", "values": list(range(16))}})
        done = desk.begira("submit", str(grid))
        assert done.returncode == 2 and "set the profile's max_jobs to the site's limit" in done.stderr, done.stderr
        desk.profiled(max_jobs=30, memory_gb_per_rank=1)
        assert desk.submit(grid) == 0
        assert set(desk.wait(grid, {"done"}, seconds=150).values()) == {"done"}
