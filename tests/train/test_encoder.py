"""The gradient of an encoder student does not depend on how a step was cut, and what pads a batch changes nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from small_rows import small_questions, write_tiny_bert_checkpoint

from kp_data.schema import Question
from kp_train.losses import count_units, normalised_loss
from kp_train.students.encoder import EncoderStudent
from kp_train.views import LABEL, LABEL_PREFIX, Target


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> EncoderStudent:
    made = EncoderStudent.from_checkpoint(str(write_tiny_bert_checkpoint(tmp_path_factory.mktemp("bert"))), seed=1)
    made.model.double().eval()  # in double, so that only real differences show; without dropout
    return made


def _items(student: EncoderStudent) -> list[Any]:
    questions = [
        *small_questions(6, 0, 0),
        Question(id="two", question="Is it?", choices=("red", "no"), answer="no", answer_index=1),
        Question(id="long", question="Thing 1 is " * 9, choices=("red", "green", "blue", "no", "Which"), answer="blue"),
    ]
    weights = (1.0, 0.5, 2.0, 1.0, 0.0, 1.0, 3.0, 0.25)
    return [
        (student.encode(question, Target(LABEL, LABEL_PREFIX, str(question.answer), weight), task=row % 2),)
        for row, (question, weight) in enumerate(zip(questions, weights, strict=True))
    ]


def _gradient(student: EncoderStudent, parts: list[list[Any]]) -> torch.Tensor:
    batches = [student.collate(part) for part in parts]
    count_K = torch.stack([count_units(batch["owner"], batch["task"], num_tasks=2) for batch in batches]).sum(dim=0)
    student.model.zero_grad()
    for batch in batches:
        # The loss is float32 by contract; this student computes in double, and its scores are float32 at the end.
        share = normalised_loss(
            student.token_losses(batch), batch["owner"], task_N=batch["task"], weight_N=batch["weight"], count_K=count_K
        )
        share.backward()
    gradients = [parameter.grad.flatten() for parameter in student.model.parameters() if parameter.grad is not None]
    return torch.cat(gradients)


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_the_gradient_is_the_same_however_a_step_is_cut_and_shuffled(student: EncoderStudent, accumulate: int) -> None:
    items = _items(student)
    whole = _gradient(student, [items])
    random.Random(accumulate).shuffle(items)
    size = len(items) // accumulate
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    assert len(parts) == accumulate
    assert torch.allclose(_gradient(student, parts), whole, atol=1e-6)
    assert whole.abs().max() > 1e-3


def test_a_loss_is_that_of_its_question_whatever_stands_beside_it(student: EncoderStudent) -> None:
    items = _items(student)
    together = student.token_losses(student.collate(items))
    for row, item in enumerate(items):
        assert student.token_losses(student.collate([item])).item() == pytest.approx(together[row].item(), abs=1e-6)


def test_batches_are_padded_to_a_few_widths_and_never_beyond_what_the_model_has(student: EncoderStudent) -> None:
    batch = student.collate(_items(student))
    assert batch["input_ids"].shape[1] in range(16, 65, 16)
    used, computed = student.positions(batch)
    assert used == int(batch["attention_mask"].sum()) == sum(student.tokens_of(item[0]) for item in _items(student))
    assert computed == batch["input_ids"].numel()
    endless = Question(id="e", question="Thing " * 500, choices=("red", "green"), answer="red")
    item = (student.encode(endless, Target(LABEL, LABEL_PREFIX, "red"), task=0),)
    assert student.collate([item])["input_ids"].shape[1] == 64
    assert student.token_losses(student.collate([item])).isfinite().all()


def test_an_encoder_is_never_packed(student: EncoderStudent) -> None:
    assert student.packs is False
