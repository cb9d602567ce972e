"""Grids: what a YAML file and the command line's words expand to, and how each mistake is named."""
from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import UserError
from experiments import overrides
from experiments.expand import Study, expand
from experiments.grid import build, load
from experiments.grid_file import names
from tests.begira_process import TINY


def study(*words: str, grid: str = TINY) -> Study:
    return expand(overrides.apply(load(grid), overrides.parse(words)))


def written(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.yaml").write_text(text)
    return str(folder / f"{name}.yaml")


def stages(runs) -> list[str]:
    return [run.stage for run in runs]


def test_shared_parents_appear_once():
    tiny = study()
    assert tiny.points == 4 and len(tiny.runs) == len(tiny.by_id) == 11
    assert stages(tiny.runs).count("encoder") == stages(tiny.runs).count("latxa") == 1
    seen = set()
    for run in tiny.runs:
        assert {parent for _, parent in run.parents.values()} <= seen, "parents come first"
        seen.add(run.id)


def test_axes_are_those_a_run_depends_on():
    """latxa is what `backbone` chooses, but does not change by it; evaluate changes through its parent."""
    by_name = {run.name: run for run in study().runs}
    assert by_name["latxa"].axes == by_name["encoder"].axes == {}
    assert by_name["evaluate r0.2 latxa"].axes == {"target_ratio": 0.2, "backbone": "latxa"}


def test_names_show_what_differs_also_in_a_part_of_the_grid():
    assert {run.name for run in study("target_ratio=0.2", "backbone=latxa").runs} == {
        "encoder", "llama", "latxa", "finetune r0.2 latxa", "evaluate r0.2 latxa"}


def test_a_part_of_the_grid_has_the_same_ids():
    assert set(study("target_ratio=0.2").by_id) < set(study().by_id)


def test_what_no_target_needs_is_not_run():
    assert "latxa" not in stages(study("backbone=llama").runs)


def test_overrides_reach_shared_values_stages_and_axes():
    runs = study("base.steps=3", "finetune.mixture.seed=2", "target_ratio=[0.4,0.6]").runs
    assert {run.config["steps"] for run in runs if "steps" in run.config} == {3}
    finetunes = [run for run in runs if run.stage == "finetune"]
    assert {run.config["mixture"]["target_ratio"] for run in finetunes} == {0.4, 0.6}
    assert all(run.config["mixture"]["seed"] == 2 for run in finetunes)


@pytest.mark.parametrize("word, hint", [
    ("ratio=1", "did you mean 'target_ratio'?"), ("finetun.steps=1", "did you mean 'finetune'?"),
    ("finetune.mixture.sed=2", "did you mean 'seed'?"), ("backbone=lama", "did you mean 'llama'?"),
    ("data.tar=1", "did you mean 'target'?"), ("encoder", "is not key=value"),
    ("finetune.parents.backbone=latxa", "write backbone=VALUE"), ("finetune.parents.encoder=x", "no stage 'x'"),
    ("target_ratio=[0", "not valid YAML")])
def test_mistakes_are_named_with_the_nearest_valid(word, hint):
    with pytest.raises(UserError) as error:
        study(word)
    assert hint in str(error.value) and "\n" not in str(error.value)


def test_unknown_grid():
    with pytest.raises(UserError, match="did you mean 'mini'"):
        load("mimi")
    with pytest.raises(UserError, match="no grid file"):
        load("nowhere.yaml")


def test_inheriting_study_says_what_differs(tmp_path):
    """Two lines: another name, fewer values; further settings are laid over the parent's."""
    path = written(tmp_path, "less", f"inherit: {TINY}\naxes: {{target_ratio: {{values: [0.5]}}, backbone: [latxa]}}\n")
    runs = study(grid=path).runs
    assert [run.name for run in runs if run.stage == "finetune"] == ["finetune"] and runs[0].study == "less"
    path = written(tmp_path, "more", f"inherit: {TINY}\nset: {{finetune.start: 9, base.steps: 2}}\n"
                   "stages: {evaluate: {config: {limit: 3}}}\n"
                   "axes: {backbone: {values: {both: {finetune.parents.encoder: latxa}}}, target_ratio: null}\n")
    more = study(grid=path)
    assert [run.config["start"] for run in more.runs if run.stage == "finetune"] == [9, 9, 9]
    assert {run.config["limit"] for run in more.runs if run.stage == "evaluate"} == {3}
    assert {run.config["steps"] for run in more.runs if "steps" in run.config} == {2}


def test_inheriting_itself_is_an_error(tmp_path):
    written(tmp_path, "a", "inherit: b.yaml\n")
    with pytest.raises(UserError, match=r"inherits itself: b.yaml -> a.yaml -> b.yaml"):
        load(written(tmp_path, "b", "inherit: a.yaml\n"))


def test_zip_include_exclude(tmp_path):
    more = "axes: {seed: {key: finetune.mixture.seed, values: [1, 2], name: 's{}'}}\n"
    path = written(tmp_path, "g", f"inherit: {TINY}\n{more}zip: [[seed, target_ratio]]\n")
    assert study(grid=path).points == 4
    assert study("seed=2", grid=path).points == 2
    path = written(tmp_path, "h", f"inherit: {TINY}\n{more}exclude: [{{target_ratio: '> 0.1', seed: 2}}]\n")
    assert study(grid=path).points == 6
    either = "include: [{backbone: llama, seed: [1]}, {target_ratio: 0}]"
    path = written(tmp_path, "i", f"inherit: {TINY}\n{more}{either}\n")
    assert study(grid=path).points == 5
    path = written(tmp_path, "j", f"inherit: {TINY}\n{more}exclude: [{{sed: 1}}]\n")
    with pytest.raises(UserError, match="no axis 'sed': did you mean 'seed'"):
        load(path)
    path = written(tmp_path, "k", f"inherit: {TINY}\nexclude: [{{target_ratio: '>= 0'}}]\n")
    with pytest.raises(UserError, match="no point is left"):
        study(grid=path)


def test_axis_over_a_shared_value_reaches_the_stages_that_read_it(tmp_path):
    path = written(tmp_path, "g", f"inherit: {TINY}\naxes: {{target_ratio: null, language: {{key: data.target, "
                   "values: [eu, cy]}}\n")
    runs = study(grid=path).runs
    assert [run.name for run in runs if run.stage == "latxa"] == ["latxa language=eu", "latxa language=cy"]
    assert stages(runs).count("llama") == stages(runs).count("encoder") == 1
    assert [run.axes for run in runs if run.name.startswith("finetune llama")] == [{"backbone": "llama"}]


def test_name_holds_shared_values(tmp_path):
    path = written(tmp_path, "g", f"inherit: {TINY}\nname: 'tiny-${{data.target}}'\n")
    assert study("data.target=cy", grid=path).name == "tiny-cy"


def test_parents_in_a_circle_and_roles_that_miss(tmp_path):
    body = {"stages": {"a": {"function": "x:y", "parents": {"b": "b"}, "config": {"from": "parent:c"}},
                       "b": {"function": "x:y", "parents": {"a": "a"}}}}
    with pytest.raises(UserError, match="has no 'c'"):
        expand(build(body, tmp_path / "g.yaml"))
    body["stages"]["a"]["config"] = {}
    with pytest.raises(UserError, match="circle: b -> a -> b"):
        expand(build(body, tmp_path / "g.yaml"))


def test_settings_laid_together_equal_settings_checked_as_a_whole():
    """The quick way of `expand` gives what the schema gives for the complete configuration."""
    from core.config import resolve

    for run in study("target_ratio=[0,1]", "text_only=[none,both]", grid="paper").runs:
        assert resolve(run.function, run.config) == run.config


@pytest.mark.parametrize("word, says", [
    ("target_ratio=[0.2,20.0]", "stage finetune: mixture.target_ratio is 20.0: it must lie in 0..1"),
    ("target_ratio=[0.2,1.0]", ""), ("finetune.mixture.samples=0", "mixture.samples is 0")])
def test_every_value_of_an_axis_is_in_range(word, says):
    """Not only the first one: what can never run is not submitted."""
    if not says:
        assert study(word, grid="paper").runs
        return
    with pytest.raises(UserError, match=says):
        study(word, grid="paper")


def test_every_grid_of_the_repository_expands():
    for name in names():
        assert study(grid=name).runs


def test_paper_study():
    paper = study(grid="paper")
    assert stages(paper.runs).count("align") == 2 and stages(paper.runs).count("finetune") == 2 * 6 * 4
    assert len(paper.runs) == 2 + 48 + 48


def test_a_shared_value_that_nothing_reads_is_named(tmp_path):
    """data.tarrget would leave the inherited target in place, and nobody would notice."""
    with pytest.raises(UserError, match=r"slip\.yaml: nothing reads data\.tarrget: did you mean 'target'\?"):
        load(written(tmp_path, "slip", f"inherit: {TINY}\ndata: {{tarrget: cy}}\n"))
    read = f"inherit: {TINY}\nname: 'tiny-${{data.new}}'\ndata: {{target: cy, new: 1}}\n"
    assert load(written(tmp_path, "read", read)).name == "tiny-1"


@pytest.mark.parametrize("function", ["core.train:fintune", "core.trian:finetune"])
def test_a_mistyped_stage_function_is_named(tmp_path, function):
    path = written(tmp_path, "g", f"inherit: mini\nstages: {{finetune: {{function: '{function}'}}}}\n")
    with pytest.raises(UserError, match=rf"no stage function '{function}': did you mean 'core\.train:finetune'\?"):
        load(path)
