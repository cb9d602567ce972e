"""Runs become one tidy table: complete, the same for the same results, merged over stores, with holes made visible."""
from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from analysis.answers import answer
from analysis.collect import collect, write_tables
from analysis.costs import cost_tables
from analysis.items import load_items
from analysis.questions import declared
from analysis.stores import read_stores, training_of
from analysis.study import study_of
from core.errors import UserError
from core.files import read_json, write_json
from tests.simulated_store import simulate

SMALL = {"ratios": (0.0, 0.2, 1.0), "seeds": (0, 1), "items": 40, "tasks": ("naming",),
         "styles": ("eval-dev", "eval-emojione"), "text_only": ("none", "target")}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("stores"), **SMALL)


@pytest.fixture
def store(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "here" / pristine.name)


def evaluations(store):
    return [run for run in read_stores([store]) if run.is_evaluation]


def test_every_metric_of_every_run_is_a_row_with_axes_and_what_was_consumed(store):
    scores = collect([store]).scores
    assert len(scores) == sum(len(run.result["metrics"]) for run in evaluations(store))
    assert set(scores["target_ratio"]) == {0.0, 0.2, 1.0}
    row = scores[(scores["target_ratio"] == 0.2) & (scores["text_only"] == "target")].iloc[0]
    assert row["realised_ratio_sample"] == pytest.approx(0.2)
    assert row["tokens_image_eu"] == 0.25 * row["tokens_image_en"] > 0
    assert row["tokens_text_eu"] == 80000
    assert set(scores.loc[scores["text_only"] == "none", "tokens_text_eu"]) == {0}
    assert set(scores.loc[scores["target_ratio"] == 0, "samples_image_eu"]) == {0}
    one = evaluations(store)[0]
    wanted = pd.DataFrame(one.result["metrics"])
    got = scores[scores["run"] == one.id]
    keys = ["benchmark", "subset", "language", "metric", "slice"]
    joined = wanted.merge(got, on=keys, suffixes=("", "_table"))
    assert len(joined) == len(wanted)
    assert (joined["value"] == joined["value_table"]).all()


def test_two_executions_of_one_study_give_the_same_bytes(store, tmp_path):
    before = write_tables(collect([store]), tmp_path / "a")
    for run in read_stores([store]):  # the second execution took longer, needed two attempts, ran elsewhere
        write_json(run.path / "result.json", {**run.result, "seconds": 1e4, "tokens_per_second": 1.0})
        attempt = run.attempts[0]
        write_json(run.path / "attempts" / "0001.json", {**attempt, "outcome": "lost", "ended": attempt["ended"] + 99})
        write_json(run.path / "attempts" / "0002.json", {**attempt, "attempt": 2, "host": "b"})
    after = write_tables(collect([store]), tmp_path / "b")
    for name in ("table.parquet", "table.csv"):
        assert before[name].read_bytes() == after[name].read_bytes()
    assert before["cost.csv"].read_bytes() != after["cost.csv"].read_bytes()
    costs = collect([store]).costs
    assert costs["lost_hours"].gt(0).all()
    one = evaluations(store)[0]  # the control: another score is another table
    metrics = one.result["metrics"]
    write_json(one.path / "result.json", {**one.result, "metrics": [{**metrics[0], "value": 0.123}, *metrics[1:]]})
    assert write_tables(collect([store]), tmp_path / "c")["table.csv"].read_bytes() != after["table.csv"].read_bytes()


def test_hours_are_told_apart(tmp_path):
    """Two attempts, of 20 s on two ranks and of 32 s on eight, and what the loop counted of them, in seconds times
    ranks."""
    store = simulate(tmp_path, ratios=(0.2,), backbones=("llama",), text_only=("none",), seeds=(0,), items=20)
    run = next(run for run in read_stores([store]) if run.stage == "finetune")
    spent = {"all": 270.0, "data": 30.0, "checkpoints": 3.0, "validation": 0.0}
    write_json(run.path / "result.json", {**run.result, "spent": spent})
    first = {**run.attempts[0], "world_size": 2, "outcome": "stopped"}
    write_json(run.path / "attempts" / "0001.json", {**first, "ended": first["started"] + 20})
    write_json(run.path / "attempts" / "0002.json", {**first, "attempt": 2, "world_size": 8, "outcome": "done",
                                                     "started": first["started"] + 90, "ended": first["started"] + 122})
    collected = collect([store])
    row = collected.costs.set_index("run").loc[run.id]
    assert row["process_hours"] * 3600 == pytest.approx(20 * 2 + 32 * 8)
    assert {name: row[f"spent_{name}"] * 3600 for name in spent} == pytest.approx(spent)
    study = study_of(collected, declared(None))
    tables = {table.name: table for table in cost_tables(study, answer(study, resample=False))}
    assert [[cell.text for cell in line] for line in tables["goodput"].rows] == [
        ["finetune", "80.1", "10.1", "1.0", "0.0", "8.8"]]  # no other stage counts


def test_stores_merge_and_refuse_to_disagree(store, tmp_path):
    other = shutil.copytree(store, tmp_path / "there" / store.name)
    first, second, *_ = evaluations(store)
    (first.path / "DONE").unlink()                                   # finished on the other cluster only
    shutil.rmtree(other / "evaluate" / second.id)                    # finished on this one only
    merged = collect([store, other])
    assert merged.scores["run"].nunique() == len(evaluations(store))
    assert not len(merged.missing)
    path = other / "evaluate" / evaluations(store)[2].id / "result.json"
    result = read_json(path)
    result["metrics"][0]["value"] += 0.01
    write_json(path, result)
    with pytest.raises(UserError, match=r"two different results, in .*here.* and .*there"):
        collect([store, other])


def test_missing_runs_are_listed_with_what_became_of_them(store):
    failed, waiting, *_ = evaluations(store)
    for run, outcome in ((failed, "failed"), (waiting, None)):
        (run.path / "DONE").unlink()
        (run.path / "result.json").unlink()
        write_json(run.path / "attempts" / "0001.json", {**run.attempts[0], "outcome": outcome})
    gone = evaluations(store)[2]
    shutil.rmtree(gone.path)
    missing = collect([store]).missing.set_index("run")
    assert missing.loc[failed.id, "state"] == "failed"
    assert missing.loc[waiting.id, "state"] == "running"
    assert missing.loc[None, "state"] == "not created"
    assert missing.loc[None, "target_ratio"] == gone.axes["target_ratio"]
    assert len(collect([store], evaluations(store)).missing) == 2    # a grid that does not want the product


def test_parents_are_followed_to_the_training_behind_a_score(store):
    runs = read_stores([store])
    by_id = {run.id: run for run in runs}
    for run in evaluations(store):
        assert training_of(run, by_id).axes == run.axes


def test_items_of_all_runs_are_one_matrix(store):
    runs = evaluations(store)
    one = runs[0].path / "items.parquet"
    table = pq.read_table(one)
    status = table["status"].to_pylist()
    status[3] = "error"
    shuffled = table.set_column(table.column_names.index("status"), "status", [status]).take(
        np.random.default_rng(0).permutation(len(table))[5:])
    pq.write_table(shuffled, one)                                    # another order, five items fewer, one failed
    items = load_items(runs)["score"]
    frame = shuffled.to_pandas()
    wanted = dict(zip(zip(frame["item"], frame["task"], frame["language"], strict=True),
                      frame["correct"] & (frame["status"] == "ok"), strict=True))
    row = items.score[items.runs.index(runs[0].id)]
    keys = list(zip(items.described["item"], items.described["task"], items.described["language"], strict=True))
    assert [np.nan if key not in wanted else float(wanted[key]) for key in keys] == pytest.approx(row, nan_ok=True)
    assert np.isnan(row).any()
    assert not np.isnan(items.score[1:]).any()
    assert items.complete().score.shape[1] == len(wanted)
    assert set(load_items(runs)["chrf"].described["task"]) == {"describe"}


def test_an_unreadable_file_is_named(store):
    run = evaluations(store)[0]
    (run.path / "items.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(UserError, match=f"{run.id}.*items.parquet"):
        load_items(evaluations(store))
    with pytest.raises(UserError, match="no runs in"):
        collect([store / "evaluate"])


@pytest.mark.parametrize("damage, says", [
    (lambda run: (run / "result.json").unlink(), "remove its DONE"),
    (lambda run: (run / "items.parquet").unlink(), "remove its DONE"),
    (lambda run: (run / "result.json").write_text("{}"), "remove its DONE"),
    (lambda run: (run / "result.json").write_text("[]"), "remove its DONE"),
    (lambda run: (run / "result.json").write_text("{"), "remove its DONE"),
    (lambda run: (run / "spec.json").write_text("{}"), "remove the run's folder")])
def test_a_damaged_run_is_named_with_its_remedy(tmp_path, damage, says):
    directory = simulate(tmp_path, ratios=(0.0, 1.0), backbones=("llama",), text_only=("none",), seeds=(0,), items=20,
                         tasks=("naming",), generate=False, styles=("eval-emojione",))
    run = next(directory.glob("evaluate/*/items.parquet")).parent
    damage(run)
    with pytest.raises(UserError, match=says) as caught:
        collect([directory])
    assert run.name in str(caught.value) and "\n" not in str(caught.value)
