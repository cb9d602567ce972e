"""One grid, two backends: the same runs with the same ids leave the same results, on this machine and on Slurm."""
import os
from pathlib import Path

from experiments import store

TINY = Path(__file__).resolve().parent.parent / "grids" / "tiny.yaml"


def results(runs):
    """{(stage, id): (result without the clock, losses)} of every run below a runs folder."""
    from core.files import read_json

    found = {}
    for path in sorted(runs.glob("*/*/*/DONE")):
        run = path.parent
        result = {k: v for k, v in read_json(run / "result.json").items() if k != "seconds"}
        metrics = run / "metrics.jsonl"
        found[run.parent.name, run.name] = (result, metrics.read_text() if metrics.exists() else "")
    return found


def test_slurm_leaves_what_local_leaves(desk, monkeypatch):
    desk.submit(TINY)
    assert set(desk.wait(TINY).values()) == {"done"}
    slurm = results(store.roots().runs)
    monkeypatch.setenv("BEGIRA_RUNS", str(desk.folder / "local"))
    monkeypatch.setenv("BEGIRA_SLOTS", "2")
    done = desk.begira("submit", str(TINY), "--cluster", "local")
    assert done.returncode == 0, done.stderr
    assert results(Path(os.environ["BEGIRA_RUNS"])) == slurm and len(slurm) > 5
