"""A node's slurmd dies and the job's processes live on: Slurm starts the run elsewhere, the old one must not write."""
from core.files import read_json
from tests.slurm.stages import metrics
from tests.slurm.test_signals import undisturbed


def test_survivor_of_a_lost_node_is_fenced(desk, shared):
    grid = desk.grid("lost", {"train": {"steps": 700, "delay": 0.1}})
    desk.submit(grid)
    path = desk.path(grid, "train")
    desk.until(desk.beat(path, 5), 40, lambda: desk.describe(grid))
    node = read_json(path / "launch.json")["node"]
    shared.call("kill-node", node, daemon_only=True)
    try:
        desk.until(lambda: len(desk.attempts(path)) == 2, 90, lambda: desk.describe(grid), every=0.5)
        assert read_json(path / "launch.json")["node"] != node
        desk.wait(grid, seconds=120)
    finally:
        shared.call("start-node", node)
    rows, attempts = metrics(path), desk.attempts(path)
    assert [a.outcome for a in attempts] == ["lost", "done"]
    stale = [row for row in rows if row["attempt"] == 1 and row["time"] >= attempts[1].started]
    assert not stale and [row["step"] for row in rows] == list(range(1, 701))
    assert read_json(path / "result.json")["value"] == undisturbed(700)[-1]
