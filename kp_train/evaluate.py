"""How good a student is: accuracy with an interval, per subject, and how like its teachers it has become.

A student's answer is the choice that it finds likeliest (`kp_train.scoring`), or what it writes when asked for one
(`evaluate_writing`). Nothing here is kept in a student's folder: an evaluation cannot change what was selected.

Q questions, C choices of a question.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.measures import kappa_TT
from kp_data.schema import Question
from kp_train.answering import Prediction, predict_by_writing, predict_choices, write_predictions
from kp_train.calibration import Calibration, calibration, confidences
from kp_train.comparison import PairedComparison, bootstrap_interval, compare_paired
from kp_train.dataset import Dataset
from kp_train.scoring import SCORES, Scoring, scoring_named
from kp_train.students import Student, load_student
from kp_train.views import LABEL_PREFIX, VIEWS, View, rationale_prefix

__all__ = [
    "Evaluation",
    "EvaluationOptions",
    "Fidelity",
    "Prediction",
    "bootstrap_interval",
    "compare_evaluations",
    "evaluate_loaded",
    "evaluate_splits",
    "evaluate_student",
    "evaluate_writing",
    "predict_choices",
    "write_predictions",
]

GENERATION: Final = "generation"


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How alike a student's answers and a teacher's conclusions are, whoever is right.

    Attributes:
        agreement: share of the questions on which both chose the same.
        kappa: Cohen's kappa over positions of choices; None where habits alone would give full agreement.
        n: questions that both answered.
    """

    agreement: float
    kappa: float | None
    n: int


@dataclass(frozen=True)
class Evaluation:
    """A student on the questions of one split whose answer is known.

    Attributes:
        accuracy: share of questions answered right.
        ci95: its 95 % interval by bootstrap over questions.
        n: questions.
        skipped: questions of the split that cannot be counted, without gold answer or without choices to score.
        per_subject: subject to its accuracy and number of questions.
        agreement: teacher to the share of its conclusions that the student shares.
        seconds: of scoring.
        method: how answers were scored.
        split: evaluated split.
        predictions: one a question, for paired comparisons.
        fidelity: teacher to agreement, kappa and number of questions.
        calibration: of the softmax over a question's scores; None where the student was let write.
        by_score: name of every score of `kp_train.scoring` to its accuracy, where all were asked for.
        exact_match: share of questions where what was written is the gold answer to the letter; None where choices
            were scored. The metric of TinyLLM's and Distilling step-by-step's code.
        unreadable: choice questions on which what was written names no choice.
        compared: this student beside another, where one was given.
    """

    accuracy: float
    ci95: tuple[float, float]
    n: int
    skipped: int
    per_subject: dict[str, dict[str, float]]
    agreement: dict[str, float]
    seconds: float
    method: str
    split: str
    predictions: tuple[Prediction, ...] = field(repr=False)
    fidelity: dict[str, Fidelity] = field(default_factory=dict)
    calibration: Calibration | None = None
    by_score: dict[str, float] | None = None
    exact_match: float | None = None
    unreadable: int | None = None
    compared: PairedComparison | None = None

    def as_dict(self) -> dict[str, Any]:
        """Everything but the predictions, and without what was not asked for, as a JSON object."""
        values = asdict(self)
        del values["predictions"]
        optional = ("calibration", "by_score", "exact_match", "unreadable", "compared")
        return {name: value for name, value in values.items() if name not in optional or value is not None}


def evaluate_student(
    student_dir: Path,
    dataset: Dataset,
    *,
    split: str = "test",
    method: Scoring = "option-likelihood",
    seed: int = 0,
) -> Evaluation:
    """Evaluate a saved student on one split of a dataset.

    Args:
        student_dir: the --out folder of a fit, or a plain checkpoint.
        dataset: with gold answers.
        split: which questions.
        method: how choices are scored, see `kp_train.scoring`.
        seed: of the bootstrap.

    Raises:
        DataError: no student there, no such split, or no labelled choice question in it.
        MethodError: this student has no such score.
    """
    return evaluate_loaded(load_student(student_dir), dataset.split(split), method=method, seed=seed)


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What `kp-train evaluate` can be told.

    Attributes:
        score: `sum`, `token`, `char` or `pmi`, see `kp_train.scoring`.
        every_score: also tell the accuracy by each of these.
        generate: let the student write instead.
        view: what it is asked to write; None: the answer alone.
        seed: of the bootstrap.
    """

    score: str = "sum"
    every_score: bool = False
    generate: bool = False
    view: str | None = None
    seed: int = 0

    def check(self) -> None:
        """Refuse values that cannot be, and options without effect.

        Raises:
            ConfigError: names the option.
        """
        scoring_named(self.score)
        if self.view is not None and self.view not in VIEWS:
            raise ConfigError(f"{self.view!r} is none of {', '.join(VIEWS)}", place="--view")
        if self.view is not None and not self.generate:
            raise ConfigError("has no effect without --generate", place="--view")
        if self.generate and (self.every_score or self.score != "sum"):
            raise ConfigError("scores choices, and --generate reads what is written; give one of them", place="--score")


def evaluate_splits(
    student_dir: Path,
    dataset: Dataset,
    splits: Sequence[str],
    options: EvaluationOptions,
    *,
    against: Path | None = None,
) -> dict[str, Evaluation]:
    """Evaluate a saved student on several splits, beside another one where that is given.

    Args:
        student_dir: the --out folder of a fit, or a plain checkpoint.
        dataset: with gold answers.
        splits: which questions.
        options: how.
        against: the other student's folder; it answers the same questions in the same way.

    Raises:
        DataError: no student there, no such split, or nothing to evaluate in it.
        MethodError: a student cannot do what is asked.
    """
    options.check()
    ours = _evaluate_each(student_dir, dataset, splits, options)
    if against is None:
        return ours
    theirs = _evaluate_each(against, dataset, splits, options)
    return {
        split: replace(
            evaluation,
            compared=compare_evaluations(evaluation, theirs[split], other=str(against), seed=options.seed),
        )
        for split, evaluation in ours.items()
    }


def evaluate_loaded(
    student: Student,
    dataset: Dataset,
    *,
    method: Scoring = "option-likelihood",
    every_score: bool = False,
    seed: int = 0,
) -> Evaluation:
    """Evaluate a student in memory on all rows of a dataset, which are of one split; as `evaluate_student`.

    Args:
        student: any.
        dataset: rows of one split.
        method: how choices are scored.
        every_score: also tell the accuracy by every other score that the student has.
        seed: of the bootstrap.
    """
    questions = [row.question for row in dataset.rows]
    labelled = [question for question in questions if question.choices and question.answer_index is not None]
    if not labelled:
        raise DataError("no choice question with a gold answer; accuracy needs some", place=dataset.place)
    begun = time.perf_counter()
    predictions = predict_choices(student, labelled, method=method)
    by_score = _by_score(student, labelled) if every_score else None
    correct_Q = np.array([bool(prediction.correct) for prediction in predictions])
    return _evaluation(
        predictions,
        dataset,
        method=method,
        seconds=time.perf_counter() - begun,
        seed=seed,
        calibration=calibration(confidences([prediction.scores for prediction in predictions]), correct_Q),
        by_score=by_score,
    )


def evaluate_writing(student: Student, dataset: Dataset, *, view: View = "separate", seed: int = 0) -> Evaluation:
    """Let a student write its answers, and read them; open-ended questions count too.

    Args:
        student: one that writes.
        dataset: rows of one split.
        view: `separate` asks for the answer alone; the others for a text with a rationale, as such a student learned.
        seed: of the bootstrap.

    Raises:
        DataError: no question has a gold answer.
        MethodError: the student cannot write.
    """
    if not student.writes_text:
        raise MethodError("this student scores choices and cannot write; leave --generate out")
    labelled = [row.question for row in dataset.rows if row.question.answer]
    if not labelled:
        raise DataError("no question with a gold answer; accuracy needs some", place=dataset.place)
    begun = time.perf_counter()
    prefix = LABEL_PREFIX if view == "separate" else rationale_prefix(view)
    predictions = predict_by_writing(student, labelled, prefix)
    exact = [
        prediction.written == (question.answer or "").strip()
        for question, prediction in zip(labelled, predictions, strict=True)
    ]
    unreadable = sum(
        bool(question.choices) and prediction.predicted is None
        for question, prediction in zip(labelled, predictions, strict=True)
    )
    return _evaluation(
        predictions,
        dataset,
        method=GENERATION,
        seconds=time.perf_counter() - begun,
        seed=seed,
        exact_match=float(np.mean(exact)),
        unreadable=unreadable,
    )


def compare_evaluations(ours: Evaluation, theirs: Evaluation, *, other: str, seed: int = 0) -> PairedComparison:
    """Two evaluations of the same questions, question by question.

    Raises:
        DataError: they are of different questions.
    """
    if [answer.id for answer in ours.predictions] != [answer.id for answer in theirs.predictions]:
        raise DataError("the two students did not answer the same questions; evaluate both on one split and dataset")
    right, others = ([bool(answer.correct) for answer in each.predictions] for each in (ours, theirs))
    return compare_paired(right, others, other=other, seed=seed)


def _evaluation(
    predictions: tuple[Prediction, ...], dataset: Dataset, *, method: str, seconds: float, seed: int, **more: Any
) -> Evaluation:
    """The figures that every way of answering has."""
    num_correct = sum(bool(prediction.correct) for prediction in predictions)
    fidelity = _fidelity(predictions, dataset.conclusions)
    return Evaluation(
        accuracy=num_correct / len(predictions),
        ci95=bootstrap_interval(num_correct, len(predictions), seed=seed),
        n=len(predictions),
        skipped=len(dataset.rows) - len(predictions),
        per_subject=_per_subject(predictions),
        agreement={teacher: figures.agreement for teacher, figures in fidelity.items()},
        seconds=seconds,
        method=method,
        split=predictions[0].split,
        predictions=predictions,
        fidelity=fidelity,
        **more,
    )


def _evaluate_each(
    student_dir: Path, dataset: Dataset, splits: Sequence[str], options: EvaluationOptions
) -> dict[str, Evaluation]:
    """Each split by one student, who is dropped from memory before another is loaded."""
    student = load_student(student_dir)
    if options.generate:
        view: Any = options.view or "separate"  # checked to be one
        return {name: evaluate_writing(student, dataset.split(name), view=view, seed=options.seed) for name in splits}
    return {
        name: evaluate_loaded(
            student,
            dataset.split(name),
            method=scoring_named(options.score),
            every_score=options.every_score,
            seed=options.seed,
        )
        for name in splits
    }


def _by_score(student: Student, questions: Sequence[Question]) -> dict[str, float]:
    """Accuracy by every score that the student has; told beside the chosen one, never chosen among here."""
    names = SCORES if student.writes_text else ("sum",)
    accuracies = {}
    for name in names:
        answers = predict_choices(student, questions, method=SCORES[name])
        accuracies[name] = sum(bool(answer.correct) for answer in answers) / len(answers)
    return accuracies


def _per_subject(predictions: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    of_subject: dict[str, list[bool]] = defaultdict(list)
    for prediction in predictions:
        if prediction.subject is not None:
            of_subject[prediction.subject].append(bool(prediction.correct))
    return {
        subject: {"accuracy": float(np.mean(correct)), "n": len(correct)}
        for subject, correct in sorted(of_subject.items())
    }


def _fidelity(predictions: Sequence[Prediction], conclusions: Mapping[str, Mapping[str, int]]) -> dict[str, Fidelity]:
    figures = {}
    for teacher, concluded in conclusions.items():
        pairs = [
            (answer.predicted, concluded[answer.id])
            for answer in predictions
            if answer.predicted is not None and answer.id in concluded
        ]
        if pairs:
            answer_Q2 = np.array(pairs)
            kappa = float(kappa_TT(answer_Q2)[0, 1])
            agreement = float((answer_Q2[:, 0] == answer_Q2[:, 1]).mean())
            figures[teacher] = Fidelity(agreement, None if math.isnan(kappa) else kappa, len(pairs))
    return figures
