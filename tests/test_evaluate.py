"""Stage `evaluate`: every item counts, a stopped or spread run ends as a whole one, seeing is told from guessing."""
import shutil
from dataclasses import replace

import pytest
from ranks import run_ranks
from seeing import evaluation, finetuned, items, write_items

from core import evaluate as stage
from core import stop
from core.config import Task
from core.errors import Stopped, UserError
from core.evaluate import COLUMNS, Work, evaluate
from core.questions import limited, select
from core.run import Run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_items(folder / "data")
    return folder


@pytest.fixture(scope="module")
def seeing(root):
    return finetuned(root)


@pytest.fixture(scope="module")
def whole(root, seeing):
    run = evaluation(root, "whole", seeing, root / "data")
    return run, evaluate(run)


def table(run):
    from pyarrow import parquet

    return parquet.read_table(run.path / "items.parquet")


def value(result, metric, benchmark="naming", language="en", part="all"):
    found, = [m for m in result["metrics"] if (m["metric"], m["benchmark"], m["language"], m["slice"]) ==
              (metric, benchmark, language, part)]
    return found["value"]


def test_every_item_is_kept_with_its_scores(whole):
    run, result = whole
    found = table(run)
    assert found.column_names == list(COLUMNS) and found.num_rows == 2 * len(items()) == result["items"]
    for row in found.to_pylist():
        assert row["status"] == "ok"
        if row["kind"] == "choice":
            assert len(row["scores"]) == len(row["scores_blank"]) == len(row["tokens"]) == len(row["options"]) == 4
            assert row["prediction"] == row["options"][row["predicted"]]
            assert row["correct"] == (row["predicted"] == row["answer"])
    assert not (run.path / "items").exists()


def test_a_model_that_sees_differs_from_its_blank_control_and_a_blind_one_does_not(root, whole):
    _, sees = whole
    blind = evaluate(evaluation(root, "blind", finetuned(root, blind=True), root / "data"))
    for language in ("en", "eu"):
        assert value(sees, "accuracy_sum", language=language) == 1.0
        assert value(sees, "accuracy_blank", language=language) == 0.25
        assert value(blind, "accuracy_sum", language=language) == value(blind, "accuracy_blank", language=language)
        assert value(sees, "exact", "describe", language) == 1.0
        assert value(blind, "exact", "describe", language) <= 0.25


def test_slices_and_language_are_reported(whole):
    _, result = whole
    assert {m["slice"] for m in result["metrics"]} == {"all", "A", "B", "no cognates", "unlike"}
    assert {m["n"] for m in result["metrics"] if m["benchmark"] == "naming" and m["slice"] == "A"} == {6}
    assert value(result, "language", "describe", "eu") == 1.0
    assert 0 < value(result, "language_reference", "describe", "eu") <= 1


def test_a_failed_item_is_an_error_and_the_denominator_stays(root, seeing, tmp_path):
    data = write_items(tmp_path, broken=["red"])
    run = evaluation(root, "broken", seeing, data)
    result = evaluate(run)
    assert result["errors"] == 8 and value(result, "errors") == 2
    assert {m["n"] for m in result["metrics"] if m["slice"] == "all"} == {8}
    assert value(result, "accuracy_sum") == 0.75
    bad = [row for row in table(run).to_pylist() if row["status"] == "error"]
    assert {row["concept"] for row in bad} == {"red"}
    assert all("UnidentifiedImageError" in row["error"] and not row["correct"] for row in bad)


MALFORMED = [("choice", {"options": "abcd"}), ("choice", {"options": ["red", "555", "a", "b"]}),
             ("choice", {"options": ["[red]", "a", "b", "c"]}), ("choice", {"prompt": "777"}),
             ("choice", {"prompt": "<image> or <image>?"}), ("generate", {"references": "red"}),
             ("generate", {"references": ["null"]})]
IN_THE_TAR = {b'"555"': b" 555 ", b'"777"': b" 777 ", b'"null"': b" null ", b'"[red]"': b'["red"]',
              b'{"id":"unreadable"': b'{"id";"unreadable"'}   # what the writer of shards would not write


def spoil(data):
    """Put into the tar, byte for byte, what stands for it."""
    tar = next((data / "toy" / "eval").glob("*.tar"))
    content = tar.read_bytes()
    for written, meant in IN_THE_TAR.items():
        content = content.replace(written, meant)
    tar.write_bytes(content)
    return data


def test_a_malformed_item_is_an_error_of_its_own_and_of_no_other(root, seeing, whole, tmp_path):
    samples = items()
    for number, (kind, fault) in enumerate(MALFORMED):
        record = next(sample.record for sample in samples if sample.record["kind"] == kind)
        odd = {part: {**record[part], "en": value} for part, value in fault.items()}
        samples.append(replace(samples[0], record={**record, "id": f"odd/{number}", **odd}))
    run = evaluation(root, "malformed", seeing, spoil(write_items(tmp_path, samples=samples)))
    result = evaluate(run)
    assert result["errors"] == len(MALFORMED) and result["items"] == whole[1]["items"] + 2 * len(MALFORMED)
    rows = {(row["item"], row["language"]): row for row in table(run).to_pylist()}
    assert all(rows[f"odd/{number}", "en"]["status"] == "error" and rows[f"odd/{number}", "eu"]["status"] == "ok"
               for number in range(len(MALFORMED)))
    for row in table(whole[0]).to_pylist():
        assert rows[row["item"], row["language"]]["prediction"] == row["prediction"]


def test_an_evaluation_of_nothing_is_refused_and_an_unreadable_item_is_kept(root, tmp_path):
    free = [sample for sample in items() if sample.record["kind"] == "generate"]
    data = write_items(tmp_path, samples=free)
    with pytest.raises(UserError, match="toy/eval: nothing to ask without generate=true"):
        select([Task("toy", "eval")], data, generate=False)
    free.append(replace(free[0], record={**free[0].record, "id": "unreadable"}))
    spoiled = spoil(write_items(tmp_path / "spoiled", samples=free))
    assert [question.kind for question in select([Task("toy", "eval")], spoiled, generate=False)] == [""]


def stopped(run, monkeypatch, after=2):
    """Evaluate until so many units are done. Returns the names of all that are done, now and later."""
    done, original = [], Work.do

    def do(self, name, examiner):
        original(self, name, examiner)
        done.append(name)
        if len(done) == after:
            stop.request("test")

    monkeypatch.setattr(stage.Work, "do", do)
    try:
        with pytest.raises(Stopped):
            evaluate(run)
    finally:
        stop.clear()
    assert len(done) == after and not (run.path / "items.parquet").exists()
    return done


def test_a_stopped_run_ends_bit_for_bit_as_a_whole_one(root, seeing, whole, monkeypatch):
    run = evaluation(root, "stopped", seeing, root / "data")
    done = stopped(run, monkeypatch)
    evaluate(Run(run.path))
    assert len(done) == len(set(done))
    assert table(run).equals(table(whole[0]))


def test_data_built_anew_meanwhile_are_asked_from_the_start(root, seeing, tmp_path, monkeypatch):
    data = write_items(tmp_path / "first")
    run = evaluation(root, "anew", seeing, data)
    done = stopped(run, monkeypatch, after=4)
    shutil.rmtree(data)
    shutil.move(write_items(tmp_path / "second", broken=["red"]), data)
    assert evaluate(Run(run.path))["errors"] == 8
    assert len(done) > len(set(done)), "units of the data before would have served: the test would not notice"
    assert not (run.path / "items").exists()


def test_two_ranks_give_the_rows_of_one(root, seeing, whole):
    run = evaluation(root, "ranks", seeing, root / "data")
    first, second = run_ranks(_evaluate, 2, run.path, timeout=120)
    assert first["metrics"] == whole[1]["metrics"] and "metrics" not in second
    assert table(run).equals(table(whole[0]))


def _evaluate(path):
    return evaluate(Run(path))


def test_nothing_is_asked_again_when_all_is_there(root, seeing, whole, monkeypatch):
    run = evaluation(root, "again", seeing, root / "data")
    monkeypatch.setattr(stage, "finish", lambda *arguments: {"metrics": []})
    evaluate(run)
    monkeypatch.undo()
    monkeypatch.setattr(stage.Work, "do", None)
    assert evaluate(Run(run.path))["metrics"] == whole[1]["metrics"]


def test_a_limit_takes_the_same_concepts_of_every_task(root):
    questions = select([Task("toy", "eval")], root / "data")
    small, large = (limited(questions, Task("toy", "eval", limit=limit)) for limit in (2, 4))
    assert len(small) == 4 and {q.id for q in small} < {q.id for q in large}
    assert {q.meta["concept"] for q in small if q.task == "naming"} == \
        {q.meta["concept"] for q in small if q.task == "describe"}
    assert [q.id for q in limited(list(reversed(questions)), Task("toy", "eval", limit=2))] != []
    assert {q.id for q in limited(list(reversed(questions)), Task("toy", "eval", limit=2))} == {q.id for q in small}


def test_tasks_can_be_named(root):
    only = select([Task("toy", "eval", tasks=["naming"])], root / "data")
    assert {q.task for q in only} == {"naming"}
    with pytest.raises(UserError, match="no task 'nameing': it has describe, naming"):
        select([Task("toy", "eval", tasks=["nameing"])], root / "data")
    assert {q.kind for q in select([Task("toy", "eval")], root / "data", generate=False)} == {"choice"}


def test_a_run_without_its_parent_model_is_the_users_mistake(root):
    run = evaluation(root, "lost", evaluation(root, "nowhere", Run(root / "x"), root / "data"), root / "data")
    with pytest.raises(UserError, match="no trained model"):
        evaluate(run)


def test_an_exported_folder_gives_the_same_scores(root, seeing, whole):
    from core.model import export

    export(seeing.path, root / "models" / "tiny" / "exported")
    run = evaluation(root, "exported", seeing, root / "data", model="tiny/exported")
    assert evaluate(run)["metrics"] == whole[1]["metrics"]
