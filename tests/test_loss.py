"""The fused cross-entropy equals the plain one in value and gradient, and costs only what is supervised."""
import pytest
import torch
from torch.nn import functional

from core import loss
from core.loss import fused_cross_entropy


def problem(rows, width=16, vocabulary=50, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, width, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, vocabulary, (rows,), generator=generator)


@pytest.mark.parametrize("chunk", [16, 1000])
def test_equals_plain_cross_entropy(chunk, monkeypatch):
    monkeypatch.setattr(loss, "chunk_rows", lambda vocabulary: chunk)
    hidden, weight, labels = problem(37)
    total, by_row = fused_cross_entropy(hidden, weight, labels)
    (total * 0.37).backward()
    ours = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    plain = functional.cross_entropy(hidden @ weight.t(), labels, reduction="none")
    (plain.sum() * 0.37).backward()
    torch.testing.assert_close(total, plain.sum())
    torch.testing.assert_close(by_row, plain.detach())
    assert not by_row.requires_grad
    torch.testing.assert_close(ours[0], hidden.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[1], weight.grad, rtol=1e-5, atol=1e-5)


def test_no_supervised_row_gives_zero_and_a_zero_gradient():
    hidden, weight, labels = problem(0)
    total, by_row = fused_cross_entropy(hidden, weight, labels)
    total.backward()
    assert total == 0 and len(by_row) == 0 and weight.grad.abs().sum() == 0


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, labels = problem(5)
    total, _ = fused_cross_entropy(hidden, weight.detach(), labels)
    total.backward()
    assert hidden.grad is not None and weight.grad is None


def test_no_gradient_is_made_where_none_is_wanted():
    hidden, weight, labels = problem(5)
    with torch.no_grad():
        total, _ = fused_cross_entropy(hidden, weight, labels)
    assert total.grad_fn is None


def test_bf16_softmax_is_done_in_fp32():
    hidden, weight, labels = problem(64, dtype=torch.bfloat16)
    total, _ = fused_cross_entropy(hidden, weight, labels)
    total.backward()
    exact = functional.cross_entropy((hidden @ weight.t()).float(), labels, reduction="sum")
    torch.testing.assert_close(total, exact, rtol=1e-6, atol=1e-4)
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_logits_of_one_chunk_exist_at_a_time():
    """The largest tensor made holds chunk_rows rows of logits, not all of them (negative control: the plain loss)."""
    vocabulary, rows = 4000, 256
    hidden, weight, labels = problem(rows, vocabulary=vocabulary)
    old, loss.CHUNK_BYTES = loss.CHUNK_BYTES, 4 * vocabulary * 32
    try:
        assert largest(lambda: fused_cross_entropy(hidden, weight, labels)[0]) <= vocabulary * 32
    finally:
        loss.CHUNK_BYTES = old
    assert largest(lambda: functional.cross_entropy(hidden @ weight.t(), labels)) == vocabulary * rows


def largest(function):
    """Elements of the largest result of any operation inside `function`, weight-shaped ones left out."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Watch(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            result = operation(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                if torch.is_tensor(leaf) and leaf.shape[-1:] != (16,) and leaf.shape[:1] != (16,):
                    Watch.most = max(Watch.most, leaf.numel())
            return result

    with Watch():
        function().backward()
    return Watch.most


def test_without_gradients_none_are_made(monkeypatch):
    """Validation of a large model would otherwise hold a second head."""
    made = []
    monkeypatch.setattr(loss, "_add_outer", lambda total, *_: made.append(total))
    hidden, weight, labels = problem(9)
    with torch.no_grad():
        total, _ = fused_cross_entropy(hidden, weight, labels)
    assert not made
    torch.testing.assert_close(total, fused_cross_entropy(hidden, weight, labels)[0])
    assert made
