"""Every way to fail is named from its evidence, with the accounting database up and down, and gets what it is worth."""
from pathlib import Path

import pytest

from core.run import Run

KINDS = {  # kind: (state, cause, attempts)
    "code": ("failed", "code", 1),
    "nan": ("failed", "nan", 1),
    "disk": ("failed", "disk_full", 1),
    "gpu": ("failed", "memory_gpu", 1),
    "halved": ("failed", "memory_gpu", 3),
    "kill": ("failed", "killed", 3),
}


@pytest.mark.parametrize("accounting", [True, False])
def test_exit_classes(desk, shared, accounting):
    if not accounting:
        shared.call("kill-daemon", "slurmdbd", signal="KILL")
    try:
        values = {kind: {"train.fail": {"kind": kind, "step": 0}} for kind in KINDS}
        values["halved"] = {"train.fail": {"kind": "gpu", "step": 1}, "train.runtime.micro_batch": 4}
        values["fits"] = {"train.fail": {"kind": "gpu", "step": 0, "attempts": 1}, "train.runtime.micro_batch": 2}
        values["once"] = {"train.fail": {"kind": "kill", "step": 1, "attempts": 1}}
        values["memory"] = {"train.fail": {"kind": "memory", "step": 1, "attempts": 1}}
        grid = desk.grid(f"classes{int(accounting)}", {"train": {"fail": None}}, {"kind": values})
        desk.profiled(memory_gb_per_rank=0.4)
        desk.submit(grid)
        states = desk.wait(grid, {"done", "failed", "lost"}, seconds=150)
        seen = desk.look(grid)
        by_kind = {run.axes["kind"]: (seen.statuses[run.id], seen.records[run.id]) for run in seen.runs}
        for kind, (state, cause, attempts) in KINDS.items():
            status, record = by_kind[kind]
            assert (status.cause, len(record.attempts)) == (cause, attempts), (kind, status, record.attempts)
            assert not status.may_retry
            assert str(status.state) == state or (kind == "kill" and str(status.state) == "lost")
        well = {states[f"train kind={kind}"] for kind in ("once", "memory", "fits")}
        assert well == {"done"}, desk.describe(grid)
        assert Run(by_kind["fits"][1].path).config["runtime"]["micro_batch"] == 1
        assert [a.cause for a in by_kind["memory"][1].attempts] == ["memory_host", ""]
        calls = len(desk.sbatch_calls())
        desk.submit(grid)
        assert len(desk.sbatch_calls()) == calls, "what failed for good is not submitted again"
    finally:
        if not accounting:
            shared.call("start-daemon", "slurmdbd")


def test_out_of_memory_gets_a_larger_job_by_itself(desk):
    """Nobody calls submit again: the ending job submits its successor, and what waited for it waits for that one."""
    desk.profiled(memory_gb_per_rank=0.4)
    grid = desk.grid("grows", {"train": {"fail": {"kind": "memory", "step": 1, "attempts": 1}},
                               "evaluate": {"parents": {"train": "train"}}})
    desk.submit(grid)
    desk.until(lambda: set(desk.states(grid).values()) == {"done"}, 90, lambda: desk.describe(grid), every=1)
    assert [a.cause for a in desk.attempts(desk.path(grid, "train"))] == ["memory_host", ""]
    asked = [line for folder in (desk.folder / "runs/grows/slurm").glob("*/*_submission.sh")
             for line in folder.read_text().splitlines() if "--mem=" in line]
    assert sorted(set(asked)) == ["#SBATCH --mem=409MB", "#SBATCH --mem=614MB"]


def test_a_job_that_ends_before_its_run_begins_tells_where_to_look(desk):
    """Its environment is broken: mended, the next submit goes on."""
    desk.profiled(python="/nosuch/python")
    grid = desk.grid("unborn", {"train": {"steps": 1}})
    desk.submit(grid)
    assert desk.wait(grid, seconds=60) == {"train": "failed"}
    assert "ended before it began: `begira logs` says where" in desk.begira("status", str(grid), "--json").stdout
    told = desk.begira("logs", str(desk.path(grid, "train")))
    assert told.returncode == 2 and "its job's: " in told.stderr, told.stderr
    folder = Path(told.stderr.partition("its job's: ")[2].strip().removesuffix("/*.log"))
    assert any("/nosuch/python" in log.read_text() for log in folder.glob("*.log"))
    desk.profiled()
    assert desk.submit(grid) == 0 and desk.wait(grid, {"done"}, 60)


def test_failed_parent_blocks_and_retry_repairs(desk):
    grid = desk.grid("family", {
        "align": {"fail": {"kind": "code", "step": 0, "attempts": 1}},
        "finetune": {"parents": {"align": "align"}},
        "evaluate": {"parents": {"finetune": "finetune"}},
    }, {"ratio": {"key": "finetune.factor", "values": [2, 3], "name": "r{}"}})
    desk.submit(grid)
    states = desk.wait(grid, seconds=60)
    assert states["align"] == "failed" and [s for n, s in states.items() if n != "align"] == ["blocked"] * 4
    desk.until(lambda: "family" not in desk.cluster.run("squeue", "-h", "-o", "%j"), 20)
    desk.begira("retry", str(grid), "stage=align")
    assert desk.submit(grid) == 0
    assert set(desk.wait(grid, seconds=90).values()) == {"done"}


def test_retry_takes_up_what_was_cancelled_before_it_began(desk):
    grid = desk.grid("early", {"align": {"steps": 160, "delay": 0.1}, "finetune": {"parents": {"align": "align"}}})
    desk.submit(grid)
    desk.until(desk.beat(desk.path(grid, "align"), 2), 60, lambda: desk.describe(grid))
    assert desk.begira("cancel", str(grid)).returncode == 0
    assert desk.wait(grid) == {"align": "cancelled", "finetune": "cancelled"}
    calls = len(desk.sbatch_calls())
    assert desk.submit(grid) == 0 and len(desk.sbatch_calls()) == calls, "nobody has asked for them"
    assert "2 runs to be retried" in desk.begira("retry", str(grid)).stdout
    assert set(desk.states(grid).values()) == {"planned"}
    desk.submit(grid)
    assert set(desk.wait(grid, seconds=120).values()) == {"done"}, desk.describe(grid)


def test_cancel(desk):
    """With --save a run stops after saving; scancel by hand is a person's word too. Neither comes back by itself."""
    grid = desk.grid("ending", {"train": {"steps": 400, "delay": 0.1, "save_every": 1000}},
                     {"seed": {"key": "train.start", "values": [1, 2], "name": "s{}"}})
    desk.submit(grid)
    first, second = (desk.path(grid, f"train s{number}") for number in (1, 2))
    for path in (first, second):
        desk.until(desk.beat(path, 2), 60, lambda: desk.describe(grid))
    done = desk.begira("cancel", str(grid), "seed=1", "--save")
    assert done.returncode == 0, done.stderr
    desk.cluster.run("scancel", desk.job(second))
    states = desk.wait(grid, seconds=60)
    assert set(states.values()) == {"cancelled"}, desk.describe(grid)
    assert list((first / "checkpoints").glob("step_*")), "saved before it ended"
    calls = len(desk.sbatch_calls())
    desk.submit(grid)
    assert len(desk.sbatch_calls()) == calls
