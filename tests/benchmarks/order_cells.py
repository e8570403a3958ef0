"""The cells of `order_of_methods.py`: panels, purified datasets and students on disk, and what is right of each.

Axes: Q questions of a split.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from kp_data.errors import DataError
from kp_data.panel import Panel
from kp_data.purify import Partners, purify_panel
from kp_data.tables import read_json, read_table, write_json
from kp_train.dataset import Dataset, read_dataset

Array = np.ndarray[Any, Any]

SPLITS: Final = ("test", "ood")
ALL: Final = "all"
GOLD: Final = "gold only"
AGGREGATOR: Final = "practice/editor"


@dataclass(frozen=True)
class Setting:
    """What is run: where, how large, and for how long each student learns."""

    out: Path
    questions: int
    steps: int
    student: str


@dataclass(frozen=True)
class World:
    """One practice world, its first `count` teachers alone where that is given."""

    setting: Setting
    seed: int
    count: int | None = None

    @property
    def folder(self) -> Path:
        """Where its cells lie."""
        return self.setting.out / f"world{self.seed}"

    @property
    def cells(self) -> Path:
        """Where the cells of this number of teachers lie."""
        return self.folder / ("all_teachers" if self.count is None else f"first_{self.count}_teachers")

    @cached_property
    def panel(self) -> Panel:
        """What the teachers said, asked over HTTP once."""
        folder = self.folder / "panel"
        program = Path(sys.executable).with_name("kp-data")
        source = f"practice:{self.setting.questions}?seed={self.seed}"
        subprocess.run([str(program), "generate", source, "--out", str(folder), "--quiet"], check=True)
        panel = Panel.read(folder)
        return panel if self.count is None else Panel.read(folder, teachers=panel.teachers[: self.count])

    @cached_property
    def lessons(self) -> Dataset:
        """The panel as a student reads it."""
        return read_dataset(self.folder / "panel", teachers=self.panel.teachers)

    def ids(self, split: str) -> list[str]:
        """Questions of a split, in order."""
        return [question.id for question in self.panel.questions if question.split == split]


def make_cells(worlds: Sequence[World], names: Sequence[str]) -> None:
    """Purified datasets, then the students of them and what these answer; whatever is there already stays."""
    cells = [(name, world) for name in names for world in worlds]
    for name, world in cells:
        if name != GOLD:
            purify(world, name)
    for name, world in cells:
        digest, dataset, objective = lesson_of(world, name)
        answers = world.cells / "answers" / f"{digest}.jsonl"
        if not answers.is_file():
            print(f"world {world.seed}, {world.cells.name}: student of {name} …", file=sys.stderr, flush=True)
            train_and_ask(world, dataset, objective, answers)


def is_purified(world: World, method: str) -> bool:
    """Whether the purified dataset of a method is there."""
    return (world.cells / "purified" / method / "report.json").is_file()


def is_taught(world: World, method: str) -> bool:
    """Whether the student of a method is there."""
    return answers_of(world, method).is_file()


@cache
def answers_of(world: World, method: str) -> Path:
    """Where the answers of a method's student lie, of which the purified dataset must be there."""
    return world.cells / "answers" / f"{lesson_of(world, method)[0]}.jsonl"


def purify(world: World, method: str) -> dict[str, Any]:
    """The report of a purified folder, which is made unless it is there."""
    from kp_train.reward import learner_named

    folder = world.cells / "purified" / method
    if not is_purified(world, method):
        print(f"world {world.seed}, {world.cells.name}: {method} …", file=sys.stderr, flush=True)
        options = {"aggregator": AGGREGATOR} if method == "aggregation" else {}
        start = time.process_time()
        purify_panel(world.panel, method=method, out=folder, options=options, partners=Partners(learner=learner_named))
        write_json({"cpu_s": time.process_time() - start}, folder.with_suffix(".json"))
    report: dict[str, Any] = read_json(folder / "report.json")
    return report


def lesson_of(world: World, method: str) -> tuple[str, Dataset, str]:
    """What the student of a method learns: a digest of it, the rows, and the objective.

    Every rationale at once is TinyLLM's way: a task a teacher.
    """
    objective = {ALL: "tinyllm", GOLD: "fine-tune"}.get(method, "purified")
    plain = objective != "purified"
    dataset = world.lessons if plain else read_dataset(world.cells / "purified" / method, teachers=world.panel.teachers)
    learned = tuple(row for row in dataset.rows if row.question.split in ("train", "validation"))
    digest = hashlib.sha256(
        f"{objective} {world.setting.student} {world.setting.steps} {learned}".encode()
    ).hexdigest()[:16]
    # By digest alone, so that a student that another method began is gone on with.
    return digest, replace(dataset, rows=learned, hashes={"lessons": digest}), objective


def train_and_ask(world: World, dataset: Dataset, objective: str, answers: Path) -> None:
    """Fit a student and write what it answers to `test` and `ood`."""
    from kp_train.evaluate import evaluate_loaded, write_predictions
    from kp_train.fit import fit
    from kp_train.fit_options import FitOptions
    from kp_train.students import load_student

    start = time.process_time()
    options = FitOptions(world.setting.student, objective, steps=world.setting.steps, seed=world.seed)
    folder = world.cells / "students" / answers.stem
    record = fit(dataset, options, folder)
    student = load_student(folder)
    results = [evaluate_loaded(student, world.lessons.split(split)) for split in SPLITS]
    answers.parent.mkdir(parents=True, exist_ok=True)
    facts = {"cpu_s": time.process_time() - start, "validation_accuracy": record["validation_accuracy"]}
    write_json({**facts, "parameters": record["parameters"]}, answers.with_suffix(".json"))
    write_predictions([each for result in results for each in result.predictions], answers)


def kept_right_Q(world: World, method: str, split: str) -> Array:
    """(Q,) float, share of the rationales kept of each question that conclude the gold answer; 0 where none is kept.

    Raises: DataError, when this does not agree with the folder's own report.
    """
    folder = world.cells / "purified" / method
    right: dict[str, list[bool]] = {id_: [] for id_ in world.ids(split)}
    columns = ("id", "split", "teacher", "answer_index", "purified_answer_index")
    table = read_table(folder / "purified.parquet")
    for id_, its, teacher, gold, concluded in zip(*(table[name].to_pylist() for name in columns), strict=True):
        if its == split and teacher is not None:
            right[id_.removesuffix(f"#{teacher}")].append(concluded == gold)
    right_Q = np.array([np.mean(of) if of else 0.0 for of in right.values()])
    reported = read_json(folder / "report.json")["splits"][split]
    if abs(right_Q.mean() - reported["purified_accuracy"]) > 1e-9:
        raise DataError(
            f"{split}: its rows say {right_Q.mean()}, its report {reported['purified_accuracy']}", place=folder
        )
    return right_Q


def answered_right_Q(world: World, method: str, split: str) -> Array:
    """(Q,) float, whether the student of a method answers each question right."""
    lines = answers_of(world, method).read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    right = {answer["id"]: float(answer["correct"]) for answer in answers if answer["split"] == split}
    return np.array([right[id_] for id_ in world.ids(split)])
