"""Methods side by side: what a comparison has to show, from `compare.json` and `split.json`.

Axes: T teachers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np

from kp_data.errors import DataError
from kp_data.report.agreement import agreement_sections
from kp_data.report.breakdowns import reliability_sections, share_sections, subject_sections
from kp_data.report.charts import Estimate, described, interval_chart
from kp_data.report.examples import examples_section
from kp_data.report.html import Fact, ReportPage, Section
from kp_data.report.plots import Gain, Level, Point, gain_chart, scatter
from kp_data.report.readings import check_numbers, interval_of, items, number, pair, part, read_object
from kp_data.report.students import StudentRow, student_sections
from kp_data.report.terminal import Column, as_html_table, format_value, interval_text, print_table
from kp_data.tables import read_json

Entry = Mapping[str, Any]

ORACLE: Final = "oracle"
COMPARE_COLUMNS: Final = (
    Column("method", "method"),
    Column("purified_accuracy", "accuracy", "percent"),
    Column("interval", "95 % interval", "range"),
    Column("gain", "vs best teacher", "points"),
    Column("gain_interval", "95 % interval ", "range"),
    Column("gap_closed", "gap closed", "percent"),
    Column("calls_per_question", "calls a question", "number"),
)
PRACTICAL_COLUMNS: Final = (
    Column("method", "method"),
    Column("prior", "needs, to choose"),
    Column("training", "learns from"),
    Column("extra_parameters", "parameters", "count"),
    Column("seconds_fit", "fitting", "seconds"),
    Column("transfers", "new questions"),
    Column("seconds_a_question", "choosing, a question", "seconds"),
    Column("teacher_calls", "calls a question", "number"),
    Column("teacher_seconds", "waiting for them", "seconds"),
    Column("cost_usd", "cost a question", "money"),
)
_NUMBERS: Final = (
    "purified_accuracy",
    "best_single_accuracy",
    "majority_accuracy",
    "oracle_accuracy",
    "gap_closed",
    "gain",
    "calls_per_question",
    "seconds_fit",
    "extra_parameters",
    "n_questions",
    "conflict_rate",
)


def read_comparisons(path: Path) -> list[Entry]:
    """The entries of a `compare.json`.

    Raises: DataError, when it is no list of methods, or a number in it is none.
    """
    found = read_json(path)
    entries = found.get("methods", found.get("comparisons")) if isinstance(found, dict) else found
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError("not a list of methods; write it with `kp-data compare`", place=path)
    for entry in entries:
        check_numbers(entry, _NUMBERS, path)
        numeric = [column.key for column in PRACTICAL_COLUMNS if column.style != "text"]
        check_numbers(part(entry, "practicality"), numeric, path)
        if not isinstance(entry.get("notes") or [], list):
            raise DataError("'notes' is no list; write it again with `kp-data compare`", place=path)
    return entries


def compare_rows(comparisons: Sequence[Entry]) -> list[dict[str, Any]]:
    """One row a method, under the keys of COMPARE_COLUMNS, best first."""
    rows = [
        {
            **entry,
            "interval": interval_text(interval_of(entry, "purified_accuracy")),
            "gain_interval": interval_text(pair(part(entry, "ci95").get("gain")), "points"),
        }
        for entry in comparisons
    ]
    return sorted(rows, key=lambda row: -(row.get("purified_accuracy") or 0.0))


def practical_rows(comparisons: Sequence[Entry]) -> list[dict[str, Any]]:
    """One row a method, under the keys of PRACTICAL_COLUMNS, in the order given; methods without are left out."""
    return [
        {
            "method": entry.get("method"),
            **usage,
            "training": usage.get("training") or "nothing",
            "transfers": "yes" if usage.get("transferable") else "no",
        }
        for entry in comparisons
        if (usage := part(entry, "practicality"))
    ]


def print_comparison(comparisons: Sequence[Entry], *, title: str, stream: TextIO | None = None) -> None:
    """Accuracy, what it takes, and paired differences from the strongest baseline, as tables for the terminal."""
    rows = compare_rows(comparisons)
    print_table(rows, COMPARE_COLUMNS, title=title, stream=stream)
    for section in (*_practical(rows), *_gains(rows)):
        if section.table is not None:
            headings = section.table.columns
            lines = [dict(zip(headings, row, strict=True)) for row in section.table.rows]
            columns = [Column(name, name, "range" if name in section.table.numeric else "text") for name in headings]
            print_table(lines, columns, title=section.heading, stream=stream)


def compare_page(path: Path, students: Sequence[StudentRow] = ()) -> ReportPage:
    """The page of a comparison.

    Args:
        path: `compare.json`; `split.json` beside it tells of the questions, where it is there.
        students: students to show with it.

    Raises: DataError, when a file is broken.
    """
    comparisons = read_comparisons(path)
    facts_path = path.with_name("split.json")
    facts = read_object(facts_path) if facts_path.is_file() else {}
    splits = sorted({str(entry["split"]) for entry in comparisons if entry.get("split")})
    on = f" on {', '.join(splits)}" if splits else ""
    return ReportPage(
        title="Methods side by side",
        subtitle=f"{len(comparisons)} ways to choose one rationale a question, compared{on}.",
        facts=_facts(comparisons),
        sections=[
            *comparison_sections(comparisons),
            *student_sections(students),
            *_agreement(facts, facts_path),
            *examples_section(facts, facts_path),
        ],
    )


def comparison_sections(comparisons: Sequence[Entry]) -> list[Section]:
    """What a comparison has to show, whatever else is on the page; nothing where there is none."""
    if not comparisons:
        return []
    rows = compare_rows(comparisons)
    return [
        *_accuracy(rows),
        *_scatter(rows),
        *_gains(rows),
        *_practical(rows),
        *share_sections(rows),
        *subject_sections(rows),
        *reliability_sections(rows),
    ]


def _facts(comparisons: Sequence[Entry]) -> list[Fact]:
    rows = [row for row in compare_rows(comparisons) if row.get("purified_accuracy") is not None]
    real = [row for row in rows if row.get("method") != ORACLE]
    if not real:
        return []
    best = real[0]
    return [
        Fact("best method", format_value(best["purified_accuracy"], "percent"), str(best.get("method"))),
        Fact("best single teacher", *_shown(best, "best_single_accuracy", str(best.get("best_single_teacher") or ""))),
        Fact("some teacher is right", *_shown(best, "oracle_accuracy", "what choosing could reach")),
        Fact("gap closed", *_shown(best, "gap_closed", "between these two, by the best")),
        Fact("teachers disagree on", *_shown(best, "conflict_rate", "of the questions")),
        Fact("questions", format_value(best.get("n_questions"), "number")),
    ]


def _shown(entry: Entry, key: str, note: str) -> tuple[str, str]:
    return format_value(entry.get(key), "percent"), note


def _accuracy(rows: Sequence[Entry]) -> list[Section]:
    estimates = [
        Estimate(
            str(row.get("method")),
            "",
            row["purified_accuracy"],
            *(interval_of(row, "purified_accuracy") or (None, None)),
        )
        for row in rows
        if row.get("purified_accuracy") is not None
    ]
    chart = (
        interval_chart(estimates, title="Accuracy by method", description=described(estimates)) if estimates else None
    )
    used = [column for column in COMPARE_COLUMNS if any(row.get(column.key) is not None for row in rows)]
    lead = (
        "How often the teacher that a method chooses is right, over the labelled questions it answered blind. "
        "Lines are 95 % intervals over questions."
    )
    notes = dict.fromkeys(str(note) for entry in rows for note in entry.get("notes") or ())
    return [Section("Accuracy by method", lead, chart=chart, table=as_html_table(rows, used), note="; ".join(notes))]


def _scatter(rows: Sequence[Entry]) -> list[Section]:
    """Accuracy against dollars where every price is known, else against calls."""
    shown = [row for row in rows if row.get("purified_accuracy") is not None and row.get("method") != ORACLE]
    costs = [part(row, "practicality").get("cost_usd") for row in shown]
    # A world where nothing costs anything is better told in calls.
    priced = all(cost is not None for cost in costs) and any(costs)
    takes = costs if priced else [row.get("calls_per_question") for row in shown]
    if len(shown) < 2 or any(value is None for value in takes):
        return []
    points = [
        Point(
            str(row.get("method")),
            float(value),
            row["purified_accuracy"],
            *(interval_of(row, "purified_accuracy") or (None, None)),
        )
        for row, value in zip(shown, takes, strict=True)
        if value is not None
    ]
    lines = (("some teacher is right", "oracle_accuracy"), ("best single teacher", "best_single_accuracy"))
    levels = [Level(name, shown[0][key]) for name, key in lines if shown[0].get(key) is not None]
    words = "US dollars a question" if priced else "teacher calls a question"
    chart = scatter(
        points,
        levels,
        x_label=words,
        x_words=lambda x: format_value(x, "money" if priced else "number"),
        title="Accuracy against what it takes",
    )
    lead = (
        "Higher is better, further left is cheaper; where marks would cover one another they stand in equal steps. No "
        "choice among given rationales can pass the upper line, and none is worth its effort below the lower one."
    )
    return [Section(f"Accuracy against {'cost' if priced else 'calls'}", lead, chart=chart)]


def _gains(rows: Sequence[Entry]) -> list[Section]:
    """Paired differences: every method against the strongest baseline among those compared."""
    reference = next(
        (row for row in rows if row.get("kind") == "baseline" and row.get("method") not in (ORACLE, "all")), None
    )
    if reference is None:
        return []
    name = str(reference.get("method"))
    gains = []
    for row in rows:
        cell = part(part(row, "differences"), name)
        value = number(cell.get("value"), "differences", "compare.json")
        if row.get("method") not in (name, ORACLE) and value is not None:
            gains.append(Gain(str(row.get("method")), value, *(pair(cell.get("ci95"), "compare.json") or (None, None))))
    if not gains:
        return []
    lead = (
        f"How many more questions of a hundred each method gets right than {name}, the strongest baseline here, on the "
        "very same questions. A filled mark: the 95 % interval leaves out zero."
    )
    table = as_html_table(
        [
            {"method": one.row, "value": one.value, "interval": interval_text(_gain_pair(one), "points")}
            for one in gains
        ],
        [
            Column("method", "method"),
            Column("value", f"against {name}", "points"),
            Column("interval", "95 % interval", "range"),
        ],
    )
    return [
        Section(
            f"Against {name}", lead, chart=gain_chart(gains, title=f"Difference from {name}"), table=table, fold=True
        )
    ]


def _gain_pair(gain: Gain) -> tuple[float, float] | None:
    return None if gain.low is None or gain.high is None else (gain.low, gain.high)


def _practical(rows: Sequence[Entry]) -> list[Section]:
    usage = practical_rows(rows)
    if not usage:
        return []
    used = [column for column in PRACTICAL_COLUMNS if any(row.get(column.key) is not None for row in usage)]
    lead = (
        "Measured here, not quoted. Choosing is timed one question at a time, with texts that no cache knows, and "
        "without the teachers' own calls; waiting is the recorded time of those calls when they are made at once."
    )
    return [Section("What each method takes", lead, table=as_html_table(usage, used))]


def _agreement(facts: Entry, place: Path) -> list[Section]:
    names = [str(name) for name in items(facts, "teachers")]
    if len(names) < 2:
        return []
    tables = [_square(facts.get(key), len(names), key, place) for key in ("agreement", "kappa", "both_answered")]
    share_TT, kappa_TT, both_TT = tables
    return agreement_sections(names, share_TT, kappa_TT=kappa_TT, both_TT=np.nan_to_num(both_TT))


def _square(value: Any, size: int, name: str, place: Path) -> Any:
    """(T, T) float, nan for null.

    Raises: DataError, when it has another shape or holds something else.
    """
    rows = value if isinstance(value, list) else []
    if len(rows) != size or any(not isinstance(row, list) or len(row) != size for row in rows):
        raise DataError(f"'{name}' is no table of {size} by {size}; write it again with `kp-data compare`", place=place)
    return np.array(
        [[np.nan if cell is None else number(cell, name, place) for cell in row] for row in rows], dtype=float
    )
