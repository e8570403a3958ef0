"""The report of a run: what calls were spent on, what was kept, and whether the assistant's word holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from kp_data.report.html import Fact, ReportPage, Section, write_html
from kp_data.report.plots import Bucket, Point, reliability_chart, scatter
from kp_data.report.terminal import Column, as_html_table, format_value

REPORT_HTML: Final = "report.html"

_STAGES: Final = (
    Column("stage", "stage"),
    Column("calls_total", "calls so far", "number"),
    Column("cost_usd_total", "dollars so far", "range"),
    Column("kept", "answers learned", "number"),
    Column("kept_own", "of them its own", "number"),
    Column("dropped", "calls distrusted", "number"),
    Column("waiting", "not asked yet", "number"),
    Column("teacher_accuracy", "teachers right", "percent"),
    Column("label_accuracy", "learned right", "percent"),
    Column("own_accuracy", "own right", "percent"),
    Column("validation_accuracy", "student, validation", "percent"),
)

_BUCKETS: Final = (
    Column("predicted", "said", "percent"),
    Column("observed", "right", "percent"),
    Column("num", "answers", "number"),
)


def write_report(record: Mapping[str, Any], folder: Path) -> None:
    """Write `report.html`: one file, no script, no request.

    Args:
        record: of the run.
        folder: of the run.

    Raises: DataError, when it cannot be written.
    """
    write_html(report_page(record), folder / REPORT_HTML)


def report_page(record: Mapping[str, Any]) -> ReportPage:
    """The page of a run."""
    stages = record["stages"]
    best = next(stage for stage in stages if stage["stage"] == record["best_stage"])
    cost = record["teacher_cost_usd"]
    facts = [
        Fact("teacher calls", f"{record['teacher_calls']}", f"of {record['call_budget']} that may be spent"),
        Fact("dollars", "not known" if cost is None else f"${cost:.4f}", "teachers' calls"),
        Fact("validation accuracy", format_value(best["validation_accuracy"], "percent"), f"after {best['stage']}"),
        Fact("learned right", format_value(best["label_accuracy"], "percent"), "of what is kept, where gold is known"),
    ]
    return ReportPage(
        "Few calls, imperfect teachers",
        f"Assistant: {record['assistant']}. Calls go first by: {record['ask_first']}. Method {record['evidence']}.",
        facts,
        [*_stage_sections(stages), *_curve(stages), *_reliability(stages)],
    )


def _stage_sections(stages: Sequence[Mapping[str, Any]]) -> list[Section]:
    lead = (
        "What each stage spent and kept. Shares of right answers are counted where gold answers are known, and decide "
        "about nothing."
    )
    return [Section("Stage by stage", lead, table=as_html_table(stages, _STAGES))]


def _curve(stages: Sequence[Mapping[str, Any]]) -> list[Section]:
    if len(stages) < 2:
        return []
    title = "Accuracy against calls"
    points = [Point(stage["stage"], stage["calls_total"], stage["validation_accuracy"]) for stage in stages]
    chart = scatter(points, [], x_label="teacher calls", x_words=lambda calls: f"{calls:.0f}", title=title)
    return [Section(title, "The student of each stage, on validation.", chart=chart)]


def _reliability(stages: Sequence[Mapping[str, Any]]) -> list[Section]:
    return [
        _diagram(f"Is the assistant right about {whose}? ({stage['stage']})", stage[kind]["reliability"])
        for stage in stages
        for kind, whose in (("teacher", "teachers' answers"), ("student", "the student's answers"))
        if stage.get(kind) and stage[kind].get("reliability")
    ]


def _diagram(title: str, reliability: Mapping[str, Any]) -> Section:
    buckets = [Bucket(**one) for one in reliability["bins"]]
    lead = (
        "How often an answer is right, against the probability that the assistant gave it; lines are 95 % intervals. "
        f"Expected calibration error {format_value(reliability['ece'], 'percent')} over {reliability['num']} answers "
        "whose gold answer is known, in bins of about equally many."
    )
    table = as_html_table([asdict(bucket) for bucket in buckets], _BUCKETS)
    return Section(title, lead, chart=reliability_chart(buckets, title=title), table=table, fold=True)
