from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from kp_train.losses import head_losses

T, D, V = 11, 6, 17


def _inputs(*, bias: bool, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(T, D), (V, D), *([(V,)] if bias else [])]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def _expected(inputs: list[torch.Tensor], learned: torch.Tensor) -> torch.Tensor:
    logits = inputs[0] @ inputs[1].t()
    return functional.cross_entropy(logits + inputs[2] if len(inputs) > 2 else logits, learned, reduction="none")


@given(rows=st.integers(1, T), keep=st.booleans(), bias=st.booleans())
@settings(max_examples=30, deadline=None)
def test_losses_and_gradients_are_those_of_all_logits_at_once(rows: int, keep: bool, bias: bool) -> None:
    inputs, learned = _inputs(bias=bias), torch.randint(V, (T,))
    losses = head_losses(*inputs[:2], learned, *inputs[2:], chunk_bytes=rows * V * 8, kept_bytes=2**20 if keep else 0)
    expected = _expected(inputs, learned)
    assert torch.allclose(losses, expected, rtol=0, atol=1e-12)
    weight = torch.linspace(0.1, 2.0, T, dtype=torch.float64)
    ours = torch.autograd.grad((losses * weight).sum(), inputs)
    theirs = torch.autograd.grad((expected * weight).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_a_head_that_does_not_learn_gets_no_gradient() -> None:
    hidden, head = _inputs(bias=False)
    losses = head_losses(hidden, head.detach(), torch.zeros(T, dtype=torch.long))
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert head.grad is None


def test_what_is_kept_for_the_backward_pass_may_be_used_twice() -> None:
    inputs, learned = _inputs(bias=False), torch.randint(V, (T,))
    losses = head_losses(inputs[0], inputs[1], learned)
    first = torch.autograd.grad(losses.sum(), inputs, retain_graph=True)
    second = torch.autograd.grad(losses.sum(), inputs)
    assert all(torch.allclose(one, two) for one, two in zip(first, second, strict=True))


def test_losses_are_float32_where_products_are_bfloat16() -> None:
    hidden, head = _inputs(bias=False, dtype=torch.float32)
    learned = torch.randint(V, (T,))
    with torch.autocast("cpu", torch.bfloat16):
        losses = head_losses(hidden, head, learned)
    exact = _expected([hidden, head], learned)
    assert losses.dtype == torch.float32
    assert (losses - exact).abs().max() < 0.1
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert head.grad is not None
    assert (hidden.grad.dtype, head.grad.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_give_finite_losses_and_gradients(scale: float) -> None:
    hidden, head = _inputs(bias=False, dtype=torch.float32)
    losses = head_losses(hidden * scale, head, torch.zeros(T, dtype=torch.long))
    gradients = torch.autograd.grad(losses.sum(), [hidden, head])
    assert losses.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_nothing_learned_is_no_loss() -> None:
    hidden, head = _inputs(bias=False)
    assert head_losses(hidden[:0], head, torch.zeros(0, dtype=torch.long)).shape == (0,)
