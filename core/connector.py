"""The connector between vision tower and backbone: transformers' own projector, made linear or two-layer, and the
standardisation of its input that leaves no trace in what is exported. Not here: the model around it (core.assemble)."""
from __future__ import annotations

from typing import Any

import torch
from torch import nn

ACTIVATIONS = {"linear": "linear", "mlp2x_gelu": "gelu"}


def activation(kind: str) -> str:
    """`projector_hidden_act` of LlavaConfig for a connector kind (`model.connector`)."""
    return ACTIVATIONS[kind]


class StandardisedLinear(nn.Linear):
    """A linear layer over (x - mean) / deviation that can be written as a plain one.

    The parameters live in the standardised space, where Adam sees features of equal scale; each forward pass folds the
    two vectors into the weight, so that the exported plain layer computes the very same product."""

    def __init__(self, inputs: int, outputs: int, mean: torch.Tensor, deviation: torch.Tensor):
        super().__init__(inputs, outputs)
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("deviation", deviation.clone(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, *fold(self.weight, self.bias, self.mean, self.deviation))


def fold(weight: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor
         ) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias that do to x what the given ones do to (x - mean) / deviation."""
    weight = weight / deviation
    return weight, bias - weight @ mean


def connector(config: Any, kind: str, seed: int) -> nn.Module:
    """A fresh connector in fp32: weights N(0, 0.02) from `seed`, biases 0; `linear` has a frozen identity behind it."""
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    module = LlavaMultiModalProjector(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in (module.linear_1, module.linear_2):
            layer.weight.normal_(0.0, 0.02, generator=generator)
            layer.bias.zero_()
        if kind == "linear":
            module.linear_2.weight.copy_(torch.eye(len(module.linear_2.weight)))
            module.linear_2.requires_grad_(False)
    return module


def standardise(net: Any, mean: torch.Tensor, deviation: torch.Tensor, unfold: bool) -> None:
    """Let the connector's first layer read standardised features; mean and deviation have shape (channels,).

    `unfold`: its present weights act on raw features (a trained connector) and are rewritten; else they stay."""
    projector = net.model.multi_modal_projector
    old = projector.linear_1
    new = StandardisedLinear(old.in_features, old.out_features, mean.to(old.weight), deviation.to(old.weight))
    with torch.no_grad():
        new.weight.copy_(old.weight * deviation.to(old.weight) if unfold else old.weight)
        new.bias.copy_(old.bias + old.weight @ mean.to(old.weight) if unfold else old.bias)
    projector.linear_1 = new.to(old.weight.device, old.weight.dtype)


def plain_tensors(linear_1: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a connector ("linear_1.weight", ...) as a plain projector has them: a standardisation is folded in
    and its two vectors go along as "standardise.mean" and "standardise.deviation", so that training can take it up
    again."""
    if not isinstance(linear_1, StandardisedLinear):
        return tensors
    mean, deviation = linear_1.mean.cpu(), linear_1.deviation.cpu()
    weight, bias = fold(tensors["linear_1.weight"], tensors["linear_1.bias"], mean, deviation)
    return {**tensors, "linear_1.weight": weight, "linear_1.bias": bias, "standardise.mean": mean,
            "standardise.deviation": deviation}
