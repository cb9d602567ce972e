"""Judging rows and metrics over them: failed items stay in every denominator, each kind has its own score."""
import pytest

from core.score import LanguageIdentifier
from core.summary import judge, metrics, texts_by_language


def row(kind="choice", status="ok", answer=0, scores=(), prediction="", language="en", **extra):
    return {"item": "x", "subset": "eval", "task": kind, "kind": kind, "language": language, "set": "A", "style": "s",
            "category": "c", "concept": "c", "likeness": 0.0, "prompt": "p", "options": ["yes", "no"],
            "references": ["yes"], "accepted": [], "answer": answer, "scores": list(scores), "scores_blank": [],
            "tokens": [1, 1], "prediction": prediction, "status": status, "error": "", **extra}


def values(rows, part="all"):
    return {m["metric"]: m["value"] for m in metrics(rows) if m["slice"] == part}


def test_three_failures_of_a_hundred_are_three_errors_of_a_hundred():
    rows = [row(scores=(-1.0, -2.0)) for _ in range(97)] + [row(status="error") for _ in range(3)]
    found = metrics(judge(rows, {}, None))
    assert {m["n"] for m in found} == {100}
    assert values(judge(rows, {}, None)) == {"accuracy": 0.97, "accuracy_sum": 0.97, "accuracy_token": 0.97,
                                             "accuracy_character": 0.97, "errors": 3.0}


def test_the_blank_image_is_subtracted_and_reported():
    rows = [row(scores=(-2.0, -1.0)), row(scores=(-1.0, -3.0))]
    blank = {("p", "yes"): -2.5, ("p", "no"): -1.0}
    found = values(judge(rows, blank, None))
    assert found["accuracy"] == 1.0 and found["accuracy_sum"] == 0.5 and found["accuracy_blank"] == 0.0


def test_vqa_counts_ten_answers():
    rows = [row("vqa", prediction="The dogs", references=["dogs"] * 2 + [f"cat{n}" for n in range(8)]),
            row("vqa", prediction="perro", references=["dogs"] * 10, accepted=["perro"]),
            row("vqa", status="error")]
    assert values(judge(rows, {}, None))["vqa_accuracy"] == pytest.approx((0.6 + 1.0 + 0.0) / 3)


def test_yes_or_no_is_balanced():
    rows = [row("yes_no", prediction=text, answer=answer) for text, answer in
            (("Yes!", 0), ("yes", 0), ("no", 0), ("yes", 1))] + [row("yes_no", status="error", answer=1)]
    found = values(judge(rows, {}, None))
    assert found["accuracy"] == 0.4 and found["balanced_accuracy"] == pytest.approx(2 / 3 / 2)


def test_free_answers_have_exact_match_chrf_and_language():
    rows = [row("generate", prediction="Katua.", language="eu", references=["katua"], options=[]),
            row("generate", prediction="the cat", language="eu", references=["txakur handia"], options=[])]
    texts = {**texts_by_language(rows), "en": ["the cat", "a dog"]}
    identifier = LanguageIdentifier(["en", "eu"], texts)
    judged = judge(rows, {}, identifier)
    found = {m["metric"]: m["value"] for m in metrics(judged, identifier) if m["slice"] == "all"}
    assert found["exact"] == 0.5 and found["language"] == 0.5
    assert [r["language_detected"] for r in judged] == ["eu", "en"]
    assert found["chrf"] == pytest.approx(sum(r["chrf"] for r in judged) / 2)
    assert 0 < found["chrf_corpus"] < 100


def test_slices_that_hold_everything_are_not_repeated():
    rows = judge([row(scores=(-1.0, -2.0)), row(scores=(-1.0, -2.0), set="B", likeness=20.0),
                  row(scores=(-2.0, -1.0), likeness=60.0)], {}, None)
    assert {m["slice"]: m["n"] for m in metrics(rows)} == {"all": 3, "A": 2, "B": 1, "no cognates": 2, "unlike": 1}
    assert values(rows, "no cognates")["accuracy"] == 1.0
    assert {m["slice"] for m in metrics(rows[:1])} == {"all"}


def test_open_questions_are_neither_right_nor_wrong():
    """Of four, two have a reference and one of these failed; an open one failed as well."""
    rows = judge([row("generate", prediction="yes", options=[]), row("generate", status="error", options=[]),
                  *(row("generate", status=status, prediction="whatever", options=[], references=[], open=True)
                    for status in ("ok", "error"))], {}, None)
    assert [one["score"] for one in rows] == [1.0, 0.0, None, None]
    assert [one["correct"] for one in rows] == [True, False, None, None]
    found = {m["metric"]: (m["value"], m["n"]) for m in metrics(rows) if m["slice"] == "all"}
    assert found == {"exact": (0.5, 2), "chrf": (50.0, 2), "chrf_corpus": (pytest.approx(found["chrf_corpus"][0]), 2),
                     "unscored": (2.0, 4), "errors": (2.0, 4)}
    assert values(rows[2:]) == {"unscored": 2.0, "errors": 1.0}
    forgotten = judge([row("generate", status="error", options=[], references=[])], {}, None)
    assert values(forgotten) == {"exact": 0.0, "chrf": 0.0, "errors": 1.0}     # no reference, and not by design
