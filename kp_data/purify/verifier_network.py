"""The network of a verifier: an encoder, the mean over its tokens, one number. Trained, saved and loaded here.

Axes: N claims, D hidden size of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kp_data.errors import MethodError
from kp_data.purify.encoders import count_parameters, seeded
from kp_data.purify.fine_tuning import Schedule, TunedEncoder, train

Array = np.ndarray[Any, Any]

WEIGHTS: Final = "verifier.safetensors"
DROPOUT: Final = 0.1
SCORE_BATCH: Final = 64
STRETCH: Final = 16
"""Batches whose questions are sorted by length together, so that an epoch still mixes what stands in a batch."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a verifier network is trained on.

    Attributes:
        token_rows: token ids of N claims.
        right_N: (N,) bool.
        group_N: (N,) int, the question of each: claims about one question compete.
    """

    token_rows: Sequence[list[int]]
    right_N: Array
    group_N: Array


@dataclass(frozen=True)
class VerifierNetwork:
    """An encoder, and the head that turns its pooled states into log-odds."""

    encoder: TunedEncoder
    head: nn.Linear

    @classmethod
    def start(cls, encoder: str, device: str | None, *, max_tokens: int) -> Self:
        """A pretrained encoder, by path or hub id, or `minilm`, under a head that has learnt nothing.

        Raises: ConfigError, when the encoder cannot be loaded.
        """
        return cls._over(
            TunedEncoder.start(encoder, device, max_tokens=max_tokens, pooling="mean", batch_size=SCORE_BATCH)
        )

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any], *, device: str | None) -> Self:
        """What `save` wrote; nothing is fetched."""
        from safetensors.torch import load_file

        network = cls._over(TunedEncoder.load(folder, config, device=device, batch_size=SCORE_BATCH))
        network.head.load_state_dict(load_file(folder / WEIGHTS))
        return network

    @classmethod
    def _over(cls, encoder: TunedEncoder) -> Self:
        head = nn.utils.skip_init(nn.Linear, encoder.size, 1, device=encoder.device)  # type: ignore[no-untyped-call]
        # A head of zeros says "even odds" to everything, and the first steps move it alone.
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return cls(encoder, head)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write head and encoder into a folder; returns what `load` must be told."""
        from safetensors.torch import save_file

        save_file({name: value.contiguous().cpu() for name, value in self.head.state_dict().items()}, folder / WEIGHTS)
        return self.encoder.save(folder)

    @property
    def num_parameters(self) -> int:
        """Of encoder and head."""
        return self.encoder.num_parameters + count_parameters(self.head)

    def score(self, token_rows: Sequence[list[int]], progress: Callable[[int, int], None]) -> Array:
        """(N,) float, uncalibrated log-odds of each claim; a claim's score does not depend on what else is scored."""
        score_N, done = np.zeros(len(token_rows)), 0
        for rows, state_ND in self.encoder.states(token_rows):
            with torch.inference_mode():
                score_N[rows] = self.head(state_ND).squeeze(-1).cpu().numpy()
            done += len(rows)
            progress(done, len(token_rows))
        return score_N

    def fit(
        self,
        lesson: Lesson,
        schedule: Schedule,
        *,
        choice_weight: float,
        seed: int,
        validate: Callable[[], float],
        progress: Callable[[int, int], None],
    ) -> list[float]:
        """Train in place and leave the network with the weights of its best epoch.

        The loss of a batch is the binary cross-entropy of each claim, and, for each question with right and wrong
        claims, the surprise at a right one being chosen by a softmax over its claims: the verifier is used to choose.

        Args:
            lesson: claims and their labels.
            schedule: how.
            choice_weight: of the loss of choosing; 0: claims alone.
            seed: of the order of claims and of dropout.
            validate: what is to be low after an epoch.
            progress: told of (steps done, all steps).

        Returns: what `validate` said after each epoch.
        Raises:
            MethodError: it never said a number.
            ConfigError: the encoder has fewer layers than are to be frozen.
        """
        self.encoder.freeze(schedule.frozen_layers)
        order = np.random.default_rng(seed)
        epochs = [_batches(lesson, schedule.batch_size, order) for _ in range(schedule.max_epochs)]

        def loss(rows: list[int]) -> Tensor:
            state_ND = self.encoder.pooled([lesson.token_rows[row] for row in rows])
            score_N = self.head(functional.dropout(state_ND, DROPOUT)).squeeze(-1)
            right_N = torch.as_tensor(lesson.right_N[rows], dtype=torch.float32, device=score_N.device)
            each = functional.binary_cross_entropy_with_logits(score_N, right_N)
            if not choice_weight:
                return each
            group_N = torch.as_tensor(lesson.group_N[rows], device=score_N.device)
            return each + choice_weight * choice_loss(score_N, right_N, group_N)

        with seeded(seed):
            history = train(
                (self.encoder.network, self.head),
                loss,
                epochs,
                num_steps=sum(map(len, epochs)),
                schedule=schedule,
                validate=lambda: -validate(),
                progress=progress,
            )
        if np.isnan(history).all() or not all(weight.isfinite().all() for weight in self.head.parameters()):
            raise MethodError("training diverged; lower 'learning_rate'", place="verifier")
        return [-value for value in history]


def choice_loss(score_N: Tensor, right_N: Tensor, group_N: Tensor) -> Tensor:
    """Mean surprise, in nats, that a softmax over the claims of a question falls on a right one.

    Questions whose claims are all right, or all wrong, have nothing to choose and are left out of the mean.
    """
    surprises = []
    for group in torch.unique(group_N):
        member_N = group_N == group
        chosen = right_N[member_N] > 0
        if chosen.any() and not chosen.all():
            surprises.append(-torch.logsumexp(score_N[member_N].log_softmax(0)[chosen], 0))
    return torch.stack(surprises).mean() if surprises else score_N.sum() * 0


def _batches(lesson: Lesson, batch_size: int, order: np.random.Generator) -> list[list[int]]:
    """Claim numbers of each batch: whole questions of like length, in a drawn order."""
    groups = [np.flatnonzero(lesson.group_N == group).tolist() for group in np.unique(lesson.group_N)]
    longest = [max(len(lesson.token_rows[row]) for row in rows) for rows in groups]
    drawn = order.permutation(len(groups)).tolist()
    stretch = STRETCH * batch_size
    parts = [sorted(drawn[start : start + stretch], key=longest.__getitem__) for start in range(0, len(drawn), stretch)]
    batches: list[list[int]] = []
    for group in (group for part in parts for group in part):
        if not batches or len(batches[-1]) + len(groups[group]) > batch_size:
            batches.append([])
        batches[-1] += groups[group]
    return [batches[number] for number in order.permutation(len(batches)).tolist()]
