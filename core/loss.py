"""Cross-entropy of an output layer, chunk by chunk, for the rows that are supervised and for no others.

The logits of one chunk exist at a time; both gradients are made in the forward pass, while they are there, so that
the backward pass is a multiplication. It is one autograd function with no module call inside: under ZeRO-3 every rank
gathers the weight once, however many rows it has (ranks that loop over chunks of modules fall out of step and hang).
Not here: which rows are supervised, and what the sum is divided by (core.engine). """
from __future__ import annotations

import torch

CHUNK_BYTES = 64 << 20  # of fp32 logits that exist at one time


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels):  # type: ignore[no-untyped-def]
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) \
            if ctx.needs_input_grad[1] else None
        rows = chunk_rows(weight.shape[0])
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            probabilities, losses[part] = _softmax_loss(hidden[part] @ weight.t(), labels[part])
            if grad_hidden is None and grad_weight is None:
                continue
            probabilities[torch.arange(len(probabilities), device=labels.device), labels[part]] -= 1.0
            error = probabilities.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(error, weight, out=grad_hidden[part])
            if grad_weight is not None:
                _add_outer(grad_weight, error, hidden[part])
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx, grad_sum, _):  # type: ignore[no-untyped-def]
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grad_sum.to(torch.float32)
        return (None if grad_hidden is None else grad_hidden * scale.to(grad_hidden.dtype),
                None if grad_weight is None else grad_weight * scale.to(grad_weight.dtype), None)


def fused_cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor
                        ) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over rows of -log softmax(hidden @ weight.T)[label], and the same per row.

    hidden: (rows, width), weight: (vocabulary, width) of the same dtype, labels: (rows,) int64, every one valid (no
    ignore value; pass supervised rows only). Zero rows are fine and give a sum of 0 with zero gradients.
    Returns a differentiable fp32 scalar and the detached fp32 losses (rows,), both in nats. Softmax is done in fp32.
    The gradients are made ahead of the backward pass as in Liger (Hsu et al. 2024, "Liger Kernel", section 3)."""
    if not torch.is_grad_enabled():  # or the function would make gradients for nobody
        hidden, weight = hidden.detach(), weight.detach()
    return _FusedCrossEntropy.apply(hidden, weight, labels)


def chunk_rows(vocabulary: int) -> int:
    """Rows whose fp32 logits fill CHUNK_BYTES, at least 16 so that the matrix product stays one."""
    return max(16, CHUNK_BYTES // (4 * vocabulary))


def _softmax_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax in fp32 and in the memory of the logits where they are fp32 already, and -log of it at the labels."""
    logits = logits.float()
    logits.sub_(logits.amax(dim=1, keepdim=True))
    target = logits.gather(1, labels[:, None]).squeeze(1)
    logits.exp_()
    total = logits.sum(dim=1, keepdim=True)
    loss = total.squeeze(1).log() - target
    return logits.div_(total), loss


def _add_outer(total: torch.Tensor, error: torch.Tensor, hidden: torch.Tensor) -> None:
    if error.dtype == total.dtype:
        total.addmm_(error.t(), hidden)
    else:
        total.add_(error.t() @ hidden)
