"""From a folder to a page: what a panel, a purified folder, a comparison or a demonstration has to show.

Axes: T teachers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kp_data.errors import DataError
from kp_data.report.charts import Estimate, heatmap, interval_chart, share_bars, wilson_interval
from kp_data.report.html import Fact, ReportPage, Section
from kp_data.report.terminal import Column, as_html_table, format_value
from kp_data.summary import Summary, TeacherFacts, summarise
from kp_data.tables import read_json

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

COMPARE_COLUMNS: Final = (
    Column("method", "method"),
    Column("purified_accuracy", "accuracy", "percent"),
    Column("interval", "95 % interval", "range"),
    Column("gap_closed", "gap closed", "percent"),
    Column("calls_per_question", "calls a question", "number"),
    Column("seconds_fit", "seconds to fit", "number"),
    Column("extra_parameters", "parameters", "number"),
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
        return _compare_page(_comparisons(compare), rows)
    summary = summarise(folder)
    _check_report(summary.tables.report, folder / "report.json")
    comparisons = _comparisons(compare) if compare.is_file() else []
    return (
        _panel_page(summary, rows, comparisons)
        if summary.kind == "panel"
        else _purified_page(summary, rows, comparisons)
    )


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


def compare_rows(comparisons: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a method, under the keys of COMPARE_COLUMNS, best first."""
    rows = [dict(entry) | {"interval": _interval_text(_interval(entry, "purified_accuracy"))} for entry in comparisons]
    return sorted(rows, key=lambda row: -(row.get("purified_accuracy") or 0.0))


def student_rows(students: Sequence[StudentRow]) -> list[dict[str, Any]]:
    """One row a student and split, under the keys of STUDENT_COLUMNS."""
    return [
        {
            "name": row.name,
            "split": row.split,
            "n": row.n,
            "accuracy": row.accuracy,
            "interval": _interval_text(row.ci95),
        }
        for row in students
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
            *_comparison(comparisons),
            *_students(students),
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
            *_students(students),
            *_accuracy(summary),
            *_comparison(comparisons),
            *_shares(summary),
            *_teachers(summary),
            *_agreement(summary),
            *_conflicts(summary),
        ],
    )


def _compare_page(comparisons: Sequence[Mapping[str, Any]], students: Sequence[StudentRow]) -> ReportPage:
    splits = {str(entry["split"]) for entry in comparisons if entry.get("split")}
    on = f" on {', '.join(sorted(splits))}" if splits else ""
    return ReportPage(
        title="Methods side by side",
        subtitle=f"{len(comparisons)} ways to choose one rationale a question, compared{on}.",
        sections=[*_comparison(comparisons), *_students(students)],
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
        Estimate(label, name, scores[key], *(_interval(scores, key) or (None, None)))
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
    chart = interval_chart(estimates, title="Accuracy by rule", description=_described(estimates))
    table = as_html_table([{"split": name, **scores} for name, scores in scored.items()], SPLIT_COLUMNS)
    return [Section("How often the kept rationale is right", words, chart=chart, table=table)]


def _students(students: Sequence[StudentRow]) -> list[Section]:
    if not students:
        return []
    estimates = [Estimate(row.name, row.split, row.accuracy, *(row.ci95 or (None, None))) for row in students]
    chart = interval_chart(estimates, title="Student accuracy", description=_described(estimates))
    lead = "The same small model, trained on different targets. Lines are 95 % intervals over questions."
    return [
        Section(
            "What the student learned", lead, chart=chart, table=as_html_table(student_rows(students), STUDENT_COLUMNS)
        )
    ]


def _comparison(comparisons: Sequence[Mapping[str, Any]]) -> list[Section]:
    if not comparisons:
        return []
    rows = compare_rows(comparisons)
    estimates = [
        Estimate(
            str(row.get("method")), "", row["purified_accuracy"], *(_interval(row, "purified_accuracy") or (None, None))
        )
        for row in rows
        if row.get("purified_accuracy") is not None
    ]
    chart = (
        interval_chart(estimates, title="Accuracy by method", description=_described(estimates)) if estimates else None
    )
    used = [column for column in COMPARE_COLUMNS if any(row.get(column.key) is not None for row in rows)]
    lead = (
        "How often the teacher that a method chooses is right, over the labelled questions it answered blind. "
        "Lines are 95 % intervals over questions."
    )
    notes = dict.fromkeys(str(note) for entry in comparisons for note in entry.get("notes") or ())
    return [Section("Accuracy by method", lead, chart=chart, table=as_html_table(rows, used), note="; ".join(notes))]


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
        interval_chart(estimates, title="Accuracy of each teacher", description=_described(estimates))
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
    if summary.agreement_TT is None or len(summary.agreement_TT) < 2:
        return []
    names = [teacher.name for teacher in summary.teachers][: len(summary.agreement_TT)]
    low, high = _extreme_pairs(names, summary.agreement_TT)
    lead = "Percent of the questions both answered on which two teachers agree. Columns are numbered like rows."
    chart = heatmap(names, summary.agreement_TT, title="Agreement between teachers", description=f"{low} {high}")
    return [Section("Who agrees with whom", lead, chart=chart, note=f"{low} {high}".strip())]


def _extreme_pairs(names: Sequence[str], share_TT: Any) -> tuple[str, str]:
    pairs = [
        (float(share_TT[row, column]), names[row], names[column])
        for row in range(len(names))
        for column in range(row)
        if share_TT[row, column] == share_TT[row, column]
    ]
    if len(pairs) < 2:
        return ("No two teachers answered the same question.", "") if not pairs else ("", "")
    words = [f"{pair[2]} and {pair[1]}, {100 * pair[0]:.0f} %." for pair in (min(pairs), max(pairs))]
    return f"Furthest apart: {words[0]}", f"Closest: {words[1]}"


def _conflicts(summary: Summary) -> list[Section]:
    if not summary.conflicts:
        return []
    lead = f"{len(summary.conflicts)} questions on which teachers conclude differently, spread evenly over the data."
    return [Section("Where they contradict one another", lead, conflicts=summary.conflicts)]


def _comparisons(path: Path) -> list[Mapping[str, Any]]:
    found = read_json(path)
    entries = found.get("methods", found.get("comparisons")) if isinstance(found, dict) else found
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError("not a list of methods; write it with `kp-data compare`", place=path)
    for entry in entries:
        _check_scores(entry, path)
        if not isinstance(entry.get("notes") or [], list):
            raise DataError("'notes' is no list; write it again with `kp-data compare`", place=path)
    return entries


def _check_scores(scores: Mapping[str, Any], place: object) -> None:
    """What is shown as a number is one, or null.

    Raises:
        DataError: it is not; names it.
    """
    shown = {column.key for column in (*COMPARE_COLUMNS, *SPLIT_COLUMNS) if column.style in ("number", "percent")}
    for key in sorted(shown | {key for key, _ in RULES}):
        _number(scores.get(key), key, place)
        _interval(scores, key, place)


def _check_report(report: Mapping[str, Any], place: object) -> None:
    splits = report.get("splits")
    parts = splits.values() if isinstance(splits, dict) else ()
    for scores in (report, *(part for part in parts if isinstance(part, dict))):
        _check_scores(scores, place)


def _student(name: str, split: str, fields: Mapping[str, Any], place: object) -> StudentRow:
    accuracy, count = (_number(fields.get(key), key, place) for key in ("accuracy", "n"))
    if accuracy is None:
        raise DataError("holds no accuracy; write it with `kp-train evaluate --json`", place=place)
    return StudentRow(name, split, accuracy, _pair(fields.get("ci95"), place), None if count is None else int(count))


def _number(value: Any, name: str, place: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"'{name}' is {str(value)[:40]!r}, which is no number; write the file again", place=place)
    return float(value)


def _has_tables(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("purified.parquet", "questions.parquet", "manifest.json"))


def _interval(entry: Mapping[str, Any], key: str, place: object = "report") -> tuple[float, float] | None:
    """The 95 % interval of a number, under `{key}_ci95` or in `ci95`."""
    within = entry.get("ci95")
    return _pair(entry.get(f"{key}_ci95", within.get(key) if isinstance(within, dict) else within), place)


def _pair(value: Any, place: object) -> tuple[float, float] | None:
    if not isinstance(value, list | tuple) or len(value) != 2 or None in value:
        return None
    low, high = (_number(bound, "ci95", place) for bound in value)
    return None if low is None or high is None else (low, high)


def _interval_text(interval: tuple[float, float] | None) -> str | None:
    return None if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f} %"


def _described(estimates: Sequence[Estimate]) -> str:
    parts = [f"{estimate.row} {estimate.series}".strip() + f" {100 * estimate.value:.1f} %" for estimate in estimates]
    return "; ".join(parts) + "."


def _split_words(summary: Summary) -> str:
    return ", ".join(f"{number:,} in {json.dumps(split)[1:-1]}" for split, number in summary.splits.items())
