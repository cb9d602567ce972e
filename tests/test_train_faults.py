"""What goes wrong on one rank is known to all before anyone acts: a gradient that is not finite, data that cannot be
read, a loader that fails. Two gloo ranks."""
import json
import os
import shutil

import pytest
import torch
import trainruns
from ranks import run_ranks
from trainruns import curve, finetune_run, site, weights


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return site(tmp_path_factory.mktemp("site"))


def poisoned(path, rank=1, steps=(3,)):
    def spoil(step, own_rank, micros):
        if step in steps and own_rank == rank:
            for micro in micros:
                if micro.pixels is not None:
                    micro.pixels.fill_(float("inf"))

    return trainruns.train(path, spoil=spoil)


@pytest.mark.parametrize(("stage", "dtype"), [
    (2, "float32"), *(pytest.param(stage, dtype, marks=pytest.mark.slow) for stage, dtype in (
        (0, "float32"), (1, "float32"), (3, "float32"), (1, "bfloat16"), (2, "bfloat16"), (3, "bfloat16")))])
def test_a_step_that_is_not_finite_on_one_rank_is_skipped_by_all(root, stage, dtype):
    path = finetune_run(root, f"poison-{stage}-{dtype}", zero_stage=stage, dtype=dtype)
    results = run_ranks(poisoned, 2, path, timeout=280)
    assert [r["skipped_steps"] for r in results] == [1, 1]
    records = [json.loads(line) for line in (path / "skipped.jsonl").read_text().splitlines()]
    assert sorted((r["step"], r["rank"]) for r in records) == [(3, 0), (3, 1)] and all(r["keys"] for r in records)
    losses = {r["step"]: r["loss"] for r in curve(path) if "loss" in r}
    assert sorted(losses) == [1, 2, *range(4, 13)] and all(3 < loss < 8 for loss in losses.values())
    assert all(torch.isfinite(tensor).all() for tensor in weights(path).values())


def test_too_many_skipped_steps_stop_the_run(root):
    path = finetune_run(root, "many", train={"skip_bad_steps": 1})
    failures = run_ranks(poisoned, 2, path, 1, (2, 3), timeout=60, expect_failure=True)
    said = "FloatingPointError: 2 steps were not finite, the last is step 3"
    assert len(failures) == 2 and all(said in f for f in failures)


def test_a_run_that_ends_with_a_skipped_step_has_no_loss(root):
    result, _ = run_ranks(poisoned, 2, finetune_run(root, "last"), 1, (12,))
    assert result["skipped_steps"] == 1 and result["loss"] is None


def corrupting(path, stop_at=None):
    """A broken sample at every step."""
    return trainruns.train(path, stop_at, spoil=lambda step, rank, micros: micros[0].corrupt.append((0, "broken")))


def test_a_stop_counts_no_broken_sample_twice(root):
    path = finetune_run(root, "stopped")
    assert run_ranks(corrupting, 1, path, 5) == ["stopped at 5"]
    assert run_ranks(corrupting, 1, path)[0]["corrupt_samples"] == 12


def failing(path):
    def spoil(step, rank, micros):
        if (step, rank) == (3, 1):
            raise OSError("the disk is gone")

    return trainruns.train(path, spoil=spoil)


def test_a_loader_that_fails_on_one_rank_ends_the_step_on_all(root):
    failures = run_ranks(failing, 2, finetune_run(root, "failing"), timeout=60, expect_failure=True)
    assert "1 other rank(s) failed to load step 3" in failures[0] and "the disk is gone" in failures[1]


def differing(*paths):
    return trainruns.train(paths[int(os.environ["RANK"])])


def test_ranks_that_found_different_data_do_not_train(root):
    paths = [finetune_run(root, name) for name in ("one", "other")]
    config = json.loads((paths[1] / "config.yaml").read_text())
    config["mixture"]["samples"] = 119
    (paths[1] / "config.yaml").write_text(json.dumps(config))
    failures = run_ranks(differing, 2, *paths, timeout=60, expect_failure=True)
    assert len(failures) == 2 and all("the ranks found different data" in f for f in failures), failures


def test_data_broken_beyond_the_limit_stops_all_ranks_and_is_named(root):
    broken = root / "data" / "broken"
    shutil.copytree(root / "data" / "toy", broken)
    shard = next((broken / "image").glob("*.tar"))
    data = shard.read_bytes()
    shard.write_bytes(data[:len(data) // 3] + bytes(len(data) - len(data) // 3))
    path = finetune_run(root, "broken")
    config = json.loads((path / "config.yaml").read_text())
    config["mixture"]["sources"] = [{"data": "broken", "subset": "image"}]
    (path / "config.yaml").write_text(json.dumps(config))
    failures = run_ranks(trainruns.train, 2, path, timeout=60, expect_failure=True)
    assert len(failures) == 2 and all("samples cannot be read, more than 5% at step" in f for f in failures), failures
    assert "broken/image:" in (path / "corrupt.log").read_text()
