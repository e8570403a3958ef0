"""PLM classifier: a pretrained encoder reads the question, and a small network names the teacher.

Axes: Q questions, T teachers, D hidden size of the encoder, N questions of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from kp_data.errors import ConfigError
from kp_data.measures import accuracy_T
from kp_data.panel import question_text
from kp_data.purify.embedding import MINILM
from kp_data.purify.gate import Candidate, Lesson, fit_gated
from kp_data.purify.metrics import ranking_T
from kp_data.purify.protocol import Context, FitData, Fitted, Method, MethodInfo
from kp_data.purify.routers import (
    TextEncoder,
    check_size,
    names_of_best,
    read_weights,
    reader_config,
    write_config,
    write_weights,
)
from kp_data.schema import Question

Array = np.ndarray[Any, Any]

NAME: Final = "plm-classifier"
TARGETS: Final = ("soft", "multilabel", "single")
POOLINGS: Final = ("auto", "cls", "mean")
LAYERS: Final = {"w1": "HD", "b1": "H", "w2": "TH", "b2": "T"}


@dataclass(frozen=True, slots=True)
class ClassifierOptions:
    """How the classifier is built and trained.

    Attributes:
        encoder: `minilm` (packaged), or a path or hub id, such as `microsoft/mdeberta-v3-base`, the paper's.
        frozen: 1 leaves the encoder as it is and trains the two layers on top alone: seconds instead of minutes.
        target: `soft` (right teachers share the probability), `multilabel` (each is right or not), or `single` (the
            one right teacher that is best on validation).
        hidden, dropout: of the two layers.
        encoder_learning_rate, head_learning_rate, weight_decay, batch_size, max_epochs: of AdamW.
        patience: epochs without a better validation accuracy before training stops.
        frozen_layers: lowest layers that stay as they are; cuts time and memory.
        max_tokens: of a question, cut on the left; never more than the encoder reads.
        pooling: `cls` (first token), `mean`, or `auto`: mean for `minilm`, which was made for it, else the first token.
        min_gain_errors: standard errors by which the router must beat the best single teacher on validation.
    """

    encoder: str = MINILM
    frozen: int = 0
    target: str = "soft"
    hidden: int = 768
    dropout: float = 0.1
    encoder_learning_rate: float = 2e-5
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_size: int = 32
    max_epochs: int = 4
    patience: int = 2
    frozen_layers: int = 0
    max_tokens: int = 512
    pooling: str = "auto"
    min_gain_errors: float = 1.0

    def __post_init__(self) -> None:
        for name, allowed in (("target", TARGETS), ("pooling", POOLINGS), ("frozen", (0, 1))):
            if getattr(self, name) not in allowed:
                there = ", ".join(map(str, allowed))
                raise ConfigError(f"{getattr(self, name)!r} is none of {there}", place=f"{NAME} option '{name}'")
        may_be_zero = ("frozen", "dropout", "weight_decay", "frozen_layers", "min_gain_errors")
        for option in fields(self):
            value = getattr(self, option.name)
            if not isinstance(value, str) and (value < 0 or (value == 0 and option.name not in may_be_zero)):
                raise ConfigError(f"{value} is too small", place=f"{NAME} option '{option.name}'")
        if self.dropout >= 1:
            raise ConfigError(f"{self.dropout} drops everything; give less than 1", place=f"{NAME} option 'dropout'")


def fit_plm_classifier(data: FitData, options: ClassifierOptions, context: Context) -> Fitted:
    """Train on `train`, keep the best epoch on `validation`, and use the classifier only if it has proven a gain.

    Source: PLM classifier of Knowledge Purification (arXiv:2602.01064): softmax(W2 act(W1 h + b1) + b2) over the first
    token of mDeBERTa-v3-base. Differs: the packaged MiniLM by default; targets and schedule, which the paper leaves
    open, are our own choice; nothing is dropped out within attention, which costs four times the memory and time; the
    fallback is our own.
    """

    def learn(lesson: Lesson) -> Candidate:
        from kp_data.purify.plm_training import train_classifier

        router, facts = train_classifier(lesson, options, context)
        return Candidate(router, router.num_parameters, {"training": facts})

    return fit_gated(data, learn, method=NAME, min_gain_errors=options.min_gain_errors)


PLM_CLASSIFIER = Method(
    MethodInfo(
        name=NAME,
        summary="the teacher that a fine-tuned encoder names for the question",
        kind="router",
        needs=("rationales", "blind answers", "train labels"),
        trained=True,
        transferable=True,
        source="Knowledge Purification, arXiv:2602.01064",
        evidence="reconstructed",
        differs="MiniLM by default, mDeBERTa by option; labels from blind answers; falls back without a proven gain",
    ),
    fit_plm_classifier,
    ClassifierOptions,
)


@dataclass(frozen=True)
class ClassifierRouter:
    """Names a teacher for a question.

    Attributes:
        teachers: T names.
        layers: float32 weights of the two layers, as in LAYERS.
        multilabel: whether scores are chances of being right, each on its own, instead of shares of one probability.
        embed: reads the questions; with a fine-tuned encoder it is saved along.
    """

    teachers: tuple[str, ...]
    layers: dict[str, Array]
    multilabel: bool
    embed: TextEncoder = field(repr=False)

    def route(self, questions: Sequence[Question]) -> tuple[Array, tuple[str, ...]]:
        """(Q, T) float, probability of each teacher; the most probable one."""
        state_QD = self.embed([question_text(question) for question in questions])
        check_size(self.layers["w1"].shape[1], state_QD, self.embed.encoder)
        score_QT = self.score(state_QD)
        return score_QT, names_of_best(self.teachers, score_QT)

    def score(self, state_QD: Array) -> Array:
        """(Q, T) float64 in [0, 1]; rows sum to 1 unless `multilabel`."""
        import torch

        weight = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in self.layers.items()}
        hidden_QH = torch.nn.functional.gelu(torch.from_numpy(state_QD) @ weight["w1"].T + weight["b1"])
        logit_QT = (hidden_QH @ weight["w2"].T + weight["b2"]).double()
        score_QT: Array = (logit_QT.sigmoid() if self.multilabel else logit_QT.softmax(1)).numpy()
        return score_QT

    @property
    def num_parameters(self) -> int:
        """Of encoder and layers."""
        return self.embed.num_parameters + sum(value.size for value in self.layers.values())

    def save(self, folder: Path) -> None:
        """Write `router.json`, `router.safetensors` and, where it was fine-tuned, the encoder."""
        write_weights(folder, self.layers)
        reader = reader_config(self.embed, folder)
        write_config(folder, kind=NAME, method=NAME, teachers=self.teachers, multilabel=self.multilabel, **reader)

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any], embed: TextEncoder) -> Self:
        """A router of what `save` wrote."""
        layers = read_weights(folder, LAYERS, T=len(config["teachers"]))
        return cls(tuple(config["teachers"]), layers, bool(config["multilabel"]), embed)


def targets(lesson: Lesson, target: str) -> tuple[Array, Array]:
    """What the classifier shall say.

    Returns: (Q, T) float32 targets: shares of one probability, or for `multilabel` whether each is right; (Q, T) bool,
    which of them count. A question of which no teacher is right, or none is wrong, counts for `multilabel` alone.

    Source: reconstructed: soft targets are C / |P|, of the correctness C and the right teachers P.
    """
    good_QT = lesson.good_QT
    if target == "multilabel":
        return good_QT.astype(np.float32), np.asarray(lesson.good_QT | lesson.bad_QT)
    counts_QT = np.broadcast_to(lesson.signal_Q[:, None], good_QT.shape)
    if target == "single":
        order_T = ranking_T(accuracy_T(lesson.validation))
        first_Q = order_T[good_QT[:, order_T].argmax(1)]
        good_QT = good_QT & (first_Q[:, None] == np.arange(good_QT.shape[1]))
    share_QT = good_QT / np.maximum(good_QT.sum(1, keepdims=True), 1)
    return share_QT.astype(np.float32), counts_QT
