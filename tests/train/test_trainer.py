from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_rows import small_questions, small_responses, write_tiny_t5_checkpoint
from transformers import TrainerCallback

from kp_data.errors import MethodError
from kp_train.batches import Item
from kp_train.losses import count_units
from kp_train.schedule import Progress, Schedule
from kp_train.steps import Step
from kp_train.students.seq2seq import Seq2SeqStudent
from kp_train.students.student import Recipe
from kp_train.trainer import DistillationTrainer, _logging_steps, train
from kp_train.views import LABEL, LABEL_PREFIX, Target

RECIPE = Recipe(
    lr=1e-3, batch=8, epochs=1, schedule="constant", warmup=0.0, weight_decay=0.0, bf16=False, choice_orders=1
)


def _student_and_items(folder: Path) -> tuple[Seq2SeqStudent, list[list[Item]]]:
    """Rows whose rationales have very different lengths, so that micro-batches differ in tokens."""
    student = Seq2SeqStudent.from_checkpoint(str(folder))
    questions = small_questions(8, 0, 0)
    responses = small_responses(questions)
    items = []
    for number, question in enumerate(questions):
        rationale = str(responses[2 * number].rationale) * (1 + number % 4)
        targets = [
            Target(LABEL, LABEL_PREFIX, str(question.answer)),
            Target("rationale", "explain: ", rationale, 0.5),
        ]
        items.append([tuple(student.encode(question, target, task=int(target.task != LABEL)) for target in targets)])
    return student, items


class _Gradients(TrainerCallback):
    """Keeps the gradient of the first step, before it is clipped or used."""

    def __init__(self) -> None:
        self.kept: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for name, parameter in kwargs["model"].named_parameters():
            self.kept.setdefault(name, parameter.grad.detach().clone())


def _gradients(checkpoint: Path, folder: Path, accumulate: int, *, naive: bool = False) -> dict[str, torch.Tensor]:
    student, items = _student_and_items(checkpoint)
    schedule = Schedule(recipe=RECIPE, steps=1, accumulate=accumulate, eval_steps=1)
    trainer = DistillationTrainer(student, items, ("label", "rationale"), schedule, lambda: 0.5, folder)
    trainer.args.max_grad_norm = 0.0
    if naive:
        trainer.training_step = _counting_each_micro_batch(trainer)  # type: ignore[method-assign]
    gradients = _Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    return gradients.kept


def _counting_each_micro_batch(trainer: DistillationTrainer) -> Any:
    """What a mean over each micro-batch, divided by their number, would do."""
    ours = trainer.training_step

    def counted(model: Any, step: Step, num_items_in_batch: object = None) -> Any:
        for batch in step.batches:
            count = count_units(batch["owner"], batch["task"], num_tasks=2).clamp(min=1)
            ours(model, replace(step, batches=(batch,), count_K=count * len(step.batches)))
        return torch.tensor(0.0)

    return counted


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_t5_checkpoint(tmp_path_factory.mktemp("checkpoint"), dropout=0.0)


@pytest.mark.parametrize("accumulate", [2, 3, 4, 8])
def test_accumulation_does_not_change_the_gradient(checkpoint: Path, tmp_path: Path, accumulate: int) -> None:
    whole = _gradients(checkpoint, tmp_path / "whole", 1)
    cut = _gradients(checkpoint, tmp_path / "cut", accumulate)
    assert max(gradient.abs().max().item() for gradient in whole.values()) > 1e-2
    for name, gradient in whole.items():
        assert torch.allclose(gradient, cut[name], rtol=0, atol=1e-6), name


def test_normalising_each_micro_batch_by_itself_would_change_it(checkpoint: Path, tmp_path: Path) -> None:
    whole = _gradients(checkpoint, tmp_path / "whole", 1)
    naive = _gradients(checkpoint, tmp_path / "naive", 3, naive=True)
    assert max((whole[name] - naive[name]).abs().max().item() for name in whole) > 1e-3


def test_the_gradient_is_that_of_the_formula(checkpoint: Path, tmp_path: Path) -> None:
    trained = _gradients(checkpoint, tmp_path, 2)
    student, items = _student_and_items(checkpoint)
    sums = {0: torch.tensor(0.0), 1: torch.tensor(0.0)}
    counts = {0: 0, 1: 0}
    for example in (example for (item,) in items for example in item):
        logits = student.model(
            input_ids=torch.tensor([example.inputs[0]]), labels=torch.tensor([example.label])
        ).logits[0]
        chosen = logits.log_softmax(-1)[torch.arange(len(example.label)), torch.tensor(example.label)]
        sums[example.task] = sums[example.task] - chosen.sum()
        counts[example.task] += len(example.label)
    (sums[0] / counts[0] + 0.5 * sums[1] / counts[1]).backward()
    for name, parameter in student.model.named_parameters():
        assert torch.allclose(parameter.grad, trained[name], rtol=0, atol=1e-6), name


@pytest.mark.parametrize(("steps", "eval_steps", "expected"), [(200, 17, 1), (240, 20, 10), (4, 1, 1), (3000, 250, 50)])
def test_losses_are_logged_at_every_checkpoint(steps: int, eval_steps: int, expected: int) -> None:
    assert _logging_steps(Schedule(recipe=RECIPE, steps=steps, eval_steps=eval_steps)) == expected


def test_a_loss_that_is_no_number_is_one_error(checkpoint: Path, tmp_path: Path) -> None:
    student, items = _student_and_items(checkpoint)
    student.model.lm_head.weight.data[0, 0] = torch.nan
    schedule = Schedule(recipe=RECIPE, steps=2, eval_steps=2)
    with pytest.raises(MethodError, match=r"the loss at step 1 is nan; try a lower --lr"):
        train(student, items, tasks=("label", "rationale"), schedule=schedule, evaluate=lambda: 0.5, folder=tmp_path)


def test_the_step_with_the_best_validation_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    student, items = _student_and_items(checkpoint)
    accuracies = iter([0.2, 0.9, 0.4])
    seen: list[torch.Tensor] = []

    def evaluate() -> float:
        seen.append(student.model.shared.weight.detach().clone())
        return next(accuracies)

    schedule = Schedule(recipe=RECIPE, steps=6, eval_steps=2)
    trainer = DistillationTrainer(student, items, ("label", "rationale"), schedule, evaluate, tmp_path)
    trainer.train()
    result = trainer.result()
    assert (result.steps, result.best_step, result.accuracy) == (6, 4, 0.9)
    assert torch.equal(student.model.shared.weight, seen[1])
    assert not torch.equal(student.model.shared.weight, seen[2])


def test_the_loss_of_each_task_is_told_and_they_make_up_the_loss(checkpoint: Path, tmp_path: Path) -> None:
    student, items = _student_and_items(checkpoint)
    schedule = Schedule(recipe=RECIPE, steps=4, accumulate=2, eval_steps=2)
    told: list[Progress] = []
    trained = train(
        student,
        items,
        tasks=("label", "rationale"),
        schedule=schedule,
        evaluate=lambda: 0.5,
        folder=tmp_path / "checkpoints",
        report=told.append,
    )
    lines = [line for line in told if line.loss is not None]
    assert len(lines) == 4
    for line in lines:
        assert line.loss == pytest.approx(line.task_losses["label"] + 0.5 * line.task_losses["rationale"], rel=1e-3)
    assert [line["loss/label"] for line in trained.curve if "loss" in line] == [
        line.task_losses["label"] for line in lines
    ]
    # The peak of a CPU is not measured, so no share of it is told.
    assert trained.mfu is None
    assert trained.device.startswith("CPU")


def test_tensorboard_finds_the_log_beside_the_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    student, items = _student_and_items(checkpoint)
    schedule = Schedule(recipe=RECIPE, steps=2, eval_steps=2, log_to=("tensorboard",))
    folder = tmp_path / "checkpoints"
    train(student, items, tasks=("label", "rationale"), schedule=schedule, evaluate=lambda: 0.5, folder=folder)
    (file,) = (tmp_path / "logs").iterdir()
    scalars = {value.tag for event in _events(file.read_bytes()) for value in event.summary.value}
    assert {"train/loss", "train/loss/label", "train/loss/rationale", "eval/accuracy"} <= scalars


def _events(data: bytes) -> Iterator[Any]:
    """TensorBoard's records: length, its checksum, an event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
