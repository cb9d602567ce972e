"""`report`, `board` and `next` from the command line, on a simulated study that lies where the grid's runs would."""
from __future__ import annotations

import json

import pytest

from analysis.stores import place
from experiments.expand import expand
from experiments.grid import load
from tests.begira_process import Begira
from tests.simulated_store import Truth, simulate


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Begira:
    begira = Begira(tmp_path_factory.mktemp("simulated"))
    _simulate(begira, {place(run): run.id for run in expand(load("mini")).runs})
    return begira


def _simulate(begira: Begira, ids: dict) -> None:
    simulate(begira.runs, "mini-eu", ratios=(0.0, 0.2, 1.0), seeds=(0, 1), items=40, styles=("eval-emojione",),
             tasks=("naming",), truth=Truth(run=0.03), generate=False, ids=ids)


def test_report(simulated, tmp_path):
    out = simulated("report", "mini", "--out", str(tmp_path))
    assert (tmp_path / "report.html").exists() and out.splitlines()[-1].startswith("report: ")
    assert json.loads((tmp_path / "summary.json").read_text())["study"] == "mini-eu"


def test_evaluations_of_other_settings_are_left_out_and_named(simulated, tmp_path):
    """The same points under other ids, as an override leaves them in the study's folder: not one number changes."""
    simulated("report", "mini", "--out", str(tmp_path / "before"))
    _simulate(simulated, {})
    simulated("report", "mini", "--out", str(tmp_path / "after"))
    before, after = ((tmp_path / name / "table.csv").read_text() for name in ("before", "after"))
    assert before == after
    assert "8 evaluations were left out" in (tmp_path / "after" / "report.html").read_text()
    assert "left out" not in (tmp_path / "before" / "report.html").read_text()
    summary = json.loads((tmp_path / "after" / "summary.json").read_text())
    assert len(summary["evaluations"]) == len(set(summary["evaluations"]) - set(summary["left_out"])) > 8
    assert len(summary["left_out"]) == 8


def test_the_papers_study_can_be_answered_as_it_is_declared(tmp_path):
    """Every question of grids/paper.yaml finds its runs, its items and its levels."""
    begira, ratios = Begira(tmp_path), (0, 0.2, 0.4, 0.6, 0.8, 1.0)
    truth = Truth({r: .4 + .2 * r for r in ratios}, dict.fromkeys(ratios, 0.6), run=.004)
    simulate(begira.runs, "paper", ratios=ratios, text_only=("none", "en", "eu", "both"), seeds=(0,), items=300,
             styles=("aokvqa-eu",), tasks=("aokvqa",), generate=False, truth=truth,
             ids={place(run): run.id for run in expand(load("paper")).runs})
    found = begira.json("report", "paper", "--out", str(tmp_path / "out"))
    assert found["missing"] == 0
    assert [one["key"] for one in found["answers"] if one["effect"] is None] == []
    assert found["answers"][0]["effect"] == pytest.approx(.16, abs=.06)


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
