"""Slips in grid files, on the command line and in the environment: each one line that names the place, exit code 2."""
from __future__ import annotations

import json
import sys

import pytest

from begira import main
from core.errors import UserError
from experiments.expand import Desired
from slurm.profile import Billing, load
from slurm.sizes import shape
from tests.begira_process import TINY

STAGE = "stages: {s: {function: 'a:b', config: {x: 1}}}"
OF_TINY = f"inherit: {TINY}\n"


@pytest.fixture
def complaint(tmp_path, monkeypatch, capsys):
    """What the command line says of these words; it must be one line, and the exit code 2."""
    monkeypatch.setenv("BEGIRA_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("BEGIRA_CLUSTER", raising=False)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["begira", *words])
        with pytest.raises(SystemExit) as left:
            main()
        error = capsys.readouterr().err
        assert left.value.code == 2 and error.startswith("begira: ") and error.count("\n") == 1, error
        return error

    return call


@pytest.mark.parametrize("text, says", [
    ("stages: [a]", "stages is ['a']: give a mapping"), ("stages: {s: foo}", "stages.s is 'foo': give a mapping"),
    (f"{STAGE}\naxes: [a]", "axes is ['a']: give a mapping"), (f"{STAGE}\nset: [a]", "set is ['a']"),
    (f"{STAGE}\ndata: eu", "data is 'eu'"), (f"{STAGE}\nanalysis: 5", "analysis is 5"),
    ("stages: {s: {function: 'a:b', parents: b}}", "stages.s.parents is 'b': give a mapping"),
    ("stages: {s: {function: 'a:b', runtime: 5}}", "stages.s.runtime is 5"),
    ("stages: {s: {function: 'a:b', config: {runtime: 5}}}", "runtime is 5"),
    ("stages: {s: {function: 'a:b', runtime: {nodes: 0}}}", "runtime.nodes is 0: it must be at least 1"),
    ("stages: {s: {function: 'a:b', runtime: {nodes: two}}}", "'nodes'"),
    (f"{STAGE}\ntargets: 5", "targets: no stage '5'"), (f"{STAGE}\ntargets: [[s]]", "targets[0] is ['s']: give a text"),
    (f"{STAGE}\ninclude: {{s: 1}}", "include is {'s': 1}: give a list"),
    (f"{STAGE}\nexclude: [s]", "exclude[0] is 's': give a mapping"),
    (f"{STAGE}\naxes: {{x: {{key: {{a: b}}, values: [1]}}}}", "axes.x.key is {'a': 'b'}"),
    ("5", "must hold a mapping"), ("[1]", "must hold a mapping"), (f"{STAGE}\nname: 'a${{'", "name: no viable"),
    (f"{STAGE}\nname: 'a${{data.nothing}}'", "'data.nothing' not found"),
    (f"{STAGE}\nanalysis: {{set: '${{data.nothing}}'}}", "'data.nothing' not found"),
    (f"{OF_TINY}axes: [a]", "axes is ['a']"), (f"{OF_TINY}stages: {{finetune: foo}}", "stages.finetune is 'foo'"),
    (f"{OF_TINY}axes: {{backbone: [[a]]}}", "axes.backbone: no value"),
    ("stages: {'a/b': {function: 'a:b'}}", "it names a folder"),
    ("stages: {1: {function: 'a:b'}}", "it names a folder"),
    ("stages: {s: {function: ':y'}}", "write module:function"), ("stages: {s: {function: 'x:'}}", "write module:func"),
    ("inherit: nosuch", "no grid 'nosuch'")])
def test_slips_in_a_grid_file(tmp_path, complaint, text, says):
    path = tmp_path / "slip.yaml"
    path.write_text(text)
    assert says in complaint("plan", str(path)), text


@pytest.mark.parametrize("words, says", [
    (("paper", "finetune.train.global_batch=0"), "train.global_batch is 0: it must be at least 1"),
    (("paper", "finetune.runtime.ranks_per_node=0"), "runtime.ranks_per_node is 0: it must be at least 1"),
    ((TINY, "finetune.runtime.ranks_per_node=0"), "runtime.ranks_per_node is 0"),
    (("paper", "finetune.pack.tokens=-1"), "pack.tokens is -1"), ((TINY, "data.target=${"), "not valid YAML"),
    (("paper", "finetune.runtime.log_every=0"), "runtime.log_every is 0")])
def test_slips_on_the_command_line(complaint, words, says):
    assert says in complaint("plan", *words)


@pytest.mark.parametrize("slots", ["two", "-3", "0", "1.5"])
def test_a_number_of_slots(complaint, monkeypatch, slots):
    monkeypatch.setenv("BEGIRA_SLOTS", slots)
    assert f"BEGIRA_SLOTS is '{slots}': give a number" in complaint("plan", TINY)


def test_slips_in_a_profile(tmp_path):
    with pytest.raises(UserError, match="slice_gpus, slice_cores or slice_memory_gb"):
        Billing(per_slice=1)
    path = tmp_path / "site.yaml"
    path.write_text("partitions: [{partition: x, billing: {per_slice: 1}}]")
    with pytest.raises(UserError, match=r"site.yaml: billing.per_slice needs the size"):
        load(str(path))
    path.write_text("inherit: nosuch")
    with pytest.raises(UserError, match="no cluster profile 'nosuch': choose local, generic"):
        load(str(path))


@pytest.mark.parametrize("text, says", [
    ("partitions: debug", "'partitions' is 'debug', it must be a list"),
    ("partitions: {partition: debug}", "'partitions' is {'partition': 'debug'}, it must be a list"),
    ("environment: [A]", "'environment' is .* it must be a mapping"),
    ("node: 4", "'node' is 4, it must be a mapping")])
@pytest.mark.parametrize("parent", ["", "inherit: virtual\n"])
def test_a_list_for_a_mapping_in_a_profile(tmp_path, parent, text, says):
    path = tmp_path / "site.yaml"
    path.write_text(parent + text)
    with pytest.raises(UserError, match=says):
        load(str(path))


@pytest.mark.parametrize("config, known", [
    ({"n_embd": 64, "n_layer": 2, "vocab_size": 9}, False),
    ({"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 9}, True)])
def test_a_model_of_another_kind_has_no_size(tmp_path, monkeypatch, config, known):
    monkeypatch.setenv("BEGIRA_MODELS", str(tmp_path))
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(config))
    run = Desired("i", "n", "s", "finetune", "core.train:finetune", {}, {}, {"model": {"backbone": "gpt2"}})
    assert (shape(run) is not None) == known
