"""Read a dataset folder into rows: a panel, a purified folder, or a pushed one.

A panel folder holds `questions.parquet` and, unless it is gold alone, `responses.parquet`. A purified folder holds
`purified.parquet` and may hold the panel's `responses.parquet` beside it. A pushed folder holds `README.md`,
`purified/*.parquet` and may hold `panel/*.parquet`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kp_data.errors import DataError
from kp_data.panel import NONE, Panel
from kp_data.schema import EVERY_RATIONALE, Question
from kp_data.tables import check_questions, check_responses, questions_of, read_table
from kp_train.provenance import Provenance, read_provenance
from kp_train.views import Row

HELD_OUT_SHARE = 0.15
"""Share of train that stands in for a missing validation split; the same as in purification."""


@dataclass(frozen=True)
class Dataset:
    """Rows to learn from or to be evaluated on.

    Attributes:
        place: where they come from, for messages.
        rows: one a question.
        teachers: whose rationales the rows hold.
        conclusions: teacher to the choice that it concludes, by question id; for agreement.
        hashes: file name to the SHA-256 of its bytes.
        provenance: what is known of it beside its rows.
    """

    place: str
    rows: tuple[Row, ...]
    teachers: tuple[str, ...] = ()
    conclusions: dict[str, dict[str, int]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def digest(self) -> str:
        """One SHA-256 over the names and hashes of its files."""
        return hashlib.sha256(json.dumps(self.hashes, sort_keys=True).encode()).hexdigest()

    def as_record(self) -> dict[str, Any]:
        """What the record of a run keeps of it."""
        return {**self.provenance.as_dict(), "sha256": self.digest, "files": dict(self.hashes)}

    def split(self, name: str) -> Dataset:
        """The rows of one split.

        Raises:
            DataError: there is none; names the splits there are.
        """
        rows = tuple(row for row in self.rows if row.question.split == name)
        if not rows:
            there = ", ".join(sorted({row.question.split for row in self.rows})) or "none"
            raise DataError(f"no question in split {name!r}; the dataset has {there}", place=self.place)
        return replace(self, rows=rows)

    def has_split(self, name: str) -> bool:
        """Whether any row belongs to this split."""
        return any(row.question.split == name for row in self.rows)

    def hold_out(self, share: float = HELD_OUT_SHARE) -> tuple[Dataset, Dataset]:
        """These rows without a share of them, and that share: those whose hashed id is smallest, at least one.

        Raises:
            DataError: fewer than two rows.
        """
        if len(self.rows) < 2:
            raise DataError("too few questions to hold any out for validation; give at least two", place=self.place)
        order = sorted(self.rows, key=lambda row: hashlib.sha256(row.question.id.encode()).digest())
        held = {row.question.id for row in order[: max(1, round(share * len(order)))]}
        kept = tuple(row for row in self.rows if row.question.id not in held)
        out = tuple(row for row in self.rows if row.question.id in held)
        return replace(self, rows=kept), replace(self, rows=out)


def gold_dataset(questions: Sequence[Question], place: str) -> Dataset:
    """Questions with gold answers and no rationales."""
    digest = hashlib.sha256(repr(list(questions)).encode()).hexdigest()
    known = Provenance(place, "practice" if place.startswith("practice:") else "memory")
    rows = tuple(Row(question) for question in questions)
    return Dataset(place, rows, hashes={"questions": digest}, provenance=known)


def read_dataset(folder: Path, *, teachers: Sequence[str] | None = None) -> Dataset:
    """The dataset of a panel folder, a purified folder or a pushed folder.

    Args:
        folder: the folder.
        teachers: take only these teachers' rationales, in this order; default: all.

    Raises:
        DataError: no such folder, a file is missing or broken, or an unknown teacher is named.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("no such folder; give a panel or purified folder, or a hub name namespace/name", place=folder)
    if (folder / "purified.parquet").is_file():
        return _read_purified(folder, [folder / "purified.parquet"], _if_file(folder / "responses.parquet"), teachers)
    if (folder / "README.md").is_file() and (parts := sorted(folder.glob("purified/*.parquet"))):
        return _read_purified(folder, parts, sorted(folder.glob("panel/*.parquet")), teachers)
    if (folder / "questions.parquet").is_file():
        return _read_panel(folder, teachers)
    raise DataError(
        "neither questions.parquet nor purified.parquet here; make them with `kp-data generate` and `kp-data purify`",
        place=folder,
    )


def _if_file(path: Path) -> list[Path]:
    return [path] if path.is_file() else []


def _read_panel(folder: Path, teachers: Sequence[str] | None) -> Dataset:
    paths = [folder / "questions.parquet", *_if_file(folder / "responses.parquet")]
    questions = questions_of(check_questions(read_table(paths[0]), paths[0]))
    rows = tuple(Row(question) for question in questions)
    known = read_provenance(folder)
    dataset = Dataset(str(folder), rows, hashes=hash_files(folder, paths), provenance=known)
    return _with_teachers(dataset, paths[1:], teachers)


def _read_purified(folder: Path, parts: list[Path], panel: list[Path], teachers: Sequence[str] | None) -> Dataset:
    table = check_questions(_concatenate(parts), folder)
    for name in ("rationale", "teacher"):
        if name not in table.column_names:
            raise DataError(f"column '{name}' is missing; this is no purified dataset", place=parts[0])
        if table.schema.field(name).type not in (pa.string(), pa.large_string(), pa.null()):
            raise DataError(f"column '{name}' holds no texts", place=parts[0])
    rows, known = _purified_rows(table, parts[0]), read_provenance(folder)
    dataset = Dataset(str(folder), rows, hashes=hash_files(folder, [*parts, *panel]), provenance=known)
    if "method" in table.column_names and set(table["method"].to_pylist()) == {EVERY_RATIONALE}:
        dataset = _regroup(dataset, table["teacher"].to_pylist())
    return _with_teachers(dataset, panel, teachers)


def _purified_rows(table: pa.Table, place: Path) -> tuple[Row, ...]:
    questions = questions_of(table)
    concluded: list[int | None] = [None] * len(questions)
    if "purified_answer_index" in table.column_names:
        concluded = table["purified_answer_index"].to_pylist()
    rows = []
    columns = (questions, table["rationale"].to_pylist(), concluded, _scores(table, place))
    for number, (question, text, index, score) in enumerate(zip(*columns, strict=True), start=1):
        if index is not None and not 0 <= index < len(question.choices):
            raise DataError(
                f"column 'purified_answer_index', row {number}: {index}, but there are {len(question.choices)} choices",
                place=place,
            )
        answer = question.choices[index] if index is not None else None
        kept = text if text and text.strip() else None
        rows.append(Row(question, purified=kept, purified_answer=answer, score=score))
    return tuple(rows)


def _scores(table: pa.Table, place: Path) -> list[float | None]:
    """What the purifier gave each rationale that it kept."""
    if "score" not in table.column_names:
        return [None] * table.num_rows
    try:
        scores: list[float | None] = table["score"].cast(pa.float64()).to_pylist()
    except pa.ArrowException as error:
        raise DataError("column 'score' holds no numbers", place=place) from error
    return scores


def _regroup(dataset: Dataset, teacher_of_row: Sequence[str | None]) -> Dataset:
    """Rows of `all`, one a question and teacher, as rows with every teacher's rationale."""
    grouped: dict[str, Row] = {}
    for row, teacher in zip(dataset.rows, teacher_of_row, strict=True):
        if teacher is None:  # nobody's rationale was kept, and the question keeps its own id
            grouped.setdefault(row.question.id, Row(row.question))
            continue
        if not row.question.id.endswith(f"#{teacher}"):
            return dataset
        question = replace(row.question, id=row.question.id.removesuffix(f"#{teacher}"))
        known = grouped.setdefault(question.id, Row(question))
        if row.purified:
            grouped[question.id] = replace(known, rationales={**known.rationales, teacher: row.purified})
    names = tuple(dict.fromkeys(name for name in teacher_of_row if name is not None))
    return replace(dataset, rows=tuple(grouped.values()), teachers=names)


def _with_teachers(dataset: Dataset, paths: Sequence[Path], teachers: Sequence[str] | None) -> Dataset:
    """The dataset with the rationales and conclusions of the responses in these files."""
    if not paths:
        return _choose(dataset, teachers)
    responses = check_responses(_concatenate(paths), paths[0])
    questions = [row.question for row in dataset.rows]
    ours = pc.is_in(responses["question_id"], pa.array([question.id for question in questions], pa.string()))
    responses = responses.filter(ours)
    if responses.num_rows == 0:
        return _choose(dataset, teachers)
    dataset = replace(dataset, provenance=dataset.provenance.with_models(_models(responses)))
    panel = Panel.of_tables(questions, responses, teachers=teachers, place=dataset.place)
    rows = tuple(
        replace(row, rationales={name: text for name, text in zip(panel.teachers, texts, strict=True) if text})
        for row, texts in zip(dataset.rows, panel.rationale_QT, strict=True)
    )
    conclusions = {
        name: {
            question.id: int(index)
            for question, index in zip(questions, panel.concluded_QT[:, column], strict=True)
            if index != NONE
        }
        for column, name in enumerate(panel.teachers)
    }
    return replace(dataset, rows=rows, teachers=panel.teachers, conclusions=conclusions)


def _models(responses: pa.Table) -> list[tuple[str, str | None]]:
    """Teacher and model, as the responses name them, in the order in which they do."""
    pairs = responses.select(["teacher", "model"]).group_by(["teacher", "model"]).aggregate([]).to_pylist()
    return [(pair["teacher"], pair["model"]) for pair in pairs]


def _choose(dataset: Dataset, teachers: Sequence[str] | None) -> Dataset:
    """The dataset with these of its teachers only."""
    if teachers is None:
        return dataset
    if unknown := [name for name in teachers if name not in dataset.teachers]:
        there = ", ".join(dataset.teachers) or "none"
        raise DataError(f"no rationales of teacher {unknown[0]!r}; the dataset has {there}", place=dataset.place)
    return replace(dataset, teachers=tuple(teachers))


def _concatenate(paths: Sequence[Path]) -> pa.Table:
    tables = [read_table(path) for path in paths]
    try:
        return pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise DataError(f"its files have different columns ({error})", place=paths[0].parent) from error


def hash_files(folder: Path, paths: Sequence[Path]) -> dict[str, str]:
    """Path below the folder to the SHA-256 of the file's bytes."""
    hashes = {}
    for path in paths:
        with path.open("rb") as handle:
            hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(handle, "sha256").hexdigest()
    return hashes
