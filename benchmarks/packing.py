"""Packing: how full and even packs are, and what packed rows save against padded ones.

    python -m benchmarks packing

The lengths are those of LLaVA's finetuning mix in shape: 576 image tokens and a log-normal text, a quarter text-only.
utilisation: mean over largest pack of a window of 768 samples; other: the same samples cut into packs in order. images:
most over mean images of a rank; other: packs dealt to the ranks in turn. tokens/s: a small Llama's forward and backward
pass over the same documents on this machine, packed rows (documents masked apart) against rows of random samples padded
to the longest; useful tokens only."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.harness import Row, interleaved
from core.pack import assign, spread

WINDOW, PER_PACK, RANKS, SCALE = 768, 8, 4, 16


def lengths(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(stream, tokens, images) of n samples."""
    rng = np.random.default_rng(seed)
    stream = rng.choice(3, n, p=[0.5, 0.25, 0.25])
    text = np.clip(rng.lognormal(5.2, 0.9, n), 12, 1400).astype(np.int64)
    return stream, text + 576 * (stream < 2), (stream < 2).astype(np.int64)


def rows() -> list[Row]:
    packs = WINDOW // PER_PACK
    used, cut, images, in_turn = [], [], [], []
    for seed in range(20):
        stream, tokens, pictures = lengths(WINDOW, seed)
        places = assign(stream, tokens, pictures, packs)
        loads, held = np.bincount(places, tokens, packs), np.bincount(places, pictures, packs)
        plain = np.bincount(np.arange(WINDOW) // PER_PACK, tokens, packs)
        used.append(float(loads.mean() / loads.max()))
        cut.append(float(plain.mean() / plain.max()))
        for groups, found in ((spread(loads, held, RANKS), images), (in_turns(packs), in_turn)):
            per_rank = np.array([held[group].sum() for group in groups])
            found.append(float(per_rank.max() / per_rank.mean()))
    mine, its = interleaved(*passes())
    return [Row("pack utilisation (least of 20 windows)", min(used), min(cut), "mean/max", min(used), 0.95),
            Row("images per rank (worst of 20 windows)", max(images), max(in_turn), "max/mean", max(images), 1.15,
                at_least=False),
            Row("packed against padded (tokens/CPU s)", 1 / mine, 1 / its, "relative", its / mine, 1.35)]


def in_turns(packs: int) -> list[list[int]]:
    return [list(range(rank, packs, RANKS)) for rank in range(RANKS)]


def passes() -> tuple[Callable[[], None], Callable[[], None]]:
    """One pass over the same documents, packed and padded, each with a model of its own."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from core.forward import PackedModel

    torch.set_num_threads(1)
    stream, tokens, pictures = lengths(96, 0)
    tokens = np.maximum(tokens // SCALE, 2)        # shorter documents of the same shape: seconds on a CPU
    packs = 96 // PER_PACK
    places = assign(stream, tokens, pictures, packs)
    packed = [[int(t) for t in tokens[places == p]] for p in range(packs)]
    order = np.random.default_rng(1).permutation(96)
    padded = [[int(t) for t in tokens[order[i:i + PER_PACK]]] for i in range(0, 96, PER_PACK)]
    config = LlamaConfig(vocab_size=4096, hidden_size=256, intermediate_size=1024, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048)

    def run(batches: list[tuple[torch.Tensor, ...]]) -> Callable[[], None]:
        torch.manual_seed(0)
        model = PackedModel(LlamaForCausalLM(config)).train()

        def once() -> None:
            for ids, positions, labels in batches:
                model(ids, positions, labels)[0].backward()
        return once

    return run([row(documents) for documents in packed]), run([rectangle(documents) for documents in padded])


def row(documents: list[int]) -> tuple:
    """ids, positions and labels [1, sum]: a quarter of each document is supervised, as answers are."""
    import torch

    positions = torch.cat([torch.arange(n) for n in documents])[None]
    ids = torch.arange(positions.shape[1])[None] % 4000
    labels = torch.full_like(ids, -100)
    ends = np.cumsum(documents)
    for end, n in zip(ends, documents, strict=True):
        labels[0, end - 1 - n // 4:end - 1] = 7
    return ids, positions, labels


def rectangle(documents: list[int]) -> tuple:
    """ids, positions and labels [documents, longest]; padding continues the positions and is not supervised."""
    import torch

    longest = max(documents)
    positions = torch.arange(longest)[None].repeat(len(documents), 1)
    ids, labels = positions % 4000, torch.full_like(positions, -100)
    for place, n in enumerate(documents):
        labels[place, n - 1 - n // 4:n - 1] = 7
    return ids, positions, labels
