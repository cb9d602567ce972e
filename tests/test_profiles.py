"""Sites: billing as they document it, limits, and a global batch that stays the same whatever the site."""
import os
from dataclasses import replace

import pytest

from core.card import Counts, state_bytes
from core.errors import UserError
from experiments.state import Attempt
from slurm.cluster import striking_nodes
from slurm.profile import FOLDER, Billing, Profile, load
from slurm.resources import Shape, cost, fit, request, states
from slurm.sizes import parameters
from slurm.submit import outside_a_job

LATXA_8B = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "intermediate_size": 14336, "vocab_size": 128256}
SMALL_G = Billing("GPU-hours", per_slice=0.5, slice_gpus=1, slice_cores=8, slice_memory_gb=64)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_every_profile_is_valid(name):
    profile = load(name)
    assert cost(profile, request(profile, {"nodes": 1, "ranks_per_node": 1})) > 0


# The examples of LUMI's user guide, billing policy.
@pytest.mark.parametrize("rule, job, expected", [
    (Billing("GPU-hours", per_node=4), {"nodes": 4, "gpus": 32, "cores": 224, "memory_gb": 0, "hours": 24}, 384),
    (SMALL_G, {"nodes": 1, "gpus": 2, "cores": 16, "memory_gb": 128, "hours": 24}, 24),
    (SMALL_G, {"nodes": 1, "gpus": 1, "cores": 8, "memory_gb": 128, "hours": 24}, 24),
    (Billing("CPU-core-hours", per_node=128), {"nodes": 16, "gpus": 0, "cores": 1, "memory_gb": 1, "hours": 12}, 24576),
    (Billing("CPU-core-hours", per_slice=1, slice_cores=1, slice_memory_gb=2),
     {"nodes": 1, "gpus": 0, "cores": 4, "memory_gb": 4, "hours": 24}, 96),
    (Billing("CPU-core-hours", per_slice=1, slice_cores=1, slice_memory_gb=2),
     {"nodes": 1, "gpus": 0, "cores": 4, "memory_gb": 32, "hours": 24}, 384),
    (Billing("CPU-core-hours", per_slice=1, slice_cores=1),
     {"nodes": 1, "gpus": 0, "cores": 32, "memory_gb": 0, "hours": 2}, 64),
])
def test_documented_billing(rule, job, expected):
    assert rule.cost(**job) == expected


def test_lumi_profile_bills_as_documented():
    profile = load("lumi")
    full = request(profile, {"nodes": 4, "ranks_per_node": 8, "time_minutes": 1440})
    assert (full.partition, cost(profile, full)) == ("standard-g", 384)
    two = request(profile, {"nodes": 1, "ranks_per_node": 2, "time_minutes": 1440})
    assert (two.partition, cost(profile, two)) == ("small-g", 24)


def test_parameters_of_a_known_model():
    assert parameters(LATXA_8B) == pytest.approx(8.03e9, rel=0.001)


@pytest.mark.parametrize("site", ["leonardo", "marenostrum5", "lumi", "generic"])
@pytest.mark.parametrize("batch", [16, 64, 128, 256])
def test_global_batch_is_kept_on_every_site(site, batch):
    size = parameters(LATXA_8B)
    layout = fit(load(site), batch, Shape(size, size, 4096, 32, 128256), tokens=4096)
    assert layout.nodes * layout.ranks_per_node * layout.micro_batch * layout.accumulation == batch
    assert layout.ranks_per_node <= load(site).node.gpus


def test_connector_alone_needs_one_gpu():
    size = parameters(LATXA_8B)
    assert fit(load("leonardo"), 128, Shape(size, 2e7, 4096, 32, 128256), 4096).nodes == 1


@pytest.mark.parametrize("what, words", [
    (lambda: load("leonrdo"), "choose local, generic, leonardo"),
    (lambda: request(load("virtual"), {"time_minutes": 1}), "signal margin"),
    (lambda: request(load("leonardo"), {"nodes": 65}), "no partition takes 65 nodes"),
    (lambda: request(load("leonardo"), {"ranks_per_node": 5}), "5 ranks per node"),
    (lambda: Profile(name="x", gres="gpu"), "choose gpus-per-node"),
    (lambda: Profile(name="x", max_jobs=-3), "max_jobs is -3, it must not be negative"),
    (lambda: fit(load("leonardo"), 7, Shape(8e10, 8e10, 8192, 80, 128256), 4096), "do not fit"),
])
def test_mistakes_are_said(what, words):
    with pytest.raises(UserError, match=words):
        what()


def test_what_failed_attempts_teach():
    profile = load("leonardo")
    plain, starved, late = (request(profile, {}, *counts) for counts in ((0, 0), (1, 0), (0, 1)))
    assert (starved.memory_gb, late.memory_gb) == (1.5 * plain.memory_gb, plain.memory_gb)
    assert (starved.signal_seconds, late.signal_seconds) == (plain.signal_seconds, 2 * plain.signal_seconds)
    assert request(profile, {}, starved=9).memory_gb == profile.node.memory_gb
    assert request(profile, {"time_minutes": 20}, late=9).signal_seconds == 600


def test_nodes_that_failed_twice_are_avoided():
    def ended(node, hours, cause="node_failure"):
        return Attempt(1, "lost", cause, ended=1e6 - 3600 * hours, record={"culprit": {"node": node}})

    attempts = [ended("n1", 1), ended("n1", 2, "hang"), ended("n2", 1), ended("n3", 1), ended("n3", 30),
                ended("n4", 1, "code"), ended("n4", 2, "code"), ended(None, 1), ended(None, 1)]
    assert striking_nodes(attempts, 1e6) == ["n1"]


def test_own_profile_inherits(tmp_path):
    (tmp_path / "ours.yaml").write_text("inherit: leonardo\naccount: \"${BEGIRA_TEST_ACCOUNT}\"\nminutes: 60\n")
    profile = load(str(tmp_path / "ours.yaml"))
    assert (profile.name, profile.minutes, profile.node.gpus, profile.account) == ("ours", 60, 4, "")
    (tmp_path / "ours.yaml").write_text("inherit: leonardo\nminuts: 60\n")
    with pytest.raises(UserError, match="did you mean 'minutes'"):
        load(str(tmp_path / "ours.yaml"))


def test_own_profile_may_be_called_as_the_one_it_inherits(tmp_path):
    (tmp_path / "leonardo.yaml").write_text("inherit: leonardo\nminutes: 60\n")
    assert (load(str(tmp_path / "leonardo.yaml")).minutes, load("leonardo").minutes) == (60, 1440)
    for name, parent in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"inherit: {parent}\n")
    with pytest.raises(UserError, match="circle"):
        load(str(tmp_path / "a.yaml"))


def test_a_job_of_a_job_has_its_account(monkeypatch):
    """A profile is read again wherever an ending job submits the next; of the job itself nothing is handed on."""
    for name, value in (("JOB_ID", "7"), ("CONF", "/c"), ("ACCOUNT", "ours")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("BEGIRA_LAUNCH", "7.0")
    with outside_a_job():
        assert load("leonardo").account == "ours" and os.environ["SLURM_CONF"] == "/c"
        assert "SLURM_JOB_ID" not in os.environ and "BEGIRA_LAUNCH" not in os.environ
    assert os.environ["SLURM_JOB_ID"] == "7"


def test_memory_is_what_the_card_of_a_training_says_and_the_gradient_of_its_head():
    size = parameters(LATXA_8B)
    whole, headless = (Shape(size, trained, 4096, 32, 128256) for trained in (size, size - 1))
    counts = {"model": Counts(int(size), int(size))}
    assert [states(whole, 4, stage) for stage in range(4)] == list(state_bytes(counts, "bfloat16", 4).values())
    profile = load("generic")
    profile = replace(profile, node=replace(profile.node, gpus=4, gpu_memory_gb=46))
    assert (fit(profile, 128, headless, 4096).nodes, fit(profile, 128, whole, 4096).nodes) == (1, 2)
