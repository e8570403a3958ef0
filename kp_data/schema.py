"""The tables of the project: the one source of truth for columns, types and names.

A *panel folder* holds `questions.parquet`, `responses.parquet` and `run.json`; a *purified folder* holds
`purified.parquet`, `report.json`, `run.json` and, where a router was fitted, `router/`. Anyone can write them with
any tool; `kp_data.tables` reads and checks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import pyarrow as pa

SCHEMA_VERSION: Final = 1

Mode = Literal["blind", "teacher_forced"]
MODES: Final[tuple[Mode, ...]] = ("blind", "teacher_forced")

ERROR_CLASSES: Final = (
    "rate_limited",
    "timeout",
    "refused",
    "truncated",
    "empty",
    "bad_response",
    "auth",
    "budget",
)

QUESTIONS: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("choices", pa.list_(pa.string())),
        pa.field("answer", pa.string()),
        pa.field("answer_index", pa.int32()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("subject", pa.string()),
        pa.field("context", pa.string()),
    ]
)

RESPONSES: Final = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("teacher", pa.string(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("rationale", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("answer_index", pa.int32()),
        pa.field("correct", pa.bool_()),
        pa.field("error", pa.string()),
        pa.field("model", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("completion_tokens", pa.int64()),
        pa.field("cost_usd", pa.float64()),
        pa.field("latency_s", pa.float64()),
        pa.field("logprob", pa.float64()),
        pa.field("created_at", pa.timestamp("us", tz="UTC")),
    ]
)

MEASURED_COLUMNS: Final = ("latency_s", "created_at")
"""What differs between two runs that asked the same and were answered the same."""

PURIFIED_COLUMNS: Final = (
    pa.field("rationale", pa.string()),
    pa.field("teacher", pa.string()),
    pa.field("method", pa.string(), nullable=False),
    pa.field("score", pa.float64()),
    pa.field("scores", pa.list_(pa.float64())),
    pa.field("purified_answer_index", pa.int32()),
    pa.field("conflict", pa.bool_(), nullable=False),
)
PURIFIED: Final = pa.schema([*QUESTIONS, *PURIFIED_COLUMNS])

EVERY_RATIONALE: Final = "all"
"""The method that keeps every rationale: its rows are questions × teachers, with ids `question#teacher`."""

AGGREGATED: Final = "aggregated"
"""What `teacher` says in a purified row whose rationale was written anew from several."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row of the questions table."""

    id: str
    question: str
    choices: tuple[str, ...] = ()
    answer: str | None = None
    answer_index: int | None = None
    split: str = "train"
    subject: str | None = None
    context: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """One row of the responses table: what one teacher said to one question, or why it said nothing."""

    question_id: str
    teacher: str
    mode: Mode
    sample: int = 0
    rationale: str | None = None
    answer: str | None = None
    answer_index: int | None = None
    correct: bool | None = None
    error: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    logprob: float | None = None
    created_at: object | None = None
