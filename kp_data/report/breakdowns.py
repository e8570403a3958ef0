"""A comparison taken apart: whose rationales are kept, accuracy by subject, and whether scores mean what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kp_data.report.html import Section, Table
from kp_data.report.plots import Bucket, reliability_chart, stacked_bars
from kp_data.report.readings import items, number, part
from kp_data.report.terminal import Column, as_html_table, format_value

Entry = Mapping[str, Any]


def share_sections(rows: Sequence[Entry]) -> list[Section]:
    """Whose rationales are kept, subject by subject, for methods that choose between teachers."""
    sections = []
    for row in rows:
        subjects = {
            name: _share_of(figures)
            for name, figures in part(row, "subjects").items()
            if isinstance(figures, dict) and sum(_share_of(figures).values()) > 0
        }
        chooses = sum(share > 0 for share in _share_of(row).values()) > 1
        if row.get("kind") == "baseline" or not chooses:
            continue
        shown = {"all questions": _share_of(row), **subjects}
        words = "; ".join(f"{name}: {_share_words(share)}" for name, share in shown.items())
        chart = stacked_bars(shown, title=f"Whose rationales {row.get('method')} keeps", description=f"{words}.")
        sections.append(
            Section(f"Whose rationales {row.get('method')} keeps", chart=chart, table=_share_table(shown), fold=True)
        )
    return sections


def _share_of(figures: Entry) -> dict[str, float]:
    shares = part(figures, "teacher_share")
    return {str(name): number(value, "teacher_share", "compare.json") or 0.0 for name, value in shares.items()}


def _share_words(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())


def _share_table(shares: Mapping[str, Mapping[str, float]]) -> Table:
    names = list(next(iter(shares.values())))
    columns = [Column("row", "subject"), *(Column(name, name, "percent") for name in names)]
    return as_html_table([{"row": row, **given} for row, given in shares.items()], columns)


def subject_sections(rows: Sequence[Entry]) -> list[Section]:
    """Accuracy by subject, one column a method; nothing with fewer than two subjects."""
    names = sorted({name for row in rows for name in part(row, "subjects")})
    if len(names) < 2:
        return []
    methods = [str(row.get("method")) for row in rows]
    table = []
    for name in names:
        line: dict[str, Any] = {"subject": name}
        for row in rows:
            figures = part(part(row, "subjects"), name)
            line[f"of {row.get('method')}"] = number(figures.get("purified_accuracy"), "subjects", "compare.json")
            line["n"] = figures.get("n_questions")
        table.append(line)
    columns = [
        Column("subject", "subject"),
        Column("n", "questions", "number"),
        *(Column(f"of {name}", name, "percent") for name in methods),
    ]
    lead = "Accuracy of what each method keeps. Few questions a subject: differences of some points are noise."
    return [Section("By subject", lead, table=as_html_table(table, columns))]


def reliability_sections(rows: Sequence[Entry]) -> list[Section]:
    sections = []
    for row in rows:
        found = part(row, "reliability")
        buckets = [_bucket(one) for one in items(found, "bins") if isinstance(one, dict)]
        if not buckets:
            continue
        title = f"Does the score of {row.get('method')} mean what it says?"
        error = format_value(number(found.get("ece"), "ece", "compare.json"), "percent")
        lead = (
            "How often the kept rationale is right, against the probability that was claimed for it; lines are 95 % "
            f"intervals. Expected calibration error {error}, in bins of about equally many questions."
        )
        columns = [
            Column("predicted", "claimed", "percent"),
            Column("observed", "right", "percent"),
            Column("num", "questions", "number"),
        ]
        table = as_html_table(
            [{"predicted": b.predicted, "observed": b.observed, "num": b.num} for b in buckets], columns
        )
        sections.append(Section(title, lead, chart=reliability_chart(buckets, title=title), table=table, fold=True))
    return sections


def _bucket(found: Entry) -> Bucket:
    names = ("predicted", "observed", "low", "high", "num")
    predicted, observed, low, high, num = (number(found.get(name), name, "compare.json") or 0.0 for name in names)
    return Bucket(predicted, observed, low, high, int(num))
