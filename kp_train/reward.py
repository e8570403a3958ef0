"""Rewards for teacher selection: a student of kp_train as `kp_data.learner` wants one.

It is trained a few epochs at a time, between which its losses are read; one optimiser goes through all phases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from kp_data.errors import MethodError
from kp_data.learner import Lesson, MakeLearner
from kp_data.schema import Question
from kp_train.batches import Item, plan_steps
from kp_train.students import Student, check_student_name, make_student
from kp_train.views import LABEL, RATIONALE, RATIONALE_PREFIX, Row, Target, label_view, question_input

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]

READ_AT_ONCE: Final = 64
"""Targets whose losses are computed together."""
READING: Final = "reading"
READING_PREFIX: Final = "predict from this: "
_TASKS: Final = {LABEL: 0, RATIONALE: 1, READING: 2}
Asked = tuple[Question, list[Target]]
"""What the student reads, and what it should write."""


def learner_named(name: str) -> MakeLearner:
    """What makes the learner of a student's name; for `Partners.learner`.

    Raises:
        ConfigError: there is no such student.
    """
    check_student_name(name)
    return partial(_make, name)


class StudentLearner:
    """See `kp_data.learner.Learner`."""

    def __init__(self, student: Student, *, seed: int) -> None:
        """A learner around a student that can write.

        Args:
            student: trained in place.
            seed: of the order of lessons, and of dropout.
        """
        import torch

        self._student, self._seed, self._phase = student, seed, 0
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = student.model  # methods of transformers' models are untyped
        self._model = model
        self._model.to(self._device)
        recipe = student.recipe
        # A constant rate: a schedule needs to know its end, and phases come one by one.
        self._optimiser = torch.optim.AdamW(student.parameter_groups(recipe.lr, recipe.weight_decay))

    @property
    def num_parameters(self) -> int:
        """Of the student."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    def train(self, lessons: Sequence[Lesson], *, epochs: int) -> None:
        """See `Learner.train`; each loss is a mean over the tokens of a step."""
        import torch

        items = [item for lesson in lessons if (item := self._item(_tasks(lesson)))]
        if not items:
            return
        batch = min(self._student.recipe.batch, len(items))
        seed, self._phase = self._seed + self._phase, self._phase + 1
        lengths = [max(example.length for example in item) for item in items]
        steps = math.ceil(epochs * len(items) / batch)
        torch.manual_seed(seed)
        self._model.train()
        for visits in plan_steps(lengths, steps=steps, batch=batch, seed=seed):
            self._step([items[row] for row, _ in visits])

    def answer_losses(self, lessons: Sequence[Lesson]) -> Array:
        """See `Learner.answer_losses`."""
        return self._losses([_label(lesson) if lesson.rationale is None else _reading(lesson) for lesson in lessons])

    def rationale_losses(self, lessons: Sequence[Lesson]) -> Array:
        """See `Learner.rationale_losses`."""
        return self._losses([_rationale(lesson) for lesson in lessons])

    def _step(self, items: Sequence[Item]) -> None:
        import torch

        from kp_train.losses import count_units, normalised_loss

        batch = self._collate(items)
        count_K = count_units(batch["owner"], batch["task"], num_tasks=len(_TASKS))
        loss = normalised_loss(
            self._student.token_losses(batch),
            batch["owner"],
            task_N=batch["task"],
            weight_N=batch["weight"],
            count_K=count_K,
        )
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimiser.step()

    def _losses(self, asked: Sequence[Asked]) -> Array:
        """(N,) float, mean loss of a token of each text; 0 where there is none."""
        import torch

        items = [self._item([one]) for one in asked]
        order = sorted((row for row, item in enumerate(items) if item), key=lambda row: items[row][0].length)
        loss_N = np.zeros(len(items))
        self._model.eval()
        with torch.inference_mode():
            for start in range(0, len(order), READ_AT_ONCE):
                rows = order[start : start + READ_AT_ONCE]
                batch = self._collate([items[row] for row in rows])
                sum_N = np.bincount(batch["owner"].cpu().numpy(), self._student.token_losses(batch).cpu().numpy())
                loss_N[rows] = sum_N / [len(items[row][0].label) for row in rows]
        return loss_N

    def _item(self, asked: Sequence[Asked]) -> Item:
        return tuple(
            self._student.encode(question, target, task=_TASKS[target.task])
            for question, targets in asked
            for target in targets
        )

    def _collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        return {
            name: tensor.to(self._device)
            for name, tensor in self._student.collate(items, packed=self._student.packs).items()
        }


def _make(name: str, lessons: Sequence[Lesson], *, seed: int) -> StudentLearner:
    asked = [one for lesson in lessons for one in _tasks(lesson)]
    texts = {question_input(question) for question, _ in asked}
    texts.update(text for _, targets in asked for target in targets for text in (target.prefix, target.text))
    student = make_student(name, texts=sorted(texts), seed=seed)
    if not student.writes_text:
        raise MethodError(
            f"{name} scores choices and cannot write rationales, so it has no loss on one; take a student that writes, "
            "such as tiny-t5",
            place="teacher-selection option 'student'",
        )
    return StudentLearner(student, seed=seed)


def _tasks(lesson: Lesson) -> list[Asked]:
    """All that one lesson teaches."""
    return [_label(lesson), _rationale(lesson), _reading(lesson)]


def _label(lesson: Lesson) -> Asked:
    return lesson.question, label_view(Row(lesson.question))


def _rationale(lesson: Lesson) -> Asked:
    text = lesson.rationale
    return lesson.question, [Target(RATIONALE, RATIONALE_PREFIX, text)] if text else []


def _reading(lesson: Lesson) -> Asked:
    """The answer with the rationale in view: it stands before the question, where a long input is cut first."""
    view = "\n".join(text for text in (lesson.rationale, lesson.question.context) if text)
    answer = lesson.question.answer if lesson.rationale else None
    return replace(lesson.question, context=view), [Target(READING, READING_PREFIX, answer)] if answer else []
