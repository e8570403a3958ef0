"""One student of one set, as `student_mcqa.py` makes it: where it lies, how it is trained, what it answers right.

Axes: Q test questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from frozen_scorer import encode_pairs, fit_frozen
from mcqa_sets import EVERY_SET, PLAIN, SetFolder

from kp_data.errors import ConfigError
from kp_data.tables import read_json, read_table, write_json
from kp_train.evaluate import evaluate_student
from kp_train.fit import fit
from kp_train.fit_options import FitOptions

Array = np.ndarray[Any, Any]

RETRIEVED: Final = 32
FINE_TUNED: Final = "fine-tuned"
FROZEN: Final = "frozen"
KINDS: Final = (FINE_TUNED, FROZEN)


@dataclass(frozen=True)
class Cell:
    """One student of one set: which rows of rationales it looks up, from which seed, and how it was trained."""

    folder: SetFolder
    kind: str
    row: str
    seed: int

    @property
    def place(self) -> Path:
        """Its folder, or its file where the encoder was frozen."""
        if self.kind == FROZEN:
            return self.folder.work / FROZEN / f"{self.row}-{self.seed}.json"
        return self.folder.work / f"{self.row}-{self.seed}"

    @property
    def done(self) -> bool:
        """Whether it is there, trained to the end."""
        if self.kind == FROZEN:
            return self.place.is_file()
        return (self.place / "student.json").is_file() and not (self.place / "checkpoints").exists()

    @cached_property
    def validation(self) -> float:
        """Accuracy on validation of what was selected there."""
        if self.kind == FROZEN:
            return float(read_json(self.place)["validation"])
        return float(read_json(self.place / "run.json")["validation_accuracy"])

    @cached_property
    def right_Q(self) -> Array:
        """(Q,) bool, which test questions it answers right; read once and kept."""
        if self.kind == FROZEN:
            return np.array(read_json(self.place)["right"]["test"], dtype=bool)
        kept = self.folder.work / "tested" / f"{self.row}-{self.seed}.json"
        if not kept.is_file():
            evaluation = evaluate_student(self.place, self.folder.dataset(PLAIN), split="test")
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json([bool(answer.correct) for answer in evaluation.predictions], kept)
        return np.array(read_json(kept), dtype=bool)

    def run(self) -> None:
        """Train it, go on with it, or find it done."""
        dataset = self.folder.dataset(self.row)
        if self.kind == FROZEN:
            pairs = encode_pairs(self.folder.dataset(PLAIN), self.folder.work / "pairs.safetensors")
            fit_frozen(dataset, pairs, self.place, count=None if self.row == PLAIN else RETRIEVED, seed=self.seed)
            return
        if self.row.endswith(EVERY_SET):
            raise ConfigError("what other sets hold can be looked up with --frozen alone", place=f"--rows {self.row}")
        plan = self.folder.plan
        options = FitOptions(
            student="minilm",
            objective="fine-tune",
            teachers=None if self.row == PLAIN or not dataset.teachers else dataset.teachers,
            retrieve=None if self.row == PLAIN else RETRIEVED,
            retrieve_as=None if self.row == PLAIN else "vectors",
            epochs=plan.epochs,
            eval_steps=plan.eval_steps,
            seed=self.seed,
        )
        fit(dataset, options, self.place, say=lambda message: print(message, flush=True))


def cells_done(folder: SetFolder, kind: str) -> dict[str, list[Cell]]:
    """Row to its finished cells, `plain` first, then in alphabetical order.

    A method that keeps the same teacher for every training question makes the dataset of that teacher, and so the same
    student: its row is then that teacher's, unless more students of its own were trained.
    """
    where = folder.work / FROZEN if kind == FROZEN else folder.work
    rows: dict[str, list[Cell]] = {}
    for path in sorted(where.glob("*-[0-9]*")) if where.is_dir() else ():
        row, _, seed = path.stem.rpartition("-")
        if seed.isdigit() and (cell := Cell(folder, kind, row, int(seed))).done:
            rows.setdefault(row, []).append(cell)
    for path in sorted((folder.work / "purified").glob("*/purified.parquet")):
        teacher = _only_teacher(path)
        if teacher in rows and len(rows[teacher]) >= len(rows.get(path.parent.name, ())):
            rows[path.parent.name] = rows[teacher]
    return dict(sorted(rows.items(), key=lambda item: (item[0] != PLAIN, item[0])))


def kept_shares(folder: SetFolder) -> dict[str, dict[str, float]]:
    """Method to the share of the training questions for which it keeps each teacher."""
    return {path.parent.name: _shares(path) for path in sorted((folder.work / "purified").glob("*/purified.parquet"))}


def mean_right_Q(cells: Sequence[Cell]) -> Array:
    """(Q,) float, share of the seeds that answer each test question right."""
    return np.asarray(np.mean([cell.right_Q for cell in cells], axis=0))


def mean_validation(cells: Sequence[Cell]) -> float:
    """Accuracy on validation, the mean of the seeds."""
    return float(np.mean([cell.validation for cell in cells]))


def _shares(path: Path) -> dict[str, float]:
    table = read_table(path)
    rows = zip(table["teacher"].to_pylist(), table["split"].to_pylist(), strict=True)
    kept = [teacher for teacher, split in rows if split == "train"]
    return {str(teacher): kept.count(teacher) / len(kept) for teacher in sorted(set(kept), key=str)}


def _only_teacher(path: Path) -> str | None:
    shares = _shares(path)
    return next(iter(shares)) if len(shares) == 1 else None
