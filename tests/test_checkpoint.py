"""A run that is stopped or killed goes on as if nothing had happened, also with another number of ranks; half a
checkpoint is never taken for one; what cannot go on says why."""
import errno
import json
import os
import random
import resource
import shutil
import time

import pytest
import torch
import trainruns
from ranks import run_ranks
from trainruns import change, curve, finetune_run, ledger, site, weights

from core import checkpoint
from core.checkpoint import State, latest
from core.errors import UserError
from core.files import write_json
from core.run import Run

pytestmark = pytest.mark.timeout(1800)  # for the long ones


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return site(tmp_path_factory.mktemp("site"))


def run(path, size, *arguments):
    return run_ranks(trainruns.train, size, path, *arguments, timeout=280)


@pytest.mark.parametrize(("stage", "size", "dtype"), [
    (0, 1, "float32"), *(pytest.param(stage, 2, dtype, marks=pytest.mark.slow) for stage in range(4)
                         for dtype in ("float32", "bfloat16") if stage or dtype == "float32")])
def test_a_stop_asked_of_one_rank_saves_one_step_on_all_and_resumes_bit_for_bit(root, stage, size, dtype):
    name = f"{stage}-{size}-{dtype}"
    whole, parts = (finetune_run(root, f"{kind}-{name}", zero_stage=stage, dtype=dtype) for kind in ("whole", "parts"))
    run(whole, size)
    assert run(parts, size, 5, size - 1) == ["stopped at 5"] * size
    assert latest(Run(parts)).state.step == 5
    run(parts, size)
    assert curve(whole) == curve(parts)
    assert [record["step"] for record in curve(parts)] == list(range(1, trainruns.STEPS + 1))
    assert ledger(whole) == ledger(parts)
    one, other = weights(whole), weights(parts)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stage", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow),
                                   pytest.param(0, marks=pytest.mark.slow)])
def test_ranks_two_one_two_and_workers_none_three_one(root, stage):
    whole, parts = (finetune_run(root, f"{kind}-elastic-{stage}", zero_stage=stage) for kind in ("whole", "parts"))
    run(whole, 2)
    assert run(parts, 2, 4, 0) == ["stopped at 4"] * 2
    change(parts, workers=3)
    assert run(parts, 1, 8, 0) == ["stopped at 8"]
    change(parts, workers=1, micro_batch=2)
    result = run(parts, 2)[0]
    assert 1.05 * result["seconds"] < result["spent"]["all"] < 1.95 * result["seconds"]  # not all of it on two ranks
    assert ledger(whole) == ledger(parts)
    losses = [[record["loss"] for record in curve(path)] for path in (whole, parts)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[1] != losses[0]  # they did run differently


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_kills_at_random_moments_leave_no_trace(root, kills):
    """Both ranks with two workers each; a checkpoint every step, so that many kills fall into a save."""
    whole, parts = (finetune_run(root, f"{kind}-kill-{kills}", workers=2, save_every=1) for kind in ("whole", "parts"))
    begun = time.monotonic()
    run(whole, 2)
    length = time.monotonic() - begun
    chance, hits = random.Random(kills), 0
    while hits < kills:
        before = latest(Run(parts))
        after = chance.uniform(0.3, 0.9) * length
        failed = run_ranks(trainruns.killed, 2, parts, after, chance.randrange(2), timeout=60, expect_failure=True)
        hits += bool(failed)
        after = latest(Run(parts))
        if not failed or (after and after.state.step >= trainruns.STEPS - 1):
            shutil.rmtree(parts / "checkpoints")  # it got to the end: from the start again
        elif before and after:
            assert after.state.step >= before.state.step
    run(parts, 2)
    assert curve(whole) == curve(parts) and ledger(whole) == ledger(parts)
    one, other = weights(whole), weights(parts)
    assert all(torch.equal(one[name], other[name]) for name in one)


def fake(path, step, size=10):
    folder = path / "checkpoints" / f"step_{step:06d}"
    (folder / "engine").mkdir(parents=True)
    (folder / "engine" / "a.pt").write_bytes(b"x" * size)
    write_json(folder / "state.json", {**vars(State(step, "f")), "files": {"engine/a.pt": 10}})
    return folder


def test_a_truncated_or_unfinished_checkpoint_is_never_chosen(tmp_path):
    fake(tmp_path, 4)
    assert latest(Run(tmp_path)).state.step == 4
    fake(tmp_path, 8, size=9)
    (fake(tmp_path, 12) / "engine" / "a.pt").unlink()
    (fake(tmp_path, 16) / "state.json").write_text("{\"step\": 16, ")
    (fake(tmp_path, 20) / "state.json").unlink()
    fake(tmp_path, 24).rename(tmp_path / "checkpoints" / ".step_000024.tmp")
    assert latest(Run(tmp_path)).state.step == 4
    shutil.rmtree(tmp_path / "checkpoints" / "step_000004")
    assert latest(Run(tmp_path)) is None


def test_the_newest_complete_ones_are_kept_and_the_rest_goes(tmp_path):
    for step in (4, 8, 1000000):
        fake(tmp_path, step)
    fake(tmp_path, 12, size=3)
    fake(tmp_path, 16).rename(tmp_path / "checkpoints" / ".step_000016.tmp")
    checkpoint._prune(Run(tmp_path), 2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_000008", "step_1000000"]


def recorded(path):
    """Train and tell, in order, what was flushed, renamed and removed."""
    events, fsync, replace, rmtree = [], os.fsync, os.replace, shutil.rmtree

    def spy(kind, real, place):
        def told(target, *more, **options):
            events.append((kind, place(target), *map(str, more)))
            return real(target, *more, **options)
        return told

    os.fsync = spy("flush", fsync, lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"))
    os.replace, shutil.rmtree = spy("rename", replace, str), spy("remove", rmtree, str)
    trainruns.train(path)
    return events


def test_a_checkpoint_is_on_the_disk_before_the_one_before_it_goes(root):
    path = finetune_run(root, "durable", zero_stage=1)
    first, second = run_ranks(recorded, 2, path)
    folder = path / "checkpoints"
    hidden = folder / ".step_000008.tmp"
    renamed = first.index(("rename", str(hidden), str(folder / "step_000008")))
    wanted = {hidden, hidden / "state.json", hidden / "engine", hidden / "engine" / "mp_rank_00_model_states.pt"}
    assert {event[1] for event in first[:renamed] if event[0] == "flush"} >= set(map(str, wanted))
    removed = first.index(("remove", str(folder / "step_000004")), renamed)
    assert ("flush", str(folder)) in first[renamed:removed]
    assert any(event[1].startswith(f"{hidden}/engine/zero_pp_rank_1_") for event in second if event[0] == "flush")


def cramped(path, size):
    """Train where no file may become larger than `size` bytes, as if the disk was full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        trainruns.train(path)
    except UserError as error:
        return error.__cause__.errno, str(error)


def test_a_full_disk_is_named_and_no_fault_of_the_code(root):
    path = finetune_run(root, "cramped")
    (number, message), = run_ranks(cramped, 1, path, 100_000)
    assert number == errno.EFBIG
    assert message.startswith(f"no space left while writing {path}/checkpoints/step_000004 (File too large): ")
    assert latest(Run(path)) is None
    change(path, zero_stage=1)
    assert run(path, 2, 4, 0) == ["stopped at 4"] * 2
    (number, message), = run_ranks(cramped, 1, path, 10_000)
    assert number == errno.EFBIG and f"no space left while writing {path}/checkpoints/step_000004/universal" in message
    run(path, 1)


def test_what_cannot_go_on_says_why(root):
    path = finetune_run(root, "changed")
    assert run(path, 1, 4, 0) == ["stopped at 4"]
    change(path, zero_stage=1)
    with pytest.raises(AssertionError, match=r"with ZeRO stage 0 and cannot go on with 1: set runtime.zero_stage=0"):
        run(path, 1)
    change(path, zero_stage=0)
    config = json.loads((path / "config.yaml").read_text())
    config["mixture"]["target_ratio"] = 0.25
    (path / "config.yaml").write_text(json.dumps(config))
    with pytest.raises(AssertionError, match=r"another plan .*mixture.target_ratio: 0.5 -> 0.25"):
        run(path, 1)
    change(path, micro_batch=3)
    with pytest.raises(AssertionError, match="global_batch 4 is not a multiple"):
        run(path, 1)


def test_a_run_whose_directory_a_newer_attempt_owns_writes_no_checkpoint(root, monkeypatch):
    path = finetune_run(root, "fenced")
    (path / "attempts").mkdir()
    (path / "attempts" / "0002.json").write_text("{}")
    monkeypatch.setenv("BEGIRA_ATTEMPT", "1")
    with pytest.raises(AssertionError, match="Fenced: attempt 2"):
        run(path, 1)
    assert not (path / "checkpoints").exists()


def test_frozen_parts_are_not_stored(root):
    path = finetune_run(root, "frozen", trained=["connector"], save_every=2)
    run(path, 1, 3, 0)
    folder = latest(Run(path)).folder
    saved = torch.load(next((folder / "engine").glob("*model_states.pt")), weights_only=False)["module"]
    assert saved and all("vision_tower" not in n and "embed_tokens" not in n for n in saved if "running" not in n), \
        sorted(saved)


def test_a_changed_frozen_part_is_refused(root):
    path = finetune_run(root, "swapped", trained=["connector"])
    run(path, 1)
    backbone = root / "runs" / "study" / "backbone" / "b" / "model" / "model.safetensors"
    good = backbone.read_bytes()
    try:
        backbone.write_bytes(good[:-1] + b"\0")
        with pytest.raises(UserError, match=r"the backbone in .* is not the one that was trained with"):
            weights(path)
    finally:
        backbone.write_bytes(good)
