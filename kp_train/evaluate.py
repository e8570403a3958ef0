"""How good a student is: accuracy by option likelihood, with an interval, per subject, and beside each teacher.

Q questions, C choices of a question.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from kp_data.errors import ConfigError, DataError
from kp_data.schema import Question
from kp_data.tables import replacing
from kp_train.dataset import Dataset
from kp_train.students import Student, load_student

Scoring = Literal["option-likelihood", "option-likelihood-per-token"]
RESAMPLES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a student answers to one question."""

    id: str
    split: str
    subject: str | None
    predicted: int
    gold: int | None
    scores: tuple[float, ...]

    @property
    def correct(self) -> bool | None:
        """Whether it is right; None where there is no gold."""
        return None if self.gold is None else self.predicted == self.gold


@dataclass(frozen=True)
class Evaluation:
    """A student on the labelled choice questions of one split.

    Attributes:
        accuracy: share of questions answered right.
        ci95: its 95 % interval by bootstrap over questions.
        n: questions.
        skipped: questions of the split without choices or gold answer, which are in no figure.
        per_subject: subject to its accuracy and number of questions.
        agreement: teacher to the share of its conclusions that the student shares.
        seconds: of scoring.
        method: how answers were scored.
        split: evaluated split.
        predictions: one a question, for paired comparisons.
    """

    accuracy: float
    ci95: tuple[float, float]
    n: int
    skipped: int
    per_subject: dict[str, dict[str, float]]
    agreement: dict[str, float]
    seconds: float
    method: Scoring
    split: str
    predictions: tuple[Prediction, ...] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the predictions, as a JSON object."""
        values = asdict(self)
        del values["predictions"]
        return {**values, "ci95": list(self.ci95)}


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
        method: sum of the log-probabilities of a choice's tokens, or their mean.
        seed: of the bootstrap.

    Raises:
        DataError: no student there, no such split, or no labelled choice question in it.
    """
    return evaluate_loaded(load_student(student_dir), dataset.split(split), method=method, seed=seed)


def evaluate_loaded(
    student: Student, dataset: Dataset, *, method: Scoring = "option-likelihood", seed: int = 0
) -> Evaluation:
    """Evaluate a student in memory on all rows of a dataset, which are of one split; as `evaluate_student`."""
    questions = [row.question for row in dataset.rows]
    labelled = [question for question in questions if question.choices and question.answer_index is not None]
    if not labelled:
        raise DataError("no choice question with a gold answer; accuracy needs some", place=dataset.place)
    begun = time.perf_counter()
    predictions = predict_choices(student, labelled, method=method)
    correct_Q = np.array([prediction.correct for prediction in predictions], dtype=bool)
    return Evaluation(
        accuracy=float(correct_Q.mean()),
        ci95=bootstrap_interval(int(correct_Q.sum()), len(correct_Q), seed=seed),
        n=len(correct_Q),
        skipped=len(questions) - len(labelled),
        per_subject=_per_subject(predictions),
        agreement=_agreement(predictions, dataset),
        seconds=time.perf_counter() - begun,
        method=method,
        split=labelled[0].split,
        predictions=predictions,
    )


def predict_choices(
    student: Student, questions: Sequence[Question], *, method: Scoring = "option-likelihood"
) -> tuple[Prediction, ...]:
    """The choice that a student finds likeliest, question by question; the first of equals."""
    scores = student.choice_log_probs(questions, per_token=method == "option-likelihood-per-token")
    return tuple(
        Prediction(
            question.id, question.split, question.subject, int(np.argmax(row)), question.answer_index, tuple(row)
        )
        for question, row in zip(questions, scores, strict=True)
    )


def bootstrap_interval(num_correct: int, n: int, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of an accuracy by bootstrap over questions.

    Drawing n questions with replacement and counting the right ones is a binomial draw, so that is what is drawn.

    Args:
        num_correct: questions answered right.
        n: questions.
        seed: of the draws.

    >>> bootstrap_interval(10, 10)
    (1.0, 1.0)
    """
    accuracies = np.random.default_rng(seed).binomial(n, num_correct / n, size=RESAMPLES) / n
    low, high = np.quantile(accuracies, (0.025, 0.975))
    return float(low), float(high)


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """One JSON object a line: id, split, subject, gold, predicted, correct, scores.

    Raises:
        ConfigError: the path does not end in .jsonl.
        DataError: it cannot be written.
    """
    if path.suffix != ".jsonl":
        raise ConfigError("predictions are written as .jsonl; name such a file", place=path)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for prediction in predictions:
            lines.write(json.dumps({**asdict(prediction), "correct": prediction.correct}, ensure_ascii=False) + "\n")


def _per_subject(predictions: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    of_subject: dict[str, list[bool]] = defaultdict(list)
    for prediction in predictions:
        if prediction.subject is not None:
            of_subject[prediction.subject].append(bool(prediction.correct))
    return {
        subject: {"accuracy": float(np.mean(correct)), "n": len(correct)}
        for subject, correct in sorted(of_subject.items())
    }


def _agreement(predictions: Sequence[Prediction], dataset: Dataset) -> dict[str, float]:
    shares = {}
    for teacher, concluded in dataset.conclusions.items():
        same = [concluded[answer.id] == answer.predicted for answer in predictions if answer.id in concluded]
        if same:
            shares[teacher] = float(np.mean(same))
    return shares
