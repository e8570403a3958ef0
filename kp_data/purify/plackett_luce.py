"""Plackett-Luce ranking: for every question, teachers ranked by how they did on training questions like it.

Axes: Q questions, K training questions, T teachers, D embedding size, M contests, N neighbours.
Nothing is trained: the worths of the teachers are fitted anew for each question, with training questions weighted by
their similarity to it. The weights differ little (by gamma to the power of the spread of cosines), so the method leans
towards the teacher that is best overall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from kp_data.errors import ConfigError
from kp_data.panel import question_text
from kp_data.purify.gate import Candidate, Lesson, fit_gated, question_texts
from kp_data.purify.labels import routing_signal
from kp_data.purify.neighbours import NeighbourIndex, build_index
from kp_data.purify.protocol import Context, FitData, Fitted, Method, MethodInfo
from kp_data.purify.routers import (
    TextEncoder,
    check_size,
    names_of_best,
    read_weights,
    reader_config,
    softmax,
    write_config,
    write_weights,
)
from kp_data.purify.worth import Contests, fit_worth, pairwise_contests, ranking_contests
from kp_data.schema import Question

Array = np.ndarray[Any, Any]

NAME: Final = "plackett-luce"
FITS: Final = ("pairwise", "choice", "full")
BLOCK_NUMBERS: Final = 32_000_000
"""Numbers that the widest array of a block may hold: bounds memory, whatever the number of questions."""


@dataclass(frozen=True, slots=True)
class PlackettLuceOptions:
    """How the worths of a question are fitted.

    Attributes:
        fit: `pairwise` (each right teacher against each wrong one), `choice` (the closed form of "which right teacher
            would be named"), or `full` (rankings of graded scores; for panels with several samples a cell).
        gamma: base of the similarity weights; at 1 every question gets the same ranking.
        ridge: of the worths, for `pairwise` and `full`.
        normalize: 1 divides the cosines of a question by their largest, as RouteLLM's code does; 0 leaves them.
        top_m: nearest training questions that count; 0: all.
        min_gain_errors: standard errors by which the router must beat the best single teacher on validation. Nothing
            is trained that could overfit, so any gain will do.
    """

    fit: str = "pairwise"
    gamma: float = 10.0
    ridge: float = 1e-4
    normalize: int = 0
    top_m: int = 0
    min_gain_errors: float = 0.0

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise ConfigError(f"{self.fit!r} is none of {', '.join(FITS)}", place=f"{NAME} option 'fit'")
        for name, least in (("gamma", 1.0), ("ridge", 1e-12), ("top_m", 0), ("min_gain_errors", 0.0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{getattr(self, name)} is too small", place=f"{NAME} option '{name}'")
        if self.normalize not in (0, 1):
            raise ConfigError(f"{self.normalize} is neither 0 nor 1", place=f"{NAME} option 'normalize'")


def fit_plackett_luce(data: FitData, options: PlackettLuceOptions, context: Context) -> Fitted:
    """Keep the training questions and who was right on them; use the ranking only if it gains on validation.

    Source: Plackett-Luce ranking of Knowledge Purification (arXiv:2602.01064): weights gamma^(1 + cosine), worths
    fitted for each question. The fit itself, which the paper leaves open, follows RouteLLM (arXiv:2406.18665).
    """

    def learn(lesson: Lesson) -> Candidate:
        known_Q = np.asarray(lesson.good_QT.any(1) if options.fit == "choice" else lesson.signal_Q)
        train = lesson.train.take(known_Q)
        embedding_KD = context.embed(question_texts(train))
        router = PlackettLuceRouter(train.teachers, embedding_KD, train.skill_QT, options, context.embed)
        facts: dict[str, Any] = {"num_training_questions": len(train)}
        if options.top_m:
            facts["index"] = {"kind": router.index.kind, "recall": router.index.recall}
        return Candidate(router, context.embed.num_parameters, facts)

    return fit_gated(data, learn, method=NAME, min_gain_errors=options.min_gain_errors)


PLACKETT_LUCE = Method(
    MethodInfo(
        name=NAME,
        summary="the teacher that ranks first on training questions like this one",
        kind="router",
        needs=("rationales", "blind answers", "train labels"),
        trained=False,
        transferable=True,
        source="Knowledge Purification, arXiv:2602.01064; RouteLLM, arXiv:2406.18665",
        evidence="reconstructed",
        differs="labels from blind answers; fit of the worths after RouteLLM; falls back without a gain on validation",
    ),
    fit_plackett_luce,
    PlackettLuceOptions,
)


@dataclass(frozen=True)
class PlackettLuceRouter:
    """Ranks the teachers for a question by a fit of its own.

    Attributes:
        teachers: T names.
        embedding_KD: float32, unit vectors of the training questions.
        skill_KT: float in [0, 1], share of samples that were right, nan: unknown.
        options: gamma and the fit.
        embed: question texts to unit vectors.
    """

    teachers: tuple[str, ...]
    embedding_KD: Array
    skill_KT: Array
    options: PlackettLuceOptions
    embed: TextEncoder = field(repr=False)

    def route(self, questions: Sequence[Question]) -> tuple[Array, tuple[str, ...]]:
        """(Q, T) float, probability of each teacher; the most probable one."""
        question_QD = self.embed([question_text(question) for question in questions])
        check_size(self.embedding_KD.shape[1], question_QD, self.embed.encoder)
        score_QT = self.score(question_QD)
        return score_QT, names_of_best(self.teachers, score_QT)

    def score(self, question_QD: Array) -> Array:
        """(Q, T) float64, probability of each teacher; in blocks, so that memory does not grow with Q."""
        width = max(len(self.embedding_KD), len(self.teachers) ** 2 + self._outcome_KM.shape[1])
        if self.options.top_m:
            width = min(self.options.top_m, len(self.embedding_KD)) * self._outcome_KM.shape[1]
        size = max(1, BLOCK_NUMBERS // max(width, 1))
        blocks = [self._probabilities(question_QD[start : start + size]) for start in range(0, len(question_QD), size)]
        return np.concatenate([np.zeros((0, len(self.teachers))), *blocks])

    def save(self, folder: Path) -> None:
        """Write `router.json` and `router.safetensors`."""
        write_weights(folder, {"embedding": self.embedding_KD, "skill": self.skill_KT})
        options = {name: getattr(self.options, name) for name in ("fit", "gamma", "ridge", "normalize", "top_m")}
        reader = reader_config(self.embed, folder)
        write_config(folder, kind=NAME, method=NAME, teachers=self.teachers, options=options, **reader)

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any], embed: TextEncoder) -> Self:
        """A router of what `save` wrote."""
        weights = read_weights(folder, {"embedding": "KD", "skill": "KT"}, T=len(config["teachers"]))
        options = PlackettLuceOptions(**config["options"])
        skill_KT = weights["skill"].astype(np.float64)
        return cls(tuple(config["teachers"]), weights["embedding"], skill_KT, options, embed)

    @cached_property
    def index(self) -> NeighbourIndex:
        """The training questions, searchable; built when first asked for."""
        return build_index(self.embedding_KD, count=min(self.options.top_m, len(self.embedding_KD)))

    @cached_property
    def _contests(self) -> Contests:
        if self.options.fit == "full":
            return ranking_contests(self.skill_KT)
        return pairwise_contests(*routing_signal(self.skill_KT))

    @cached_property
    def _outcome_KM(self) -> Array:
        """(K, M) float32, what each training question adds, times its weight, to the sums that a fit needs."""
        if self.options.fit != "choice":
            return self._contests.count_KM
        good_KT = routing_signal(self.skill_KT)[0]
        return np.asarray(good_KT / np.maximum(good_KT.sum(1, keepdims=True), 1), dtype=np.float32)

    @cached_property
    def _start_T(self) -> Array:
        """(T,) float, worths with all weights alike: near those of every question."""
        weight_1M = self._outcome_KM.sum(axis=0, keepdims=True, dtype=np.float64) * self.options.gamma
        return np.asarray(fit_worth(weight_1M, self._contests, ridge=self.options.ridge)[0])

    def _probabilities(self, question_QD: Array) -> Array:
        sum_QM = self._weighted_outcomes(question_QD).astype(np.float64)
        if self.options.fit == "choice":
            return np.asarray(sum_QM / sum_QM.sum(axis=1, keepdims=True))
        worth_QT = fit_worth(sum_QM, self._contests, ridge=self.options.ridge, start_T=self._start_T)
        return softmax(worth_QT)

    def _weighted_outcomes(self, question_QD: Array) -> Array:
        """(Q, M) float32, outcomes of the training questions summed under the weights of each question."""
        if not self.options.top_m:
            return np.asarray(self._weight(question_QD @ self.embedding_KD.T) @ self._outcome_KM)
        similarity_QN, row_QN = self.index.search(question_QD, min(self.options.top_m, len(self.embedding_KD)))
        weight_QN = np.where(row_QN < 0, 0.0, self._weight(similarity_QN)).astype(np.float32)
        return np.asarray((weight_QN[:, None, :] @ self._outcome_KM[row_QN])[:, 0, :])

    def _weight(self, cosine_QN: Array) -> Array:
        """(Q, N) float, gamma^(1 + cosine)."""
        if self.options.normalize:
            largest_Q1 = cosine_QN.max(axis=1, keepdims=True)
            cosine_QN = np.where(largest_Q1 > 0, cosine_QN / np.where(largest_Q1 > 0, largest_Q1, 1.0), cosine_QN)
        # As an exponential, which numpy computes several times faster than a power.
        return np.asarray(np.exp((1 + cosine_QN) * np.float32(np.log(self.options.gamma))))
