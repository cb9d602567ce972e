"""The three answers on simulated studies of known truth, and the smaller grid that would decide what is open."""
from __future__ import annotations

import numpy as np
import pytest
import yaml

from analysis.amount import amount
from analysis.answers import answer
from analysis.collect import collect
from analysis.further import further_points, next_grid, wanted_seeds, write_grid
from analysis.questions import declared, settled
from analysis.remarks import share_or_amount
from analysis.study import study_of
from analysis.tables import axes_table
from analysis.wording import question, sentence, verdict
from benchmarks.simulate_studies import Simulated, World, errors_over_looks, grid, truths, validity
from core.errors import UserError
from tests.simulated_store import Truth, simulate

WORLDS = [World("steep", adapted=.0, text=.05, run=.006, concepts=700, seed=1),
          World("saturated", adapted=.06, text=.0, run=.006, concepts=700, seed=2),
          World("steep", adapted=-.06, text=-.04, run=.006, concepts=700, seed=3)]


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: f"{world.curve} {world.adapted:+} {world.text:+}")
def test_clear_truths_are_found(world):
    simulated = Simulated(world)
    simulated.run(grid(range(3)))
    study, answers = simulated.answers()
    verdicts = {one.key: one.verdict for one in answers.all()}
    assert verdicts == {key: next(iter(right)) for key, right in truths(world).items()}
    assert answers.backbone.effect == pytest.approx(world.adapted, abs=.015)
    for one in answers.all():
        assert verdict(one) in ("Yes", "No")
        assert question(study, answers, one).endswith("?")
        assert sentence(study, answers, one).endswith(".")


def test_too_little_data_decides_nothing_and_says_what_would():
    world = World("close", adapted=.015, text=.015, run=.03, concepts=60, seed=4)
    simulated = Simulated(world)
    simulated.run(grid([0]))
    simulated.run([{"target_ratio": 0.0, "backbone": "llama", "text_only": "none", "seed": 1}])
    _, answers = simulated.answers()
    assert {one.verdict for one in answers.all()} == {"not decided"}
    assert any(one.further_seeds for one in answers.all())


@pytest.mark.parametrize("section, says", [
    ({"margn": .1}, "analysis.margn: unknown key"), ({"margin": "wide"}, "analysis.margin is 'wide': give a number"),
    ({"less_alike": None}, "analysis.less_alike is None: give a number"), ({"claim": 7}, "give a ratio from 0 to 1"),
    ({"backbone": "llama"}, r"analysis.backbone is 'llama': give a list in \[ \]"), ({"looks": 0}, "give 1 or more"),
    ({"text_only": {"klingon": "x"}}, "give levels for none, control, target"), ({"measure": "bleu"}, "score or chrf")])
def test_a_declaration_that_makes_no_sense_is_refused(section, says):
    with pytest.raises(UserError, match=says):
        declared({"analysis": section})


def test_small_validity_run():
    """What the committed benchmark does with 1,000 studies, with 27: coverage and wrong answers stay within noise."""
    found = validity(27)
    assert min(found["coverage"].values()) > .8
    assert found["wrong"] <= .12
    assert abs(found["median"]) < .01
    wrong, _ = errors_over_looks(6)
    assert wrong <= .34


def test_share_and_amount_are_told_apart(tmp_path):
    """The score gains .02 by twice the share and .05 by twice the samples: in all .05 by twice the amount at an equal
    share, and .02 - .05 by twice the share at an equal amount."""
    truth = Truth(target={.25: .40, .5: .42, 1.0: .44}, base=dict.fromkeys((.25, .5, 1.0), .5), doubled=.05, run=.004,
                  item=.1)
    settings = {"ratios": (.25, .5, 1.0), "backbones": ("llama",), "text_only": ("none",), "seeds": (0, 1),
                "items": 700, "truth": truth}
    apart = simulate(tmp_path, "apart", samples=(8000, 16000, 32000), **settings)
    study = study_of(collect([apart]), declared({"analysis": {"set": ""}}))
    found = amount(study)
    assert [(own, total) for _, total, own, _, _ in found.rows[:3]] == [(2000, 8000), (4000, 16000), (8000, 32000)]
    for one, right in ((found.by_amount, .05), (found.by_share, -.03)):
        low, high = one.interval()
        assert low < right < high and one.effect == pytest.approx(right, abs=.015)
    assert "half of all data: −" in share_or_amount(study)[0]
    rows = axes_table(study).rows
    assert [(row[0].text, row[1].text) for row in rows] == [("samples", "8000"), ("", "16000"), ("", "32000")]
    assert [float(row[3].text) for row in rows[1:]] == pytest.approx([5.0, 10.0], abs=1.5)
    together = simulate(tmp_path, "together", **settings)
    assert amount(study_of(collect([together]), declared({"analysis": {"set": ""}}))) is None


def opened():
    """A study with one question left: text-only data, whose effect is half the margin."""
    simulated = Simulated(World("steep", adapted=.0, text=.015, run=.022, concepts=300, seed=9))
    simulated.run(grid(range(2)))
    return simulated.answers()


def test_next_asks_only_for_what_is_open(tmp_path):
    study, answers = opened()
    undecided = [one for one in answers.all() if one.verdict == "not decided"]
    assert [one.key for one in undecided] == ["text_only"]
    points = further_points(study, answers)
    assert {point["text_only"] for point in points} == {"english", "target"}
    assert 0.0 not in {point["target_ratio"] for point in points}
    assert all(point["seed"] >= 2 for point in points)
    assert len(points) == wanted_seeds(answers).sum() == 16 * ((undecided[0].further_seeds + 1) // 2)
    path = write_grid(next_grid(study, answers, {"name": "simulated"}, "mini"), tmp_path / "next.yaml")
    written = yaml.safe_load(path.read_text())
    assert written["inherit"] == "mini" and written["name"] == "simulated"
    assert f"{len(points)} further models towards" in written["description"]
    assert len(written["include"]) == 16
    for one in answers.all():
        one.verdict = "yes"
    with pytest.raises(UserError, match="every question is decided"):
        next_grid(study, answers, {"name": "simulated"}, "mini")


def test_answers_do_not_depend_on_where_runs_lie():
    study, answers = opened()
    study.runs = study.runs.iloc[::-1]
    for items in study.loaded.values():
        items.runs.reverse()
        items.score = items.score[::-1]
    again = answer(study)
    for one, other in zip(answers.all(), again.all(), strict=True):
        assert one.verdict == other.verdict
        assert (one.effect, one.low, one.high) == pytest.approx((other.effect, other.low, other.high))


def test_a_study_without_an_axis_leaves_its_question_open(tmp_path):
    directory = simulate(tmp_path, ratios=(0.0, 0.2, 1.0), backbones=("llama",), text_only=("none",), seeds=(0, 1),
                         items=60, tasks=("naming",), generate=False, styles=("eval-emojione",), target="cy")
    study = study_of(collect([directory]), declared({"analysis": {"set": ""}}))
    answers = answer(study)
    assert study.target == "Welsh"
    assert answers.backbone.verdict == answers.text_only.verdict == "not decided"
    assert "needs two" in sentence(study, answers, answers.backbone)
    assert np.isfinite(answers.ratio.effect)
    asked = {"set": "", "backbone": ["llama", "gpt"], "text_only": {"none": "none", "target": "targt"}}
    study = study_of(collect([directory]), declared({"analysis": asked}))
    answers = answer(study)
    assert "no run with backbone gpt is done" in sentence(study, answers, answers.backbone)
    assert "no run with text_only targt is done" in sentence(study, answers, answers.text_only)


def test_roles_are_found_by_name():
    levels = {"backbone": ["latxa", "llama"], "text_only": ["target", "none", "base"]}
    found = settled(declared(None), ["en", "eu"], levels)
    assert found.backbone == ["llama", "latxa"]
    assert found.text_only == {"none": "none", "control": "base", "target": "target"}
    assert found.target_language == "eu"
    chosen = declared({"analysis": {"target_language": "eu"}})
    assert settled(chosen, ["en", "es", "eu"], levels).target_language == "eu"


@pytest.mark.parametrize("languages, section, says", [
    (["en"], {}, "leaves no languages beside the base language en"),
    (["en", "es", "eu"], {}, "leaves several languages"),
    (["en", "eu"], {"target_language": "cy"}, "analysis.target_language is cy, but the evaluations asked in en, eu")])
def test_a_target_language_is_never_guessed(languages, section, says):
    with pytest.raises(UserError, match=says):
        settled(declared({"analysis": section}), languages, {})


def test_two_evaluations_of_one_point_are_no_replicates(tmp_path):
    import shutil

    from core.files import read_json, write_json

    directory = simulate(tmp_path, ratios=(0.0, 1.0), backbones=("llama",), text_only=("none",), seeds=(0,), items=20,
                         tasks=("naming",), generate=False, styles=("eval-emojione",))
    one = next(directory.glob("evaluate/*"))
    two = shutil.copytree(one, one.with_name("another"))
    write_json(two / "spec.json", {**read_json(one / "spec.json"), "id": "another"})
    with pytest.raises(UserError, match="are evaluations of one point of the grid") as caught:
        study_of(collect([directory]), declared(None))
    assert str(one) in str(caught.value) and str(two) in str(caught.value)


def test_what_is_shown_to_be_enough_never_contradicts_the_verdict():
    """A ratio whose test passes by itself, but not at the level that Holm's procedure asks of the verdict."""
    simulated = Simulated(World("close", text=.01, concepts=500, seed=18))
    simulated.run(grid(range(2)))
    study, answers = simulated.answers()
    one, claim = answers.ratio, int(np.argmin(np.abs(answers.curve.levels - .2)))
    assert one.verdict == "not decided" and one.needed < answers.curve.enough_p[claim] <= study.questions.level()
    assert "20\u00a0% is the smallest ratio shown" not in sentence(study, answers, one)


def test_items_that_not_every_run_was_asked_are_counted_out_aloud(tmp_path):
    import pyarrow.parquet as pq

    from analysis.remarks import completeness
    from analysis.wording import basis

    directory = simulate(tmp_path, ratios=(0.0, 1.0), backbones=("llama",), text_only=("none",), seeds=(0, 1), items=60,
                         tasks=("naming",), generate=False, styles=("eval-emojione",))
    run = next(directory.glob("evaluate/*"))
    table = pq.read_table(run / "items.parquet")
    pq.write_table(table.filter([(row % 60) < 40 for row in range(len(table))]), run / "items.parquet")
    study = study_of(collect([directory]), declared({"analysis": {"set": ""}}))
    answers = answer(study)
    assert study.asked() == 40 == study.estimates("eu").by_item.shape[1]
    assert "same 40 items" in basis(study, answers)
    assert any("20 items of naming were left out" in text and run.name in text for text in completeness(study))


def test_items_of_no_concept_are_resampled_one_by_one(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = simulate(tmp_path, ratios=(0.0, 1.0), backbones=("llama",), text_only=("none",), seeds=(0, 1), items=60,
                         tasks=("naming",), generate=False, styles=("eval-emojione",))
    for path in directory.glob("evaluate/*/items.parquet"):
        table = pq.read_table(path)
        column = table.column_names.index("concept")
        pq.write_table(table.set_column(column, "concept", pa.array([""] * len(table))), path)
    study = study_of(collect([directory]), declared({"analysis": {"set": ""}}))
    assert study.estimates("eu").by_item.shape[1] == 60


def test_degrees_of_freedom_do_not_fall_below_those_of_the_parts():
    """Where noise taken off the runs' spread leaves little, a quotient of squares says .05: a half-width of 1e13."""
    from analysis.estimates import Estimates

    by_item = np.random.default_rng(0).normal(0, .01, (2, 50))
    spread = np.eye(2) * .02
    estimates = Estimates(None, by_item.mean(1), by_item, spread, spread * .9999, 2.0, "replicates", np.ones(2), [],
                          np.zeros(2), np.zeros(2, int))
    contrast = estimates.contrast(np.array([1.0, -1.0]))
    assert contrast.df == 2.0
    low, high = contrast.interval()
    assert 0 < high - low < 10 * contrast.error
