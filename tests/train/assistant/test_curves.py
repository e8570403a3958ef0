"""Accuracy against calls, and the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted, world

from kp_data.errors import DataError
from kp_data.report.html import render_html
from kp_data.tables import read_json, write_json
from kp_train.assistant import AssistantOptions
from kp_train.assistant.curves import curves_page, read_curves
from kp_train.assistant.loop import fit_with_assistant
from kp_train.fit_options import FitOptions


def record(
    folder: Path,
    accuracies: list[float],
    *,
    ask_first: str = "random",
    cost: float | None = 0.01,
    **more: Any,
) -> Path:
    """A run of as many stages as there are accuracies, ten calls each."""
    stages = [
        {
            "stage": f"round-{number}",
            "calls_total": 10 * (number + 1),
            "cost_usd_total": None if cost is None else cost * (number + 1),
            "validation_accuracy": accuracy,
        }
        for number, accuracy in enumerate(accuracies)
    ]
    told: dict[str, Any] = {"assistant": "gold", "ask_first": ask_first, "thresholds": [0.6, 0.5, 0.5]}
    folder.mkdir()
    write_json({**told, **more, "stages": stages}, folder / "report.json")
    return folder


def test_runs_of_one_way_are_averaged_stage_by_stage(tmp_path: Path) -> None:
    runs = [record(tmp_path / "a", [0.2, 0.4]), record(tmp_path / "b", [0.4, 0.8])]
    other = record(tmp_path / "c", [0.9, 0.9], ask_first="coverage")
    first, second, third, _ = read_curves([*runs, other])
    assert (first.runs, first.calls, first.cost_usd) == (2, 10, 0.01)
    assert first.accuracy == pytest.approx(0.3)
    assert second.accuracy == pytest.approx(0.6)
    assert (second.lowest, second.highest) == (0.4, 0.8)
    assert (third.way, third.runs) == ("gold, coverage first, 0.6, 0.5, 0.5", 1)


def test_runs_of_another_budget_or_recall_are_not_averaged(tmp_path: Path) -> None:
    said = ({"call_budget": 60}, {"call_budget": 1200}, {"call_budget": 60, "keep_recall": 0.9})
    runs = [record(tmp_path / str(number), [0.5], **more) for number, more in enumerate(said)]
    assert [(point.way, point.runs) for point in read_curves(runs)] == [
        ("gold, at random, 0.6, 0.5, 0.5, 60 calls", 1),
        ("gold, at random, 0.6, 0.5, 0.5, 1,200 calls", 1),
        ("gold, at random, 0.6, 0.5, 0.5, recall 0.9, 60 calls", 1),
    ]


def test_dollars_are_drawn_where_all_are_known(tmp_path: Path) -> None:
    known, unknown = record(tmp_path / "a", [0.2, 0.4]), record(tmp_path / "b", [0.2], cost=None)
    assert "Accuracy against dollars" in render_html(curves_page(read_curves([known])))
    assert "Accuracy against dollars" not in render_html(curves_page(read_curves([known, unknown])))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished run with a teaching assistant"):
        read_curves([tmp_path])
    write_json({"method": "random"}, tmp_path / "report.json")
    with pytest.raises(DataError, match="not the report of a run"):
        read_curves([tmp_path])


def test_a_run_leaves_a_page_with_its_reliability_and_a_curve(tmp_path: Path) -> None:
    fitting = FitOptions("tiny-t5", "teaching-assistant", steps=1, eval_steps=1, log_to=())
    out = tmp_path / "run"
    fit_with_assistant(world(120), fitting, AssistantOptions(12, "gold", samples=2), Scripted(), out)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Is the assistant right about teachers" in page
    assert "<script" not in page
    assert [point.calls for point in read_curves([out])] == [4, 12]
    assert read_json(out / "report.json")["evidence"].startswith("reconstructed")
