"""What TensorBoard is given: runs by readable names, hyper-parameters with final scores, curves and a layout."""
from __future__ import annotations

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata

from analysis.board import board, readable
from analysis.collect import collect
from analysis.events import events
from analysis.stores import read_stores
from tests.simulated_store import simulate


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    directory = simulate(tmp_path_factory.mktemp("board"), ratios=(0.0, 1.0), seeds=(0, 1), items=30, tasks=("naming",),
                         styles=("eval-dev", "eval-emojione"), text_only=("none",))
    for run in read_stores([directory]):
        if run.stage == "finetune":
            with events(run.path / "tb") as write:
                write.scalar("loss", 1.5, 10)
    return directory


def loaded(folder):
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_runs_are_shown_by_name_and_read_through_the_link(study):
    folder = board(study)
    names = {readable(run) for run in read_stores([study]) if run.stage == "finetune"}
    assert {path.name for path in (folder / "finetune").iterdir()} == names and len(names) == 8
    for path in (folder / "finetune").iterdir():
        assert path.is_symlink() and not path.readlink().is_absolute()
        assert loaded(path).Scalars("loss")[0].step == 10
    assert not (folder / "encoder").exists()  # it wrote no events


def test_hyper_parameters_and_final_scores(study):
    folder = board(study)
    experiment = loaded(folder / "results").SummaryMetadata(metadata.EXPERIMENT_TAG)
    declared = metadata.parse_experiment_plugin_data(experiment.plugin_data.content)
    assert {info.name for info in declared.hparam_infos} == {"target_ratio", "backbone", "text_only", "seed", "run id"}
    assert "eu/naming" in {info.name.tag for info in declared.metric_infos}
    scores = collect([study]).scores
    sessions = [path for path in (folder / "results").iterdir() if path.is_dir()]
    assert len(sessions) == scores["run"].nunique()
    for path in sessions:
        found = loaded(path)
        start = found.SummaryMetadata(metadata.SESSION_START_INFO_TAG)
        values = metadata.parse_session_start_info_plugin_data(start.plugin_data.content).hparams
        mine = scores[(scores["run"] == values["run id"].string_value) & (scores["slice"] == "all")]
        row = mine[(mine["benchmark"] == "naming") & (mine["subset"] == "eval-emojione") & (mine["language"] == "eu")]
        assert values["target_ratio"].number_value == row["target_ratio"].iloc[0]
        assert found.Scalars("eu/naming")[0].value == pytest.approx(row["value"].iloc[0])


def test_curves_and_layout_group_the_axes(study):
    folder = board(study)
    curve = loaded(folder / "curves" / "latxa, none")
    assert [point.step for point in curve.Scalars("ratio/eu/naming")] == [0, 100]
    tensor = loaded(folder / "curves").Tensors("custom_scalars__config__")[0].tensor_proto
    layout = layout_pb2.Layout.FromString(tensor.string_val[0])
    assert [category.title for category in layout.category] == [
        "English scores over the ratio (step = percent)", "Basque scores over the ratio (step = percent)", "losses",
        "speed"]


def test_selection_and_an_unfinished_study(study, tmp_path):
    one = next(run for run in read_stores([study]) if run.stage == "finetune")
    folder = board(study, tmp_path / "some", selected=[one.id])
    assert [path.name for path in (folder / "finetune").iterdir()] == [readable(one)]
    early = simulate(tmp_path, ratios=(0.0,), seeds=(0,), items=5, tasks=("naming",), text_only=("none",))
    for run in read_stores([early]):
        (run.path / "DONE").unlink()
    assert (board(early) / "curves").is_dir()
