"""From hidden states to the losses of learned tokens, through the vocabulary, without all logits at once.

T learned tokens, D model size, V vocabulary, C tokens of a chunk.
Logits are computed chunk by chunk from hidden states that were gathered where something is learned. Softmax, loss and
gradient are float32 (float64 for float64 students) whatever the matrix products run in. Chunks are kept for the
backward pass while they are small together, and computed a second time otherwise.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES: Final = 128 * 2**20
"""Logits of one chunk: large enough for a full-speed matrix product, small beside a model's activations."""
KEPT_BYTES: Final = 2**30
"""Logits of all chunks that are kept for the backward pass; beyond it they are computed twice instead."""


def head_losses(
    hidden_TD: Tensor,
    head_VD: Tensor,
    learned_T: Tensor,
    bias_V: Tensor | None = None,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    kept_bytes: int = KEPT_BYTES,
) -> Tensor:
    """Negative log-likelihood of each learned token, in nats.

    Args:
        hidden_TD: (T, D) float, what the head reads at the learned positions, scaled as the model does it.
        head_VD: (V, D) float, the output embedding.
        learned_T: (T,) int, the tokens.
        bias_V: (V,) float, added to the logits.
        chunk_bytes: memory of one chunk's logits.
        kept_bytes: memory of logits kept between the two passes.

    Returns: (T,) float32, or float64 where the hidden states are.
    Source: own; the idea of never holding all logits is that of cut cross-entropy (arXiv:2411.09009).
    """
    losses: Tensor = _HeadLosses.apply(hidden_TD, head_VD, bias_V, learned_T, chunk_bytes, kept_bytes)  # type: ignore[no-untyped-call]
    return losses


class _HeadLosses(torch.autograd.Function):
    """Cross-entropy of a linear head; see the module."""

    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, head_VD: Tensor, bias_V: Tensor | None, learned_T: Tensor, chunk: int, kept: int
    ) -> Tensor:
        wide = torch.float64 if hidden_TD.dtype == torch.float64 else torch.float32
        ctx.shapes = hidden_TD.dtype, head_VD.dtype, _product_dtype(hidden_TD, head_VD)
        hidden_TD, head_VD = hidden_TD.to(ctx.shapes[2]), head_VD.to(ctx.shapes[2])
        row_bytes = head_VD.shape[0] * wide.itemsize
        ctx.rows = max(1, chunk // row_bytes)
        keeps = row_bytes * len(learned_T) <= kept and (ctx.needs_input_grad[0] or ctx.needs_input_grad[1])
        losses_T = torch.empty(len(learned_T), dtype=wide, device=hidden_TD.device)
        log_sum_T = torch.empty_like(losses_T)
        ctx.kept = []
        for place in _chunks(len(learned_T), ctx.rows):
            logits_CV = _logits(hidden_TD[place], head_VD, bias_V, wide)
            log_sum_T[place] = logits_CV.logsumexp(dim=1)
            losses_T[place] = log_sum_T[place] - logits_CV.gather(1, learned_T[place, None])[:, 0]
            if keeps:
                ctx.kept.append(logits_CV)
        ctx.save_for_backward(hidden_TD, head_VD, bias_V, learned_T, log_sum_T)
        return losses_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_T: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        hidden_TD, head_VD, bias_V, learned_T, log_sum_T = ctx.saved_tensors
        wide, (hidden_dtype, head_dtype, narrow) = log_sum_T.dtype, ctx.shapes
        needs_hidden, needs_head, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden_TD = torch.empty_like(hidden_TD, dtype=hidden_dtype) if needs_hidden else None
        grad_head_VD = torch.zeros_like(head_VD, dtype=wide) if needs_head else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=wide) if needs_bias else None
        for number, place in enumerate(_chunks(len(learned_T), ctx.rows)):
            # A second backward pass over a retained graph would find the kept logits overwritten: it makes them anew.
            logits_CV = ctx.kept[number] if ctx.kept else _logits(hidden_TD[place], head_VD, bias_V, wide)
            grad_CV = logits_CV.sub_(log_sum_T[place, None]).exp_()
            grad_CV.scatter_add_(1, learned_T[place, None], torch.full_like(grad_T[place, None], -1, dtype=wide))
            grad_CV.mul_(grad_T[place, None])
            narrow_CV = grad_CV.to(narrow)
            if grad_hidden_TD is not None:
                grad_hidden_TD[place] = (narrow_CV @ head_VD).to(hidden_dtype)
            if grad_head_VD is not None:
                _add_product(grad_head_VD, narrow_CV.t(), hidden_TD[place])
            if grad_bias_V is not None:
                grad_bias_V += grad_CV.sum(dim=0)
        ctx.kept = []
        grad_head_VD = None if grad_head_VD is None else grad_head_VD.to(head_dtype)
        grad_bias_V = None if grad_bias_V is None else grad_bias_V.to(bias_V.dtype)
        return grad_hidden_TD, grad_head_VD, grad_bias_V, None, None, None


def _product_dtype(hidden_TD: Tensor, head_VD: Tensor) -> torch.dtype:
    """What the matrix products run in: what autocast says, or the wider of both."""
    kind = hidden_TD.device.type
    if torch.is_autocast_enabled(kind) and hidden_TD.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return torch.promote_types(hidden_TD.dtype, head_VD.dtype)


def _chunks(count: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _logits(hidden_CD: Tensor, head_VD: Tensor, bias_V: Tensor | None, wide: torch.dtype) -> Tensor:
    """(C, V) logits in the wide type, not rounded to the narrow one where the device can avoid it."""
    narrow = hidden_CD.dtype
    with torch.autocast(hidden_CD.device.type, enabled=False):
        if hidden_CD.is_cuda and narrow != wide:
            logits_CV = torch.mm(hidden_CD, head_VD.t(), out_dtype=wide)
        else:
            logits_CV = (hidden_CD @ head_VD.t()).to(wide)
    return logits_CV if bias_V is None else logits_CV.add_(bias_V)


def _add_product(sum_VD: Tensor, grad_VC: Tensor, hidden_CD: Tensor) -> None:
    if grad_VC.dtype == sum_VD.dtype:
        sum_VD.addmm_(grad_VC, hidden_CD)
    elif grad_VC.is_cuda:
        sum_VD += torch.mm(grad_VC, hidden_CD, out_dtype=sum_VD.dtype)
    else:
        sum_VD += grad_VC @ hidden_CD
