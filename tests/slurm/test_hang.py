"""A rank that stops in mid-run is found, the stacks of all ranks are kept, and the run finishes in the next attempt."""
from core.files import read_json


def test_hanging_rank_is_dumped_and_requeued(desk):
    grid = desk.grid("hang", {"train": {"steps": 10, "delay": 0.9, "fail": {"kind": "hang", "step": 7, "rank": 1,
                                                                            "attempts": 1},
                                        "runtime": {"nodes": 2, "ranks_per_node": 2}}})
    desk.submit(grid)
    states = desk.wait(grid, seconds=120)
    path = desk.path(grid, "train")
    assert states == {"train": "done"}, desk.describe(grid)
    attempts = desk.attempts(path)
    assert [a.cause for a in attempts] == ["hang", ""]
    record = read_json(path / "attempts" / "0001.hang.json")
    assert record["step"] == 7 and record["waited"] < 3 * record["median"] + 20 + 5
    stacks = sorted((path / "logs").glob(f"{attempts[0].record['launch']}_rank*.stacks"))
    assert len(stacks) == 4 and all("in count" in p.read_text() for p in stacks)
    assert "in misbehave" in stacks[1].read_text()
