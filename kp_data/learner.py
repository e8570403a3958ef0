"""What a purifier needs of a student: that it can be taught, and that its losses can be read.

`kp_train` brings real students of this shape; `ngram_learner` is one that needs nothing else.
Axes: N lessons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kp_data.schema import Question

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a student is taught of one question: its gold answer, and one rationale where there is one."""

    question: Question
    rationale: str | None = None


class Learner(Protocol):
    """A student between two phases: it is taught in one, and frozen while its losses are read in the other."""

    @property
    def num_parameters(self) -> int:
        """How large it is."""

    def train(self, lessons: Sequence[Lesson], *, epochs: int) -> None:
        """Go on learning, equally weighted, the answer, the rationale, and the answer with the rationale in view.

        Args:
            lessons: one a question.
            epochs: passes over them.
        """

    def answer_losses(self, lessons: Sequence[Lesson]) -> Array:
        """(N,) float, L_PR of each lesson: mean negative log-likelihood of a gold-answer token, in nats.

        Where a lesson has a rationale, the student has it in view; else it has the question alone. 0 for a question
        without a gold answer, which is then the same for all of its rationales.
        """

    def rationale_losses(self, lessons: Sequence[Lesson]) -> Array:
        """(N,) float, L_DL of each lesson: mean negative log-likelihood of a rationale token, in nats.

        A mean and not a sum: a sum would make every short rationale a good one.
        """


class MakeLearner(Protocol):
    """Makes an untaught student."""

    def __call__(self, lessons: Sequence[Lesson], *, seed: int) -> Learner:
        """An untaught student for a run that will show it these lessons.

        Args:
            lessons: every question with every rationale: all that the student may come to read or write.
            seed: of its weights and of the order in which it is taught.
        """
