"""Accuracy against teacher calls and against dollars, from the records of several runs: one line a way and stage.

Runs of one way (assistant, strategy, thresholds, budget) are averaged stage by stage, whatever their seeds or worlds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from kp_data.errors import DataError
from kp_data.report.html import ReportPage, Section
from kp_data.report.plots import Point, scatter
from kp_data.report.terminal import Column, as_html_table
from kp_data.tables import read_json
from kp_train.assistant.finishing import REPORT

COLUMNS: Final = (
    Column("way", "way"),
    Column("stage", "stage"),
    Column("runs", "runs", "number"),
    Column("calls", "calls", "number"),
    Column("cost_usd", "dollars", "range"),
    Column("accuracy", "validation accuracy", "percent"),
    Column("lowest", "lowest", "percent"),
    Column("highest", "highest", "percent"),
)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One stage of one way, over its runs.

    Attributes:
        way: assistant and strategy, and what else tells runs apart.
        stage: name.
        runs: how many.
        calls: mean number of teacher calls so far.
        cost_usd: mean of their dollars; None: of some run not known.
        accuracy: mean validation accuracy of the stage's student.
        lowest, highest: of the runs.
    """

    way: str
    stage: str
    runs: int
    calls: float
    cost_usd: float | None
    accuracy: float
    lowest: float
    highest: float


def read_curves(folders: Iterable[Path]) -> list[CurvePoint]:
    """The points of several runs, in the order of their first appearance.

    Raises: DataError, when a folder holds no finished run with a teaching assistant.
    """
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for folder in folders:
        record = _record(Path(folder))
        for stage in record["stages"]:
            found.setdefault((_way(record), str(stage["stage"])), []).append(stage)
    return [_point(way, stage, stages) for (way, stage), stages in found.items()]


def curves_page(points: Sequence[CurvePoint]) -> ReportPage:
    """A page with accuracy against calls, and against dollars where they are known."""
    sections = [_section("Accuracy against calls", points, "teacher calls", lambda point: point.calls, "{:.0f}")]
    if all(point.cost_usd is not None for point in points):
        sections.append(
            _section("Accuracy against dollars", points, "dollars", lambda point: point.cost_usd or 0.0, "{:.4f}")
        )
    table = as_html_table([asdict(point) for point in points], COLUMNS)
    lead = "Means over runs of one way; lowest and highest are of single runs."
    return ReportPage(
        "What calls buy",
        "The student of each stage on validation, by how its calls were spent.",
        sections=[*sections, Section("The numbers", lead, table=table)],
    )


def _section(title: str, points: Sequence[CurvePoint], label: str, place: Any, words: str) -> Section:
    marks = [
        # One run spans nothing.
        Point(f"{point.way}, {point.stage}", place(point), point.accuracy, *(_span(point) if point.runs > 1 else ()))
        for point in points
    ]
    chart = scatter(marks, [], x_label=label, x_words=words.format, title=title)
    return Section(title, "Each mark is the student of one stage; lines span the runs.", chart=chart)


def _span(point: CurvePoint) -> tuple[float, float]:
    return point.lowest, point.highest


def _point(way: str, stage: str, stages: Sequence[Mapping[str, Any]]) -> CurvePoint:
    accuracies = [float(one["validation_accuracy"]) for one in stages]
    costs = [one["cost_usd_total"] for one in stages]
    return CurvePoint(
        way,
        stage,
        len(stages),
        fmean(one["calls_total"] for one in stages),
        None if None in costs else fmean(costs),
        fmean(accuracies),
        min(accuracies),
        max(accuracies),
    )


def _way(record: Mapping[str, Any]) -> str:
    thresholds = ", ".join(f"{value:g}" for value in record["thresholds"])
    # A warm-up alone asks at random, whatever the strategy would be.
    order = f"{record['ask_first']} first" if len(record["stages"]) > 1 else "at random"
    recall, budget = record.get("keep_recall"), record.get("call_budget")
    # Runs of another budget have stages of the same name after other numbers of calls.
    more = ("" if recall is None else f", recall {recall:g}") + ("" if budget is None else f", {budget:,} calls")
    return f"{record['assistant']}, {order}, {thresholds}{more}"


def _record(folder: Path) -> Mapping[str, Any]:
    path = folder / REPORT
    if not path.is_file():
        raise DataError(
            "no finished run with a teaching assistant here; give --out folders of `kp-train fit --objective "
            "teaching-assistant`",
            place=folder,
        )
    record = read_json(path)
    needed = {"stages", "assistant", "ask_first", "thresholds"}
    if not isinstance(record, dict) or not needed <= record.keys():
        raise DataError("not the report of a run with a teaching assistant of this version", place=path)
    return record
