"""A grid goes through Slurm as arrays, end to end, and a second submit has nothing to do."""
import pytest


def test_stages_run_as_linked_arrays(desk):
    grid = desk.grid("small", {
        "align": {"steps": 2},
        "finetune": {"steps": 3, "parents": {"align": "align"}},
        "evaluate": {"steps": 1, "parents": {"finetune": "finetune"}},
    }, {"seed": {"key": "align.start", "values": [1, 2, 3]},
        "ratio": {"key": "finetune.factor", "values": [2, 3, 5, 7], "name": "r{}"}})
    before = len(desk.sbatch_calls())
    assert desk.submit(grid) == 0
    assert desk.sbatch_calls()[before:] == [0] * 7  # 3 parents; 12 children behind theirs and 12 more, in 3 arrays each
    states = desk.wait(grid)
    assert len(states) == 27 and set(states.values()) == {"done"}
    assert all(len(desk.attempts(desk.path(grid, name))) == 1 for name in states)
    assert desk.submit(grid) == 0
    assert len(desk.sbatch_calls()) == before + 7


@pytest.mark.parametrize("missing", ["squeue", "sbatch", "srun"])
def test_a_machine_without_a_command_of_slurms(desk, monkeypatch, missing):
    grid = desk.grid(f"without-{missing}", {"train": {"steps": 1}})
    tools = desk.folder / "bin"
    tools.mkdir()
    for tool in {"squeue", "sacct", "scontrol", "scancel", "sbatch", "srun"} - {missing}:
        (tools / tool).symlink_to(desk.cluster.root / "bin" / tool)
    monkeypatch.setenv("PATH", str(tools))
    refused = desk.begira("submit", str(grid))
    assert refused.returncode == 2 and f"begira: no {missing} on this machine" in refused.stderr, refused.stderr
    assert not list((desk.folder / "runs").glob("*/slurm/*/submission.json"))


def test_a_whole_node_comes_with_all_of_its_memory(desk):
    desk.profiled(partitions=[{"partition": "debug", "whole_nodes": True}])
    grid = desk.grid("whole", {"train": {"steps": 1}})
    assert desk.submit(grid) == 0 and desk.wait(grid, {"done"})
    told = desk.cluster.run("scontrol", "show", "job", desk.job(desk.path(grid, "train")))
    node = desk.cluster.layout.options
    assert f"cpu={node.cpus},mem={node.memory}M" in told, told
