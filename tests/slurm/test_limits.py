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


def test_a_larger_array_would_be_refused(narrow, tmp_path):
    """The control: without the profile's limits Slurm refuses, and that is said in one line."""
    with Desk(narrow, tmp_path) as desk:
        seeds = {"key": "train.start", "values": list(range(22))}
        grid = desk.grid("refused", {"train": {"steps": 1}}, {"seed": seeds})
        done = desk.begira("submit", str(grid))
        assert done.returncode == 2 and "Slurm refused train" in done.stderr, done.stderr
        assert not [p for p in (tmp_path / "runs" / "refused" / "slurm").iterdir() if p.is_dir()]
