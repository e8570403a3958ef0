"""What became of each question, stage by stage, as a table that outlives a crash.

    OUT/warm-up/ OUT/round-1/ …   one folder a stage
        plan.json       how the signals were calibrated, and the thresholds
        plan.parquet    every question with its signals and what is decided, before any call of the stage
        signals.parquet the same with what the teachers said and whether it is kept
        student/        the student that was fitted on all that is kept
    OUT/signals.parquet           the last word on each question

Each file is written whole and once; a stage that is repeated begins behind the last one that is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

import pyarrow as pa

from kp_data.errors import DataError
from kp_data.tables import read_table, write_parquet

PLAN: Final = "plan.parquet"
PLAN_FACTS: Final = "plan.json"
SIGNALS: Final = "signals.parquet"
STUDENT: Final = "student"
ASSISTANT: Final = "assistant"
WARM_UP: Final = "warm-up"

Decision = Literal["asked", "own", "waiting"]
"""A call was spent on it; the student's own answer is kept without one; neither, yet."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One question in one stage; a question that was asked of several teachers has a row for each.

    Attributes:
        question_id, stage: which.
        decision: see `Decision`.
        consistency: s1; null before there is a student.
        student_answer, student_rationale: the student's majority answer; null where none could be read.
        student_confidence: s2.
        teacher: whom the call went to.
        teacher_answer, teacher_rationale: what came; null for a refusal or an answer that cannot be read.
        teacher_confidence: s3.
        cost_usd: of the call; null where not known.
        kept: whether the student learns from it.
    """

    question_id: str
    stage: str
    decision: Decision
    consistency: float | None = None
    student_answer: str | None = None
    student_rationale: str | None = None
    student_confidence: float | None = None
    teacher: str | None = None
    teacher_answer: str | None = None
    teacher_rationale: str | None = None
    teacher_confidence: float | None = None
    cost_usd: float | None = None
    kept: bool = False


_NUMBERS: Final = ("consistency", "student_confidence", "teacher_confidence", "cost_usd")
SIGNAL_SCHEMA: Final = pa.schema(
    [
        pa.field(
            field.name,
            pa.float64() if field.name in _NUMBERS else pa.bool_() if field.name == "kept" else pa.string(),
            nullable=field.name not in ("question_id", "stage", "decision", "kept"),
        )
        for field in fields(Signal)
    ]
)


def write_signals(signals: Iterable[Signal], path: Path) -> None:
    """Write rows durably and whole.

    Raises: DataError, when the disk is full or the folder cannot be written.
    """
    write_parquet(pa.Table.from_pylist([asdict(signal) for signal in signals], schema=SIGNAL_SCHEMA), path)


def read_signals(path: Path) -> list[Signal]:
    """What `write_signals` wrote.

    Raises: DataError, when it is no such table.
    """
    table = read_table(path)
    if table.schema.names != SIGNAL_SCHEMA.names:
        raise DataError("not a table of signals of this version; remove the folder and run again", place=path)
    rows: list[dict[str, Any]] = table.to_pylist()
    if unknown := [row for row in rows if row["decision"] not in get_args(Decision)]:
        raise DataError(f"decision {unknown[0]['decision']!r} is none of {', '.join(get_args(Decision))}", place=path)
    return [Signal(**row) for row in rows]


def last_words(stages: Sequence[Sequence[Signal]]) -> list[Signal]:
    """The rows of the last stage that says something of a question; a question that was asked keeps those rows."""
    last: dict[str, list[Signal]] = {}
    for signals in stages:
        told: dict[str, list[Signal]] = {}
        for signal in signals:
            told.setdefault(signal.question_id, []).append(signal)
        last.update(told)
    return [signal for question_id in sorted(last) for signal in last[question_id]]
