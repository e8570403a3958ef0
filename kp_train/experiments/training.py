"""One student of a sweep: its lessons, how long it learns, what it answers to the test questions."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from kp_data.errors import KpError
from kp_data.tables import read_json, write_json
from kp_train.dataset import Dataset, read_dataset
from kp_train.experiments.config import INFERENCE, STEP_BY_STEP, Budget, StudentSpec, Sweep, digest_of
from kp_train.experiments.fresh import fresh_checkpoint, recipe_of, texts_of
from kp_train.experiments.panels import PANEL, TEST, TRAIN, VALIDATION, own_rows, routed_rows
from kp_train.experiments.plan import OUT_OF_DOMAIN, Cell, Task
from kp_train.fit import fit
from kp_train.fit_options import FitOptions
from kp_train.objectives import Weights, objective_named
from kp_train.views import LABEL, Row

MEASURED_ROWS: Final = 256
"""Rows whose tokens and FLOPs are counted, to know how many steps a budget buys."""
ANSWERS, RESULT, STUDENT = "answers.jsonl", "result.json", "student"


def train_cell(sweep: Sweep, task: Task, *, root: Path, joined: bool) -> dict[str, Any]:
    """Train a student, ask it the test questions, and write answers and figures into the task's folder.

    Args:
        sweep: the file.
        task: of kind `cell`.
        root: the sweep's folder.
        joined: whether in-domain panels were joined, and rows must be told apart.

    Raises: KpError, when the lessons do not fit the student.
    """
    cell, folder = task.cell, root / task.name
    assert cell is not None
    spec = sweep.student(cell.student)
    lessons = lessons_of(sweep, cell, root / task.needs[0], joined=joined)
    begun = time.process_time()
    name = _checkpoint(sweep, cell, spec, root / str(task.facts["panel"]), lessons, root)
    record = {} if cell.method == INFERENCE else _fit(sweep, cell, spec, name, lessons, folder / STUDENT)
    spent = time.process_time() - begun
    figures = _test(sweep, cell, folder, name if cell.method == INFERENCE else str(folder / STUDENT), lessons)
    if not sweep.keep_students:
        _drop_weights(folder / STUDENT)
    return {**_training_figures(record), "cpu_s": round(spent, 2), **figures}


def lessons_of(sweep: Sweep, cell: Cell, source: Path, *, joined: bool) -> Dataset:
    """Rows of a cell's dataset: train with what its method makes of the teachers' rationales, validation, test."""
    teachers = [teacher.name for teacher in sweep.teachers[: cell.count]]
    if cell.domain == OUT_OF_DOMAIN:
        whole = routed_rows(source, method=cell.method, teachers=teachers)
    else:
        folder = source / PANEL if (source / PANEL).is_dir() else source
        whole = own_rows(read_dataset(folder, teachers=teachers or None), cell.dataset, joined=joined)
    # By what is learned, and not by files that hold other rows too: an equal lesson is the same run.
    learned = [row for row in whole.rows if row.question.split in (TRAIN, VALIDATION)]
    return replace(whole, hashes={"lessons": hashlib.sha256(repr(learned).encode()).hexdigest()})


def steps_of(budget: Budget, lessons: Dataset, options: FitOptions) -> int:
    """Optimiser steps that a budget buys a student on these lessons.

    Tokens are those read and written; FLOPs the student's own estimate. Both are measured on a sample of the rows in
    the order of their hashed ids.
    """
    if budget.steps is not None:
        return budget.steps
    tokens, flops, batch = cost_of_row(lessons, options)
    wanted = budget.tokens / tokens if budget.tokens is not None else float(budget.flops or 0) / flops
    return max(1, round(wanted / batch))


def cost_of_row(lessons: Dataset, options: FitOptions) -> tuple[float, float, int]:
    """Mean tokens and mean FLOPs of one visit to a row, and the rows of a step."""
    from kp_train.encoding import encode_rows
    from kp_train.students import make_student

    objective = objective_named(options.objective)
    weights = Weights(options.teachers or lessons.teachers, options.weight, options.labels, options.view or "separate")
    rows = sorted(lessons.split(TRAIN).rows, key=lambda row: hashlib.sha256(row.question.id.encode()).digest())
    assigned = [(row, targets) for row in rows[:MEASURED_ROWS] if (targets := objective.targets(row, weights))]
    student = make_student(options.student, texts=texts_of([lessons]), seed=options.seed)
    tasks = list(dict.fromkeys(target.task for _, targets in assigned for target in targets)) or [LABEL]
    items = [wordings[0] for wordings in encode_rows(student, assigned, tasks, orders=1, seed=options.seed)]
    tokens = sum(student.tokens_of(example) for item in items for example in item) / len(items)
    flops = sum(student.training_flops(student.collate([item])) for item in items) / len(items)
    return tokens, flops, options.batch or student.recipe.batch


def fit_options(spec: StudentSpec, cell: Cell, student: str, teachers: Sequence[str]) -> FitOptions:
    """What `kp-train fit` would be told for a cell, but for the number of steps."""
    reads = objective_named(cell.objective).options
    given = {"rationale_weight": spec.rationale_weight, "view": spec.view}
    return FitOptions(
        student=student,
        objective=cell.objective,
        teachers=tuple(teachers) if "teachers" in reads and teachers else None,
        accumulate=spec.accumulate,
        batch_tokens=spec.batch_tokens,
        gradient_checkpointing=spec.gradient_checkpointing,
        reduction=spec.reduction,
        lora_rank=spec.lora_rank,
        seed=cell.seed,
        log_to=(),
        **recipe_of(spec),
        **{name: value for name, value in given.items() if value is not None and name in reads},  # type: ignore[arg-type]
    )


def _checkpoint(sweep: Sweep, cell: Cell, spec: StudentSpec, panel: Path, lessons: Dataset, root: Path) -> str:
    """What `--student` would be: a name, or the folder of fresh weights for this seed."""
    if spec.shape is None:
        return str(spec.model)
    folder = panel / PANEL if (panel / PANEL).is_dir() else panel
    read = [read_dataset(folder)]
    if cell.domain == OUT_OF_DOMAIN:
        # Methods ask different teachers here, and the questions are what all of their students have in common.
        read.append(replace(lessons, rows=tuple(Row(row.question) for row in lessons.rows), teachers=()))
    texts = texts_of(read)
    key = digest_of("fresh", spec.shape, texts, cell.seed)
    return str(fresh_checkpoint(spec.shape, texts, root / "fresh" / f"{spec.name}-s{cell.seed}-{key}", seed=cell.seed))


def _fit(sweep: Sweep, cell: Cell, spec: StudentSpec, student: str, lessons: Dataset, folder: Path) -> dict[str, Any]:
    teachers = lessons.teachers if cell.objective in (STEP_BY_STEP, "tinyllm") else ()
    options = fit_options(spec, cell, student, teachers)
    steps = steps_of(sweep.budget, lessons, options)
    options = replace(options, steps=steps, eval_steps=max(1, -(-steps // sweep.budget.evaluations)))
    return fit(lessons, options, folder)


def _test(sweep: Sweep, cell: Cell, folder: Path, student: str, lessons: Dataset) -> dict[str, Any]:
    """Test questions are read here, once, after everything was chosen."""
    from kp_train.evaluate import evaluate_loaded, evaluate_writing, write_predictions
    from kp_train.scoring import scoring_named
    from kp_train.students import load_student, make_student

    begun = time.process_time()
    if cell.method == INFERENCE:
        loaded = make_student(student, texts=texts_of([lessons]), seed=cell.seed)
    else:
        loaded = load_student(Path(student))
    test = lessons.split(TEST)
    if sweep.score == "generate":
        view = sweep.student(cell.student).view or "separate"
        found = evaluate_writing(loaded, test, view=view if cell.objective != "fine-tune" else "separate")
    else:
        found = evaluate_loaded(loaded, test, method=scoring_named(sweep.score))
    write_predictions(found.predictions, folder / ANSWERS)
    return {
        "accuracy": found.accuracy,
        "n": found.n,
        "per_subject": found.per_subject,
        "test_cpu_s": round(time.process_time() - begun, 2),
    }


def _training_figures(record: dict[str, Any]) -> dict[str, Any]:
    names = ("steps", "best_step", "seconds", "tokens", "flops", "validation_accuracy", "parameters")
    return {name: record.get(name) for name in names}


def _drop_weights(student: Path) -> None:
    """What is left of a student is the record of its run: hundreds of large students would fill a disk."""
    if not (student / "run.json").is_file():
        return
    write_json(read_json(student / "run.json"), student.with_name("run.json"))
    # By a rename first: half a student would neither answer nor be gone on with.
    gone = student.with_name(".dropped")
    shutil.rmtree(gone, ignore_errors=True)
    student.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


__all__ = ["ANSWERS", "RESULT", "KpError", "cost_of_row", "fit_options", "lessons_of", "steps_of", "train_cell"]
