"""Consensus: the rationale whose answer is most likely right, by who agrees, how skilled they are and how it reads.

Where training questions have gold answers, a selector learns from all evidence what makes an answer right. Without
gold, skill comes from agreement alone; without blind answers, nothing but the likeness of the rationales is left. The
gold answer of the question that is purified is never used, not even for training questions.

Axes: Q questions, T teachers, N neighbours.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from kp_data.errors import ConfigError
from kp_data.panel import NONE, Panel, question_text
from kp_data.purify.answer_groups import answer_posterior_QT, num_options_Q, skill_by_agreement_T, skill_from_labels_T
from kp_data.purify.choosing import choose_by
from kp_data.purify.evidence import join_evidence, no_evidence
from kp_data.purify.metrics import ranking_T
from kp_data.purify.protocol import Context, FitData, Fitted, Method, MethodInfo, Purification
from kp_data.purify.rationale_similarity import similarity_evidence
from kp_data.purify.selector import (
    KINDS,
    Judged,
    Seen,
    Selector,
    calibrated,
    fit_selector,
    kinds_to_try,
    surprise,
)
from kp_data.purify.surface import surface_evidence
from kp_data.purify.verified import (
    CrossVerifier,
    fit_cross_verifier,
    score_meaning,
    verifier_evidence,
    verifier_facts,
)
from kp_data.purify.verifier import VerifierOptions

if TYPE_CHECKING:
    from kp_data.purify.neighbours import NeighbourIndex

Array = np.ndarray[Any, Any]

NAME: Final = "consensus"
AUTO: Final = "auto"
NO_VERIFIER: Final = "no verifier is heard: it learns from gold answers, and there are none to learn from"
LEAST_TO_CALIBRATE: Final = 200
"""Judged rationales of validation from which it calibrates; below, predictions held out of train do."""


@dataclass(frozen=True, slots=True)
class ConsensusOptions:
    """What consensus may use.

    Attributes:
        model: `vote`, `logistic`, `boosted`, or `auto`: the one whose held-out probabilities surprise least on train.
        surface: look at rationales: length, hedges, sums that come out, whether they name their answer.
        choice_prior: look at where an answer stands among the choices. Test questions are often made so that the right
            one shows (of numbers, seldom the largest); that holds for questions made alike and need not hold for
            others. Turn it off to choose by what teachers say alone.
        similarity: embed rationales and look at how near they are to each other; without gold, it decides among those
            of one answer. On MMLU-Pro it changed nothing beyond chance (cross-validated), and it is what costs most.
        neighbours: nearest training questions on which the local skill of teachers is taken; 0: do not embed questions.
        verifier: train verifiers, with the options they have by default, and hear them too if held-out probabilities
            surprise less with them. On MMLU-Pro, with the packaged encoder, they did not.
    """

    model: str = AUTO
    surface: bool = True
    choice_prior: bool = True
    similarity: bool = False
    neighbours: int = 64
    verifier: bool = False

    def __post_init__(self) -> None:
        if self.model not in (AUTO, *KINDS):
            raise ConfigError(f"{self.model!r} is none of {', '.join((AUTO, *KINDS))}", place=f"{NAME} option 'model'")
        if self.neighbours < 0:
            raise ConfigError(f"{self.neighbours} is too small", place=f"{NAME} option 'neighbours'")


def fit_consensus(data: FitData, options: ConsensusOptions, context: Context) -> Fitted:
    """Learn from gold where there is any, from agreement where there is none, and from likeness where answers lack."""
    if "blind" not in data.train.modes:
        return _by_likeness(data, options, context)
    judged = Judged.of(data.train)
    if not judged.known_KT.any() or not labels_are_gold(data.train):
        return _by_agreement(data, options, context)
    return _by_labels(data, judged, options, context)


def labels_are_gold(panel: Panel) -> bool:
    """Whether a panel's labels are its questions' own answers, not ones put in their place.

    A selector that learnt from the votes of the teachers would learn that the vote is always right.
    """
    own_Q = [_own_gold(question.answer_index, question.answer) for question in panel.questions]
    return bool(np.array_equal(panel.gold_Q, np.array(own_Q, dtype=int)))


class _Reader:
    """From panels to what a selector sees of them."""

    def __init__(self, data: FitData, options: ConsensusOptions, context: Context) -> None:
        self._options, self._context = options, context
        # Teacher-forced rationales argue for the gold answer they were given: to read them would be to read it.
        self._reads = data.train.rationale_mode == "blind"
        self._index = _index(data.train, options, context)
        self.verifier: CrossVerifier | None = None
        self._embeds = options.neighbours > 0 or (options.similarity and self._reads)

    def __call__(self, panel: Panel) -> Seen:
        options, parts = self._options, []
        if options.model != "vote":
            parts.append(
                surface_evidence(panel, rationales=options.surface and self._reads, choices=options.choice_prior)
            )
        if options.similarity and self._reads:
            parts.append(similarity_evidence(panel, self._context.embed))
        if self.verifier is not None:
            parts.append(verifier_evidence(panel, self.verifier, self._context.progress))
        if not parts:
            parts.append(no_evidence(*panel.concluded_QT.shape))
        return Seen.of(panel, join_evidence(parts), self._neighbours(panel))

    def hearing(self, verifier: CrossVerifier) -> _Reader:
        """This reader, with a verifier to hear."""
        reader = copy.copy(self)
        reader.verifier = verifier
        return reader

    @property
    def num_parameters(self) -> int:
        """Parameters of the networks that read for it."""
        embedder = self._context.embed.num_parameters if self._embeds else 0
        return embedder + (0 if self.verifier is None else self.verifier.num_parameters)

    def _neighbours(self, panel: Panel) -> Array:
        if self._index is None:
            return np.zeros((len(panel), 0), dtype=int)
        # One more than asked for: the nearest question to a training question is itself.
        return self._index.search(self._context.embed(_texts(panel)), self._options.neighbours + 1)[1]


def _by_labels(data: FitData, judged: Judged, options: ConsensusOptions, context: Context) -> Fitted:
    read = _Reader(data, options, context)
    seen = read(data.train)
    selector, facts = _best_selector(seen, judged, options, context)
    if options.verifier:
        read, selector, heard = _with_verifier(data, judged, (read, seen, selector), options, context)
        facts |= heard
    checked = Judged.of(data.validation)
    calibrates = int(checked.known_KT.sum()) >= LEAST_TO_CALIBRATE
    if calibrates:
        selector = calibrated(selector, read(data.validation), checked)
    skill_T = skill_from_labels_T(judged.right_KT, judged.known_KT)

    def purify(panel: Panel) -> Purification:
        seen = read(panel)
        log_odds_QT = selector.log_odds_QT(seen)
        return _choose(panel, selector.probability_QT(log_odds_QT, seen.answer_QT), ranking_T(skill_T), log_odds_QT)

    facts |= {
        "learned_from": "gold",
        "model": selector.kind,
        "calibrated_on": "validation" if calibrates else "train, held out",
        "calibration": {"slope": selector.platt.slope, "shift": selector.platt.shift, "n": selector.platt.num_items},
        "teacher_skill": _named(data.train, skill_T),
    }
    return Fitted(
        purify,
        calls_per_question=len(data.train.teachers),
        extra_parameters=read.num_parameters,
        facts={**score_meaning(), **facts},
        notes=_notes(data, options, heard=not options.verifier or bool(facts["verifier_heard"])),
    )


def _with_verifier(
    data: FitData,
    judged: Judged,
    without: tuple[_Reader, Seen, Selector],
    options: ConsensusOptions,
    context: Context,
) -> tuple[_Reader, Selector, dict[str, Any]]:
    """Hear verifiers too, if held-out probabilities surprise less with them; and what came of it."""
    read, seen, selector = without
    verifier = fit_cross_verifier(data, VerifierOptions(), context)
    evidence = join_evidence([seen.evidence, verifier_evidence(data.train, verifier, context.progress)])
    seen_too = replace(seen, evidence=evidence)
    other, facts = _best_selector(seen_too, judged, options, context)
    heard = surprise(other, seen_too, judged) < surprise(selector, seen, judged)
    told = {
        "verifier_heard": heard,
        "held_out_log_loss_with_verifier": facts["held_out_log_loss"],
        **verifier_facts(verifier),
    }
    return (read.hearing(verifier), other, told) if heard else (read, selector, told)


def _best_selector(
    seen: Seen, judged: Judged, options: ConsensusOptions, context: Context
) -> tuple[Selector, dict[str, Any]]:
    """The selector asked for, or the one whose held-out probabilities surprise least; and how much each does."""
    kinds = kinds_to_try(judged)
    if options.model != AUTO:
        kinds = tuple(kind for kind in KINDS if kind == options.model and kind in kinds) or ("vote",)
    selectors = []
    for number, kind in enumerate(kinds, start=1):
        selectors.append(fit_selector(seen, judged, kind, seed=context.seed))
        context.progress("fitting the selector", number, len(kinds))
    surprises = {selector.kind: surprise(selector, seen, judged) for selector in selectors}
    best = min(selectors, key=lambda selector: surprises[selector.kind])
    return best, {"held_out_log_loss": dict(surprises)}


def _by_agreement(data: FitData, options: ConsensusOptions, context: Context) -> Fitted:
    known = _answers(data.train), _answers(data.validation)
    answer_QT = np.concatenate([answers for answers, _ in known])
    fitted_T = skill_by_agreement_T(answer_QT, np.concatenate([options_Q for _, options_Q in known]))

    def purify(panel: Panel) -> Purification:
        answers, options_Q = _answers(panel)
        skill_T = fitted_T if len(answer_QT) else skill_by_agreement_T(answers, options_Q)
        probability_QT = answer_posterior_QT(answers, skill_T[None, :], options_Q)
        ties = (_centrality_QT(panel, context),) if options.similarity else ()
        return _choose(panel, probability_QT, ranking_T(skill_T), *ties)

    note = (
        "no gold answers to learn from: teachers are weighed by how they agree, which overrates those who share their "
        "errors; scores are probabilities only as far as teachers err independently"
    )
    facts = {"learned_from": "agreement", "teacher_skill": _named(data.train, fitted_T)}
    parameters = context.embed.num_parameters if options.similarity else 0
    notes = (note, NO_VERIFIER) if options.verifier else (note,)
    return Fitted(purify, len(data.train.teachers), parameters, facts=facts, notes=notes)


def _by_likeness(data: FitData, options: ConsensusOptions, context: Context) -> Fitted:
    def purify(panel: Panel) -> Purification:
        central_QT = _centrality_QT(panel, context)
        score_QT = np.where(panel.has_rationale_QT, central_QT, np.nan)
        order_T = np.arange(len(panel.teachers))
        return Purification.of_choice(
            score_QT, choose_by(score_QT, available_QT=panel.has_rationale_QT, order_T=order_T)
        )

    note = (
        "teacher-forced rationales only: their stated answers equal the gold and carry no signal, so the rationale "
        "that is nearest to all others is kept, and scores are mean cosines; for agreement and skill run "
        "`kp-data generate` with --mode both"
    )
    notes = (note, NO_VERIFIER) if options.verifier else (note,)
    parameters = context.embed.num_parameters
    return Fitted(purify, len(data.train.teachers), parameters, facts={"learned_from": "likeness"}, notes=notes)


def _choose(panel: Panel, probability_QT: Array, order_T: Array, *tie_breaks_QT: Array) -> Purification:
    """One of those who give the likeliest answer; where no answer was read, one of those who have a rationale."""
    there_QT = panel.has_rationale_QT
    score_QT = np.where(there_QT | (panel.concluded_QT != NONE), probability_QT, np.nan)
    return Purification.of_choice(score_QT, choose_by(score_QT, *tie_breaks_QT, available_QT=there_QT, order_T=order_T))


def _answers(panel: Panel) -> tuple[Array, Array]:
    return panel.concluded_QT, num_options_Q(panel.questions, panel.concluded_QT)


def _centrality_QT(panel: Panel, context: Context) -> Array:
    """(Q, T) float, mean cosine of each rationale to the others of its answer; 0 where there are none."""
    evidence = similarity_evidence(panel, context.embed)
    return np.nan_to_num(evidence.value_QTF[:, :, evidence.names.index("cosine_to_group")])


def _index(train: Panel, options: ConsensusOptions, context: Context) -> NeighbourIndex | None:
    if not options.neighbours:
        return None
    from kp_data.purify.neighbours import build_index

    return build_index(context.embed(_texts(train)), count=options.neighbours + 1)


def _texts(panel: Panel) -> list[str]:
    return [question_text(question) for question in panel.questions]


def _own_gold(index: int | None, answer: str | None) -> int:
    """The code that a panel gives to a question's own answer: the choice, or group 0 of an open-ended one."""
    if index is not None:
        return index
    return NONE if answer is None else 0


def _named(panel: Panel, skill_T: Array) -> dict[str, float]:
    return dict(zip(panel.teachers, skill_T.round(6).tolist(), strict=True))


def _notes(data: FitData, options: ConsensusOptions, *, heard: bool) -> tuple[str, ...]:
    notes = []
    if not heard:
        notes.append("the verifiers are not heard: probabilities held out of train surprise no less with them")
    if data.held_out:
        notes.append(f"no split 'validation': {len(data.validation)} questions of train were held out for calibration")
    if data.train.rationale_mode == "teacher_forced" and (options.surface or options.similarity):
        notes.append("rationales are teacher-forced and show the gold answer: they are not read, answers alone decide")
    return tuple(notes)


CONSENSUS = Method(
    MethodInfo(
        name=NAME,
        summary="the rationale whose answer is most likely right, by agreement, calibrated skill and how it reads",
        kind="selector",
        needs=("rationales",),
        trained=True,
        transferable=True,
        source="own",
        evidence="own",
    ),
    fit_consensus,
    ConsensusOptions,
)
