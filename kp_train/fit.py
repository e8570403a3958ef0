"""Distill one student: dataset and options in, a folder with the trained student out."""

from __future__ import annotations

import contextlib
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.schema import Question
from kp_train.batches import Item
from kp_train.card_facts import base_of
from kp_train.dataset import Dataset, hash_files
from kp_train.encoding import Assignment, encode_rows
from kp_train.fit_options import HOW, FitOptions
from kp_train.model_card import write_card
from kp_train.objectives import Objective, Weights, objective_named, weigh_by_score
from kp_train.quiet import quiet_transformers
from kp_train.ranks import ranks_of_environment
from kp_train.run_folder import RUN_FILE, RunFolder
from kp_train.student_folder import CARD_FILE, EVALUATIONS_FILE
from kp_train.students import (
    Recipe,
    Student,
    local_checkpoint,
    make_student,
    save_student,
)
from kp_train.views import LABEL, Labels, Row, question_input

if TYPE_CHECKING:
    from kp_train.schedule import Progress, Schedule, TrainingResult

EVALUATIONS: Final = 12
"""How often a run is validated unless --eval-steps says otherwise."""

_PACKAGES: Final = ("knowledge-purification", "torch", "transformers", "tokenizers", "accelerate")


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
        result = _train(folder, student, items, validation, schedule, tasks=tasks, report=report, say=say)
        if not ranks.first:
            return ranks.told({})
        saving = folder.prepare_saving()
        with quiet_transformers():
            save_student(student, saving, lora=options.lora)
        record = _record(folder, dataset, student, schedule, result, rows) | {"base": base_of(options.student)}
        write_card(saving, {**record, "identity": folder.identity}, existing=folder.path / CARD_FILE)
        return ranks.told(folder.finish(record))


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
    tasks: Sequence[str],
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
        tasks=tasks,
        schedule=schedule,
        evaluate=accuracy,
        folder=folder.checkpoints,
        resume_from=checkpoint,
        report=report,
        ranks=ranks,
    )


def _identity(dataset: Dataset, options: FitOptions) -> dict[str, Any]:
    package = _PACKAGES[0]
    chosen = {**asdict(options), "rationale_weight": options.weight}
    for name in HOW:
        del chosen[name]
    identity = {"dataset": dataset.hashes, **chosen, package: version(package)}
    if (checkpoint := local_checkpoint(options.student)) is not None:
        identity["student_files"] = hash_checkpoint(checkpoint)
    return identity


def hash_checkpoint(folder: Path) -> dict[str, str]:
    """Hashes of what a checkpoint may be loaded from; hidden files, its card and figures are no part of it."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    records = (RUN_FILE, CARD_FILE, EVALUATIONS_FILE)
    return hash_files(folder, [path for path in files if path.name[0] != "." and path.name not in records])


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

    given = {field.name: getattr(options, field.name) for field in fields(recipe)}
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
        **{name: getattr(options, name) for name in HOW},
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
        "device": result.device,
        "mfu": result.mfu,
        "validation_accuracy": result.accuracy,
        "teacher_calls": 0,
        "parameters": student.model.num_parameters(),
        "rows": rows,
        "schedule": asdict(schedule),
        "dataset": dataset.as_record(),
        "dataset_path": dataset.place,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "curve": list(result.curve),
    }
