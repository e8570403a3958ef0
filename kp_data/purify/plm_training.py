"""Training of the PLM classifier; apart from it, so that naming the method does not load torch.

Axes: N questions of a batch, T teachers, D hidden size of the encoder, H hidden size of the classifier.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kp_data.purify.embedding import Embedder
from kp_data.purify.encoders import MINILM, seeded
from kp_data.purify.fine_tuning import FrozenStates, Schedule, TunedEncoder, fine_tune
from kp_data.purify.gate import Lesson, question_texts
from kp_data.purify.plm_classifier import ClassifierOptions, ClassifierRouter, targets
from kp_data.purify.protocol import Context

Array = np.ndarray[Any, Any]


class Classifier(nn.Module):
    """W2 GELU(W1 h + b1) + b2, with dropout on what each layer reads."""

    def __init__(self, size: int, num_teachers: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(size, hidden)
        self.second = nn.Linear(hidden, num_teachers)
        self.dropout = nn.Dropout(dropout)

    def forward(self, state_ND: Tensor) -> Tensor:
        """(N, T) logits."""
        hidden_NH = functional.gelu(self.first(self.dropout(state_ND)))
        logit_NT: Tensor = self.second(self.dropout(hidden_NH))
        return logit_NT

    def layers(self) -> dict[str, Array]:
        """A copy of the weights, by the names that a router keeps them under."""
        parts = {"w1": self.first.weight, "b1": self.first.bias, "w2": self.second.weight, "b2": self.second.bias}
        return {name: part.detach().cpu().clone().numpy() for name, part in parts.items()}


def classifier_loss(logit_NT: Tensor, target_NT: Tensor, counts_NT: Tensor, *, multilabel: bool) -> Tensor:
    """Mean loss in nats: over the cells that count for `multilabel`, else over the questions that count.

    Args:
        logit_NT: (N, T).
        target_NT: (N, T) in [0, 1]; rows sum to 1 unless `multilabel`.
        counts_NT: (N, T) bool; whole rows unless `multilabel`.
    """
    if multilabel:
        cell_NT = functional.binary_cross_entropy_with_logits(logit_NT, target_NT, reduction="none")
        return torch.where(counts_NT, cell_NT, 0.0).sum() / counts_NT.sum().clamp(min=1)
    loss_N = -(target_NT * logit_NT.log_softmax(1)).sum(1)
    counts_N = counts_NT.all(1)
    return torch.where(counts_N, loss_N, 0.0).sum() / counts_N.sum().clamp(min=1)


def train_classifier(
    lesson: Lesson, options: ClassifierOptions, context: Context
) -> tuple[ClassifierRouter, dict[str, Any]]:
    """A trained classifier, and how training went."""
    target_QT, counts_QT = targets(lesson, options.target)
    rows = np.flatnonzero(counts_QT.any(1))
    multilabel = options.target == "multilabel"
    embed = _reader(options, context)
    with seeded(context.seed):
        size = embed.size if isinstance(embed, TunedEncoder) else embed.model.size
        head = Classifier(size, len(lesson.train.teachers), hidden=options.hidden, dropout=options.dropout)
        head.to(embed.device if isinstance(embed, TunedEncoder) else "cpu")
        train, validation = lesson.train.take(rows), lesson.validation
        goal_NT, valid_NT = torch.from_numpy(target_QT[rows]), torch.from_numpy(counts_QT[rows].copy())

        def loss(state_ND: Tensor, batch_N: Tensor) -> Tensor:
            device = state_ND.device
            goal, valid = goal_NT[batch_N].to(device), valid_NT[batch_N].to(device)
            return classifier_loss(head(state_ND), goal, valid, multilabel=multilabel)

        def router() -> ClassifierRouter:
            return ClassifierRouter(train.teachers, head.layers(), multilabel, embed)

        facts = fine_tune(
            embed if isinstance(embed, TunedEncoder) else FrozenStates(embed),
            head,
            loss,
            question_texts(train),
            schedule=_schedule(options),
            validate=lambda state_VD: lesson.validation_accuracy(router().score(state_VD)),
            validation_texts=question_texts(validation),
            progress=lambda done, total: context.progress("training the classifier", done, total),
        )
        return router(), facts | {"num_questions": len(rows), "frozen": bool(options.frozen)}


def _reader(options: ClassifierOptions, context: Context) -> TunedEncoder | Embedder:
    """The encoder: one to be fine-tuned, or the run's own embedder where that is the one asked for."""
    if options.frozen:
        if options.encoder == context.embed.encoder:
            return context.embed
        return replace(context.embed, encoder=options.encoder)
    pooling = options.pooling
    if pooling == "auto":
        pooling = "mean" if options.encoder == MINILM else "cls"
    return TunedEncoder.start(
        options.encoder,
        context.embed.device,
        max_tokens=options.max_tokens,
        pooling=pooling,
        batch_size=context.embed.batch_size,
    )


def _schedule(options: ClassifierOptions) -> Schedule:
    return Schedule(
        encoder_learning_rate=options.encoder_learning_rate,
        head_learning_rate=options.head_learning_rate,
        weight_decay=options.weight_decay,
        batch_size=options.batch_size,
        max_epochs=options.max_epochs,
        patience=options.patience,
        frozen_layers=options.frozen_layers,
    )
