"""The set-up card of a training run: what is trained, how much of it, what it should cost. Arithmetic over counts, so
that it can be made from a configuration as well as from a live model. Not here: measuring (core.monitor)."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ASSUMED_UTILISATION = 0.35       # of the peak; where it only matters whether a run takes hours or days


@dataclass(frozen=True)
class Counts:
    """Parameters of one part, and how many of them are trained."""

    parameters: int
    trained: int


def count(model: Any) -> dict[str, Counts]:
    """Parameters per part of a live model (before ZeRO-3 has taken it apart)."""
    from core.engine import part_of

    found: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        pair = found.setdefault(part_of(name), [0, 0])
        pair[0] += parameter.numel()
        pair[1] += parameter.numel() * parameter.requires_grad
    return {part: Counts(*pair) for part, pair in found.items()}


def state_bytes(counts: Mapping[str, Counts], dtype: str, world: int) -> dict[int, int]:
    """Bytes per GPU of weights, gradients and AdamW's state under each ZeRO stage, without activations.

    fp32: 4 weight, 4 gradient, 8 moments. bf16: 2 weight, 4 gradient (accumulated in fp32), 4 master, 8 moments.
    Stage 1 shards moments and master, stage 2 gradients as well, stage 3 also the weights (Rajbhandari et al. 2020,
    "ZeRO", section 3)."""
    everything = sum(c.parameters for c in counts.values())
    trained = sum(c.trained for c in counts.values())
    weight, optimiser = (2, 12) if dtype == "bfloat16" else (4, 8)
    parts = {"weights": weight * everything, "gradients": 4 * trained, "optimiser": optimiser * trained}
    sharded = {0: (), 1: ("optimiser",), 2: ("optimiser", "gradients"), 3: ("optimiser", "gradients", "weights")}
    return {stage: sum(size // world if name in split else size for name, size in parts.items())
            for stage, split in sharded.items()}


def flops_per_token(backbone: Counts, layers: int, width: int, context: float, looked_up: int = 0) -> float:
    """Floating-point operations that the backbone needs per token, forward and backward: 2 per weight forward, 2 for
    the gradient of its input, 2 for that of the weight where it is trained, and attention over half of `context`, the
    mean length of a document (Kaplan et al. 2020, section 2.1). Rows of a table that are `looked_up` are no product.
    What gradient checkpointing computes again does not count (PaLM, appendix B), nor do the encoder and connector; the
    head counts at every token."""
    weights = 4.0 * (backbone.parameters - looked_up) + 2.0 * max(backbone.trained - looked_up, 0)
    return weights + 6.0 * layers * width * context


def card(counts: Mapping[str, Counts], steps: int, tokens_per_step: float, dtype: str, world: int, stage: int,
         global_batch: int, micro_batch: int, flops: float = 0.0, peak: float = 0.0) -> dict[str, Any]:
    """What is logged before step 1. `peak`: FLOP/s of all devices together, 0 if unknown (no time is given then)."""
    gib = {f"zero {s}": round(size / 2 ** 30, 3) for s, size in state_bytes(counts, dtype, world).items()}
    return {
        "parameters": {part: {"all": c.parameters, "trained": c.trained} for part, c in counts.items()},
        "steps": steps, "tokens per step": round(tokens_per_step, 1), "tokens": round(steps * tokens_per_step),
        "global batch (packs)": global_batch, "accumulation": global_batch // (world * micro_batch),
        "ranks": world, "dtype": dtype, "zero stage": stage,
        "GiB per GPU for weights, gradients, moments": gib,
        "expected hours": round(steps * tokens_per_step * flops / (peak * ASSUMED_UTILISATION) / 3600, 2)
        if peak and flops else None,
    }
