"""Statistics of a part: every column as the dataset viewer has it, and what a distiller wants to know.

All of it is SQL over the committed Parquet; nothing is sampled but the agreement of teachers, and there it is said.
Axes: T teachers.
"""

# ruff: noqa: S608 -- SQL is put together from our own words and quoted names of existing columns.

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from kp_data.hub.explorer.dataset import Part, joined
from kp_data.hub.explorer.filters import Condition, quoted
from kp_data.hub.explorer.rows import Rows
from kp_data.panel import UNANSWERED

BINS: Final = 10
MAX_LABELS: Final = 30
"""A text column with at most so many values is one of labels; above, the lengths of its texts are described."""

MAX_SUBJECTS: Final = 40
AGREEMENT_QUESTIONS: Final = 50_000
EXACT_LENGTHS: Final = 1_000_000
"""Responses up to which quartiles of lengths are exact; above, t-digests find them to about a percent."""

_BLIND: Final = Condition('("mode" = \'blind\' AND "sample" = 0)')


def column_statistics(rows: Rows, part: Part) -> list[dict[str, Any]]:
    """Statistics of every column, in the viewer's shape; columns of other kinds are left out.

    Raises:
        TooSlow, DataError: as `Rows.page`.
    """

    def described() -> list[dict[str, Any]]:
        found = (_column(rows, part, field) for field in part.schema)
        return [statistics for statistics in found if statistics is not None]

    return rows.remembered.get(("columns", part.identity), described)


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
        num_questions: what they rest on: of how many questions, drawn where there are very many.
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
    """What is known of every teacher, by name. Raises as `Rows.page`.

    Accuracy is the report's: an answer that could not be read is wrong, a call that failed on the way does not count.
    """
    said = joined(panel)
    if said is None or not {"teacher", "rationale"} <= set(said.kinds):
        return []
    asked = joined(purified)
    judged = _judged(rows, said, asked)
    kept = _kept(rows, asked)
    cost = 'CASE WHEN count("cost_usd") = count(*) THEN sum("cost_usd") END' if "cost_usd" in said.kinds else "NULL"
    quartiles_of = "quantile_cont" if said.num_rows <= EXACT_LENGTHS else "approx_quantile"
    what = (
        '"teacher", count(*), count(*) - count("rationale"), '
        f'{quartiles_of}(length("rationale"), [0.25, 0.5, 0.75]), {cost}'
    )
    found = rows.select(said, what, condition=Condition('("teacher" IS NOT NULL)'), tail="GROUP BY 1 ORDER BY 1")
    facts = []
    for name, num, failed, chars, cost_usd in found:
        right, known = judged.get(str(name), (0, 0))
        share = kept.get(str(name), 0.0) if kept is not None else None
        quartiles = tuple(chars) if chars else None
        accuracy = right / known if known else None
        facts.append(TeacherFacts(str(name), int(num), int(failed), accuracy, known, quartiles, cost_usd, share))
    return facts


def agreement(rows: Rows, panel: Sequence[Part]) -> Agreement | None:
    """How often teachers conclude the same, blind and at their first try; None: no two of them answered anything.

    Raises as `Rows.page`.
    """
    said = joined(panel)
    if said is None or not {"question_id", "teacher", "mode", "sample", "answer_index", "answer"} <= set(said.kinds):
        return None
    given = (
        'SELECT "question_id" AS q, "teacher" AS t, coalesce("answer_index"::VARCHAR, lower("answer")) AS a '
        f"FROM {rows.table(said)} WHERE {_BLIND.sql} AND {_every(rows, said)}"
    )
    found = rows.sql(
        f"WITH given AS ({given}) SELECT l.t, r.t, count(*), count(CASE WHEN l.a = r.a THEN 1 END) "
        "FROM given l JOIN given r ON l.q = r.q WHERE l.a IS NOT NULL AND r.a IS NOT NULL GROUP BY 1, 2"
    )
    counts = {(str(left), str(right)): (int(both), int(same)) for left, right, both, same in found}
    names = tuple(sorted({left for left, _ in counts}))
    if len(names) < 2:
        return None
    share_TT = tuple(
        tuple(same / both if (both, same) != (0, 0) else None for both, same in line)
        for line in ([counts.get((left, right), (0, 0)) for right in names] for left in names)
    )
    return Agreement(names, share_TT, max(both for both, _ in counts.values()))


def _every(rows: Rows, said: Part) -> str:
    """A condition that leaves about AGREEMENT_QUESTIONS questions, drawn by their ids; all where there are no more."""
    ((num_teachers,),) = rows.select(said, 'approx_count_distinct("teacher")')
    step = said.num_rows // max(1, int(num_teachers)) // AGREEMENT_QUESTIONS
    return f'hash("question_id") % {step} = 0' if step > 1 else "TRUE"


def _judged(rows: Rows, said: Part, asked: Part | None) -> dict[str, tuple[int, int]]:
    """Teacher to how many of its blind first answers are right, and how many were judged."""
    if not {"mode", "sample", "question_id", "correct", "answer_index"} <= set(said.kinds):
        return {}
    failed = ", ".join(f"'{name}'" for name in UNANSWERED)
    came = f'{_BLIND.sql} AND ("error" IS NULL OR "error" NOT IN ({failed}))' if "error" in said.kinds else _BLIND.sql
    ((unknown,),) = rows.select(said, "count(*)", condition=Condition(f'({came} AND "correct" IS NULL)'))
    gold = {"id", "answer", "answer_index"} <= set(asked.kinds) if asked is not None else False
    if unknown and gold and asked is not None:
        # What was asked before the gold answers were known carries no verdict; they are known now.
        asked_for = f'(SELECT "id", "answer" AS gold, "answer_index" AS gold_index FROM {rows.table(asked)})'
        source = (
            f'(SELECT * FROM {rows.table(said)} WHERE {came}) r LEFT JOIN {asked_for} q ON r."question_id" = q."id"'
        )
        right = 'coalesce("correct", "answer_index" = gold_index, FALSE)'
        known = '("correct" IS NOT NULL OR gold IS NOT NULL OR gold_index IS NOT NULL)'
    else:
        source, right, known = f"{rows.table(said)} WHERE {came}", '"correct"', '"correct" IS NOT NULL'
    found = rows.sql(
        f'SELECT "teacher", count(CASE WHEN {known} AND {right} THEN 1 END), count(CASE WHEN {known} THEN 1 END) '
        f"FROM {source} GROUP BY 1"
    )
    return {str(teacher): (int(good), int(judged)) for teacher, good, judged in found if teacher is not None}


def histogram(values: Mapping[str, Any]) -> list[tuple[float, float, int]]:
    """(from, to, how many) of each bin of a column's statistics; empty where it has none."""
    found = values.get("histogram")
    if not isinstance(found, Mapping):
        return []
    edges = found["bin_edges"]
    return [(low, high, number) for low, high, number in zip(edges, edges[1:], found["hist"], strict=False)]


def _kept(rows: Rows, purified: Part | None) -> dict[str, float] | None:
    if purified is None or purified.kinds.get("teacher") != "text":
        return None
    found = rows.select(purified, '"teacher", count(*)', tail="GROUP BY 1")
    total = sum(number for _, number in found)
    return {str(name): number / total for name, number in found if name is not None}


def _column(rows: Rows, part: Part, field: pa.Field) -> dict[str, Any] | None:
    kind, name = part.kinds[field.name], quoted(field.name)
    if kind == "number":
        is_int = pa.types.is_integer(field.type)
        value = name if is_int else f"CASE WHEN isfinite({name}::DOUBLE) THEN {name}::DOUBLE END"
        return _described(field.name, "int" if is_int else "float", _numbers(rows, part, value, whole=is_int))
    if kind == "text":
        values = rows.values(part, field.name, most=MAX_LABELS + 1)
        labels = [(value, number) for value, number in values or () if value is not None]
        if values is not None and len(labels) <= MAX_LABELS:
            return _described(field.name, "string_label", _labels(part, labels))
        return _described(field.name, "string_text", _numbers(rows, part, f"length({name})", whole=True))
    if kind == "bool":
        counts = dict(rows.values(part, field.name, most=3) or ())
        missing = int(counts.pop(None, 0))
        frequencies = {str(value): number for value, number in counts.items()}
        return _described(field.name, "bool", {**_missing(missing, part.num_rows), "frequencies": frequencies})
    if kind == "list" and pa.types.is_fixed_size_list(field.type) and part.is_whole(field.name):
        # Vectors are wide, and all of one length: nothing of them needs to be read.
        size = field.type.list_size
        numbers = {"min": size, "max": size, "mean": float(size), "median": float(size), "std": 0.0}
        bins = {"histogram": {"hist": [part.num_rows], "bin_edges": [size, size]}}
        return _described(field.name, "list", {**_missing(0, part.num_rows), **numbers, **bins})
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
