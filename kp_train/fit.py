"""Distill one student: dataset and options in, a folder with the trained student out."""

from __future__ import annotations

import contextlib
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.schema import Question
from kp_train.batches import Item
from kp_train.dataset import Dataset, hash_files
from kp_train.encoding import Assignment, encode_rows
from kp_train.objectives import OBJECTIVES, Objective, Weights, objective_named, weigh_by_score
from kp_train.quiet import quiet_transformers
from kp_train.ranks import ranks_of_environment
from kp_train.run_folder import RUN_FILE, RunFolder
from kp_train.students import (
    STUDENTS,
    Lora,
    Recipe,
    Student,
    check_adaptable,
    check_student_name,
    local_checkpoint,
    make_student,
    save_student,
)
from kp_train.views import LABEL, VIEWS, Labels, Row, View, question_input

if TYPE_CHECKING:
    from kp_train.schedule import Progress, Schedule, TrainingResult

EVALUATIONS: Final = 12
"""How often a run is validated unless --eval-steps says otherwise."""

_PACKAGES: Final = ("knowledge-purification", "torch", "transformers", "tokenizers", "accelerate")

_OPTION_NAMES: Final = {
    "teachers": "--teachers",
    "rationale_weight": "--lambda",
    "view": "--view",
    "weight_by": "--weight-by",
    "as_published": "--as-published",
}
"""Options that only some objectives read, as on the command line."""

_HOW: Final = ("batch_tokens", "pack", "gradient_checkpointing", "shard")
"""Options that change memory and speed, never what is learned: with other ones it is the same run, which goes on."""

_ABOVE_ZERO: Final = (
    "epochs",
    "steps",
    "lr",
    "batch",
    "accumulate",
    "eval_steps",
    "choice_orders",
    "retrieve",
    "batch_tokens",
)


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
        view: how rationales are learned; None: `separate`.
        weight_by: `score`: rationales count by what their purifier gave them; None: all the same.
        as_published: train as TinyLLM's published code does: capped, padded, one forward pass a task, in float32.
        lora_rank: freeze the student and train adapters of this rank; None: train all of it.
        lora_alpha: scale of the adapters; None: twice the rank.
        lora_targets: layers to adapt; None: all linear ones.
        lora_keep: save the adapter alone, instead of adding it to the weights.
        batch_tokens: positions of a micro-batch, at most.
        pack: whether targets share sequences, where the student can.
        gradient_checkpointing: compute activations twice instead of keeping them.
        shard: spread weights and optimiser over the processes.
        retrieve: rationales of other training rows that a scorer of choices reads with each choice; None: none.
        retrieve_as: `vectors` or `text`; None: vectors.
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
    # None, not a value, is the default of each: a run of before there were such options stays the same run.
    view: View | None = None
    weight_by: Literal["score"] | None = None
    as_published: bool | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    lora_targets: tuple[str, ...] | None = None
    lora_keep: bool | None = None
    retrieve: int | None = None
    retrieve_as: Literal["vectors", "text"] | None = None
    batch_tokens: int | None = None
    pack: bool = True
    gradient_checkpointing: bool = False
    shard: bool = False

    @property
    def lora(self) -> Lora | None:
        """The adapter to train; None: the whole student is trained."""
        if self.lora_rank is None:
            return None
        return Lora(self.lora_rank, self.lora_alpha, self.lora_targets, bool(self.lora_keep))

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
        self._check_lora()
        # What is retrieved are the teachers' rationales, whatever the objective.
        read = (*objective.options, "teachers") if self.retrieve else objective.options
        for name, option in _OPTION_NAMES.items():
            if getattr(self, name) is not None and name not in read:
                readers = ", ".join(other.name for other in OBJECTIVES.values() if name in other.options)
                raise MethodError(
                    f"{option} has no effect on objective {objective.name}; leave it out, or take an objective that "
                    f"reads it: {readers}"
                )

    def _check_lora(self) -> None:
        if self.lora is not None:
            self.lora.check()
            check_adaptable(self.student)
        elif given := [name for name in ("lora_alpha", "lora_targets", "lora_keep") if getattr(self, name)]:
            raise ConfigError("has no effect without --lora-rank", place=f"--{given[0].replace('_', '-')}")

    def _check_values(self) -> None:
        if self.view is not None and self.view not in VIEWS:
            raise ConfigError(f"{self.view!r} is none of {', '.join(VIEWS)}", place="--view")
        if self.as_published and self.bf16:
            raise ConfigError("--as-published trains in float32; leave --bf16 out", place="--bf16")
        if self.retrieve_as is not None and not self.retrieve:
            raise ConfigError("has no effect without --retrieve", place="--retrieve-as")
        if self.retrieve_as not in (None, "vectors", "text"):
            raise ConfigError(f"{self.retrieve_as!r} is neither vectors nor text", place="--retrieve-as")
        if self.weight_by not in (None, "score"):
            raise ConfigError(f"{self.weight_by!r} is not score, the one thing to weigh by", place="--weight-by")
        for name in _ABOVE_ZERO:
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
        if self.shard and ranks_of_environment().size == 1:
            raise ConfigError(
                "spreads a student over several processes, and there is one; start them with torchrun or accelerate "
                "launch, or leave the option out",
                place="--shard",
            )


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
    weights = Weights(options.teachers or dataset.teachers, options.weight, options.labels, options.view or "separate")
    objective.check(dataset, weights)
    train_rows, validation, split_note = _split(dataset, options)
    if options.weight_by:
        train_rows = weigh_by_score(train_rows)
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
    student = make_student(
        options.student,
        texts=_texts(assigned),
        seed=options.seed,
        lora=options.lora,
        as_published=bool(options.as_published),
    )
    if options.retrieve:
        from kp_train.students.encoder import read_rationales

        learned = [row for row, _ in assigned]
        reading = options.retrieve_as or "vectors"
        read_rationales(student, learned, count=options.retrieve, reading=reading, labels=options.labels)
    tasks = list(dict.fromkeys(target.task for _, targets in assigned for target in targets))
    if not student.writes_text and tasks != [LABEL]:
        raise MethodError(f"{options.student} scores choices and cannot write rationales; use --objective fine-tune")
    if student.kind == "encoder" and (options.choice_orders or 1) > 1:
        raise MethodError(
            f"--choice-orders has no effect on {options.student}, which scores every choice by itself; leave it out, "
            "or take a student that writes, such as tiny-t5"
        )
    schedule = _schedule(student.recipe, options, len(assigned))
    items = encode_rows(student, assigned, tasks, orders=schedule.recipe.choice_orders, seed=options.seed)
    ranks = ranks_of_environment()
    with folder.locked() if ranks.first else contextlib.nullcontext(), ranks.joined():
        # Between the first look and the lock, another process may have finished this run.
        if (finished := ranks.told(_finished(folder, say))) is not None:
            return finished
        rows = {"learned": len(items), "validation": len(validation), "truncated": student.truncated, "tasks": tasks}
        result = _train(folder, student, items, validation, schedule, num_tasks=len(tasks), report=report, say=say)
        if not ranks.first:
            return ranks.told({})
        with quiet_transformers():
            save_student(student, folder.prepare_saving(), lora=options.lora)
        return ranks.told(folder.finish(_record(folder, dataset, student, schedule, result, rows)))


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

    ranks = ranks_of_environment()
    if ranks.first:
        folder.begin()
    if checkpoint := ranks.told(folder.last_checkpoint() if ranks.first else None):
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
        ranks=ranks,
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
    for name in _HOW:
        del chosen[name]
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


def _schedule(recipe: Recipe, options: FitOptions, num_rows: int) -> Schedule:
    from kp_train.losses import REDUCTIONS
    from kp_train.schedule import Schedule

    given = {name: getattr(options, name) for name in ("lr", "batch", "epochs", "bf16", "choice_orders")}
    recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None})
    if options.accumulate > recipe.batch:
        raise ConfigError(f"{options.accumulate} micro-batches of {recipe.batch} rows", place="--accumulate")
    if recipe.batch < ranks_of_environment().size:
        raise ConfigError(
            f"{recipe.batch} rows a step are too few for {ranks_of_environment().size} processes", place="--batch"
        )
    if options.reduction not in REDUCTIONS:
        raise ConfigError(f"{options.reduction!r} is none of {', '.join(REDUCTIONS)}", place="--reduction")
    steps = options.steps or math.ceil(recipe.epochs * num_rows / recipe.batch)
    return Schedule(
        recipe=recipe,
        steps=steps,
        accumulate=options.accumulate,
        **{name: getattr(options, name) for name in _HOW},
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
        "token_efficiency": result.token_efficiency,
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
