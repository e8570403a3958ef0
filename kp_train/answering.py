"""What a student answers: the choice that it finds likeliest, or what it writes when asked.

Q questions, C choices of a question.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kp_data.answers import same_answer
from kp_data.errors import ConfigError
from kp_data.schema import Question
from kp_data.tables import replacing
from kp_data.teachers.parsing import parse_answer
from kp_train.scoring import Scoring, choice_scores
from kp_train.students import Student


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a student answers to one question.

    Attributes:
        id, split, subject: of the question.
        predicted: its choice; None: what it wrote names none, or the question has none.
        gold: the right choice; None: not known, or an open-ended question.
        scores: of each choice; empty where the student was let write.
        written: what it wrote; None where choices were scored.
        same: for an open-ended question, whether what it wrote says the right answer.
    """

    id: str
    split: str
    subject: str | None
    predicted: int | None
    gold: int | None
    scores: tuple[float, ...]
    written: str | None = None
    same: bool | None = None

    @property
    def correct(self) -> bool | None:
        """Whether it is right; None where there is no gold."""
        return self.same if self.gold is None else self.predicted == self.gold


def predict_choices(
    student: Student, questions: Sequence[Question], *, method: Scoring = "option-likelihood"
) -> tuple[Prediction, ...]:
    """The choice that a student finds likeliest, question by question; the first of equals."""
    return tuple(
        Prediction(
            question.id, question.split, question.subject, int(np.argmax(row)), question.answer_index, tuple(row)
        )
        for question, row in zip(questions, choice_scores(student, questions, method), strict=True)
    )


def predict_by_writing(student: Student, questions: Sequence[Question], prefix: str) -> tuple[Prediction, ...]:
    """What a student writes under a prefix, read as an answer, question by question."""
    texts = student.generate_all(questions, prefix)
    return tuple(read_written(question, text) for question, text in zip(questions, texts, strict=True))


def read_written(question: Question, text: str) -> Prediction:
    """What a text that a student wrote answers to a question: the first answer it states, or else all of it.

    >>> question = Question(id="1", question="Is ice cold?", choices=("yes", "no"), answer="yes", answer_index=0)
    >>> read_written(question, "Ice is frozen.\\nThe answer is yes").correct, read_written(question, "Yes.").predicted
    (True, 0)
    """
    text = text.strip()
    if question.choices:
        # Its own answer may hold "the answer is": what equals a choice as a whole is that choice.
        whole = [index for index, choice in enumerate(question.choices) if same_answer(choice, text)]
        index = whole[0] if len(whole) == 1 else parse_answer(text, question.choices).index
        gold = question.answer_index
        return Prediction(question.id, question.split, question.subject, index, gold, (), text)
    stated = parse_answer(text).answer or text
    same = any(same_answer(answer, question.answer or "") for answer in (text, stated))
    return Prediction(question.id, question.split, question.subject, None, None, (), text, same)


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """One JSON object a line: id, split, subject, gold, predicted, correct, scores, and what was written.

    Raises:
        ConfigError: the path does not end in .jsonl.
        DataError: it cannot be written.
    """
    if path.suffix != ".jsonl":
        raise ConfigError("predictions are written as .jsonl; name such a file", place=path)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for prediction in predictions:
            lines.write(json.dumps({**asdict(prediction), "correct": prediction.correct}, ensure_ascii=False) + "\n")
