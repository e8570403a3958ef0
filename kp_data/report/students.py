"""How good students are, on a report page and in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kp_data.errors import DataError
from kp_data.report.charts import Estimate, described, interval_chart
from kp_data.report.html import Section
from kp_data.report.readings import number, pair
from kp_data.report.terminal import Column, as_html_table, interval_text
from kp_data.tables import read_json

STUDENT_COLUMNS: Final = (
    Column("name", "trained on"),
    Column("split", "split"),
    Column("n", "questions", "number"),
    Column("accuracy", "accuracy", "percent"),
    Column("interval", "95 % interval", "range"),
)


@dataclass(frozen=True, slots=True)
class StudentRow:
    """How good one student is on one split.

    Attributes:
        name: what it was trained on.
        split: what it was tested on.
        accuracy: share of right answers.
        ci95: 95 % interval of it; None where not measured.
        n: questions.
    """

    name: str
    split: str
    accuracy: float
    ci95: tuple[float, float] | None = None
    n: int | None = None

    @classmethod
    def of(cls, row: StudentRow | Mapping[str, Any]) -> StudentRow:
        """A row from its fields, as `kp-train evaluate --json` gives them.

        Raises:
            DataError: a field is missing or is no number.
        """
        if isinstance(row, StudentRow):
            return row
        if missing := [name for name in ("name", "split", "accuracy") if name not in row]:
            raise DataError(f"a student row without '{missing[0]}'")
        return _student(str(row["name"]), str(row["split"]), row, f"student {row['name']!r}")


def read_students(files: Mapping[str, str | Path]) -> list[StudentRow]:
    """What `kp-train evaluate --json` printed into files, one row a student and split.

    Args:
        files: what a student was trained on, to the file with its results.

    Raises:
        DataError: a file is missing or holds something else.
    """
    rows = []
    for name, path in files.items():
        result = read_json(Path(path))
        if not isinstance(result, dict):
            raise DataError("not a result of `kp-train evaluate --json`", place=path)
        splits = result.get("splits")
        parts = splits if isinstance(splits, dict) else {result.get("split"): result}
        for split, part in parts.items():
            if not isinstance(part, dict) or part.get("accuracy") is None:
                raise DataError("holds no accuracy; write it with `kp-train evaluate --json`", place=path)
            rows.append(_student(name, str(split or "test"), part, path))
    return rows


def student_rows(students: Sequence[StudentRow]) -> list[dict[str, Any]]:
    """One row a student and split, under the keys of STUDENT_COLUMNS."""
    return [
        {
            "name": row.name,
            "split": row.split,
            "n": row.n,
            "accuracy": row.accuracy,
            "interval": interval_text(row.ci95),
        }
        for row in students
    ]


def student_sections(students: Sequence[StudentRow]) -> list[Section]:
    """Accuracy of each student; nothing where there is none."""
    if not students:
        return []
    estimates = [Estimate(row.name, row.split, row.accuracy, *(row.ci95 or (None, None))) for row in students]
    chart = interval_chart(estimates, title="Student accuracy", description=described(estimates))
    lead = "The same small model, trained on different targets. Lines are 95 % intervals over questions."
    table = as_html_table(student_rows(students), STUDENT_COLUMNS)
    return [Section("What the student learned", lead, chart=chart, table=table)]


def _student(name: str, split: str, fields: Mapping[str, Any], place: object) -> StudentRow:
    accuracy, count = (number(fields.get(key), key, place) for key in ("accuracy", "n"))
    if accuracy is None:
        raise DataError("holds no accuracy; write it with `kp-train evaluate --json`", place=place)
    return StudentRow(name, split, accuracy, pair(fields.get("ci95"), place), None if count is None else int(count))
