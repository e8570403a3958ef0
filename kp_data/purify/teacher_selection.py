"""Teacher selection: a policy learns by reinforcement whose rationale serves the student best.

Axes: Q questions, T teachers, D embedding size, S = 2 D state size.
Two phases alternate: with the student frozen, the policy learns from rewards R = -L_PR - L_DL; with the policy frozen,
the student learns from the rationales that the policy chooses. Selection reads the gold answer of every question, so it
prepares a dataset that has answers; it is no router.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from kp_data.errors import ConfigError, MethodError
from kp_data.learner import Learner, Lesson, MakeLearner
from kp_data.measures import comparable_accuracy_T, correct_QT
from kp_data.panel import NONE, Panel, question_text
from kp_data.purify.embedding import Embedder
from kp_data.purify.metrics import choose, ranking_T, teacher_share_T
from kp_data.purify.ngram_learner import NGRAM, make_ngram_learner
from kp_data.purify.policy import Learning, Policy, reinforce
from kp_data.purify.protocol import Context, FitData, Fitted, Method, MethodInfo, Purification

Array = np.ndarray[Any, Any]

NAME: Final = "teacher-selection"
REWARDS: Final = ("reading", "paper")
SCORED_AT_ONCE: Final = 4096
"""Questions whose states are in memory together when a panel is scored."""


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """How student and policy are trained in turn.

    Attributes:
        student: whose losses are the reward: `ngram`, which counts words and takes seconds, or a student of kp-train
            that writes, best a pretrained one: `tiny-t5`, which starts from nothing, learns a few hundred questions by
            heart, and its losses then say little of a rationale.
        reward: `reading` or `paper`; see `rewards_QT`.
        rationale_weight: lambda, the factor of L_DL in the reward.
        rounds: policy phase and student phase, so many times.
        warm_epochs: of the student before the first round, on rationales of teachers drawn at random.
        student_epochs: of the student in each round.
        policy_epochs, policy_batch, policy_rate, policy_draws, policy_entropy: of the policy in each round; see
            `policy.Learning`. The entropy was chosen by the reward reached on training questions of a practice world.
    """

    student: str = NGRAM
    reward: str = "reading"
    rationale_weight: float = 0.1
    rounds: int = 3
    warm_epochs: int = 8
    student_epochs: int = 4
    policy_epochs: int = 60
    policy_batch: int = 32
    policy_rate: float = 1.0
    policy_draws: int = 8
    policy_entropy: float = 0.1

    def __post_init__(self) -> None:
        if self.reward not in REWARDS:
            raise ConfigError(f"{self.reward!r} is none of {', '.join(REWARDS)}", place=f"{NAME} option 'reward'")
        for option in fields(self):
            value = getattr(self, option.name)
            may_be_zero = option.name in ("rationale_weight", "policy_entropy")
            if not isinstance(value, str) and not value > 0 and not (may_be_zero and value == 0):
                raise ConfigError(f"{value} is not above 0", place=f"{NAME} option '{option.name}'")


def fit_selection(data: FitData, options: SelectionOptions, context: Context) -> Fitted:
    """Train student and policy in turn on `train`.

    Source: RL-based teacher selection of Knowledge Purification (arXiv:2602.01064), in form Reinforced Multi-Teacher
    Selection (arXiv:2012.06048). Reconstructed: warm start, number of rounds, baseline, learning rates,
    entropy.
    Raises: MethodError, when the student is not to be had here.
    """
    train = data.whole_train
    train = train.take(np.asarray(train.has_rationale_QT.any(1)))
    size, order_T = len(train.teachers), ranking_T(comparable_accuracy_T(data.whole_train))
    facts: dict[str, Any] = _count(train)
    make = _maker(options.student, context)
    if size == 1:
        policy, notes = Policy.undecided(1, 0), ("there is one teacher, so there is nothing to choose",)
        return Fitted(
            lambda panel: _purify(panel, None, policy, order_T), calls_per_question=1, facts=facts, notes=notes
        )
    states = _States.of_panel(train, context.embed)
    policy, facts["rounds"], facts["student"] = _alternate(train, states, make, options, context)
    return Fitted(
        lambda panel: _purify(panel, context.embed, policy, order_T),
        calls_per_question=size,
        extra_parameters=policy.num_parameters + context.embed.num_parameters,
        facts={**facts, "student_name": options.student},
        notes=(
            "selection reads the gold answer of every question that it purifies: its accuracy says how it uses the "
            "answers, not how it would choose without them",
        ),
    )


TEACHER_SELECTION = Method(
    MethodInfo(
        name=NAME,
        summary="a policy learns by reinforcement whose rationale serves a student best; reads the gold answers",
        kind="selector",
        needs=("rationales", "blind answers", "train labels", "gold of every question"),
        trained=True,
        transferable=False,
        source="Knowledge Purification, arXiv:2602.01064; Reinforced Multi-Teacher Selection, arXiv:2012.06048",
        evidence="reconstructed",
        differs="reward with the rationale in view (option reward=paper: as written); counting student; frozen encoder",
    ),
    fit_selection,
    SelectionOptions,
)


@dataclass(frozen=True)
class _States:
    """s_i = [E(q); E(r_i) 1(a_i = gold)] of many questions, put together a batch at a time.

    Where every teacher is wrong, or gold is unknown, the second half is zero for all of them: the policy then goes by
    the question and each teacher's bias alone.
    """

    question_QD: Array
    rationale_QTD: Array

    @classmethod
    def of_panel(cls, panel: Panel, embed: Embedder) -> _States:
        right_QT = correct_QT(panel.answer_QT, panel.gold_Q) & panel.has_rationale_QT
        question_QD = embed([question_text(question) for question in panel.questions])
        rationale_QTD = np.zeros((*right_QT.shape, question_QD.shape[1]), dtype=np.float32)
        # Only rationales of teachers that are right enter a state, so only those are embedded.
        if right_QT.any():
            rationale_QTD[right_QT] = embed([str(text) for text in panel.rationale_QT[right_QT]])
        return cls(question_QD, rationale_QTD)

    def __call__(self, rows: Array) -> Array:
        """(B, T, S) float32."""
        rationale_BTD = self.rationale_QTD[rows]
        question_BTD = np.broadcast_to(self.question_QD[rows][:, None, :], rationale_BTD.shape)
        return np.concatenate([question_BTD, rationale_BTD], axis=2)


def _alternate(
    train: Panel, states: _States, make: MakeLearner, options: SelectionOptions, context: Context
) -> tuple[Policy, list[dict[str, Any]], dict[str, Any]]:
    random = np.random.default_rng(context.seed)
    available_QT, rows = train.has_rationale_QT, np.arange(len(train))
    learner = make(_lessons(train, available_QT), seed=context.seed)
    lottery_QT = np.asarray(random.random(available_QT.shape))
    learner.train(_chosen_lessons(train, choose(lottery_QT, available_QT)), epochs=options.warm_epochs)
    policy = Policy.undecided(len(train.teachers), 2 * states.question_QD.shape[1])
    learning = Learning(
        options.policy_epochs,
        options.policy_batch,
        options.policy_rate,
        options.policy_draws,
        options.policy_entropy,
    )
    rounds = []
    for number in range(options.rounds):
        context.progress("selecting teachers", number, options.rounds)
        reward_QT = rewards_QT(learner, train, kind=options.reward, rationale_weight=options.rationale_weight)
        policy = reinforce(policy, states, reward_QT, available_QT, learning=learning, random=random)
        chosen_Q = choose(policy.probability_QT(states(rows)), available_QT)
        rounds.append(_round_facts(train, reward_QT, chosen_Q))
        # After the last choice nobody asks the student any more.
        if number + 1 < options.rounds:
            learner.train(_chosen_lessons(train, chosen_Q), epochs=options.student_epochs)
    context.progress("selecting teachers", options.rounds, options.rounds)
    return policy, rounds, {"parameters": learner.num_parameters}


def rewards_QT(learner: Learner, panel: Panel, *, kind: str = "reading", rationale_weight: float = 0.1) -> Array:
    """(Q, T) float, reward of each rationale for a frozen student, nan where there is none.

    `paper`: R = -L_PR - lambda L_DL, as the paper writes it. With the student frozen, L_PR of a question is the same
    for all of its rationales, so L_DL decides alone; and as the student then learns the chosen teacher's manner, that
    teacher becomes easier still, until it is chosen always.

    `reading`: L_PR is taken with the rationale in view: it is low where the rationale leads the student to the gold
    answer. Of L_DL each teacher's own mean is taken away: what is left says which of its rationales are harder than it
    mostly is, and nothing about whose manner the student has come to know.

    Args:
        learner: frozen while it is asked.
        panel: questions and rationales.
        kind: one of REWARDS.
        rationale_weight: lambda.
    """
    available_QT = panel.has_rationale_QT
    lessons = _lessons(panel, available_QT)
    imitation_QT, answer_QT = (np.full(available_QT.shape, np.nan) for _ in range(2))
    imitation_QT[available_QT] = learner.rationale_losses(lessons)
    if kind == "paper":
        answer_QT[:] = learner.answer_losses([Lesson(question) for question in panel.questions])[:, None]
    else:
        answer_QT[available_QT] = learner.answer_losses(lessons)
        imitation_QT -= np.nansum(imitation_QT, axis=0) / np.maximum(available_QT.sum(0), 1)
    return -answer_QT - rationale_weight * imitation_QT


def _purify(panel: Panel, embed: Embedder | None, policy: Policy, order_T: Array) -> Purification:
    score_QT = np.full(panel.has_rationale_QT.shape, 0.5)
    for start in range(0, len(panel) if embed is not None else 0, SCORED_AT_ONCE):
        rows = np.arange(start, min(start + SCORED_AT_ONCE, len(panel)))
        assert embed is not None
        states = _States.of_panel(panel.take(rows), embed)
        score_QT[rows] = policy.probability_QT(states(np.arange(len(rows))))
    return Purification.of_choice(score_QT, choose(score_QT, panel.has_rationale_QT, order_T))


def _maker(name: str, context: Context) -> MakeLearner:
    if name == NGRAM:
        return make_ngram_learner
    if context.partners.learner is None:
        raise MethodError(
            f"student {name!r} comes from kp_train, which this call was not given; pass "
            "Partners(learner=kp_train.reward.learner_named), or take option student=ngram",
            place=NAME,
        )
    return context.partners.learner(name)


def _lessons(panel: Panel, take_QT: Array) -> list[Lesson]:
    """One lesson a cell, question by question."""
    return [
        Lesson(panel.questions[row], str(panel.rationale_QT[row, column]))
        for row, column in np.argwhere(take_QT).tolist()
    ]


def _chosen_lessons(panel: Panel, chosen_Q: Array) -> list[Lesson]:
    return _lessons(panel, chosen_Q[:, None] == np.arange(len(panel.teachers)))


def _count(train: Panel) -> dict[str, Any]:
    known_Q = train.gold_Q != NONE
    right_QT = correct_QT(train.answer_QT, train.gold_Q)
    return {
        "num_train": len(train),
        "num_all_wrong": int((known_Q & ~right_QT.any(1)).sum()),
        "num_unlabelled": int((~known_Q).sum()),
    }


def _round_facts(train: Panel, reward_QT: Array, chosen_Q: Array) -> dict[str, Any]:
    """What the student thought of the choice, and what the choice was."""
    taken_QT = chosen_Q[:, None] == np.arange(len(train.teachers))
    right_QT = correct_QT(train.answer_QT, train.gold_Q)
    numbers = {
        "reward_chosen": reward_QT[taken_QT].mean(),
        "reward_mean": np.nanmean(reward_QT, axis=1).mean(),
        "reward_best": np.nanmax(reward_QT, axis=1).mean(),
        "right_chosen": right_QT[taken_QT].mean(),
    }
    share_T = teacher_share_T(taken_QT)
    return {
        **{name: round(float(value), 6) for name, value in numbers.items()},
        "teacher_share": dict(zip(train.teachers, (round(float(share), 6) for share in share_T), strict=True)),
    }
