"""The batch script's last words, without a Slurm: what may go wrong in them does not change how a job ended."""
from pathlib import Path

import pytest

from core.files import write_json
from experiments import store
from experiments.expand import Desired
from slurm import epilogue, submissions
from slurm.cluster import WANTED, continue_study
from slurm.submissions import Submission


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """The directory of a run whose job is about to end."""
    monkeypatch.setenv("BEGIRA_RUNS", str(tmp_path / "runs"))
    path = store.create(Desired("0123456789", "a run", "study", "stage", "m:f", {}, {}, {"runtime": {
        "micro_batch": 4}}), {})
    one = Submission("00000001", "study.stage.x", "stage", [path.name], [str(path)], "released", "7")
    submissions.write(store.study_path("study"), one)
    monkeypatch.setenv("BEGIRA_SUBMISSION", str(submissions.folder(store.study_path("study")) / one.key))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return path


def test_a_broken_relay_does_not_fail_a_finished_job(run, capsys):
    """Its children would be cancelled."""
    (run / "DONE").touch()
    wanted = submissions.folder(store.study_path("study")) / WANTED
    write_json(wanted, {"cluster": 5, "runs": [], "no_room": [run.name]})
    with pytest.raises(AttributeError):
        continue_study("study", run.name)
    assert epilogue.main(0) == 0
    error = capsys.readouterr().err
    assert "AttributeError" in error and "the rest of the study was not looked at" in error


def test_a_submission_of_another_version_is_read(run):
    folder = submissions.folder(store.study_path("study")) / "00000001"
    write_json(folder / "submission.json", {**vars(submissions.load(folder)), "memory_gb": 7.0})
    assert submissions.load(folder).paths == [str(run)] and len(submissions.read(store.study_path("study"))) == 1


def test_the_micro_batch_is_halved_until_it_is_one(run):
    assert [epilogue._halve_micro_batch(run) for _ in range(3)] == [True, True, False]
