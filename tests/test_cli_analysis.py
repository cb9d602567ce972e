"""`report`, `board` and `next` from the command line, on a simulated study that lies where the grid's runs would."""
from __future__ import annotations

import json

import pytest

from experiments.expand import expand
from experiments.grid import load
from tests.begira_process import Begira
from tests.simulated_store import Truth, simulate


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Begira:
    begira = Begira(tmp_path_factory.mktemp("simulated"))
    simulate(begira.runs, "mini-eu", ratios=(0.0, 0.2, 1.0), seeds=(0, 1), items=40, styles=("eval-emojione",),
             tasks=("naming",), truth=Truth(run=0.03), generate=False)
    return begira


def test_report(simulated, tmp_path):
    out = simulated("report", "mini", "--out", str(tmp_path))
    assert (tmp_path / "report.html").exists() and out.splitlines()[-1].startswith("report: ")
    assert json.loads((tmp_path / "summary.json").read_text())["study"] == "mini-eu"


def test_board_shows_readable_names(simulated):
    out = simulated("board", "mini", "--no-serve")
    folder = out.split("board: ")[1].strip()
    assert folder.endswith("mini-eu/board")


def test_next_writes_a_grid_that_expands(simulated, tmp_path):
    """What is open is asked for as further seeds of the same study; the file is one that `submit` takes."""
    path = tmp_path / "next.yaml"
    out = simulated("next", "mini", "--out", str(path), code=None)
    if not path.exists():
        assert "decide" in simulated.error
        return
    study = expand(load(path))
    assert f"begira submit {path}" in out and study.name == "mini-eu"
    assert all(run.axes["seed"] > 1 for run in study.runs if run.stage == "evaluate")
