"""Statistics of a part: every column as the dataset viewer has it, and what a distiller wants to know.

All of it is SQL over the committed Parquet; nothing is sampled but the agreement of teachers, and there it is said.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from kp_data.hub.explorer.dataset import Part
from kp_data.hub.explorer.filters import Condition, quoted
from kp_data.hub.explorer.rows import Rows

BINS: Final = 10
MAX_LABELS: Final = 30
"""A text column with at most so many values is one of labels; above, the lengths of its texts are described."""

MAX_SUBJECTS: Final = 40
AGREEMENT_QUESTIONS: Final = 50_000

_BLIND: Final = Condition('("mode" = \'blind\' AND "sample" = 0)')


def column_statistics(rows: Rows, part: Part) -> list[dict[str, Any]]:
    """Statistics of every column, in the viewer's shape; columns of other kinds are left out.

    Raises:
        TooSlow, DataError: as `Rows.page`.
    """
    found = (_column(rows, part, field) for field in part.schema)
    return [statistics for statistics in found if statistics is not None]


@dataclass(frozen=True, slots=True)
class SubjectFacts:
    """Of the questions of one subject: how many there are, and the share on which teachers contradict one another."""

    subject: str
    num: int
    conflict: float | None


@dataclass(frozen=True, slots=True)
class TeacherFacts:
    """Of one teacher.

    Attributes:
        num: responses asked for, failed ones among them.
        failed: responses without a rationale.
        accuracy: share of its blind answers that were judged right; None: none was judged.
        judged: how many were.
        chars: quartiles of the length of its rationales, in characters; None: it gave none.
        cost_usd: what it cost; None: unknown.
        kept: share of the purified rows whose rationale is this teacher's; None: nothing was purified.
    """

    name: str
    num: int
    failed: int
    accuracy: float | None
    judged: int
    chars: tuple[float, float, float] | None
    cost_usd: float | None
    kept: float | None


@dataclass(frozen=True)
class Agreement:
    """How often teachers conclude the same.

    Attributes:
        teachers: T names.
        share_TT: (T, T) share of the questions both answered; None: there is no such question.
        num_questions: of how many questions, the first ones where there are more.
    """

    teachers: tuple[str, ...]
    share_TT: tuple[tuple[float | None, ...], ...]
    num_questions: int


def subjects(rows: Rows, purified: Part) -> list[SubjectFacts]:
    """Conflicts by subject, the largest first; nothing where the part has no subjects. Raises as `Rows.page`."""
    if purified.kinds.get("subject") != "text":
        return []
    conflict = 'avg(CASE WHEN "conflict" THEN 1.0 ELSE 0.0 END)' if "conflict" in purified.kinds else "NULL"
    found = rows.select(
        purified,
        f'"subject", count(*) AS n, {conflict}',
        condition=Condition('("subject" IS NOT NULL)'),
        tail=f"GROUP BY 1 ORDER BY n DESC, 1 LIMIT {MAX_SUBJECTS}",
    )
    return [SubjectFacts(str(subject), int(num), share) for subject, num, share in found]


def teachers(rows: Rows, panel: Sequence[Part], purified: Sequence[Part]) -> list[TeacherFacts]:
    """What is known of every teacher, by name. Raises as `Rows.page`."""
    said = _joined(panel)
    if said is None or not {"teacher", "rationale"} <= set(said.kinds):
        return []
    has = said.kinds.__contains__
    judged = (
        '"correct" IS NOT NULL AND "mode" = \'blind\' AND "sample" = 0' if has("correct") and has("mode") else "FALSE"
    )
    what = (
        '"teacher", count(*), count(*) - count("rationale"), '
        + (f'avg(CASE WHEN {judged} THEN "correct"::INT END), ' if judged != "FALSE" else "NULL, ")
        + f"count(CASE WHEN {judged} THEN 1 END), "
        + 'quantile_cont(length("rationale"), [0.25, 0.5, 0.75]), '
        + ('CASE WHEN count("cost_usd") = count(*) THEN sum("cost_usd") END' if has("cost_usd") else "NULL")
    )
    kept = _kept(rows, _joined(purified))
    return [
        TeacherFacts(
            name=str(name),
            num=int(num),
            failed=int(failed),
            accuracy=accuracy,
            judged=int(known),
            chars=tuple(chars) if chars else None,
            cost_usd=cost,
            kept=kept.get(str(name), 0.0) if kept is not None else None,
        )
        for name, num, failed, accuracy, known, chars, cost in rows.select(said, what, tail="GROUP BY 1 ORDER BY 1")
    ]


def agreement(rows: Rows, panel: Sequence[Part]) -> Agreement | None:
    """How often teachers conclude the same, blind and at their first try; None: no two of them answered anything.

    Raises as `Rows.page`.
    """
    said = _joined(panel)
    if said is None or not {"question_id", "teacher", "mode", "sample", "answer_index", "answer"} <= set(said.kinds):
        return None
    answers: dict[str, dict[str, str]] = {}
    found = rows.select(
        said,
        '"question_id", "teacher", coalesce("answer_index"::VARCHAR, lower("answer"))',
        condition=_BLIND,
        tail=f'AND coalesce("answer_index"::VARCHAR, "answer") IS NOT NULL LIMIT {8 * AGREEMENT_QUESTIONS}',
    )
    for question, teacher, answer in found:
        answers.setdefault(question, {})[teacher] = answer
    names = tuple(sorted({teacher for given in answers.values() for teacher in given}))
    return Agreement(names, _shares(names, answers.values()), len(answers)) if len(names) > 1 else None


def histogram(values: Mapping[str, Any]) -> list[tuple[float, float, int]]:
    """(from, to, how many) of each bin of a column's statistics; empty where it has none."""
    found = values.get("histogram")
    if not isinstance(found, Mapping):
        return []
    edges = found["bin_edges"]
    return [(low, high, number) for low, high, number in zip(edges, edges[1:], found["hist"], strict=False)]


def _shares(names: Sequence[str], given: Any) -> tuple[tuple[float | None, ...], ...]:
    both = {(left, right): [0, 0] for left in names for right in names}
    for answers in given:
        for left, said in answers.items():
            for right, other in answers.items():
                counts = both[left, right]
                counts[0] += said == other
                counts[1] += 1
    return tuple(
        tuple(both[left, right][0] / both[left, right][1] if both[left, right][1] else None for right in names)
        for left in names
    )


def _kept(rows: Rows, purified: Part | None) -> dict[str, float] | None:
    if purified is None or purified.kinds.get("teacher") != "text":
        return None
    found = rows.select(purified, '"teacher", count(*)', tail="GROUP BY 1")
    total = sum(number for _, number in found)
    return {str(name): number / total for name, number in found if name is not None}


def _joined(parts: Sequence[Part]) -> Part | None:
    """All splits of a config as one part."""
    if not parts:
        return None
    return Part(parts[0].config, "*", tuple(file for part in parts for file in part.files))


def _column(rows: Rows, part: Part, field: pa.Field) -> dict[str, Any] | None:
    kind, name = part.kinds[field.name], quoted(field.name)
    if kind == "number":
        is_int = pa.types.is_integer(field.type)
        value = name if is_int else f"CASE WHEN isfinite({name}::DOUBLE) THEN {name}::DOUBLE END"
        return _described(field.name, "int" if is_int else "float", _numbers(rows, part, value, whole=is_int))
    if kind == "text":
        values = rows.values(part, field.name, limit=MAX_LABELS + 2)
        labels = [(value, number) for value, number in values if value is not None]
        if len(labels) <= MAX_LABELS:
            return _described(field.name, "string_label", _labels(part, labels))
        return _described(field.name, "string_text", _numbers(rows, part, f"length({name})", whole=True))
    if kind == "bool":
        counts = dict(rows.values(part, field.name))
        missing = int(counts.pop(None, 0))
        frequencies = {str(value): number for value, number in counts.items()}
        return _described(field.name, "bool", {**_missing(missing, part.num_rows), "frequencies": frequencies})
    if kind == "list":
        return _described(field.name, "list", _numbers(rows, part, f"len({name})", whole=True))
    if kind == "time":
        return _described(field.name, "datetime", _times(rows, part, name))
    return None


def _described(name: str, kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"column_name": name, "column_type": kind, "column_statistics": dict(values)}


def _missing(number: int, num_rows: int) -> dict[str, Any]:
    return {"nan_count": number, "nan_proportion": round(number / num_rows, 5) if num_rows else 0.0}


def _labels(part: Part, labels: Sequence[tuple[Any, int]]) -> dict[str, Any]:
    missing = part.num_rows - sum(number for _, number in labels)
    return {
        **_missing(missing, part.num_rows),
        "no_label_count": 0,
        "no_label_proportion": 0.0,
        "n_unique": len(labels),
        "frequencies": {str(label): number for label, number in labels},
    }


def _numbers(rows: Rows, part: Part, value: str, *, whole: bool) -> dict[str, Any]:
    """Describe a column of numbers, or the lengths of texts and lists."""
    ((known, low, high, mean, median, std),) = rows.select(
        part,
        f"count({value}), min({value}), max({value}), avg({value}), median({value}), stddev_samp({value}::DOUBLE)",
    )
    described: dict[str, Any] = _missing(part.num_rows - known, part.num_rows)
    numbers = {"min": low, "max": high, "mean": _rounded(mean), "median": _rounded(median), "std": _rounded(std)}
    if not known:
        return {**described, **numbers, "histogram": None}
    edges = _edges(low, high, whole=whole)
    return {**described, **numbers, "histogram": {"hist": _counts(rows, part, value, edges), "bin_edges": edges}}


def _edges(low: float, high: float, *, whole: bool) -> list[float]:
    """Borders of the bins; those of whole numbers are whole."""
    if low == high:
        return [low, high]
    if not whole:
        return [low + (high - low) * number / BINS for number in range(BINS)] + [high]
    width = max(1, -(-(high - low + 1) // BINS))
    edges: list[float] = list(range(int(low), int(high) + 1, int(width)))
    return [*edges, high]


def _counts(rows: Rows, part: Part, value: str, edges: Sequence[float]) -> list[int]:
    """How many values lie in each bin; the last one has both its borders."""
    num = len(edges) - 1
    inner = ", ".join(
        f"count(CASE WHEN {value} >= {low!r} AND {value} {'<=' if number == num - 1 else '<'} {high!r} THEN 1 END)"
        for number, (low, high) in enumerate(itertools.pairwise(edges))
    )
    (found,) = rows.select(part, inner)
    return [int(number) for number in found]


def _times(rows: Rows, part: Part, name: str) -> dict[str, Any]:
    ((known, low, high),) = rows.select(part, f"count({name}), min({name}), max({name})")
    return {**_missing(part.num_rows - known, part.num_rows), "min": low, "max": high}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 5)
