"""The command line: plan says what submit does, selectors select, mistakes are one line with the right exit code."""
from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from begira import main
from tests.begira_process import ROOT, TINY, Begira

PART = ("target_ratio=0", "backbone=llama")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Begira:
    begira = Begira(tmp_path_factory.mktemp("done"))
    begira("submit", TINY, *PART)
    return begira


def test_plan_prints_what_submit_does(tmp_path):
    begira = Begira(tmp_path)
    plan = begira("plan", TINY, *PART)
    assert not begira.runs.exists(), "plan changes nothing"
    submitted = begira("submit", TINY, *PART)
    assert submitted.startswith(plan) and len(begira.results()) == 4
    assert {run["id"] for run in begira.json("plan", TINY, *PART)["runs"]} == {
        key.split("/")[1] for key in begira.results()}


def test_json_of_submit_is_that_of_plan_and_nothing_else(tmp_path):
    begira = Begira(tmp_path)
    planned = begira.json("plan", TINY, *PART)
    assert begira.json("submit", TINY, *PART) == planned and planned["findings"] == []
    assert "4 done" in begira.error and len(begira.results()) == 4


def test_submit_twice_does_nothing(done):
    before = done.results()
    assert "nothing to do: all 4 runs are done" in done("submit", TINY, *PART)
    assert done.results() == before and all(record["attempt"] == 1 for record in done.attempts("*/*"))


def test_status_and_selectors(done):
    rows = done.json("status", TINY)
    assert all(row["step"] == row["total"] for row in rows), "what is done has all its steps"
    assert len(rows) == 11 and sum(row["state"] == "done" for row in rows) == 4
    assert [row["name"] for row in done.json("status", TINY, "state=done", "stage=finetune")] == ["finetune r0 llama"]
    assert len(done.json("status", TINY, "target_ratio=[0,0.2]", "backbone=latxa", "target_ratio=> 0.1")) == 2
    table = done("status", TINY, "stage=finetune")
    assert re.search(r"finetune r0 llama +done +6/6", table) and "4 runs: 3 planned, 1 done" in table
    assert done("status", TINY, "state=failed").endswith("no runs\n")


def test_status_also_shows_runs_that_the_grid_alone_does_not_name(tmp_path):
    begira = Begira(tmp_path)
    begira("submit", TINY, "target_ratio=0.35", "backbone=llama")
    assert [row["state"] for row in begira.json("status", TINY, "target_ratio=0.35")] == ["done", "done"]


def test_what_another_study_has_done_is_not_done_again(tmp_path):
    """A larger study takes over the runs of a smaller one; equal ids are equal runs."""
    begira = Begira(tmp_path)
    begira("submit", TINY, *PART)
    larger = tmp_path / "larger.yaml"
    larger.write_text(f"inherit: {TINY}\naxes: {{target_ratio: {{values: [0, 0.7]}}, backbone: [llama]}}\n")
    assert "2 of 6 runs to run" in begira("plan", str(larger))
    begira("submit", str(larger))
    assert len(begira.results("larger")) == 6 and len(begira.attempts("*/*", "larger")) == 6
    assert sum(path.is_symlink() for path in (begira.runs / "larger").glob("*/*")) == 4
    assert begira.json("status", TINY, *PART)[-1]["name"] == "evaluate r0 llama"
    (row,) = begira.json("status", str(larger), "stage=encoder")
    begira("logs", row["id"])


def test_a_taken_over_run_stands_on_the_axes_of_the_study_that_reads_it(tmp_path):
    from analysis.stores import read_stores

    begira = Begira(tmp_path)
    begira("submit", TINY, "target_ratio=0", "backbone=llama")
    longer = tmp_path / "longer.yaml"
    longer.write_text(f"inherit: {TINY}\naxes: {{target_ratio: {{values: [0]}}, backbone: [llama], steps: {{key: "
                      "finetune.steps, values: [6, 7], name: 'n{}'}}\n")
    begira("submit", str(longer))
    trained = [run for run in read_stores([begira.runs / "longer"]) if run.stage == "finetune"]
    assert sorted(run.path.is_symlink() for run in trained) == [False, True]
    assert {(run.axes["steps"], run.spec["study"]) for run in trained} == {(6, "longer"), (7, "longer")}
    assert len({run.name for run in trained}) == 2
    (before,) = [run for run in read_stores([begira.runs / "tiny"]) if run.stage == "finetune"]
    assert "steps" not in before.axes


def test_logs(done):
    (row,) = done.json("status", TINY, "stage=encoder")
    done("logs", row["id"])
    done("logs", "zzzz", code=2)
    assert "no run 'zzzz'" in done.error


@pytest.mark.parametrize("words, hint", [
    (["plan", "paperr"], "did you mean 'paper'?"), (["plan", TINY, "target_ration=0"], "did you mean 'target_ratio'?"),
    (["plan", TINY, "finetune.mixture.sed=1"], "did you mean 'seed'?"), (["plan", "nowhere.yaml"], "no grid file"),
    (["status", TINY, "state=fialed"], "did you mean 'failed'?"), (["status", TINY, "backbon=x"], "unknown selector"),
    (["plan"], "Missing argument"), (["plann", "x"], "No such command"), (["plan", TINY, "--foo"], "No such option"),
    (["plan", TINY, "--cluster", "marenostrum9"], "marenostrum"), (["run", "/nonexistent"], "no run directory"),
    (["data", "show", "/nonexistent"], "no data set"), (["export", "zzzz", "x"], "no run 'zzzz'"),
    (["report", TINY], "begira")])
def test_mistakes_are_one_line_and_exit_with_2(tmp_path, monkeypatch, capsys, words, hint):
    monkeypatch.setenv("BEGIRA_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(sys, "argv", ["begira", *words])
    with pytest.raises(SystemExit) as left:
        main()
    error = capsys.readouterr().err
    assert left.value.code == 2 and hint in error and error.startswith("begira: ") and error.count("\n") == 1


def test_our_faults_exit_with_1_and_debug_shows_where(tmp_path):
    begira = Begira(tmp_path)
    begira("submit", TINY, *PART)
    for record in begira.runs.glob("tiny/*/*/attempts/0001.json"):
        record.write_text("[]")
    begira("status", TINY, code=1)
    assert begira.error.count("\n") == 1 and "a fault of begira's" in begira.error and "Traceback" not in begira.error
    begira("status", TINY, "--debug", code=1)
    assert "Traceback" in begira.error


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    begira = Begira(tmp_path)
    begira.runs.mkdir(parents=True)
    (begira.runs / "tiny").write_text("a file where the study's folder should be")
    begira("submit", TINY, code=2)
    assert begira.error.count("\n") == 1 and "runs/tiny/" in begira.error and "Not a directory" in begira.error


@pytest.mark.parametrize("words", [["--help"], ["plan", TINY], ["status", TINY, "--json"]])
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path, words):
    begira = Begira(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, str(ROOT / "begira.py"), *words], env=begira.environment, stdout=writer,
                          stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_verb_the_help_is_shown(tmp_path):
    begira = Begira(tmp_path)
    begira(code=2)
    assert "\nCommands:\n" in begira.error and "\n  submit " in begira.error


@pytest.mark.parametrize("words, says", [
    (["plan", "mini", "target_ratio=1.5"], "mixture.target_ratio is 1.5: it must lie in 0..1"),
    (["plan", "asks.yaml"], "analysis.foo: unknown key"), (["submit", "asks.yaml"], "analysis.foo: unknown key")])
def test_what_can_never_run_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.setenv("BEGIRA_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asks.yaml").write_text("inherit: mini\nname: asks\nanalysis: {foo: 7}\n")
    monkeypatch.setattr(sys, "argv", ["begira", *words])
    with pytest.raises(SystemExit) as left:
        main()
    error = capsys.readouterr().err
    assert left.value.code == 2 and says in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_paper_is_planned_without_its_models_and_submit_refuses(tmp_path):
    begira = Begira(tmp_path)
    plan = begira("plan", "paper")
    assert "finetune: 48 runs" in plan and "no model meta-llama/Llama-3.1-8B-Instruct" in plan
    begira("submit", "paper", code=2)
    assert "no data set cc3m-eu" in begira.error and not (begira.runs / "paper" / "align").exists()


def test_what_several_sources_of_a_run_lack_counts_as_one(tmp_path):
    plan = Begira(tmp_path).json("plan", "mini")
    lacking, = [finding for finding in plan["findings"] if finding["what"].startswith("no data set emoji-eu")]
    assert len(lacking["runs"]) == 21


def test_indivisible_batch_is_found_before_the_start(tmp_path):
    found = Begira(tmp_path).json("plan", "paper", "finetune.train.global_batch=30")["findings"]
    assert any("global batch 30 is not divisible by 2 x 4 ranks" in finding["what"] for finding in found)


def test_help_names_every_verb():
    begira = Begira(ROOT)
    text = begira("--help")
    for verb in ("plan", "submit", "status", "logs", "cancel", "retry", "report", "board", "next", "export", "ask",
                 "run", "data"):
        assert f" {verb} " in text
    assert "Read a whole data set" in begira("data", "--help")


def test_watching_without_a_terminal_prints_every_round(done):
    process = done.start("status", TINY, *PART, "--watch", "--every", ".2")
    try:
        rounds = [line for line in (process.stdout.readline() for _ in range(20)) if " runs: " in line]
    finally:
        process.kill()
        process.communicate()
    assert len(rounds) >= 2
    done("status", TINY, "--watch", "--every", "-1", code=2)
    assert "give seconds above 0" in done.error


def test_an_axis_value_that_no_run_has_is_refused(done):
    for word in ("backbone=gpt", "target_ratio=0.7"):
        done("status", TINY, word, code=2)
        assert f"no {word.partition('=')[0]}" in done.error and done.error.count("\n") == 1
    assert "2 runs" in done("status", TINY, *PART)
