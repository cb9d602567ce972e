"""The state of a one-process training: the newest counts, those before it go, an old attempt does not write."""
import pytest
import torch

from core.files import write_json
from core.run import Fenced, Run
from core.states import newest_state, save_state


@pytest.fixture
def run(tmp_path):
    write_json(tmp_path / "run" / "spec.json", {"id": "r", "name": "r", "study": "s", "stage": "t", "function": "t:t"})
    (tmp_path / "run" / "config.yaml").write_text("{}")
    return Run(tmp_path / "run")


def names(run):
    return sorted(path.name for path in (run.path / "checkpoints").iterdir())


def test_the_newest_counts_and_those_before_it_go(run):
    assert newest_state(run) is None
    for step in (5, 10):
        save_state(run, step, {"step": step, "weight": torch.ones(2)})
        assert names(run) == [f"step_{step:06d}"] and newest_state(run)["step"] == step


def test_what_a_killed_save_left_is_passed_over(run):
    save_state(run, 999_999, {"step": 999_999})
    torch.save({"step": 1_000_000}, run.path / "checkpoints" / "step_1000000")     # killed before the older one went
    (run.path / "checkpoints" / ".step_1000001.0a.tmp").write_bytes(b"torn")
    assert newest_state(run)["step"] == 1_000_000
    save_state(run, 1_000_000, {"step": 1_000_000})
    assert names(run) == [".step_1000001.0a.tmp", "step_1000000"]


def test_an_old_attempt_does_not_write(run, monkeypatch):
    monkeypatch.setenv("BEGIRA_ATTEMPT", "1")
    save_state(run, 1, {"step": 1})
    write_json(run.path / "attempts" / "0002.json", {"attempt": 2})
    with pytest.raises(Fenced):
        save_state(run, 2, {"step": 2})
    assert names(run) == ["step_000001"]
