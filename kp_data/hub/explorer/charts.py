"""The statistics page of a part, in the sections and charts that reports are made of.

Axes: T teachers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from kp_data.hub.explorer.dataset import Dataset, Part
from kp_data.hub.explorer.rows import Rows
from kp_data.hub.explorer.statistics import (
    AGREEMENT_QUESTIONS,
    TeacherFacts,
    agreement,
    column_statistics,
    histogram,
    subjects,
    teachers,
)
from kp_data.hub.explorer.story import PANEL, PURIFIED
from kp_data.measures import wilson_interval
from kp_data.report.agreement import agreement_sections
from kp_data.report.charts import Estimate, described, interval_chart, share_bars
from kp_data.report.html import Section, Table
from kp_data.report.plots import Point, scatter
from kp_data.report.terminal import Column, as_html_table, format_value

_TEACHERS: Final = (
    Column("name", "teacher"),
    Column("num", "responses", "number"),
    Column("failed", "failed", "number"),
    Column("accuracy", "right blind", "percent"),
    Column("median", "median length", "number"),
    Column("kept", "kept", "percent"),
    Column("cost_usd", "cost", "money"),
)
_LABELS_SHOWN: Final = 8


def sections(rows: Rows, dataset: Dataset, part: Part) -> tuple[Section, ...]:
    """What there is to say of a part, in order. Raises as `Rows.page`."""
    return _sections(rows, part.files, _files(dataset, PURIFIED), _files(dataset, PANEL), part.config)


def _files(dataset: Dataset, config: str) -> tuple[Any, ...]:
    return tuple(file for part in dataset.of_config(config) for file in part.files)


@lru_cache(maxsize=64)
def _sections(
    rows: Rows, files: tuple[Any, ...], purified: tuple[Any, ...], panel: tuple[Any, ...], config: str
) -> tuple[Section, ...]:
    part = Part(config, "*", files)
    kept = [Part(PURIFIED, "*", purified)] if purified else []
    said = [Part(PANEL, "*", panel)] if panel else []
    found: list[Section] = []
    if config == PURIFIED:
        found += _subject_sections(rows, part)
    facts = teachers(rows, said, kept)
    found += [*_teacher_sections(facts), *_agreement_sections(rows, said), *_column_sections(rows, part)]
    return tuple(found)


def _subject_sections(rows: Rows, part: Part) -> list[Section]:
    known = [fact for fact in subjects(rows, part) if fact.conflict is not None]
    if not known:
        return []
    ordered = sorted(known, key=lambda fact: -(fact.conflict or 0.0))
    shares = {f"{fact.subject} ({fact.num:,})": fact.conflict or 0.0 for fact in ordered}
    words = "; ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
    lead = "Share of the questions on which two teachers conclude differently, with the number of questions."
    chart = share_bars(shares, title="Conflict by subject", description=f"{words}.")
    return [Section("Where teachers contradict one another", lead, chart=chart)]


def _teacher_sections(facts: Sequence[TeacherFacts]) -> list[Section]:
    if not facts:
        return []
    table = as_html_table([_teacher_row(fact) for fact in facts], _TEACHERS)
    judged = [fact for fact in facts if fact.accuracy is not None]
    estimates = [_estimate(fact) for fact in judged]
    chart = (
        interval_chart(estimates, title="Accuracy of each teacher", description=described(estimates))
        if judged
        else None
    )
    lead = "Lengths are in characters; accuracy counts blind first answers that could be read." if judged else ""
    found = [Section("The teachers", lead, chart=chart, table=table)]
    shares = {
        fact.name: fact.kept for fact in sorted(facts, key=lambda fact: -(fact.kept or 0.0)) if fact.kept is not None
    }
    if shares:
        words = "; ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
        bars = share_bars(shares, title="Share of kept rationales by teacher", description=f"{words}.")
        found.append(Section("Whose rationales were kept", chart=bars))
    return [*found, *_length_sections(facts), *_cost_sections(judged)]


def _length_sections(facts: Sequence[TeacherFacts]) -> list[Section]:
    known = [fact for fact in facts if fact.chars is not None]
    longest = max((fact.chars[2] for fact in known if fact.chars), default=0.0)
    if not longest:
        return []
    bars = {f"{fact.name} ({fact.chars[1]:,.0f})": fact.chars[1] / longest for fact in known if fact.chars}
    words = "; ".join(f"{fact.name} {fact.chars[1]:,.0f}" for fact in known if fact.chars)
    rows = [
        {"name": fact.name, "low": fact.chars[0], "mid": fact.chars[1], "high": fact.chars[2]}
        for fact in known
        if fact.chars
    ]
    columns = (Column("name", "teacher"), *(Column(key, label, "number") for key, label in _QUARTILES))
    lead = f"Median characters, as a share of {longest:,.0f}, the longest upper quartile."
    chart = share_bars(bars, title="Length of rationales by teacher", description=f"Median characters: {words}.")
    return [Section("How long they write", lead, chart=chart, table=as_html_table(rows, columns), fold=True)]


def _cost_sections(judged: Sequence[TeacherFacts]) -> list[Section]:
    priced = [fact for fact in judged if fact.cost_usd is not None and fact.num]
    if len(priced) < 2 or not any(fact.cost_usd for fact in priced):
        return []
    points = [_point(fact) for fact in priced]
    chart = scatter(
        points,
        [],
        x_label="dollars a thousand responses",
        x_words=lambda x: format_value(x, "money"),
        title="Accuracy against cost",
    )
    return [Section("What accuracy costs", chart=chart)]


def _agreement_sections(rows: Rows, said: Sequence[Part]) -> list[Section]:
    found = agreement(rows, said)
    if found is None:
        return []
    share_TT = np.array([[np.nan if share is None else share for share in line] for line in found.share_TT])
    made = agreement_sections(found.teachers, share_TT)
    if made and found.num_questions >= AGREEMENT_QUESTIONS:
        made[0] = Section(
            **{**_fields(made[0]), "note": f"{made[0].note} Of the first {found.num_questions:,} questions."}
        )
    return made


def _column_sections(rows: Rows, part: Part) -> list[Section]:
    lines = [_column_row(column) for column in column_statistics(rows, part)]
    table = Table(("column", "kind", "missing", "what it holds"), tuple(lines))
    lead = f"All {part.num_rows:,} rows."
    return [Section("Every column", lead, table=table)]


def _column_row(column: Mapping[str, Any]) -> tuple[str, str, str, str]:
    values = column["column_statistics"]
    missing = format_value(values.get("nan_proportion"), "percent") if values.get("nan_count") else "–"
    return str(column["column_name"]), str(column["column_type"]).replace("_", " "), missing, _holds(values)


def _holds(values: Mapping[str, Any]) -> str:
    if frequencies := values.get("frequencies"):
        ordered = sorted(frequencies.items(), key=lambda item: -item[1])
        words = ", ".join(f"{label} {number:,}" for label, number in ordered[:_LABELS_SHOWN])
        more = len(ordered) - _LABELS_SHOWN
        return f"{words}, and {more} more" if more > 0 else words
    if values.get("min") is None:
        return "nothing"
    if "mean" not in values:
        return f"{values['min']} to {values['max']}"
    bins = max(histogram(values), key=lambda each: each[2], default=None)
    most = f"; most often {_number(bins[0])} to {_number(bins[1])}" if bins and bins[0] != bins[1] else ""
    spread = f"{_number(values['min'])} to {_number(values['max'])}, median {_number(values['median'])}"
    return f"{spread}, mean {_number(values['mean'])}{most}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _teacher_row(fact: TeacherFacts) -> dict[str, Any]:
    median = fact.chars[1] if fact.chars else None
    names = ("name", "num", "failed", "accuracy", "kept", "cost_usd")
    return {**{name: getattr(fact, name) for name in names}, "median": median}


def _estimate(fact: TeacherFacts) -> Estimate:
    assert fact.accuracy is not None
    low, high = wilson_interval(fact.accuracy, fact.judged) or (None, None)
    return Estimate(fact.name, "", fact.accuracy, low, high)


def _point(fact: TeacherFacts) -> Point:
    assert fact.accuracy is not None
    assert fact.cost_usd is not None
    low, high = wilson_interval(fact.accuracy, fact.judged) or (None, None)
    return Point(fact.name, 1000 * fact.cost_usd / fact.num, fact.accuracy, low, high)


def _fields(section: Section) -> dict[str, Any]:
    return {name: getattr(section, name) for name in section.__dataclass_fields__}


_QUARTILES: Final = (("low", "lower quartile"), ("mid", "median"), ("high", "upper quartile"))
