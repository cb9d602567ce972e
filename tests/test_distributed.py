"""Ranks that wait for the first one: as long as it works, and no longer than it lives."""
import os
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from core.distributed import joined
from core.engine import check_buffers
from core.errors import Stopped, UserError
from experiments.execute import classify
from tests.ranks import run_ranks

SHORT = timedelta(seconds=3)
LONGER = 4.5


def _alone(path):
    with joined(timeout=SHORT) as world:
        def work():
            time.sleep(LONGER)
            path.write_text(path.read_text() + f"{world.rank} " if path.exists() else f"{world.rank} ")
            return "made"
        first = world.alone(work)
        world.barrier()
        second = world.first_then_others(lambda: path.read_text())
        world.barrier()
    return first, second


def test_lone_work_may_last_longer_than_a_collective(tmp_path):
    assert run_ranks(_alone, 3, tmp_path / "ranks") == [("made", "0 "), (None, "0 "), (None, "0 ")]


def _waits(_):
    with joined(timeout=SHORT) as world:
        if world.first:
            time.sleep(LONGER)
        world.barrier()


def test_a_collective_may_not():
    failures = run_ranks(_waits, 2, None, expect_failure=True)
    assert any("rank 1" in failure and "dist.barrier()" in failure for failure in failures), failures


def _fails(how):
    with joined(timeout=timedelta(minutes=5)) as world:
        def work():
            if how == "dies":
                os._exit(9)
            raise UserError("nothing to read")
        try:
            world.alone(work)
        except dist.DistError as error:
            raise RuntimeError(f"cause: {classify(error)}") from error


@pytest.mark.parametrize("how, first", [("raises", "nothing to read"), ("dies", "died without a word")])
def test_ranks_do_not_wait_for_a_first_one_that_failed(how, first):
    begun = time.monotonic()
    failures = run_ranks(_fails, 2, how, expect_failure=True, timeout=60)
    assert time.monotonic() - begun < 30
    assert first in failures[0] and "cause: rendezvous" in failures[1], failures


def _leaves(error):
    try:
        with joined():
            raise error
    except type(error):
        return dist.is_initialized()


def test_the_group_is_left_however_it_ends():
    for error in (Stopped("asked", 1), RuntimeError("x")):
        assert run_ranks(_leaves, 2, error) == [False, False]


def test_buffers_that_lose_precision_are_seen():
    module = torch.nn.BatchNorm1d(3)
    kinds = {name: buffer.dtype for name, buffer in module.named_buffers()}
    check_buffers(module, kinds, "0.19.8")
    with pytest.raises(UserError, match=r"DeepSpeed 0.16 turned the buffer running_mean .* install deepspeed>=0.19.8"):
        check_buffers(module.bfloat16(), kinds, "0.16")
