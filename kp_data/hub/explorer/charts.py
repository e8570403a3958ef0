"""The statistics page of a part, in the sections and charts that reports are made of.

Axes: T teachers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np

from kp_data.errors import DataError
from kp_data.hub.explorer.calibration import claims_probabilities, reliability
from kp_data.hub.explorer.dataset import Dataset, Part
from kp_data.hub.explorer.quartiles import quartile_chart
from kp_data.hub.explorer.render import clip
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
from kp_data.hub.explorer.story import PANEL, PURIFIED, QUESTIONS
from kp_data.measures import wilson_interval
from kp_data.report.agreement import agreement_sections
from kp_data.report.breakdowns import reliability_sections
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
_SUBJECTS: Final = (
    Column("subject", "subject"),
    Column("num", "questions", "number"),
    Column("conflict", "in conflict", "percent"),
)
_LABELS_SHOWN: Final = 8
_LABEL_CHARS: Final = 40
_KINDS: Final = {"string_text": "text", "string_label": "labels", "int": "whole numbers", "float": "numbers"}
_UNITS: Final = {"string_text": " characters", "list": " items"}


def sections(rows: Rows, dataset: Dataset, part: Part) -> tuple[Section, ...]:
    """What there is to say of a part, in order. Raises as `Rows.page`."""
    read = [part, *(each for config in (PURIFIED, QUESTIONS, PANEL) for each in dataset.of_config(config))]
    # Of the report alone does more than the tables decide what is shown.
    key = ("sections", part.config, *(each.identity for each in read), dataset.documents.get("report.json"))
    return rows.remembered.get(key, lambda: tuple(_sections(rows, dataset, part)))


def _sections(rows: Rows, dataset: Dataset, part: Part) -> list[Section]:
    panel = dataset.of_config(PANEL)
    facts = teachers(rows, panel, dataset.of_config(PURIFIED) or dataset.of_config(QUESTIONS))
    found = (
        [*_subject_sections(rows, part), *_calibration_sections(rows, dataset, part)] if part.config == PURIFIED else []
    )
    return [*found, *_teacher_sections(facts), *_agreement_sections(rows, panel), *_column_sections(rows, part)]


def _subject_sections(rows: Rows, part: Part) -> list[Section]:
    known = [fact for fact in subjects(rows, part) if fact.conflict is not None]
    if not known:
        return []
    ordered = sorted(known, key=lambda fact: -(fact.conflict or 0.0))
    shares = {fact.subject: fact.conflict or 0.0 for fact in ordered}
    words = "; ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
    lead = "Share of the questions on which two teachers conclude differently."
    chart = share_bars(shares, title="Conflict by subject", description=f"{words}.")
    table = as_html_table([asdict(fact) for fact in ordered], _SUBJECTS)
    return [Section("Where teachers contradict one another", lead, chart=chart, table=table, fold=True)]


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
    lead = (
        "Right blind: of the first answers without the gold one in the prompt. One that could not be read counts as "
        "wrong; a call that failed on the way does not count. Lengths are medians, in characters."
        if judged
        else ""
    )
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
    known = {fact.name: fact.chars for fact in facts if fact.chars is not None}
    if not any(high for _, _, high in known.values()):
        return []
    rows = [
        {"name": name, **dict(zip(("low", "mid", "high"), map(round, three), strict=True))}
        for name, three in known.items()
    ]
    columns = (Column("name", "teacher"), *(Column(key, label, "number") for key, label in _QUARTILES))
    lead = "Characters of a rationale: the mark is the median, the line holds the middle half."
    chart = quartile_chart(known, title="Length of rationales by teacher", unit="characters")
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


def _calibration_sections(rows: Rows, dataset: Dataset, part: Part) -> list[Section]:
    """The reliability that the report brings, else that of the rows, where their scores claim to be probabilities."""
    report = dataset.json("report.json")
    with suppress(DataError):  # a report of somebody else's may hold anything
        if made := reliability_sections([report]):
            return made
    found = reliability(rows, part) if claims_probabilities(dataset) else None
    if found is None:
        return []
    measured, where = found
    bins = [asdict(one) for one in measured.bins]
    made = reliability_sections([{"method": report.get("method"), "reliability": {"ece": measured.ece, "bins": bins}}])
    return [replace(section, note=f"{measured.num:,} questions with a gold answer, {where}.") for section in made]


def _agreement_sections(rows: Rows, said: Sequence[Part]) -> list[Section]:
    found = agreement(rows, said)
    if found is None:
        return []
    share_TT = np.array([[np.nan if share is None else share for share in line] for line in found.share_TT])
    made = agreement_sections(found.teachers, share_TT)
    words = f"About {found.num_questions:,} questions, drawn by their ids."
    drawn = sum(part.num_rows for part in said) // len(found.teachers) >= 2 * AGREEMENT_QUESTIONS
    return [replace(section, note=f"{section.note} {words}") for section in made] if drawn else made


def _column_sections(rows: Rows, part: Part) -> list[Section]:
    lines = [_column_row(column) for column in column_statistics(rows, part)]
    table = Table(("column", "what it holds"), tuple(lines))
    lead = f"All {part.num_rows:,} rows."
    return [Section("Every column", lead, table=table)]


def _column_row(column: Mapping[str, Any]) -> tuple[str, str]:
    values, kind = column["column_statistics"], str(column["column_type"])
    share = values.get("nan_proportion", 0.0)
    missing = f"; {format_value(share, 'percent')} missing" if 0 < share < 1 else ""
    words = f"{_holds(values, _UNITS.get(kind, ''))}{missing}"
    return str(column["column_name"]), f"{_KINDS.get(kind, kind)}: {words}"


def _holds(values: Mapping[str, Any], unit: str) -> str:
    if frequencies := values.get("frequencies"):
        ordered = sorted(frequencies.items(), key=lambda item: -item[1])
        words = ", ".join(f"{clip(label, _LABEL_CHARS)} {number:,}" for label, number in ordered[:_LABELS_SHOWN])
        more = len(ordered) - _LABELS_SHOWN
        return f"{words}, and {more} more" if more > 0 else words
    if values.get("min") is None:
        return "nothing"
    if "mean" not in values:
        return f"{values['min']} to {values['max']}"
    if values["min"] == values["max"]:
        return f"always {_number(values['min'])}{unit}"
    bins = max(histogram(values), key=lambda each: each[2], default=None)
    most = f"; most often {_number(bins[0])} to {_number(bins[1])}" if bins and bins[0] != bins[1] else ""
    spread = f"{_number(values['min'])} to {_number(values['max'])}{unit}, median {_number(values['median'])}"
    return f"{spread}, mean {_number(values['mean'])}{most}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _teacher_row(fact: TeacherFacts) -> dict[str, Any]:
    median = round(fact.chars[1]) if fact.chars else None
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


_QUARTILES: Final = (("low", "lower quartile"), ("mid", "median"), ("high", "upper quartile"))
