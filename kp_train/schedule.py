"""What a training run is told, what it says meanwhile, and what it tells in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kp_train.students.student import Recipe

if TYPE_CHECKING:
    from kp_train.losses import Reduction


@dataclass(frozen=True)
class Schedule:
    """How long and in what portions a student is trained.

    Attributes:
        recipe: learning rate, batch and the like.
        steps: optimiser steps.
        accumulate: micro-batches a step is cut into, at least; changes memory, never the gradient.
        batch_tokens: positions of a micro-batch, at most; None: no limit.
        pack: whether targets share sequences, where the student can.
        gradient_checkpointing: compute activations twice instead of keeping them.
        shard: spread weights and optimiser over the processes (FSDP2), instead of a copy on each.
        eval_steps: steps between two evaluations on validation, each with a checkpoint.
        reduction: how token losses are averaged.
        seed: of the order of rows and of dropout.
        log_to: where the log goes beside the screen: names of Trainer's integrations, as `tensorboard`.
    """

    recipe: Recipe
    steps: int
    accumulate: int = 1
    batch_tokens: int | None = None
    pack: bool = True
    gradient_checkpointing: bool = False
    shard: bool = False
    eval_steps: int = 100
    reduction: Reduction = "token-mean"
    seed: int = 0
    log_to: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingResult:
    """What a training run did.

    Attributes:
        steps: optimiser steps in all.
        best_step: the step whose weights were kept.
        accuracy: on validation at that step; None without validation rows.
        tokens: label tokens learned; input tokens are in `input_tokens`.
        token_efficiency: share of the computed positions that held a token.
        flops: estimate of floating-point operations.
        seconds: of training and evaluation, over all resumed parts.
        device: what it ran on.
        mfu: share of the device's measured bfloat16 peak that these operations came to while training, since the run
            was last taken up; None where no peak is measured, as on a CPU.
        curve: one entry an evaluation or log line, in order.
    """

    steps: int
    best_step: int
    accuracy: float | None
    tokens: int
    token_efficiency: float
    flops: float
    seconds: float
    device: str
    mfu: float | None
    curve: tuple[Mapping[str, float], ...]


@dataclass(frozen=True)
class Progress:
    """One line of progress.

    Attributes:
        step: of `steps`.
        loss: what is minimised, mean since the line before; None in a line about validation.
        accuracy: on validation; None in a line about the loss.
        tokens_per_s: positions with a token, a second.
        efficiency: their share of all positions computed.
        task_losses: task to its own loss, unweighted.
        mfu: share of the device's measured bfloat16 peak; None where no peak is measured.
    """

    step: int
    steps: int
    loss: float | None
    accuracy: float | None
    tokens_per_s: float | None = None
    efficiency: float | None = None
    task_losses: Mapping[str, float] = field(default_factory=dict)
    mfu: float | None = None
