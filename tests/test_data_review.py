"""The review sheet: a fair sample on one page; marks read back as post-edits, never on the wrong text."""
import json
import re

import pytest

from core.errors import UserError
from core.shards import DataSet
from data_tools import review
from data_tools.check import check
from data_tools.dataset import Sample, building
from data_tools.shards import texts
from data_tools.translate import identity


def record(number, accepted):
    turns = {"en": [{"role": "user", "content": f"Which <b> {number}?"},
                    {"role": "assistant", "content": f"It's {number}"}]}
    if accepted:
        turns["eu"] = [{"role": "user", "content": f"Zein {number}?"}, {"role": "assistant", "content": f"{number} da"}]
    return {"id": f"t/{number}", "source": "t", "license": "CC0", "turns": turns,
            "meta": {"translated": "m"} if accepted else {}}


@pytest.fixture
def data(tmp_path):
    with building(tmp_path / "t", "t", ["en", "eu"]) as made:
        made.subset("train", "text", (Sample(record(i, i % 3 > 0)) for i in range(90)))
        made.finish([{"name": "t", "version": "1", "licence": "CC0", "origin": "test", "sha256": ""}])
        lines = [{"id": f"t/{i}", "reasons": ["number" if i % 2 else "length"], "texts": [
            [f"Which <b> {i}?", "Zein?"], [f"It's {i}", "da"]]} for i in range(0, 90, 3)]
        (made.folder / "rejected.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "t"


def mark(number, verdict, *after):
    before = [f"Which <b> {number}?", f"It's {number}"]
    return {"record": f"t/{number}", "verdict": verdict, "note": "", "texts": [
        {"id": identity(b), "before": "", "after": a} for b, a in zip(before, after, strict=True)]}


def save(path, marks, name="t"):
    path.write_text(json.dumps({"data": name, "language": "eu", "reviewer": "Ane", "marks": marks}))
    return path


def test_the_page_holds_every_stratum_evenly(data, tmp_path):
    counts = review.write(data, tmp_path / "page.html", "eu", 30)
    assert counts == {"train: accepted": 10, "train: length": 10, "train: number": 10}
    page = (tmp_path / "page.html").read_text()
    assert page.count("<article") == 30 and "<b> " not in re.sub(r"<b>t</b>", "", page) and "Which &lt;b&gt;" in page
    review.write(data, tmp_path / "again.html", "eu", 30)
    assert (tmp_path / "again.html").read_text() == page


def test_marks_become_post_edits(data, tmp_path):
    marks = [mark(1, "good", "Zein 1?", "1 da"), mark(2, "corrected", "Zein da 2?", "2 da hori"),
             mark(3, "corrected", "Zein da 3?", "3 da"), {**mark(4, "bad", "", ""), "texts": []}]
    manifest = review.apply(data, save(tmp_path / "marks.json", marks), tmp_path / "out")
    assert manifest["review"] == {"reviewer": "Ane", "language": "eu", "good": 1, "corrected": 2, "bad": 1}
    subset = DataSet(tmp_path / "out").subset("train")
    found = {r["id"]: r for r in (subset.record(i) for i in range(len(subset)))}
    assert texts(found["t/2"], "eu") == ["Zein da 2?", "2 da hori"] and texts(found["t/2"], "en")[1] == "It's 2"
    assert texts(found["t/3"], "eu") == ["Zein da 3?", "3 da"]  # a rejected one was saved
    assert texts(found["t/4"], "eu") is None and found["t/1"]["meta"]["reviewed"] == "good"
    assert texts(found["t/5"], "eu") == ["Zein 5?", "5 da"]
    assert {f["problem"] for f in check(tmp_path / "out")} == {"language missing"}


def test_marks_never_fall_on_the_wrong_text(data, tmp_path):
    other = mark(1, "good", "a", "b")
    other["texts"][0]["id"] = identity("another text")
    for marks, name, expected in (([other], "t", "changed since"), ([mark(1, "fine", "a", "b")], "t", "verdict 'fine'"),
                                  ([{**mark(1, "bad", "a", "b"), "record": "t/1000"}], "t", "does not have"),
                                  ([], "u", "no marks of data set 't'")):
        with pytest.raises(UserError, match=expected):
            review.apply(data, save(tmp_path / "marks.json", marks, name), tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_nothing_translated_is_said(data, tmp_path):
    (data / "rejected.jsonl").unlink()
    with pytest.raises(UserError, match="no machine translation into 'cy'"):
        review.write(data, tmp_path / "page.html", "cy")
