"""Judging elsewhere: batch files give what a server gives, whatever was written out between them and their results."""
from __future__ import annotations

import json

import pytest

from analysis import judge
from analysis.judge_plan import Scope, answered
from analysis.judgements import write_table
from analysis.stores import read_stores
from core.errors import UserError
from tests.judge_server import verdict
from tests.judged import BLIND, ITEMS, judged_by, simulated


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return read_stores([simulated(tmp_path_factory.mktemp("judged"))])


def test_batch_files_give_the_same_judgements(runs, tmp_path):
    found = answered(runs, Scope(items=ITEMS))
    direct, _ = judged_by(found, tmp_path / "judge")
    folder, requests, results = tmp_path / "batch", tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    number = judge.write_batch(judge.plan(found, BLIND, folder), folder, requests)
    lines = []
    for text in requests.read_text().splitlines():
        request = json.loads(text)
        assert request["method"] == "POST" and request["url"] == "/v1/chat/completions"
        said = verdict(request["body"]["messages"][-1]["content"], 0.0)
        lines.append({"id": "x", "custom_id": request["custom_id"], "error": None, "response": {
            "status_code": 200, "body": {"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}}})
    lines[0] |= {"response": None, "error": {"message": "expired"}}
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert judge.read_batch(folder, results) == number == len(lines)
    assert judge.read_batch(folder, results) == 1     # the failed one is taken again, the others are there
    elsewhere = write_table(folder)
    both = direct.merge(elsewhere, on="id", suffixes=("", "_batch"), validate="one_to_one")
    assert len(both) == len(direct) == len(elsewhere)
    assert (both["verdict"] != both["verdict_batch"]).sum() == 1 == (elsewhere["status"] == "error").sum()
    assert [one["id"] for one in judge.plan(found, BLIND, folder).calls] == [lines[0]["custom_id"]]
    lines[0]["custom_id"] = "another"
    results.write_text(json.dumps(lines[0]))
    with pytest.raises(UserError, match="no result of a batch that this study wrote"):
        judge.read_batch(folder, results)


def test_a_second_batch_leaves_the_first_one_readable(runs, tmp_path):
    """Each language is written out before the results of either have come."""
    folder, numbers = tmp_path / "judge", {}
    for language in ("eu", "en"):
        intended = judge.plan(answered(runs, Scope(languages=(language,), items=3)), BLIND, folder)
        numbers[language] = judge.write_batch(intended, folder, tmp_path / f"{language}.jsonl")
    for language, number in numbers.items():
        ids = [json.loads(line)["custom_id"] for line in (tmp_path / f"{language}.jsonl").read_text().splitlines()]
        results = tmp_path / f"results-{language}.jsonl"
        results.write_text("".join(json.dumps({"custom_id": name, "response": {"status_code": 200, "body": {"choices": [
            {"message": {"content": "Verdict: A"}, "finish_reason": "stop"}]}}}) + "\n" for name in ids))
        assert judge.read_batch(folder, results) == number > 0
