"""The dual contrastive loss of RouterDC over frozen question embeddings, and the head it trains.

Axes: N questions of a batch, T teachers, D embedding size, K projected size, B in-batch questions (as N, second role).
Everything runs on the CPU with one thread: the head is small, and one thread gives the same weights on every machine
of a kind, whatever the number of cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kp_data.purify.encoders import MINILM, seeded
from kp_data.purify.fine_tuning import Schedule, TunedEncoder, fine_tune
from kp_data.purify.gate import Lesson, question_texts
from kp_data.purify.protocol import Context
from kp_data.purify.routers import SimilarityHead
from kp_data.purify.similarity_options import SimilarityOptions

Array = np.ndarray[Any, Any]

TEACHER_SCALE: Final = 0.78
"""Standard deviation of a teacher embedding at the start, as RouterDC's code has it."""


class RouterHead(nn.Module):
    """Question embeddings and trainable teacher embeddings in one space; their cosine is the routing score.

    With `projected_size` 0 the question embeddings are taken as they are: an encoder below learns in their place.
    """

    def __init__(self, size: int, num_teachers: int, *, projected_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.project: nn.Module = nn.Linear(size, projected_size) if projected_size else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.teacher_TK = nn.Parameter(torch.randn(num_teachers, projected_size or size) * TEACHER_SCALE)

    def embed(self, question_ND: Tensor) -> Tensor:
        """(N, K) unit vectors of questions."""
        projected_NK: Tensor = self.project(self.dropout(question_ND))
        return functional.normalize(projected_NK, dim=1)

    def similarity(self, question_NK: Tensor) -> Tensor:
        """(N, T) cosine of each question with each teacher; scaling a teacher embedding changes nothing."""
        return question_NK @ functional.normalize(self.teacher_TK, dim=1).T


def teacher_loss(similarity_NT: Tensor, good_NT: Tensor, bad_NT: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Pull a question towards every teacher that is right on it, away from those that are wrong.

    For each teacher i: good_i * -log(e^s_i / (e^s_i + sum over j of bad_j e^s_j)), s = cosine / temperature; summed
    over the teachers of a question. With labels of 0 and 1 these are the right against the wrong ones. A question
    with no right or no wrong teacher contributes exactly 0.

    Args:
        similarity_NT: (N, T) cosines.
        good_NT: (N, T) in [0, 1], how right each teacher is.
        bad_NT: (N, T) in [0, 1], how wrong; a teacher may be neither.
        temperature: divides the cosines.

    Returns: (N,) loss of each question, in nats.
    Source: RouterDC (arXiv:2409.19886), sample-LLM loss. Differs: all right and all wrong teachers instead of a fixed
    number of each, one mask per question, and labels between 0 and 1.
    """
    score_NT = similarity_NT / temperature
    good_NT, bad_NT = good_NT.to(score_NT.dtype), bad_NT.to(score_NT.dtype)
    signal_N1 = ((good_NT > 0).any(1) & (bad_NT > 0).any(1))[:, None]
    # A finite stand-in for minus infinity: rows without a wrong teacher would otherwise put nan into the gradient.
    lowest = torch.finfo(score_NT.dtype).min
    weighted_NT = torch.where(bad_NT > 0, score_NT + bad_NT.clamp(min=1e-30).log(), lowest)
    # A teacher that is partly right and partly wrong does not compete with itself.
    num_teachers = score_NT.shape[1]
    alone_TT = torch.eye(num_teachers, dtype=torch.bool)
    rival_NTT = weighted_NT[:, None, :].expand(-1, num_teachers, -1).masked_fill(alone_TT, lowest)
    pair_NT = functional.softplus(rival_NTT.logsumexp(2) - score_NT)
    return torch.where((good_NT > 0) & signal_N1, good_NT * pair_NT, 0.0).sum(1)


def cluster_loss(
    question_NK: Tensor,
    cluster_N: Tensor,
    *,
    generator: torch.Generator,
    num_negatives: int = 3,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Pull a question towards another one of its cluster, away from some of other clusters, drawn within the batch.

    Args:
        question_NK: (N, K) unit vectors.
        cluster_N: (N,) int, cluster of each question.
        generator: draws the positive and the negatives.
        num_negatives: how many of other clusters; fewer where the batch has fewer.
        temperature: divides the cosines.

    Returns: (N,) loss in nats, 0 where the batch holds no positive or no negative; (N,) bool, where there is a loss.
    Source: RouterDC (arXiv:2409.19886), sample-sample loss. Differs: a question is never its own positive, and the
    temperature is applied.
    """
    same_NB = cluster_N[:, None] == cluster_N[None, :]
    partner_NB = same_NB & ~torch.eye(len(cluster_N), dtype=torch.bool)
    has_N = partner_NB.any(1) & (~same_NB).any(1)
    if not has_N.any():
        return question_NK.sum(1) * 0.0, has_N
    score_NB = question_NK @ question_NK.T / temperature
    lottery_NB = torch.rand(score_NB.shape, generator=generator)
    positive_N1 = lottery_NB.masked_fill(~partner_NB, -1.0).argmax(1, keepdim=True)
    count = min(num_negatives, len(cluster_N))
    drawn = lottery_NB.masked_fill(same_NB, -1.0).topk(count, dim=1)
    negative_NH = score_NB.gather(1, drawn.indices).masked_fill(drawn.values < 0, torch.finfo(score_NB.dtype).min)
    loss_N = functional.softplus(negative_NH.logsumexp(1) - score_NB.gather(1, positive_N1).squeeze(1))
    return torch.where(has_N, loss_N, 0.0), has_N


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained head and how it came to be."""

    head: SimilarityHead
    epochs: int
    best_epoch: int
    validation_accuracy: float


def train_head(
    question_ND: Array,
    good_NT: Array,
    bad_NT: Array,
    cluster_N: Array,
    *,
    options: SimilarityOptions,
    seed: int,
    validate: Callable[[Array], float],
    validation_ND: Array,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train a head with AdamW and keep the epoch whose routing is best on validation.

    Args:
        question_ND: (N, D) embeddings of the training questions.
        good_NT, bad_NT: (N, T) bool, or float in [0, 1], how right and how wrong each teacher is.
        cluster_N: (N,) int, text cluster of each.
        options: sizes, weights and the schedule.
        seed: of the weights, the order of questions and the draws within a batch.
        validate: routing accuracy, in [0, 1], of (V, T) scores of the validation questions.
        validation_ND: (V, D) embeddings of the validation questions.
        progress: called with (epoch, options.max_epochs) after each epoch.
    """
    with _reproducible(seed) as generator:
        head = RouterHead(
            question_ND.shape[1], good_NT.shape[1], projected_size=options.projected_size, dropout=options.dropout
        )
        optimizer = torch.optim.AdamW(head.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        data = tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in (question_ND, good_NT, bad_NT, cluster_N))
        best, best_epoch, kept = -1.0, 0, frozen_head(head, options.temperature)
        for epoch in range(1, options.max_epochs + 1):
            _train_epoch(head, optimizer, data, options, generator)
            candidate = frozen_head(head, options.temperature)
            accuracy = validate(candidate.score(validation_ND))
            if accuracy > best:
                best, best_epoch, kept = accuracy, epoch, candidate
            if progress is not None:
                progress(epoch, options.max_epochs)
            if epoch - best_epoch >= options.patience:
                break
    return Trained(kept, epoch, best_epoch, best)


def train_tuned(
    lesson: Lesson,
    labels: tuple[Array, Array],
    cluster_N: Array,
    options: SimilarityOptions,
    context: Context,
    progress: Callable[[int, int], None],
) -> tuple[SimilarityHead, TunedEncoder, dict[str, Any]]:
    """Train the encoder itself with the teacher embeddings, as RouterDC does.

    Args:
        lesson: questions and validation.
        labels: (N, T) how right and (N, T) how wrong each teacher is.
        cluster_N: (N,) int, text cluster of each training question.
        options, context: of the run.
        progress: called with (step, steps).
    """
    pooling = "mean" if options.encoder == MINILM else "cls"
    encoder = TunedEncoder.start(
        options.encoder,
        context.embed.device,
        max_tokens=options.max_tokens,
        pooling=pooling,
        batch_size=context.embed.batch_size,
    )
    schedule = Schedule(
        encoder_learning_rate=options.encoder_learning_rate,
        head_learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        batch_size=options.batch_size,
        max_epochs=options.tuned_epochs,
        patience=options.patience,
        frozen_layers=options.frozen_layers,
    )
    with seeded(context.seed):
        generator = torch.Generator().manual_seed(context.seed)
        head = RouterHead(encoder.size, labels[0].shape[1], projected_size=0)
        known = tuple(torch.from_numpy(part) for part in (*labels, cluster_N))

        def loss(state_ND: Tensor, rows_N: Tensor) -> Tensor:
            # The head is small, and its draws come from one generator: it stays on the CPU wherever the encoder is.
            return batch_loss(head, (state_ND.cpu(), *(part[rows_N] for part in known)), options, generator)

        facts = fine_tune(
            encoder,
            head,
            loss,
            question_texts(lesson.train),
            schedule=schedule,
            validate=lambda state_VD: lesson.validation_accuracy(
                frozen_head(head, options.temperature).score(state_VD)
            ),
            validation_texts=question_texts(lesson.validation),
            progress=progress,
        )
    return frozen_head(head, options.temperature), encoder, facts


def frozen_head(head: RouterHead, temperature: float) -> SimilarityHead:
    """A copy of the weights as they are now, which scores without torch."""
    teacher_TK = head.teacher_TK.detach().cpu().clone()
    size = teacher_TK.shape[1]
    project_KD, bias_K = torch.eye(size), torch.zeros(size)
    if isinstance(head.project, nn.Linear):
        project_KD, bias_K = (part.detach().cpu().clone() for part in (head.project.weight, head.project.bias))
    return SimilarityHead(project_KD.numpy(), bias_K.numpy(), teacher_TK.numpy(), temperature)


def batch_loss(
    head: RouterHead, batch: tuple[Tensor, ...], options: SimilarityOptions, generator: torch.Generator
) -> Tensor:
    """The loss of one batch: each of the two terms averaged over the questions that it says something about."""
    question_ND, good_NT, bad_NT, cluster_N = batch
    question_NK = head.embed(question_ND)
    teacher_N = teacher_loss(head.similarity(question_NK), good_NT, bad_NT, temperature=options.temperature)
    signal_N = (good_NT > 0).any(1) & (bad_NT > 0).any(1)
    loss = teacher_N.sum() / signal_N.sum().clamp(min=1)
    if options.cluster_weight:
        cluster_loss_N, has_N = cluster_loss(
            question_NK,
            cluster_N,
            generator=generator,
            num_negatives=options.num_negatives,
            temperature=options.temperature,
        )
        loss = loss + options.cluster_weight * cluster_loss_N.sum() / has_N.sum().clamp(min=1)
    return loss


def _train_epoch(
    head: RouterHead,
    optimizer: torch.optim.Optimizer,
    data: tuple[Tensor, ...],
    options: SimilarityOptions,
    generator: torch.Generator,
) -> None:
    head.train()
    for rows in torch.randperm(len(data[0]), generator=generator).split(options.batch_size):  # type: ignore[no-untyped-call]
        optimizer.zero_grad()
        batch_loss(head, tuple(part[rows] for part in data), options, generator).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@contextmanager
def _reproducible(seed: int) -> Iterator[torch.Generator]:
    """One thread and seeded draws inside; the caller's threads and random state as they were, afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield torch.Generator().manual_seed(seed)
        finally:
            torch.set_num_threads(threads)
