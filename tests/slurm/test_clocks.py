"""What takes its time: a real time limit, and a rank that hangs. Both runs are under way together."""
import pytest

from core.files import read_json
from tests.slurm.desk import Desk
from tests.slurm.test_signals import STEPS, check

TWO_BY_TWO = {"nodes": 2, "ranks_per_node": 2}


@pytest.fixture(scope="module")
def started(shared, tmp_path_factory):
    """The desk and both grids, submitted.

    The limit is one minute. Slurm looks every 30 s, so its signal comes 10 to 40 s after the start. Nothing is left
    after the margins, which a real profile would be refused for: hence the negative start_seconds."""
    with Desk(shared, tmp_path_factory.mktemp("clocks")) as desk:
        hang = desk.grid("hang", {"train": {"steps": 10, "delay": 0.9, "runtime": TWO_BY_TWO, "fail": {
            "kind": "hang", "step": 7, "rank": 1, "attempts": 1}}})
        desk.submit(hang)
        desk.profiled(minutes=1, signal_seconds=20, start_seconds=-50)
        limit = desk.grid("limit", {"train": {**STEPS, "delay": 0.75}})
        desk.submit(limit)
        yield desk, hang, limit


def test_hanging_rank_is_dumped_and_requeued(started):
    desk, grid, _ = started
    assert desk.wait(grid, seconds=120) == {"train": "done"}, desk.describe(grid)
    path = desk.path(grid, "train")
    attempts = desk.attempts(path)
    assert [a.cause for a in attempts] == ["hang", ""]
    record = read_json(path / "attempts" / "0001.hang.json")
    assert record["step"] == 7 and record["waited"] < 3 * record["median"] + 20 + 5
    stacks = sorted((path / "logs").glob(f"{attempts[0].record['launch']}_rank*.stacks"))
    assert len(stacks) == 4 and all("in count" in p.read_text() for p in stacks)
    assert "in misbehave" in stacks[1].read_text()


def test_time_limit_requeues_and_resumes_exactly(started):
    desk, _, grid = started
    path = desk.path(grid, "train")
    for _ in range(3):  # on a very slow machine the signal may come before a job listens, and the limit ends it
        if desk.wait(grid, seconds=200) == {"train": "done"}:
            break
        desk.submit(grid)
    requeues = len(desk.attempts(path)) - 1
    assert requeues >= 1 and {a.cause for a in desk.attempts(path)[:-1]} == {"time_limit"}
    check(desk, path, requeues)
