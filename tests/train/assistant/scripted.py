"""Teachers and students of known skill, that answer in memory and count what they are asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kp_data.practice import ERRING, make_questions
from kp_data.purify.verifier_input import Claim
from kp_data.schema import Question
from kp_train.assistant.lessons import Classroom
from kp_train.assistant.teachers import Answered, Request
from kp_train.dataset import Dataset, gold_dataset

SUBJECTS = ["animals", "law"]


def world(size: int = 160, *, seed: int = 1) -> Dataset:
    """Questions of a small practice world, with their gold answers."""
    return gold_dataset(make_questions(size, seed=seed, subjects=SUBJECTS), "practice world")


def classroom(dataset: Dataset | None = None) -> Classroom:
    """The same as a run sees it."""
    return Classroom.of(dataset or world(), split="train", validation_split="validation")


@dataclass
class Scripted:
    """Teachers that err on a share of the questions, as `practice/erring-N` do, for a cent a call."""

    percents: Sequence[int] = (30,)
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    refuses: frozenset[str] = frozenset()

    @property
    def teachers(self) -> tuple[str, ...]:
        """One for each rate."""
        return tuple(f"erring-{percent}" for percent in self.percents)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Their names."""
        return {"scripted": list(self.teachers)}

    def can_answer(self, question_id: str, teacher: str) -> bool:
        """Everything."""
        return True

    def ask(self, requests: Sequence[Request], *, stage: Path) -> list[Answered]:
        """Answer, and count."""
        self.asked.update((request.question.id, request.teacher) for request in requests)
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Answered:
        question: Question = request.question
        if question.id in self.refuses:
            return Answered(request, None, 0.01)
        index = ERRING[request.teacher].conclude(question)
        assert index is not None
        answer = question.choices[index]
        return Answered(request, Claim(question, f"I think it {answer}.", answer), 0.01)
