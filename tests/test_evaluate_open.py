"""Questions without a reference: asked like all others, judged by those who can, and no part of any closed score."""
import numpy as np
import pytest
from pyarrow import parquet
from seeing import evaluation, finetuned, items
from toydata import QUESTIONS

from analysis import judge
from analysis.items import load_items
from analysis.judge_plan import Scope, answered, rubric_records
from analysis.stores import read_stores
from core.evaluate import evaluate
from core.files import write_json
from data_tools.check import check
from data_tools.dataset import Sample, building


def opened(sample, number):
    """The same image, asked what nobody wrote an answer to; Basque alone, or both languages."""
    record = {**sample.record, "id": f"open/{number}", "task": "talk" if number < 2 else "describe", "kind": "generate",
              "prompt": {k: f"{q}\n<image>" for k, q in QUESTIONS.items()}, "options": {}, "answer": -1,
              "references": {"en": ["red"] if number == 1 else [], "eu": []}}
    return Sample(record, b"no image" if number == 3 else sample.image)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("open")
    with building(root / "data" / "toy", "toy", ["en", "eu"]) as writer:
        writer.subset("eval", "evaluation", [*items(), *(opened(items()[0], number) for number in range(4))])
        writer.finish([{"name": "t", "version": "1", "licence": "CC0", "origin": "test"}])
    run = evaluation(root, "open", finetuned(root), root / "data")
    write_json(run.path / "result.json", evaluate(run))
    (run.path / "DONE").touch()
    return run


def test_they_are_asked_and_kept_without_a_verdict(run):
    rows = {(row["item"], row["language"]): row for row in parquet.read_table(run.path / "items.parquet").to_pylist()}
    for (item, language), row in rows.items():
        assert (row["score"] is None) == (row["correct"] is None) == (
            item.startswith("open/") and (item, language) != ("open/1", "en"))
        assert row["status"] == ("error" if item == "open/3" else "ok")
    assert rows["open/0", "eu"]["prediction"] and rows["open/1", "en"]["score"] == 1.0


def test_what_is_scored_says_over_how_many(run):
    found = {(m["benchmark"], m["language"], m["metric"]): (m["value"], m["n"]) for m in run.result["metrics"]
             if m["slice"] == "all"}
    assert found["describe", "eu", "exact"] == (1.0, 8) and found["describe", "eu", "unscored"] == (2.0, 10)
    assert found["describe", "eu", "errors"] == (1.0, 10) and found["describe", "eu", "language"][1] == 10
    assert found["talk", "en", "exact"] == (1.0, 1) and ("talk", "eu", "exact") not in found
    assert found["naming", "eu", "accuracy_sum"][1] == 8 and ("naming", "eu", "unscored") not in found


def test_statistics_leave_them_out_and_judges_get_them(run):
    runs = read_stores([run.path.parent.parent])
    for measure in ("score", "chrf"):
        found = load_items(runs)[measure]
        assert not np.isnan(found.score).any()
        assert [name for name in found.described["item"] if name.startswith("open/")] == ["open/1"]
    asked = answered(runs, Scope(items=0))
    open_ones = {key[2:]: one for key, one in asked.questions.items() if key[2].startswith("open/")}
    assert set(open_ones) == {(f"open/{number}", code) for number in range(4) for code in ("en", "eu")}
    assert open_ones["open/0", "eu"].reference == "" and open_ones["open/0", "eu"].answers[run.path.name]
    assert len(rubric_records(asked, judge.Judge("m", "rubric-1").fields)) == len(asked.questions) == 24


def test_check_tells_open_from_forgotten(run, tmp_path):
    with building(tmp_path / "toy", "toy", ["en", "eu"]) as writer:
        samples = [opened(items()[0], number) for number in range(3)]
        del samples[1].record["references"]["eu"]
        writer.subset("eval", "evaluation", samples)
        writer.finish([{"name": "t", "version": "1", "licence": "CC0", "origin": "test"}])
    assert [one["detail"] for one in check(tmp_path / "toy")] == ["no references in 'eu'"]
