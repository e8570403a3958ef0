"""Distill one student: dataset and options in, a folder with the trained student out."""

from __future__ import annotations

import math
import os
import platform
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.schema import Question
from kp_train.batches import Item
from kp_train.dataset import Dataset, hash_files
from kp_train.objectives import OBJECTIVES, Objective, Weights, objective_named
from kp_train.quiet import quiet_transformers
from kp_train.run_folder import RUN_FILE, RunFolder
from kp_train.students import STUDENTS, Recipe, Student, check_student_name, local_checkpoint, make_student
from kp_train.views import LABEL, Labels, Row, Target, question_input, reordered

if TYPE_CHECKING:
    from kp_train.trainer import Progress, Schedule, TrainingResult

EVALUATIONS: Final = 12
"""How often a run is validated unless --eval-steps says otherwise."""

_PACKAGES: Final = ("knowledge-purification", "torch", "transformers", "tokenizers", "accelerate")

_OPTION_NAMES: Final = {"teachers": "--teachers", "rationale_weight": "--lambda"}
"""Options that only some objectives read, as on the command line."""

Assignment = tuple[Row, list[Target]]


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What `kp-train fit` can be told; None: the student's recipe decides.

    Attributes:
        student: `tiny-t5`, `minilm`, a folder or a Hugging Face name.
        objective: name of one of `kp_train.objectives.OBJECTIVES`.
        labels: which answers the label task predicts.
        rationale_weight: lambda of each rationale task; None: 1.
        teachers: learn from these only; None: from all.
        split: rows to learn from.
        validation_split: rows to select on; 15 % of the rows are held out where the dataset has no such split.
        epochs: passes over the rows; `steps` wins.
        steps: optimiser steps.
        lr: peak learning rate.
        batch: rows a step.
        accumulate: micro-batches a step is cut into.
        eval_steps: steps between two validations.
        bf16: compute in bfloat16.
        choice_orders: orders in which the choices of a row are shown, in turn.
        reduction: `token-mean` or `sequence-sum`.
        seed: of every random choice.
    """

    student: str
    objective: str
    labels: Labels = "gold"
    rationale_weight: float | None = None
    teachers: tuple[str, ...] | None = None
    split: str = "train"
    validation_split: str = "validation"
    epochs: float | None = None
    steps: int | None = None
    lr: float | None = None
    batch: int | None = None
    accumulate: int = 1
    eval_steps: int | None = None
    bf16: bool | None = None
    choice_orders: int | None = None
    reduction: str = "token-mean"
    seed: int = 0

    @property
    def weight(self) -> float:
        """Lambda of each rationale task, given or default."""
        return 1.0 if self.rationale_weight is None else self.rationale_weight

    def check(self) -> None:
        """Refuse values that cannot be, and options without effect.

        Raises:
            ConfigError: names the option.
            MethodError: the objective or the student does not read an option that is given.
        """
        objective = objective_named(self.objective)
        check_student_name(self.student)
        _check_student_can(self.student, objective)
        self._check_values()
        for name, option in _OPTION_NAMES.items():
            if getattr(self, name) is not None and name not in objective.options:
                readers = ", ".join(other.name for other in OBJECTIVES.values() if name in other.options)
                raise MethodError(
                    f"{option} has no effect on objective {objective.name}; leave it out, or take an objective that "
                    f"reads it: {readers}"
                )

    def _check_values(self) -> None:
        for name in ("epochs", "steps", "lr", "batch", "accumulate", "eval_steps", "choice_orders"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"{value} is not above 0", place=f"--{name.replace('_', '-')}")
        if not (self.weight >= 0 and math.isfinite(self.weight)):
            raise ConfigError(f"{self.weight} is not 0 or above", place="--lambda")
        if self.validation_split == "test":
            raise ConfigError(
                "'test' is kept for evaluation and never selected on; name another split, or leave the option out",
                place="--validation-split",
            )
        if self.split == self.validation_split:
            raise ConfigError(f"--split and --validation-split are both {self.split!r}; select on other rows")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("several processes were launched, and training runs in one; start it without torchrun")


def fit(
    dataset: Dataset,
    options: FitOptions,
    out: Path,
    *,
    report: Callable[[Progress], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Distill a student, go on where an earlier run of the same command stopped, or return what it reached.

    Args:
        dataset: rows of all splits.
        options: everything else that decides about the result.
        out: folder for the student; new, empty, or of the same run.
        report: called with progress.
        say: called with messages for a person.

    Returns: the record that is also written to run.json.

    Raises:
        ConfigError: an option cannot be, or `out` holds something else.
        DataError: the dataset has no rows to learn from or to select on.
        MethodError: objective, student and dataset do not go together.
    """
    options.check()
    objective = objective_named(options.objective)
    folder = RunFolder.open(out, _identity(dataset, options))
    if (finished := _finished(folder, say)) is not None:
        return finished
    weights = Weights(options.teachers or dataset.teachers, options.weight, options.labels)
    objective.check(dataset, weights)
    train_rows, validation, split_note = _split(dataset, options)
    assigned = _assign(train_rows, objective, weights)
    if split_note:
        say(split_note)
    return _run(folder, dataset, options, assigned, validation, report=report, say=say)


def _run(
    folder: RunFolder,
    dataset: Dataset,
    options: FitOptions,
    assigned: list[Assignment],
    validation: Sequence[Question],
    *,
    report: Callable[[Progress], None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    student = make_student(options.student, texts=_texts(assigned), seed=options.seed)
    tasks = list(dict.fromkeys(target.task for _, targets in assigned for target in targets))
    if not student.writes_text and tasks != [LABEL]:
        raise MethodError(f"{options.student} scores choices and cannot write rationales; use --objective fine-tune")
    if student.kind == "encoder" and (options.choice_orders or 1) > 1:
        raise MethodError(
            f"--choice-orders has no effect on {options.student}, which scores every choice by itself; leave it out, "
            "or take a student that writes, such as tiny-t5"
        )
    schedule = _schedule(student.recipe, options, len(assigned))
    items = _encode(student, assigned, tasks, orders=schedule.recipe.choice_orders, seed=options.seed)
    with folder.locked():
        # Between the first look and the lock, another process may have finished this run.
        if (finished := _finished(folder, say)) is not None:
            return finished
        rows = {"learned": len(items), "validation": len(validation), "truncated": student.truncated, "tasks": tasks}
        result = _train(folder, student, items, validation, schedule, num_tasks=len(tasks), report=report, say=say)
        with quiet_transformers():
            student.save(folder.prepare_saving())
        return folder.finish(_record(folder, dataset, student, schedule, result, rows))


def _finished(folder: RunFolder, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The record of this very run where it is finished; the user is told."""
    if (finished := folder.finished) is not None:
        say(f"{folder.path} holds this very run, finished; nothing to do")
    return finished


def _train(
    folder: RunFolder,
    student: Student,
    items: list[list[Item]],
    validation: Sequence[Question],
    schedule: Schedule,
    *,
    num_tasks: int,
    report: Callable[[Progress], None],
    say: Callable[[str], None],
) -> TrainingResult:
    """Train in a held folder, from its last checkpoint where there is one."""
    from kp_train.evaluate import predict_choices
    from kp_train.trainer import train

    folder.begin()
    if checkpoint := folder.last_checkpoint():
        say(f"going on from step {checkpoint.name.removeprefix('checkpoint-')} of {schedule.steps}")

    def accuracy() -> float:
        predictions = predict_choices(student, validation)
        return sum(bool(prediction.correct) for prediction in predictions) / len(predictions)

    return train(
        student,
        items,
        num_tasks=num_tasks,
        schedule=schedule,
        evaluate=accuracy,
        folder=folder.checkpoints,
        resume_from=checkpoint,
        report=report,
    )


def _check_student_can(student: str, objective: Objective) -> None:
    kind = STUDENTS.get(student)
    if kind is not None and objective.name not in kind.objectives:
        raise MethodError(
            f"{student} scores choices and cannot write rationales, so objective {objective.name} is not for it; use "
            f"--objective {kind.objectives[0]}, or a student that writes, such as tiny-t5"
        )


def _identity(dataset: Dataset, options: FitOptions) -> dict[str, Any]:
    package = _PACKAGES[0]
    chosen = {**asdict(options), "rationale_weight": options.weight}
    identity = {"dataset": dataset.hashes, **chosen, package: version(package)}
    if (checkpoint := local_checkpoint(options.student)) is not None:
        identity["student_files"] = _hash_checkpoint(checkpoint)
    return identity


def _hash_checkpoint(folder: Path) -> dict[str, str]:
    """Hashes of what a checkpoint may be loaded from; hidden files and the record of a run are no part of it."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    return hash_files(folder, [path for path in files if path.name[0] != "." and path.name != RUN_FILE])


def _split(dataset: Dataset, options: FitOptions) -> tuple[Dataset, list[Question], str]:
    """Rows to learn from, questions to select on, and a note where rows had to be held out."""
    train, note = dataset.split(options.split), ""
    if dataset.has_split(options.validation_split):
        validation = dataset.split(options.validation_split)
    else:
        train, validation = train.hold_out()
        note = f"no split {options.validation_split!r}: {len(validation.rows)} rows of {options.split!r} are held out"
    questions = [question for row in validation.rows if (question := _to_select_on(row, options.labels)) is not None]
    if not questions:
        raise DataError(
            "no choice question with an answer to select on; the validation rows need choices and answers",
            place=dataset.place,
        )
    return train, questions, note


def _to_select_on(row: Row, labels: Labels) -> Question | None:
    """The question with the answer that selection compares with; None: it has none."""
    question = row.question
    if labels == "purified":
        index = question.choices.index(row.purified_answer) if row.purified_answer in question.choices else None
        question = replace(question, answer=row.purified_answer, answer_index=index)
    return question if question.choices and question.answer_index is not None else None


def _assign(dataset: Dataset, objective: Objective, weights: Weights) -> list[Assignment]:
    assigned = [(row, targets) for row in dataset.rows if (targets := objective.targets(row, weights))]
    if not any(target.task == LABEL for _, targets in assigned for target in targets):
        other = "purified" if weights.labels == "gold" else "gold"
        raise DataError(f"no row has a {weights.labels} answer; try --labels {other}", place=dataset.place)
    return assigned


def _texts(assigned: Sequence[Assignment]) -> list[str]:
    texts = {question_input(row.question) for row, _ in assigned}
    for _, targets in assigned:
        texts.update(text for target in targets for text in (target.prefix, target.text))
    return sorted(texts)


def _encode(
    student: Student, assigned: Sequence[Assignment], tasks: Sequence[str], *, orders: int, seed: int
) -> list[list[Item]]:
    """Each row in each order of its choices, tokenised once."""
    number = {task: index for index, task in enumerate(tasks)}
    draw = random.Random(f"choices:{seed}")
    items = []
    for row, targets in assigned:
        wordings = [row, *(reordered(row, draw) for _ in range(orders - 1))]
        items.append(
            [
                tuple(student.encode(wording.question, target, task=number[target.task]) for target in targets)
                for wording in wordings
            ]
        )
    return items


def _schedule(recipe: Recipe, options: FitOptions, num_rows: int) -> Schedule:
    from kp_train.losses import REDUCTIONS
    from kp_train.trainer import Schedule

    given = {name: getattr(options, name) for name in ("lr", "batch", "epochs", "bf16", "choice_orders")}
    recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None})
    if options.accumulate > recipe.batch:
        raise ConfigError(f"{options.accumulate} micro-batches of {recipe.batch} rows", place="--accumulate")
    if options.reduction not in REDUCTIONS:
        raise ConfigError(f"{options.reduction!r} is none of {', '.join(REDUCTIONS)}", place="--reduction")
    steps = options.steps or math.ceil(recipe.epochs * num_rows / recipe.batch)
    return Schedule(
        recipe=recipe,
        steps=steps,
        accumulate=options.accumulate,
        eval_steps=min(options.eval_steps or math.ceil(steps / EVALUATIONS), steps),
        reduction="token-mean" if options.reduction == "token-mean" else "sequence-sum",
        seed=options.seed,
    )


def _record(
    folder: RunFolder,
    dataset: Dataset,
    student: Student,
    schedule: Schedule,
    result: TrainingResult,
    rows: dict[str, Any],
) -> dict[str, Any]:
    return {
        "out": str(folder.path),
        "steps": result.steps,
        "best_step": result.best_step,
        "seconds": round(result.seconds, 3),
        "tokens": result.tokens,
        "flops": result.flops,
        "validation_accuracy": result.accuracy,
        "teacher_calls": 0,
        "parameters": student.model.num_parameters(),
        "rows": rows,
        "schedule": asdict(schedule),
        "dataset_path": dataset.place,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "curve": list(result.curve),
    }
