"""The one normaliser: token losses become one number whose gradient does not depend on how a batch was cut.

N targets in a micro-batch, T learned tokens of all of them, one target after another, K tasks.
A step's loss is L = sum_t weight[owner_t] * loss_t / count[task[owner_t]], where count belongs to the whole step:
counted over all its micro-batches, on all ranks, before the first of them is computed. A mean within each micro-batch
would weigh the tokens of a short one more.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

Reduction: TypeAlias = Literal["token-mean", "sequence-sum"]
REDUCTIONS: Final[tuple[Reduction, ...]] = ("token-mean", "sequence-sum")


def count_units(owner_T: Tensor, task_N: Tensor, *, num_tasks: int, reduction: Reduction = "token-mean") -> Tensor:
    """How many units of each task a micro-batch holds; sum them over the step.

    Args:
        owner_T: (T,) int, which target each learned token belongs to.
        task_N: (N,) int, task of each target.
        num_tasks: K.
        reduction: `token-mean` counts tokens; `sequence-sum` counts targets, so that a target's tokens are summed
            and only targets are averaged (the 1/|D| sum_t form of arXiv:2602.01064).

    Returns: (K,) float.
    """
    units = task_N[owner_T] if reduction == "token-mean" else task_N
    return torch.bincount(units, minlength=num_tasks).float()


def normalised_loss(loss_T: Tensor, owner_T: Tensor, *, task_N: Tensor, weight_N: Tensor, count_K: Tensor) -> Tensor:
    """The share of a step's loss that one micro-batch contributes; the shares add up to the loss of the step.

    Args:
        loss_T: (T,) float, negative log-likelihoods of the learned tokens, in nats.
        owner_T: (T,) int, which target each token belongs to.
        task_N: (N,) int, task of each target.
        weight_N: (N,) float, weight of each target: lambda times confidence.
        count_K: (K,) float, units of each task in the whole step, from `count_units`.

    Returns: () float.
    Source: own; `token-mean` over one undivided batch is what Hugging Face's mean over labels is for a single task.
    """
    factor_N = weight_N / count_K[task_N]
    return (loss_T * factor_N[owner_T]).sum()


def losses_of_tasks(loss_T: Tensor, owner_T: Tensor, *, task_N: Tensor, count_K: Tensor) -> Tensor:
    """What a micro-batch contributes to each task's own loss, unweighted; for people to look at, without a gradient.

    Args: as of `normalised_loss`.

    Returns: (K,) float; the shares of a step add up to each task's mean over its units in that step.
    """
    sum_K = torch.zeros_like(count_K).index_add_(0, task_N[owner_T], loss_T.detach().to(count_K.dtype))
    # A task that no row of the step has counts nothing, and is left at nothing.
    return sum_K / count_K.clamp(min=1)
