"""The one normaliser: token losses become one number whose gradient does not depend on how a batch was cut.

N targets in a micro-batch, L positions of a target, K tasks.
A step's loss is L = sum_k sum_(i in k) weight_i * sum_t loss_it / count_k, where count_k belongs to the whole step:
counted over all its micro-batches before the first of them is computed. A mean within each micro-batch would weigh
the tokens of a short one more.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

Reduction: TypeAlias = Literal["token-mean", "sequence-sum"]
REDUCTIONS: Final[tuple[Reduction, ...]] = ("token-mean", "sequence-sum")


def count_units(mask_NL: Tensor, task_N: Tensor, *, num_tasks: int, reduction: Reduction = "token-mean") -> Tensor:
    """How many units of each task a micro-batch holds; sum them over the step.

    Args:
        mask_NL: (N, L) bool, which positions are learned.
        task_N: (N,) int, task of each target.
        num_tasks: K.
        reduction: `token-mean` counts tokens; `sequence-sum` counts targets, so that a target's tokens are summed
            and only targets are averaged (the 1/|D| sum_t form of arXiv:2602.01064).

    Returns: (K,) float.
    """
    units_N = mask_NL.sum(dim=1) if reduction == "token-mean" else torch.ones_like(task_N)
    return torch.zeros(num_tasks, dtype=torch.float32, device=task_N.device).index_add(0, task_N, units_N.float())


def normalised_loss(loss_NL: Tensor, mask_NL: Tensor, *, task_N: Tensor, weight_N: Tensor, count_K: Tensor) -> Tensor:
    """The share of a step's loss that one micro-batch contributes; the shares add up to the loss of the step.

    Args:
        loss_NL: (N, L) float, negative log-likelihoods, in nats.
        mask_NL: (N, L) bool, which positions are learned.
        task_N: (N,) int, task of each target.
        weight_N: (N,) float, lambda of each target.
        count_K: (K,) float, units of each task in the whole step, from `count_units`.

    Returns: () float.
    Source: own; `token-mean` over one undivided batch is what Hugging Face's mean over labels is for a single task.
    """
    factor_N = weight_N / count_K[task_N]
    # where, not a product: a position that is not learned may hold infinity, and 0 * inf is nan.
    return (torch.where(mask_NL, loss_NL, 0.0).sum(dim=1) * factor_N).sum()
