"""The test cluster's command line keeps its hands off what is not a cluster's. Needs no Slurm: nothing is started."""
import os
import subprocess
import sys

import pytest

from tests.begira_process import ROOT
from tests.cluster.cluster import Cluster
from tests.cluster.configuration import Options, lay_out
from tests.cluster.daemons import Daemons
from tests.cluster.keeper import obey


def call(*words):
    done = subprocess.run([sys.executable, "-m", "tests.cluster", *map(str, words)], cwd=ROOT, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [("down",), ("status",), ("call", "kill-node")])
@pytest.mark.parametrize("other", ["{}", "[1]", "no JSON", '{"nodes": [], "options": {}}', None])
def test_a_directory_that_holds_no_cluster_is_left_alone(tmp_path, words, other):
    precious = tmp_path / "thesis.tex"
    precious.write_text("years of work")
    if other is not None:
        (tmp_path / "meta.json").write_text(other)
    code, error = call(words[0], tmp_path, *words[1:], *["0x7f000001"] * (len(words) - 1))
    assert code == 2 and "holds no test cluster" in error and error.count("\n") == 1
    assert precious.read_text() == "years of work"


def test_the_directory_of_a_cluster_is_removed(tmp_path):
    """The control: with its own meta.json the same call ends it, also where its keeper is gone."""
    lay_out(tmp_path, Options(nodes=1))
    code, error = call("call", tmp_path, "kill-node", "0x7f000001")
    assert code == 2 and "no keeper answers" in error and error.count("\n") == 1
    assert call("down", tmp_path) == (0, "") and not tmp_path.exists()


def test_a_cluster_starts_in_a_directory_of_its_own(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RuntimeError, match="is not empty"):
        Cluster.launch(tmp_path, Options(nodes=1))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("verb, what", [("kill-node", "0x7f000009"), ("start-node", ""), ("kill-daemon", "slurmctl"),
                                        ("kill-daemon", "keeper"), ("start-daemon", "munged"), ("kill", "0x7f000001")])
def test_names_that_do_not_exist_are_refused(tmp_path, verb, what):
    lay_out(tmp_path, Options(nodes=1))
    with pytest.raises(ValueError, match="choose from"):
        obey(Daemons(tmp_path), {"verb": verb, "what": what})
    assert obey(Daemons(tmp_path), {"verb": "kill-node", "what": "0x7f000001"}) == {}
