"""The fused cross-entropy against the plain one at Llama 3's vocabulary with a quarter of the tokens supervised: CPU
time and extra memory, each measured in a process of its own (peaks do not go down again)."""
from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from benchmarks.harness import Row
from core.loss import fused_cross_entropy

VOCABULARY, TOKENS, WIDTH, SUPERVISED = 128_256, 2048, 256, 512
REPEATS = 3


def rows() -> list[Row]:
    times = {ours: [] for ours in (True, False)}
    memory = {}
    for _ in range(REPEATS):
        for ours in (True, False):
            seconds, extra = _apart(ours)
            times[ours].append(seconds)
            memory[ours] = min(memory.get(ours, extra), extra)
    fast, slow = min(times[True]), min(times[False])
    gib = memory[True] / 2 ** 30, memory[False] / 2 ** 30
    return [Row("cross-entropy, fused, CPU time", fast, slow, "s", fast / slow, 0.35, at_least=False),
            Row("cross-entropy, fused, extra memory", *gib, "GiB", gib[0], 0.4, at_least=False)]


def fused(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    asked = labels >= 0
    return fused_cross_entropy(hidden[asked], weight, labels[asked])[0]


def plain(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As transformers' models compute it: logits of every token, in fp32."""
    return functional.cross_entropy((hidden @ weight.t()).float(), labels, ignore_index=-100, reduction="sum")


def _apart(ours: bool) -> tuple[float, int]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measure, (ours,))


def _measure(ours: bool) -> tuple[float, int]:
    """CPU seconds of forward and backward, and bytes by which the peak rose."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    function: Callable[..., torch.Tensor] = fused if ours else plain
    small = torch.randn(64, 8, requires_grad=True), torch.randn(32, 8, requires_grad=True), torch.randint(0, 32, (64,))
    function(*small).backward()
    # logits of deviation 1, as a fresh layer has them: at 16, most probabilities are denormal numbers, slow on any CPU
    hidden = (torch.randn(TOKENS, WIDTH) / WIDTH**0.5).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, requires_grad=True)
    labels = torch.full((TOKENS,), -100)
    labels[torch.randperm(TOKENS)[:SUPERVISED]] = torch.randint(0, VOCABULARY, (SUPERVISED,))
    weight.grad, hidden.grad = torch.zeros_like(weight), torch.zeros_like(hidden)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    function(hidden, weight, labels).backward()
    seconds = time.process_time() - begun
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
