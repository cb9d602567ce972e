"""Judging free answers: each pair once whatever is killed, orders swapped, prompts, the report."""
from __future__ import annotations

import json
import shutil
import signal
from collections import Counter

import pandas as pd
import pytest

from analysis import judge, judge_prompt, preferences
from analysis.judge_plan import Scope, answered
from analysis.judge_tables import judge_tables
from analysis.judgements import Journal, path_of
from analysis.stores import read_stores
from core.chat import Chat, Failure
from core.errors import UserError
from tests.begira_process import Begira, end, wait_until
from tests.judge_server import biased, serving
from tests.judged import BLIND, ITEMS, judged_by, simulated
from tests.simulated_store import simulate


@pytest.fixture(scope="module")
def begira(tmp_path_factory) -> Begira:
    begira = Begira(tmp_path_factory.mktemp("judged"))
    simulated(begira.runs)
    return begira


@pytest.fixture(scope="module")
def runs(begira):
    return read_stores([begira.runs / "mini-eu"])


@pytest.fixture
def found(runs):
    return answered(runs, Scope(items=ITEMS))


def test_killed_and_resumed_each_pair_is_judged_once(begira, tmp_path):
    """Three kills at different places. What is asked twice is only what was under way when the process died."""
    words = ["judge", "mini", "--model", "m", "--no-images", "--out", str(tmp_path), "--requests", "4", "--items", "15"]
    book = path_of(tmp_path / "judge", "m-pair-1-en-blind")
    with serving(tmp_path, 0.0, 0.01) as (address, log):
        for enough in (25, 60, 90):
            process = begira.start(*words, "--endpoint", address)
            try:
                wait_until(lambda enough=enough: book.exists() and book.read_text().count('"ok"') >= enough, 100)
            finally:
                process.send_signal(signal.SIGKILL)
                end(process)
        with open(book, "a") as stream:
            stream.write('{"id": "cut off')     # as a full disk or a lost node would leave it
        out = begira(*words, "--endpoint", address)
        calls = log.read_text().count("\n")
        assert begira(*words, "--endpoint", address).splitlines()[-1] == out.splitlines()[-1]
        assert log.read_text().count("\n") == calls     # called again, nothing is left to ask
    made = pd.read_parquet(tmp_path / "judge" / "judgements.parquet")
    assert len(made) == 3 * 15 * 2 * 2 and made["id"].is_unique     # condition pairs x items x languages x orders
    assert not made.duplicated(["language", "item", "left", "right"]).any()
    asked = made[made["status"] == "ok"]
    assert len(asked) + (made["status"] == "same").sum() == len(made) and len(asked) > 100
    assert len(asked) <= calls <= len(asked) + 3 * 4
    lines = Counter(json.loads(line)["id"] for line in book.read_text().splitlines())
    assert max(lines.values()) == 1


def test_without_the_journal_all_would_be_asked_again(found, tmp_path):
    """The negative control of the resumption above."""
    _, first = judged_by(found, tmp_path / "judge")
    intended = judge.plan(found, BLIND, tmp_path / "judge")
    assert intended.calls == [] == intended.open
    shutil.rmtree(tmp_path / "judge")
    assert len(judge.plan(found, BLIND, tmp_path / "judge").calls) == len(first)


def test_swapped_orders_agree_with_the_stated_rate(found, tmp_path):
    """The server's bias is known per pair, so the rate that is stated must be that share, to the digit."""
    made, asked = judged_by(found, tmp_path / "judge", share=0.3)
    expected = 1 - sum(biased(one["text"], 0.3) for one in asked) / len(asked)
    rater, = preferences.raters(made)
    assert rater.consistency == pytest.approx(expected) and 0.5 < expected < 0.9
    assert rater.first > 0.55 and rater.failed == rater.unreadable == 0
    merged = preferences.outcomes(made)
    assert (merged.loc[merged["steady"].eq(False), "outcome"] == 0).all()     # a bias wins nothing
    (tmp_path / "fair").mkdir()
    fair, _ = judged_by(found, tmp_path / "fair" / "judge")
    rater, = preferences.raters(fair)
    assert rater.consistency == 1.0 and rater.first == 0.5


def test_the_better_condition_is_preferred_in_basque_only_where_it_is(runs, tmp_path):
    made, _ = judged_by(answered(runs, Scope(items=40)), tmp_path / "judge")
    owner = {run.id: str(run.axes["target_ratio"]) for run in runs if run.is_evaluation}
    merged = preferences.outcomes(made)
    names, fitted, pairs = preferences.strengths(merged[merged["language"] == "eu"], owner, draws=200)
    assert names == ["0.0", "0.2", "1.0"] and pairs == 120
    assert fitted.strength[0] < fitted.strength[1] < fitted.strength[2] and fitted.share_low[2] > fitted.share_high[0]
    _, english, _ = preferences.strengths(merged[merged["language"] == "en"], owner, draws=200)
    assert english.share[2] < english.share[0]     # in the simulation English falls from .62 to .33


def test_a_dry_run_says_the_cost_and_asks_nothing(begira, tmp_path):
    words = ["judge", "mini", "--model", "m", "--no-images", "--out", str(tmp_path), "--items", str(ITEMS),
             "--price-in", "2", "--price-out", "10", "--dry-run"]
    lines = begira(*words, "target_ratio=0.2", "target_ratio=1.0").splitlines()
    assert lines[0].startswith("2 conditions") and "24 pairs of answers" in lines[0]
    assert "estimated" in lines[2] and not (tmp_path / "judge").exists()
    begira("judge", "mini", "--no-images", "--out", str(tmp_path), code=2)
    assert "give --endpoint and --model" in begira.error


def test_evaluations_of_other_settings_are_not_judged_unless_they_are_named(tmp_path):
    """The runs of the grid, and the same points once more under other ids, as an override leaves them."""
    begira = Begira(tmp_path)
    words = ["judge", "mini", "--model", "m", "--no-images", "--dry-run"]
    simulated(begira.runs)
    own = {run.id for run in read_stores([begira.runs / "mini-eu"])}
    before = begira(*words)
    simulated(begira.runs, ids={})
    others = [run for run in read_stores([begira.runs / "mini-eu"]) if run.is_evaluation and run.id not in own]
    assert len(others) == 3 and begira(*words) == before
    named = [one.id for one in others if one.axes["target_ratio"] in (0.0, 1.0)]
    assert begira(*words, *named).startswith("2 conditions")


def test_cost_and_measured_tokens(found, tmp_path):
    made, asked = judged_by(found, tmp_path / "judge")
    tokens = sum(len(one["text"]) // 4 for one in asked), 10 * len(asked)
    rater, = preferences.raters(made)
    assert (rater.tokens_in, rater.tokens_out) == tokens and rater.cost == pytest.approx(BLIND.cost(*tokens))
    wider = judge.Intended(found, BLIND, [], [{"same": False}] * 10, (100.0, 10.0))
    assert wider.tokens() == (1000.0, 100.0)


def test_what_has_no_verdict_is_counted_not_guessed(found, tmp_path):
    for question in found.questions.values():
        question.answers = {run: "unreadable" if run == min(question.answers) else "x" for run in question.answers}
    made, _ = judged_by(found, tmp_path / "judge")
    rater, = preferences.raters(made)
    merged = preferences.outcomes(made)
    assert rater.unreadable > 0 and rater.unreadable == 2 * merged["outcome"].isna().sum()
    record = judge.plan(found, BLIND, tmp_path / "other").records[0]
    line = judge.judged(record, BLIND, Failure("no answer"))
    assert line["status"] == "error" and not judge._is_made(record, {record["id"]: line})     # is asked again


def test_a_rubric_grades_single_answers(runs, found, tmp_path):
    who = judge.Judge("m", "rubric-1", images=False)
    made, asked = judged_by(found, tmp_path / "judge", who=who)
    assert len(asked) == len(made) == ITEMS * 2 * 6 and set(made["grade"]) == {2.0, 5.0}
    owner = dict.fromkeys(found.runs, "all")
    mean, half, n = preferences.grades(made, owner)["all"]
    assert mean == pytest.approx(made["grade"].mean()) and 0 < half < 1 and n == len(made)
    graded, trust = judge_tables(runs, tmp_path / "judge")
    assert len(graded.rows) == 3 and "graded 1 to 5" in graded.caption and len(trust.rows) == 1


def test_a_run_that_answers_otherwise_is_judged_anew(found, tmp_path):
    judged_by(found, tmp_path / "judge")
    first = judge.plan(found, BLIND, tmp_path / "judge").records[0]
    run, question = first["left"], found.questions[first["subset"], first["task"], first["item"], first["language"]]
    question.answers[run] = "something else"
    again = judge.plan(found, BLIND, tmp_path / "judge").open
    assert again and all(run in (one["left"], one["right"]) and one["item"] == question.key[2] for one in again)


def test_prompts(found, tmp_path):
    """A language the prompt is not written in, and a prompt that was changed under its name, are refused."""
    question = next(one for key, one in found.questions.items() if key[3] == "eu")
    run, other = list(question.answers)[:2]
    english, basque = (judge_prompt.body(judge_prompt.load("pair-1"), language, "m", question, run, other, None)
                       for language in ("en", "item"))
    assert "in Basque" in english["messages"][0]["content"] and "(euskara)" in basque["messages"][0]["content"]
    assert "Answer A" in english["messages"][1]["content"] and "A erantzuna" in basque["messages"][1]["content"]
    seen = judge_prompt.body(judge_prompt.load("pair-1"), "en", "m", question, run, other, b"\x89PNG")
    assert seen["messages"][1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    with pytest.raises(UserError, match="not written in 'cy'"):
        judge.plan(found, judge.Judge("m", prompt_language="cy"), tmp_path)
    with pytest.raises(UserError, match="not at hand"):
        judge.plan(found, judge.Judge("m"), tmp_path).lines()
    own = tmp_path / "mine.yaml"
    shutil.copy(judge_prompt.FOLDER / "pair-1.yaml", own)
    who = judge.Judge("m", str(own), images=False)
    judged_by(found, tmp_path / "judge", who=who)
    own.write_text(own.read_text().replace("fluent", "eloquent"))
    judge_prompt.load.cache_clear()
    with pytest.raises(UserError, match="changed since"):
        judge.plan(found, who, tmp_path / "judge")


def test_two_at_once_are_refused(found, tmp_path):
    from analysis.judgements import journal

    with journal(tmp_path, BLIND.name), pytest.raises(UserError, match="another process"):
        judge.ask(judge.plan(found, BLIND, tmp_path), tmp_path, Chat("http://127.0.0.1:9/v1"))


def test_no_server_is_said_and_nothing_is_lost(found, tmp_path):
    with pytest.raises(UserError, match="does not answer"):
        judge.ask(judge.plan(found, BLIND, tmp_path), tmp_path, Chat("http://127.0.0.1:9/v1", tries=1))
    assert {line["status"] for line in Journal(path_of(tmp_path, BLIND.name)).lines.values()} == {"same"}


def test_what_cannot_be_asked_or_read_is_refused(begira, tmp_path):
    (tmp_path / "votes.csv").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    server = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "x")
    for words, says in ((("--endpoint", "foo", "--model", "x"), "--endpoint foo is no address"),
                        (("--items", "-3", "--dry-run"), "--items is -3"),
                        (("--pairs", "-1", "--dry-run"), "'--pairs': Input should be greater than or equal to 0. See"),
                        (("--write", str(tmp_path / "page.html"), "--shown", "-3"), "for '--shown'"),
                        ((*server, "--requests", "0"), "for '--requests'"),
                        ((*server, "--timeout", "-1"), "for '--timeout'"),
                        (("--price-in", "-1", "--dry-run"), "for '--price-in'"),
                        (server, "does not answer"),
                        (("--read", str(tmp_path / "votes.csv")), "votes.csv is no text")):
        begira("judge", "mini", "--no-images", "--out", str(tmp_path / "out"), *words, code=2)
        assert says in begira.error and begira.error.count("\n") == 1, begira.error
    assert not list(tmp_path.glob("out/**/*.parquet")) and not (tmp_path / "page.html").exists()


def test_answers_that_cannot_be_read_are_named(tmp_path):
    folder = simulate(tmp_path, "tiny", ratios=(0.0, 1.0), backbones=("llama",), text_only=("none",), seeds=(0,),
                      items=4)
    run = next(run for run in read_stores([folder]) if run.is_evaluation)
    (run.path / "items.parquet").write_text("junk")
    with pytest.raises(UserError, match=r"items\.parquet cannot be read .*: remove it and the run's DONE"):
        answered(read_stores([folder]), Scope())


def test_what_a_judge_without_a_name_would_cost_is_a_sentence(begira, tmp_path):
    said = begira("judge", "mini", "--no-images", "--out", str(tmp_path / "out"), "--dry-run")
    assert " calls of a judge; 0 judgements" in said


def test_tables_say_who_is_preferred_and_how_far_to_trust(runs, found, tmp_path):
    judged_by(found, tmp_path / "judge", share=0.2)
    preferred, trust = judge_tables(runs, tmp_path / "judge")
    assert preferred.name == "judge-m-pair-1-en-without-images-describe"
    assert [row[0].text for row in preferred.rows] == [f"target ratio {level}" for level in (0.0, 0.2, 1.0)]
    assert [label for label, _ in preferred.heads] == ["", "English", "Basque"] and preferred.rows[2][3].mark == "best"
    assert trust.rows[0][0].text == "m (pair-1, en, without images)" and 60 < float(trust.rows[0][3].text) < 95
    assert judge_tables(runs, tmp_path / "nothing") == []


@pytest.mark.slow
def test_the_report_has_a_section_of_it(begira, tmp_path):
    with serving(tmp_path) as (address, _):
        begira("judge", "mini", "--model", "m", "--no-images", "--out", str(tmp_path), "--items", str(ITEMS),
               "--endpoint", address)
    begira("report", "mini", "--out", str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "What judges prefer" in page and "m (pair-1, en, without images)" in page
    assert (tmp_path / "latex" / "judge-trust.tex").exists()
