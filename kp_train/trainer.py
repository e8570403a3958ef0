"""The training loop: transformers.Trainer, with our data path, our loss and our evaluation in it.

From Trainer come the loop, checkpoints and resume, schedules, clipping, mixed precision, distribution and callbacks.
Ours are the steps (planned before the run, cut into micro-batches, laid out in a background thread), the loss
(normalised over the whole step, see `kp_train.losses`) and the selection of the best checkpoint (accuracy on
validation). For Trainer, one element of the data is one whole step of this process.

A checkpoint's weights are safetensors. Its optimizer.pt, scheduler.pt and rng_state*.pth are in PyTorch's own format,
are read with `weights_only=True`, which makes nothing but tensors and plain values of them, and go with the checkpoint
when the run ends.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

from kp_data.errors import MethodError
from kp_train.batches import Item
from kp_train.losses import losses_of_tasks, normalised_loss
from kp_train.memory import telling_out_of_memory
from kp_train.peak import device_name, peak_of
from kp_train.quiet import quiet_transformers
from kp_train.ranks import Ranks
from kp_train.run_folder import LOGS
from kp_train.schedule import Progress, Schedule, TrainingResult
from kp_train.sharding import Shards, without_view_warnings
from kp_train.steps import Step, Steps
from kp_train.students.student import Student

ACCURACY: Final = "eval_accuracy"
TASK_LOSS: Final = "loss/"
"""A log line's key for a task's own loss, before the task's name."""

TENSORBOARD: Final = "tensorboard"
_CUMULATIVE: Final = ("eval_seconds", "eval_used", "eval_computed")
"""Sums over the whole run, in its log at each evaluation, from which a resumed run goes on counting."""


def train(
    student: Student,
    items: Sequence[Sequence[Item]],
    *,
    tasks: Sequence[str],
    schedule: Schedule,
    evaluate: Callable[[], float],
    folder: Path,
    resume_from: Path | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    ranks: Ranks | None = None,
) -> TrainingResult:
    """Train a student in place and leave it at its best validated weights.

    Args:
        student: changed in place.
        items: for each row its wordings, tokenised; the first visit takes the first, and so on in turn.
        tasks: names of the K tasks of their targets, in the order of their numbers.
        schedule: how long.
        evaluate: accuracy of the student as it is now, on validation rows.
        folder: for checkpoints.
        resume_from: a checkpoint of the same run to go on from.
        report: called at each log line and evaluation.
        ranks: this process among those that share the run; None: alone.

    Raises:
        ConfigError: memory is short; says which option to change and how.
        MethodError: the loss is no number any more.
    """
    with quiet_transformers(), telling_out_of_memory(schedule.batch_tokens, schedule.gradient_checkpointing):
        trainer = DistillationTrainer(student, items, tasks, schedule, evaluate, folder, ranks or Ranks())
        trainer.add_callback(_Reporter(trainer, report))
        try:
            with without_view_warnings():
                trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        finally:
            trainer.release()
    return trainer.result()


class DistillationTrainer(Trainer):
    """Trainer with planned steps, a loss normalised over the whole step, and selection by validation accuracy."""

    def __init__(
        self,
        student: Student,
        items: Sequence[Sequence[Item]],
        tasks: Sequence[str],
        schedule: Schedule,
        evaluate: Callable[[], float],
        folder: Path,
        ranks: Ranks | None = None,
    ) -> None:
        recipe = schedule.recipe
        self.student = student
        self._ranks = ranks or Ranks()
        self._accuracy = evaluate
        self._schedule = schedule
        self._tasks = tuple(tasks)
        self.steps = Steps(student, items, num_tasks=len(tasks), schedule=schedule, ranks=self._ranks)
        self._shards = Shards(student.model, self._ranks.device) if schedule.shard else None
        groups = student.parameter_groups(recipe.lr, recipe.weight_decay)
        self._own_optimiser = torch.optim.AdamW(groups, fused=torch.cuda.is_available())
        super().__init__(
            model=student.model,
            args=_arguments(schedule, folder, student, self._ranks),
            train_dataset=self.steps,
            # Never read: `evaluate` below asks our own evaluation. Trainer insists on one.
            eval_dataset=self.steps,
            optimizers=(self._own_optimiser, None),
        )
        self.args._n_gpu = 1  # several devices without a launcher would mean DataParallel, which splits micro-batches
        self.remove_callback(PrinterCallback)
        if TENSORBOARD in schedule.log_to:
            self.add_callback(_tensorboard(folder.parent / LOGS))
        self._begun = time.perf_counter()
        self._used = self._computed = 0
        self._flops = self._evaluating = 0.0
        self._peak = peak_of(self.args.device)
        # Mean losses of tasks since the last log line: summed where they are computed, fetched when they are logged.
        self._loss_K, self._steps_summed = torch.zeros(len(tasks), device=self.args.device), 0
        if self._shards is not None:
            # Evaluation mode is accelerate's word for not wrapping a model that exchanges gradients by itself.
            self.accelerator.prepare_model = functools.partial(self.accelerator.prepare_model, evaluation_mode=True)
        _route(student)
        if schedule.gradient_checkpointing:
            _save_activations_less(student.model)

    def get_train_dataloader(self) -> Any:
        """The steps that are still to come, laid out ahead; a resumed run begins at the first of them."""
        return _Loader(self)

    def get_batch_samples(self, epoch_iterator: Iterator[Step], *args: Any) -> tuple[list[Step], None]:
        """The next step; its units are counted already."""
        return [next(epoch_iterator)], None

    def training_step(  # type: ignore[override]
        self, model: Any, inputs: Step, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward through all micro-batches of a step."""
        model.train()
        device = self.args.device
        count_K = inputs.count_K.to(device, non_blocking=True)
        total = torch.zeros((), device=device)
        for number, batch in enumerate(inputs.batches):
            last = number == len(inputs.batches) - 1
            # Only the last backward pass of a step exchanges gradients.
            with contextlib.nullcontext() if last else self._without_exchange(model):
                loss = self._share(model, batch, count_K)
                self.accelerator.backward(loss)
            total += loss.detach()
        self._steps_summed += 1
        self._flops += inputs.flops
        self._used += inputs.used
        self._computed += inputs.computed
        return total

    def _without_exchange(self, model: Any) -> contextlib.AbstractContextManager[Any]:
        return self.accelerator.no_sync(model) if self._shards is None else self._shards.without_exchange()

    def _share(self, model: Any, batch: Mapping[str, Tensor], count_K: Tensor) -> Tensor:
        """What one micro-batch adds to the step's loss, times the processes over which gradients are averaged."""
        moved = {name: tensor.to(self.args.device, non_blocking=True) for name, tensor in batch.items()}
        loss_T = model(micro_batch=moved)
        share = normalised_loss(loss_T, moved["owner"], task_N=moved["task"], weight_N=moved["weight"], count_K=count_K)
        self._loss_K += losses_of_tasks(loss_T, moved["owner"], task_N=moved["task"], count_K=count_K)
        return share * self._ranks.size

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Accuracy on validation, and what the whole run took so far."""
        if self.args.device.type != "cpu":
            torch.accelerator.synchronize()  # else what is still computed would count as evaluation
        begun = time.perf_counter()
        with contextlib.nullcontext() if self._shards is None else self._shards.gathered():
            accuracy = self._ranks.told(self._accuracy())
        self._evaluating += time.perf_counter() - begun
        seconds, used, computed = self.spent()
        metrics = {ACCURACY: accuracy, "eval_seconds": seconds, "eval_used": used, "eval_computed": computed}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log line, with each task's loss."""
        if "loss" in logs and self._steps_summed:
            # Every process holds its own share of each step; all of them log, so all of them are here.
            loss_RK = self.accelerator.gather(self._loss_K).reshape(-1, len(self._tasks))
            mean_K = (loss_RK.sum(dim=0) / self._steps_summed).tolist()
            logs |= {f"{TASK_LOSS}{task}": loss for task, loss in zip(self._tasks, mean_K, strict=True)}
            self._loss_K.zero_()
            self._steps_summed = 0
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Step) -> float:  # type: ignore[override]
        """Trainer sums these over ranks and steps into its state, which a resumed run carries on."""
        return inputs.flops

    def _track_num_input_tokens(self, inputs: Step) -> None:
        self.state.num_input_tokens_seen += inputs.learned

    def spent(self) -> tuple[float, int, int]:
        """Seconds, positions with a token and positions computed, of the whole run so far."""
        before = dict.fromkeys(_CUMULATIVE, 0.0)
        if self._initial_global_step > 0:
            for log in self.state.log_history:
                if log["step"] <= self._initial_global_step:
                    before = {key: max(value, log.get(key, 0.0)) for key, value in before.items()}
        seconds, used, computed = before.values()
        elapsed = time.perf_counter() - self._begun
        return seconds + elapsed, int(used) + self._used, int(computed) + self._computed

    def training_spent(self) -> tuple[float, float]:
        """Floating-point operations of this process and the seconds they took, since the run was taken up."""
        return self._flops, time.perf_counter() - self._begun - self._evaluating

    def utilisation(self, flops: float, seconds: float) -> float | None:
        """Share of the device's measured peak (model FLOP utilisation); None where no peak is measured."""
        return None if self._peak is None or seconds <= 0 else flops / seconds / self._peak

    def release(self) -> None:
        """Give the student's model back as it was, but trained."""
        self.student.model.__dict__.pop("forward", None)
        if self._shards is not None:
            student: Any = self.student
            student.model = self._shards.whole_model()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer does it, or whole weights gathered from all processes."""
        folder = Path(output_dir or str(self.args.output_dir))
        if self._shards is None:
            super().save_model(output_dir, _internal_call)
        else:
            self._shards.save_weights(folder)
        # A pickle that nothing reads; the other files of a checkpoint are read as plain tensors and numbers.
        (folder / "training_args.bin").unlink(missing_ok=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._shards is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self._shards.load_weights(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self._shards is None:
            super()._load_best_model()
        else:
            self._shards.load_weights(Path(str(self.state.best_model_checkpoint)))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._shards is not None:  # what was written is this process's share alone
            self._shards.save_optimiser(self._own_optimiser, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self._shards is None or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        assert self.lr_scheduler is not None
        self._shards.load_optimiser(self._own_optimiser, Path(checkpoint))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True))

    def result(self) -> TrainingResult:
        """What was done, after `train`."""
        seconds, used, computed = self.spent()
        return TrainingResult(
            steps=self.state.global_step,
            best_step=self.state.best_global_step or self.state.global_step,
            accuracy=self.state.best_metric,
            tokens=int(self.state.num_input_tokens_seen),
            token_efficiency=round(used / computed, 4) if computed else 1.0,
            flops=float(self.state.total_flos),
            seconds=seconds,
            device=device_name(self.args.device),
            mfu=self.utilisation(*self.training_spent()),
            curve=_curve(self.state.log_history),
        )


class _Loader:
    """What Trainer takes for a data loader."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer
        self.dataset = trainer.steps

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Step]:
        return self.dataset.ahead(self._trainer.state.global_step)


def _route(student: Student) -> None:
    """Let the model's own forward pass compute token losses, when it is called with a micro-batch.

    Wrappers that exchange gradients or gather weights act where the model itself is called, so the losses of a
    micro-batch have to be computed inside such a call.
    """
    model: Any = student.model
    plain = model.forward

    def forward(*args: Any, micro_batch: Mapping[str, Tensor] | None = None, **kwargs: Any) -> Any:
        if micro_batch is None:
            return plain(*args, **kwargs)
        # accelerate has put its autocast around this forward, and an autocast entered twice never ends: the model
        # is called inside without it.
        outside, model.forward = model.forward, plain
        try:
            return student.token_losses(micro_batch)
        finally:
            model.forward = outside

    model.forward = forward


def _save_activations_less(model: Any) -> None:
    """Compute activations anew in the backward pass; releases of transformers differ in what they call it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


class _Reporter(TrainerCallback):
    """Passes log lines on."""

    def __init__(self, trainer: DistillationTrainer, report: Callable[[Progress], None]) -> None:
        self._trainer = trainer
        self._report = report
        self._seen = 0, time.perf_counter()
        self._spent = 0.0, 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        logs = logs or {}
        loss, accuracy = logs.get("loss"), logs.get(ACCURACY)
        if loss is not None and not loss - loss == 0:
            raise MethodError(
                f"the loss at step {state.global_step} is {loss}; try a lower --lr, or --fp32, in another --out"
            )
        if loss is not None or accuracy is not None:
            speed, efficiency = self._speed()
            steps = self._trainer.args.max_steps
            tasks = {key.removeprefix(TASK_LOSS): value for key, value in logs.items() if key.startswith(TASK_LOSS)}
            mfu = self._utilisation()
            self._report(Progress(state.global_step, steps, loss, accuracy, speed, efficiency, tasks, mfu))

    def _speed(self) -> tuple[float | None, float | None]:
        """Positions with a token a second since the last call, and their share so far."""
        _, used, computed = self._trainer.spent()
        (before, then), now = self._seen, time.perf_counter()
        self._seen = used, now
        return (used - before) / (now - then) if used > before else None, used / computed if computed else None

    def _utilisation(self) -> float | None:
        (flops, seconds), (flops_before, before) = self._trainer.training_spent(), self._spent
        self._spent = flops, seconds
        return self._trainer.utilisation(flops - flops_before, seconds - before) if flops > flops_before else None


def _tensorboard(folder: Path) -> TensorBoardCallback:
    """Event files in this folder, rather than among the checkpoints, which go when the run ends."""
    callback = TensorBoardCallback()  # type: ignore[no-untyped-call]
    callback.logging_dir = str(folder)
    return callback


def _arguments(schedule: Schedule, folder: Path, student: Student, ranks: Ranks) -> TrainingArguments:
    recipe = schedule.recipe
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=schedule.steps,
        per_device_train_batch_size=1,
        learning_rate=recipe.lr,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=round(recipe.warmup * schedule.steps),
        weight_decay=recipe.weight_decay,
        max_grad_norm=1.0,
        bf16=recipe.bf16,
        use_cpu=not torch.accelerator.is_available(),
        ddp_backend=ranks.backend if ranks.size > 1 else None,
        # Looking for parameters that got no gradient costs time; encoders have some, as BERT's pooler.
        ddp_find_unused_parameters=not student.packs,
        seed=schedule.seed,
        eval_strategy="steps",
        eval_steps=schedule.eval_steps,
        save_strategy="steps",
        save_steps=schedule.eval_steps,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=ACCURACY,
        greater_is_better=True,
        logging_steps=_logging_steps(schedule),
        # It would look at every step's loss, and so wait for the device; ours is looked at when it is logged.
        logging_nan_inf_filter=False,
        # `_Loader` itself begins where a resumed run goes on.
        ignore_data_skip=True,
        report_to=[name for name in schedule.log_to if name != TENSORBOARD],
        disable_tqdm=True,
        remove_unused_columns=False,
    )


def _logging_steps(schedule: Schedule) -> int:
    """Steps between log lines: about twenty lines a run, and one at each checkpoint.

    A logged loss is a mean since the line before; a resumed run knows nothing of what was before its checkpoint.
    """
    wanted = max(1, min(50, schedule.steps // 20))
    return max(size for size in range(1, wanted + 1) if schedule.eval_steps % size == 0)


def _curve(history: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, float], ...]:
    """Log lines with the names that run.json has."""
    names = {"step": "step", "loss": "loss", ACCURACY: "validation_accuracy", "learning_rate": "learning_rate"}
    lines = [log for log in history if "loss" in log or ACCURACY in log]
    kept = [{key: value for key, value in log.items() if key in names or key.startswith(TASK_LOSS)} for log in lines]
    return tuple({names.get(key, key): value for key, value in log.items()} for log in kept)
