"""From a folder to a page: what a panel, a purified folder, a comparison or a demonstration has to show.

Axes: T teachers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from kp_data.measures import wilson_interval
from kp_data.report.agreement import agreement_sections
from kp_data.report.charts import Estimate, described, interval_chart, share_bars
from kp_data.report.comparison import compare_page, comparison_sections, read_comparisons
from kp_data.report.html import Fact, ReportPage, Section
from kp_data.report.readings import check_numbers, interval_of
from kp_data.report.students import StudentRow, student_sections
from kp_data.report.terminal import Column, as_html_table, format_value
from kp_data.summary import Summary, TeacherFacts, summarise

RULES: Final = (
    ("purified_accuracy", "purified"),
    ("best_single_accuracy", "best single teacher"),
    ("majority_accuracy", "majority"),
    ("oracle_accuracy", "oracle (some teacher is right)"),
)

TEACHER_COLUMNS: Final = (
    Column("name", "teacher"),
    Column("models", "model"),
    Column("responses", "responses", "number"),
    Column("failed", "failed", "number"),
    Column("accuracy", "right blind", "percent"),
    Column("chosen", "chosen", "percent"),
    Column("cost_usd", "cost", "money"),
)

SPLIT_COLUMNS: Final = (
    Column("split", "split"),
    Column("n_questions", "questions", "number"),
    Column("purified_accuracy", "purified", "percent"),
    Column("best_single_accuracy", "best single", "percent"),
    Column("majority_accuracy", "majority", "percent"),
    Column("oracle_accuracy", "oracle", "percent"),
    Column("gap_closed", "gap closed", "percent"),
)

_NUMBERS: Final = (*(column.key for column in SPLIT_COLUMNS if column.style != "text"), *(key for key, _ in RULES))


def page_of_folder(folder: Path, students: Sequence[StudentRow | Mapping[str, Any]] = ()) -> ReportPage:
    """The page of a panel folder, a purified folder, a release folder, or a folder (or file) with `compare.json`.

    Args:
        folder: what to show.
        students: students to show with it, in the order of the chart.

    Raises:
        DataError: the folder holds nothing of these, or a table is broken.
    """
    folder = Path(folder)
    compare = folder if folder.name == "compare.json" else folder / "compare.json"
    rows = [StudentRow.of(row) for row in students]
    if folder.name == "compare.json" or (compare.is_file() and not _has_tables(folder)):
        return compare_page(compare, rows)
    summary = summarise(folder)
    _check_report(summary.tables.report, folder / "report.json")
    comparisons = read_comparisons(compare) if compare.is_file() else []
    return (
        _panel_page(summary, rows, comparisons)
        if summary.kind == "panel"
        else _purified_page(summary, rows, comparisons)
    )


def teacher_rows(summary: Summary) -> list[dict[str, Any]]:
    """One row a teacher, under the keys of TEACHER_COLUMNS."""
    return [
        {
            "name": teacher.name,
            "models": ", ".join(teacher.models) or None,
            "responses": teacher.num_asked or None,
            "failed": teacher.num_failed if teacher.num_asked else None,
            "accuracy": teacher.accuracy,
            "chosen": teacher.chosen_share,
            "cost_usd": teacher.cost_usd,
        }
        for teacher in summary.teachers
    ]


def _panel_page(
    summary: Summary, students: Sequence[StudentRow], comparisons: Sequence[Mapping[str, Any]]
) -> ReportPage:
    teachers = summary.teachers
    return ReportPage(
        title="What the teachers say",
        subtitle=f"{summary.num_questions:,} questions, {len(teachers)} teachers, {_split_words(summary)}.",
        facts=_panel_facts(summary),
        sections=[
            *_teachers(summary),
            *_agreement(summary),
            *comparison_sections(comparisons),
            *student_sections(students),
            *_conflicts(summary),
        ],
    )


def _purified_page(
    summary: Summary, students: Sequence[StudentRow], comparisons: Sequence[Mapping[str, Any]]
) -> ReportPage:
    method = summary.tables.report.get("method") or "an unnamed method"
    return ReportPage(
        title="One rationale a question",
        subtitle=f"{summary.num_questions:,} questions, purified by {method}; {_split_words(summary)}.",
        facts=_purified_facts(summary),
        sections=[
            *student_sections(students),
            *_accuracy(summary),
            *comparison_sections(comparisons),
            *_shares(summary),
            *_teachers(summary),
            *_agreement(summary),
            *_conflicts(summary),
        ],
    )


def _panel_facts(summary: Summary) -> list[Fact]:
    asked = sum(teacher.num_asked for teacher in summary.teachers)
    failed = sum(teacher.num_failed for teacher in summary.teachers)
    best = max(
        (teacher.accuracy for teacher in summary.teachers if teacher.accuracy is not None and teacher.comparable),
        default=None,
    )
    return [
        Fact("teachers disagree on", format_value(summary.conflict_rate, "percent"), "of the questions"),
        Fact("best single teacher", format_value(best, "percent"), "right when asked blind"),
        Fact("some teacher is right", format_value(summary.oracle_accuracy, "percent"), "what choosing could reach"),
        Fact("responses", f"{asked:,}", f"{failed:,} of them failed"),
        Fact(
            "cost",
            format_value(summary.cost_usd, "money"),
            "" if summary.cost_usd is not None else "a price is unknown",
        ),
    ]


def _purified_facts(summary: Summary) -> list[Fact]:
    scores, where = _headline(summary.tables.report)
    return [
        Fact("teachers disagree on", format_value(summary.conflict_rate, "percent"), "of the questions"),
        Fact("kept one is right on", format_value(scores.get("purified_accuracy"), "percent"), where),
        Fact("best single teacher", format_value(scores.get("best_single_accuracy"), "percent"), where),
        Fact("gap to oracle closed", format_value(scores.get("gap_closed"), "percent"), where),
        Fact("calls a question", format_value(summary.tables.report.get("calls_per_question"), "number")),
    ]


def _headline(report: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The figures to open with: of `test` where there is one, because all splits together hold what was fitted on."""
    splits = report.get("splits")
    if isinstance(splits, dict) and isinstance(splits.get("test"), dict):
        return splits["test"], "on test"
    return report, "all splits together"


def _accuracy(summary: Summary) -> list[Section]:
    report = summary.tables.report
    splits = report.get("splits") if isinstance(report.get("splits"), dict) else {}
    scored = {name: scores for name, scores in (splits or {"all": report}).items() if isinstance(scores, dict)}
    shown = {name: scores for name, scores in scored.items() if name not in ("train", "validation")} or scored
    estimates = [
        Estimate(label, name, scores[key], *(interval_of(scores, key) or (None, None)))
        for key, label in RULES
        for name, scores in shown.items()
        if scores.get(key) is not None
    ]
    if not estimates:
        return []
    words = (
        "A question counts as right when the teacher whose rationale was kept answered it right by itself; "
        "questions that this teacher never answered by itself are left out."
    )
    chart = interval_chart(estimates, title="Accuracy by rule", description=described(estimates))
    table = as_html_table([{"split": name, **scores} for name, scores in scored.items()], SPLIT_COLUMNS)
    return [Section("How often the kept rationale is right", words, chart=chart, table=table)]


def _shares(summary: Summary) -> list[Section]:
    shares = {teacher.name: teacher.chosen_share or 0.0 for teacher in summary.teachers}
    ordered = dict(sorted(shares.items(), key=lambda item: -item[1]))
    words = ", ".join(f"{name} {100 * share:.1f} %" for name, share in ordered.items())
    chart = share_bars(ordered, title="Share of kept rationales by teacher", description=f"{words}.")
    return [Section("Whose rationales were kept", chart=chart)]


def _teachers(summary: Summary) -> list[Section]:
    rows = teacher_rows(summary)
    used = [column for column in TEACHER_COLUMNS if any(row.get(column.key) is not None for row in rows)]
    estimates = [_teacher_estimate(teacher) for teacher in summary.teachers if teacher.accuracy is not None]
    chart = (
        interval_chart(estimates, title="Accuracy of each teacher", description=described(estimates))
        if estimates
        else None
    )
    lead = (
        "Asked blind, over the labelled questions each one answered. A refusal and an answer that was cut off or could "
        "not be read count as wrong; calls that failed and questions never asked are left out."
        if estimates
        else ""
    )
    note = "; ".join(summary.notes)
    return [Section("The teachers", lead, chart=chart, table=as_html_table(rows, used), note=note)]


def _teacher_estimate(teacher: TeacherFacts) -> Estimate:
    assert teacher.accuracy is not None
    low, high = wilson_interval(teacher.accuracy, teacher.num_judged) or (None, None)
    return Estimate(teacher.name, "", teacher.accuracy, low, high)


def _agreement(summary: Summary) -> list[Section]:
    if summary.agreement_TT is None:
        return []
    names = [teacher.name for teacher in summary.teachers][: len(summary.agreement_TT)]
    return agreement_sections(names, summary.agreement_TT, kappa_TT=summary.kappa_TT, both_TT=summary.both_answered_TT)


def _conflicts(summary: Summary) -> list[Section]:
    if not summary.conflicts:
        return []
    lead = f"{len(summary.conflicts)} questions on which teachers conclude differently, spread evenly over the data."
    return [Section("Where they contradict one another", lead, conflicts=summary.conflicts)]


def _check_report(report: Mapping[str, Any], place: object) -> None:
    splits = report.get("splits")
    parts = splits.values() if isinstance(splits, dict) else ()
    for scores in (report, *(part for part in parts if isinstance(part, dict))):
        check_numbers(scores, _NUMBERS, place)


def _has_tables(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("purified.parquet", "questions.parquet", "manifest.json"))


def _split_words(summary: Summary) -> str:
    return ", ".join(f"{number:,} in {json.dumps(split)[1:-1]}" for split, number in summary.splits.items())
