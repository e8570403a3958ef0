"""The training loop: transformers.Trainer, with our data path, our loss and our evaluation in it.

From Trainer come the loop, checkpoints and resume, schedules, clipping, mixed precision and callbacks. Ours are the
order of the batches (planned before the run), the loss (normalised over the whole step, see `kp_train.losses`) and
the selection of the best checkpoint (accuracy on validation).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from kp_train.batches import IGNORED, Item, plan_batches
from kp_train.losses import Reduction, count_units, normalised_loss
from kp_train.quiet import quiet_transformers
from kp_train.students.student import Recipe, Student

ACCURACY = "eval_accuracy"


@dataclass(frozen=True)
class Schedule:
    """How long and in what portions a student is trained.

    Attributes:
        recipe: learning rate, batch and the like.
        steps: optimiser steps.
        accumulate: micro-batches a step is cut into; changes memory, never the gradient.
        eval_steps: steps between two evaluations on validation, each with a checkpoint.
        reduction: how token losses are averaged.
        seed: of the order of rows and of dropout.
    """

    recipe: Recipe
    steps: int
    accumulate: int = 1
    eval_steps: int = 100
    reduction: Reduction = "token-mean"
    seed: int = 0


@dataclass(frozen=True)
class TrainingResult:
    """What a training run did.

    Attributes:
        steps: optimiser steps in all.
        best_step: the step whose weights were kept.
        accuracy: on validation at that step; None without validation rows.
        tokens: label tokens learned; input tokens are in `input_tokens`.
        flops: estimate of floating-point operations.
        seconds: of training and evaluation, over all resumed parts.
        curve: one entry an evaluation or log line, in order.
    """

    steps: int
    best_step: int
    accuracy: float | None
    tokens: int
    flops: float
    seconds: float
    curve: tuple[Mapping[str, float], ...]


@dataclass(frozen=True)
class Progress:
    """One line of progress."""

    step: int
    steps: int
    loss: float | None
    accuracy: float | None


def train(
    student: Student,
    items: Sequence[Sequence[Item]],
    *,
    num_tasks: int,
    schedule: Schedule,
    evaluate: Callable[[], float],
    folder: Path,
    resume_from: Path | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> TrainingResult:
    """Train a student in place and leave it at its best validated weights.

    Args:
        student: changed in place.
        items: for each row its wordings, tokenised; the first visit takes the first, and so on in turn.
        num_tasks: K, number of different tasks among their targets.
        schedule: how long.
        evaluate: accuracy of the student as it is now, on validation rows.
        folder: for checkpoints.
        resume_from: a checkpoint of the same run to go on from.
        report: called at each log line and evaluation.
    """
    with quiet_transformers():
        trainer = DistillationTrainer(student, items, num_tasks, schedule, evaluate, folder)
        trainer.add_callback(_Reporter(schedule.steps, report))
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    return trainer.result()


class DistillationTrainer(Trainer):
    """Trainer with planned batches, a loss normalised over the whole step, and selection by validation accuracy."""

    def __init__(
        self,
        student: Student,
        items: Sequence[Sequence[Item]],
        num_tasks: int,
        schedule: Schedule,
        evaluate: Callable[[], float],
        folder: Path,
    ) -> None:
        recipe = schedule.recipe
        self.student = student
        self._num_tasks = num_tasks
        self._schedule = schedule
        self._accuracy = evaluate
        groups = student.parameter_groups(recipe.lr, recipe.weight_decay)
        super().__init__(
            model=student.model,
            args=_arguments(schedule, folder),
            # A micro-batch is one element of the dataset, so Trainer's own batch size is 1.
            data_collator=lambda batch: student.collate(batch[0]),
            train_dataset=_MicroBatches(items, schedule),
            # Never read: `evaluate` below asks our own evaluation. Trainer insists on one.
            eval_dataset=_MicroBatches(items, schedule),
            optimizers=(torch.optim.AdamW(groups), None),
        )
        self.args._n_gpu = 1  # several devices without a launcher would mean DataParallel, which splits micro-batches
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)
        self._begun = time.perf_counter()

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The micro-batches of a step, and how many units of each task all of them hold together."""
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        counts = [
            count_units(
                batch["labels"] != IGNORED,
                batch["task"],
                num_tasks=self._num_tasks,
                reduction=self._schedule.reduction,
            )
            for batch in batches
        ]
        return batches, torch.stack(counts).sum(dim=0).to(device)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """One micro-batch's share of the step's loss."""
        assert isinstance(num_items_in_batch, Tensor)
        return normalised_loss(
            self.student.token_losses(inputs),
            inputs["labels"] != IGNORED,
            task_N=inputs["task"],
            weight_N=inputs["weight"],
            count_K=num_items_in_batch,
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Accuracy on validation, and the seconds of the whole run so far."""
        metrics = {ACCURACY: self._accuracy(), "eval_seconds": self._seconds()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def floating_point_ops(self, inputs: dict[str, Any]) -> float:  # type: ignore[override]
        """Trainer sums these into its state, which a resumed run carries on."""
        return self.student.training_flops(inputs)

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        self.state.num_input_tokens_seen += int((inputs["labels"] != IGNORED).sum())

    def _seconds(self) -> float:
        return self._seconds_before() + time.perf_counter() - self._begun

    def _seconds_before(self) -> float:
        """Seconds of the parts before this process; a resumed state holds them in its last evaluation."""
        if self._initial_global_step == 0:
            return 0.0
        earlier = [log for log in self.state.log_history if log["step"] <= self._initial_global_step]
        return float(max((log.get("eval_seconds", 0.0) for log in earlier), default=0.0))

    def result(self) -> TrainingResult:
        """What was done, after `train`."""
        return TrainingResult(
            steps=self.state.global_step,
            best_step=self.state.best_global_step or self.state.global_step,
            accuracy=self.state.best_metric,
            tokens=int(self.state.num_input_tokens_seen),
            flops=float(self.state.total_flos),
            seconds=self._seconds(),
            curve=_curve(self.state.log_history),
        )


class _MicroBatches(TorchDataset[list[Item]]):
    """Every micro-batch of a run, in order."""

    def __init__(self, items: Sequence[Sequence[Item]], schedule: Schedule) -> None:
        self._items = items
        self._plan = plan_batches(
            [max(example.length for example in wordings[0]) for wordings in items],
            steps=schedule.steps,
            batch=schedule.recipe.batch,
            accumulate=schedule.accumulate,
            seed=schedule.seed,
        )

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, number: int) -> list[Item]:
        return [self._items[row][visit % len(self._items[row])] for row, visit in self._plan[number]]


class _Reporter(TrainerCallback):
    """Passes log lines on."""

    def __init__(self, steps: int, report: Callable[[Progress], None]) -> None:
        self._steps = steps
        self._report = report

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        logs = logs or {}
        if "loss" in logs or ACCURACY in logs:
            self._report(Progress(state.global_step, self._steps, logs.get("loss"), logs.get(ACCURACY)))


def _arguments(schedule: Schedule, folder: Path) -> TrainingArguments:
    recipe = schedule.recipe
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=schedule.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=schedule.accumulate,
        train_sampling_strategy="sequential",
        learning_rate=recipe.lr,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=round(recipe.warmup * schedule.steps),
        weight_decay=recipe.weight_decay,
        max_grad_norm=1.0,
        bf16=recipe.bf16,
        use_cpu=not torch.accelerator.is_available(),
        seed=schedule.seed,
        eval_strategy="steps",
        eval_steps=schedule.eval_steps,
        save_strategy="steps",
        save_steps=schedule.eval_steps,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=ACCURACY,
        greater_is_better=True,
        logging_steps=max(1, min(50, schedule.steps // 20)),
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _curve(history: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, float], ...]:
    """Log lines with the names that run.json has."""
    names = {"step": "step", "loss": "loss", ACCURACY: "validation_accuracy", "learning_rate": "learning_rate"}
    lines = [log for log in history if "loss" in log or ACCURACY in log]
    return tuple({names[key]: value for key, value in log.items() if key in names} for log in lines)
