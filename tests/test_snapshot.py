"""Jobs run the code as it was at submission: edits, new files and branches afterwards change nothing."""
import subprocess

import pytest

from slurm import snapshot


@pytest.fixture
def checkout(tmp_path):
    code = tmp_path / "checkout"
    (code / "core").mkdir(parents=True)
    (code / "core" / "a.py").write_text("A = 1\n")
    (code / ".gitignore").write_text("data/\n")
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=code, check=True)
    return code


def test_uncommitted_and_new_files_are_in_ignored_ones_are_not(checkout, tmp_path):
    (checkout / "core" / "a.py").write_text("A = 2\n")
    (checkout / "core" / "b.py").write_text("B = 1\n")
    (checkout / "data").mkdir()
    (checkout / "data" / "big.yaml").write_text("x")
    copy = snapshot.take(tmp_path / "study", checkout)
    (checkout / "core" / "a.py").write_text("A = 3\n")
    assert (copy / "core" / "a.py").read_text() == "A = 2\n"
    assert (copy / "core" / "b.py").exists() and not (copy / "data").exists()


def test_same_content_is_copied_once_and_other_content_beside_it(checkout, tmp_path):
    first = snapshot.take(tmp_path / "study", checkout)
    assert snapshot.take(tmp_path / "study", checkout) == first
    (checkout / "core" / "a.py").write_text("A = 2\n")
    second = snapshot.take(tmp_path / "study", checkout)
    assert second != first and sorted(p.name for p in (tmp_path / "study" / "code").iterdir()) == sorted(
        [first.name, second.name])
    assert snapshot.take(tmp_path / "study", second) == second, "a job hands on the copy that it runs from"
