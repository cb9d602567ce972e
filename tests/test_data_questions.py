"""Evaluation items of a source are asked and scored as what they are, from its rows to the verdict."""
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from core.config import Task
from core.examiner import describe
from core.questions import select
from core.summary import judge
from data_tools.build import build
from data_tools.check import check
from data_tools.check_sample import record_problems


def png():
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    return {"bytes": out.getvalue(), "path": "a.png"}


def asked(root, source, english, basque):
    """The questions of a data set of `source` with these fields in two rows, one per language."""
    for name, fields in (("en", english), ("eu", basque)):
        pq.write_table(pa.Table.from_pylist([{"image": png(), **fields}]), root / f"{name}.parquet")
    build(source, root / "built", "eu", {"data": str(root / "en.parquet"), "target_data": str(root / "eu.parquet")})
    assert check(root / "built") == []
    return select([Task("built", "test")], root)


def scored(question, language, prediction):
    return judge([{**describe(question, language), "prediction": prediction}], {}, None)[0]["score"]


def test_vqa_asks_how_many_annotators_said_so(tmp_path):
    """One annotator of ten is not right: matching any of the different answers would be."""
    question, = asked(tmp_path, "vqav2", {
        "question_id": 1, "question": "Which colour?", "multiple_choice_answer": "red",
        "answers": [{"answer": "red"}] * 7 + [{"answer": "dark red"}] * 2 + [{"answer": "crimson"}]}, {
        "question_id": 1, "question": "Zein kolore?", "multiple_choice_answer": "gorria", "answers": ["gorria"] * 10})
    assert question.kind == "vqa" and len(question.record["references"]["en"]) == 10
    found = [scored(question, "en", said) for said in ("Red.", "dark red", "crimson", "blue")]
    assert found == pytest.approx([1.0, 0.6, 0.3, 0.0])
    assert scored(question, "eu", "gorria") == 1.0


def test_an_agreed_answer_alone_is_matched_exactly(tmp_path):
    question, = asked(tmp_path, "vqav2", {"question_id": 1, "question": "How many?", "multiple_choice_answer": "two"},
                      {"question_id": 1, "question": "Zenbat?", "multiple_choice_answer": "bi", "answers": []})
    assert question.kind == "generate" and question.record["references"] == {"en": ["two"], "eu": ["bi"]}
    assert [scored(question, "en", "Two"), scored(question, "eu", "bi"), scored(question, "en", "2")] == [1, 1, 0]


def test_yes_or_no_is_heard_from_the_answer(tmp_path):
    question, = asked(tmp_path, "pixmo-capqa", {"id": 1, "question": "Is it red?", "answer": "Yes"},
                      {"id": 1, "question": "Gorria da?", "answer": "bai"})
    assert question.kind == "yes_no" and question.record["options"] == {"en": ["yes", "no"], "eu": ["bai", "ez"]}
    assert [scored(question, "eu", said) for said in ("Bai, gorria da.", "ez", "beharbada")] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("kind, change, says", [
    ("vqa", {}, ""), ("vqa", {"references": {"en": []}}, "no references in 'en'"),
    ("yes_no", {}, ""), ("yes_no", {"answer": 2}, "an answer that is none of them"),
    ("yes_no", {"options": {"en": ["yes", "Yes"]}}, "two options are the same"), ("essay", {}, "unknown kind 'essay'"),
    ("choice", {"options": ["yes"]}, "no options in")])
def test_check_knows_every_kind_that_can_be_asked(kind, change, says):
    record = {"id": "x", "source": "t", "license": "CC0", "task": "t", "kind": kind, "prompt": {"en": "Red?"},
              "options": {"en": ["yes", "no"]}, "answer": 0, "references": {"en": ["red"] * 10}, **change}
    found = record_problems(json.dumps(record).encode(), "evaluation", ["en"])[1]
    assert [problem for problem, _, _ in found] == ["schema"] * bool(says)
    assert not says or says in found[0][1]
