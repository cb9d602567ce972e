"""Run directories: what is written, that it can be read without us, and that listing many is fast."""
from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from core.errors import UserError
from core.run import Fenced, Run
from experiments import attempts, store
from experiments.expand import expand
from experiments.grid import load
from experiments.provenance import capture
from experiments.reconcile import statuses
from experiments.state import State
from tests.begira_process import TINY


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("RUNS", "DATA", "MODELS"):
        monkeypatch.delenv(f"BEGIRA_{name}", raising=False)
    return expand(load(TINY))


def test_run_directory_is_complete_and_readable(tiny, tmp_path):
    finetune = next(run for run in tiny.runs if run.stage == "finetune")
    path = store.create(finetune, capture(store.study_path("tiny")), {"nodes": 2})
    assert path == tmp_path / "runs" / "tiny" / "finetune" / finetune.id
    config = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))
    assert config["mixture"] == {"target_ratio": 0, "seed": 0}
    assert config["runtime"] == {"data_root": str(tmp_path / "data"), "models_root": str(tmp_path / "models"),
                                 "nodes": 2}
    spec = json.loads((path / "spec.json").read_text())
    assert spec["name"] == "finetune r0 llama" and spec["axes"] == {"target_ratio": 0, "backbone": "llama"}
    assert Run(path).parent("encoder").path == store.run_path(tiny.by_id[spec["parents"]["encoder"]["id"]])
    environment = json.loads((path / "env.json").read_text())
    assert environment["packages"]["torch"] and environment["host"] and len(environment["git"]["commit"]) == 40
    assert store.read_run(path).id == finetune.id


def test_roots_come_from_the_environment(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("BEGIRA_DATA", str(tmp_path / "elsewhere"))
    assert store.site_config(tiny.runs[0])["runtime"]["data_root"] == str(tmp_path / "elsewhere")


def test_done_run_keeps_its_configuration_but_takes_the_grids_name(tiny):
    run = tiny.runs[0]
    path = store.create(run, {})
    (path / "DONE").write_text("")
    before = (path / "config.yaml").read_text()
    store.create(run.__class__(**{**vars(run), "name": "another"}), {}, {"nodes": 9})
    assert (path / "config.yaml").read_text() == before and store.read_run(path).spec["name"] == "another"


def test_study_file_and_journal(tiny):
    store.write_study(tiny)
    study = OmegaConf.to_container(OmegaConf.load(store.study_path("tiny") / "study.yaml"), resolve=False)
    assert study["axes"] == {"target_ratio": [0, 0.2], "backbone": ["llama", "latxa"]}
    assert study["data"]["target"] == "eu"
    store.journal("tiny", "submit", runs=["a"])
    with open(store.study_path("tiny") / "journal.jsonl", "a") as stream:
        stream.write('{"time": 1, "event": "sub')  # cut short by a crash
    assert [event["event"] for event in store.read_journal("tiny")] == ["submit"]


def test_find_run(tiny):
    path = store.create(tiny.runs[0], {})
    assert store.find_run(tiny.runs[0].id[:5]) == store.find_run(str(path)) == store.find_run("encoder") == path
    with pytest.raises(UserError, match="no run 'zzzz'"):
        store.find_run("zzzz")


def test_attempts_fence_older_ones_and_find_the_culprit(tiny, monkeypatch):
    path = store.create(tiny.runs[0], {})
    attempts.open_attempt(path, 1, "a", "hand", "", "node0", 2)
    attempts.write_rank_failure(path, 1, 1, "node1", {"type": "ValueError", "message": "first", "where": "x",
                                                      "cause": "code"})
    attempts.write_rank_failure(path, 1, 0, "node0", {"type": "DistError", "message": "peer", "where": "y",
                                                      "cause": "rendezvous"})
    monkeypatch.setenv("BEGIRA_ATTEMPT", "1")
    Run(path).check_fence()
    attempts.open_attempt(path, 2, "b", "hand", "", "node0", 1)
    with pytest.raises(Fenced):
        Run(path).heartbeat(1, 2)
    first, second = attempts.list_attempts(path)
    assert (first.outcome, first.cause, first.record["error"]["rank"]) == ("failed", "code", 1)
    assert second.outcome is None
    attempts.close_attempt(path, 2, "done")
    attempts.close_attempt(path, 2, "failed", "code")
    assert attempts.read_attempt(path, 2).outcome == "done", "what is closed stays so"


def test_requests(tiny):
    path = store.create(tiny.runs[0], {})
    attempts.open_attempt(path, 1, "a", "hand", "", "", 1)
    attempts.close_attempt(path, 1, "failed", "code", "ValueError: x")
    run = tiny.runs[:1]

    def state():
        return statuses(run, store.read_runs(run), {}, time.time())[run[0].id].state

    assert state() is State.FAILED
    store.ask_for(path, "retry")
    assert state() is State.PLANNED
    store.ask_for(path, "cancel")
    assert state() is State.CANCELLED


def test_a_thousand_runs_are_listed_in_a_second(tiny):
    """1,000 runs with 4,000 attempts: reading and judging them all."""
    folder = store.study_path("many") / "finetune"
    spec = store.read_run(store.create(tiny.runs[0], {})).spec
    for number in range(1000):
        path: Path = folder / f"{number:010x}"
        (path / "attempts").mkdir(parents=True)
        (path / "spec.json").write_text(json.dumps({**spec, "id": path.name, "study": "many", "stage": "finetune"}))
        (path / "heartbeat.json").write_text('{"attempt": 4, "time": 0, "step": 5, "total": 9}')
        for attempt in range(1, 5):
            attempts.record_path(path, attempt).write_text(json.dumps({
                "attempt": attempt, "outcome": "lost", "cause": "killed", "reason": "", "started": 1, "ended": 2,
                "saved_step": attempt}))
    began = time.perf_counter()
    records = store.read_study("many")
    runs = [store.desired_of(record) for record in records.values()]
    found = statuses(runs, records, {}, time.time())
    seconds = time.perf_counter() - began
    assert len(found) == 1000 and all(status.attempts == 4 for status in found.values())
    assert seconds < 1.5, f"{seconds:.2f} s"
