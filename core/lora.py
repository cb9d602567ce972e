"""Low-rank adapters on the backbone (LoRA, Hu et al. 2022) in place of its full weights; needs the extra `lora` (peft).

The adapters are trained and checkpointed alone; the product holds the backbone with them merged in, a plain folder like
any other. Nothing else in begira knows about them."""
from __future__ import annotations

from typing import Any

import torch

from core.errors import UserError

ALPHA = 2.0              # scaling of the adapters' product: ALPHA, whatever the rank (lora_alpha = ALPHA * rank)
_A, _B, _BASE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer.weight"


def add(body: Any, rank: int, seed: int) -> None:
    """Put adapters of `rank` beside every linear layer of a backbone's body, in place; A is drawn from `seed`, B is
    0."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("train.lora_rank needs peft: pip install 'begira[lora]', or set train.lora_rank=0") from None
    linear = sorted({name.rpartition(".")[2] for name, module in body.named_modules()
                     if isinstance(module, torch.nn.Linear)})
    dtype = body.dtype
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=ALPHA * rank, target_modules=linear), body)
    body.to(dtype)


def is_adapter(name: str) -> bool:
    return ".lora_" in name


def merge(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors with every adapter added to its layer, under the layers' own names. A state without adapters
    comes back as it is."""
    merged = {}
    for name, tensor in state.items():
        if name.endswith(_BASE):
            layer = name.removesuffix(_BASE)
            product = state[layer + _B].float() @ state[layer + _A].float()
            merged[f"{layer}.weight"] = (tensor.float() + ALPHA * product).to(tensor.dtype)
        elif not is_adapter(name):
            merged[name.replace(".base_layer.", ".")] = tensor
    return merged
