"""A report at any time, and what a failed task leaves to read."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from small_sweep import HerePool, plan_of, write_sweep

from kp_data.tables import write_json
from kp_train.cli import main
from kp_train.experiments.results import collect
from kp_train.experiments.run import sweep_folder
from kp_train.experiments.training import ANSWERS
from kp_train.experiments.work import DONE


def sweep(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["kp-train", "sweep", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def some_students_done(path: Path, out: Path, count: int) -> None:
    """The first students of a sweep, as if they had been trained."""
    plan = plan_of(path)
    for task in plan.cells[:count]:
        folder = out / task.name
        write_json({"task_cpu_s": 1.0}, folder / DONE)
        right = [json.dumps({"id": f"q{number}", "correct": number % 2 == 0}) for number in range(16, 20)]
        (folder / ANSWERS).write_text("\n".join(right), encoding="utf-8")


def test_a_report_is_made_while_the_sweep_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_sweep(tmp_path, methods=["fine-tune"], counts=[2]), tmp_path / "out"
    with sweep_folder(out, path):  # as the running sweep holds it
        some_students_done(path, out, 1)
        assert sweep(monkeypatch, path, "--out", out, "--report-only", "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["students"], told["planned"], told["rows"][0]["accuracy"]) == (1, 2, 0.5)
        assert "1 of 2 students" in (out / "results.md").read_text(encoding="utf-8")
        assert sweep(monkeypatch, path, "--out", out, "--report-only") == 0
    assert "1 of 2 students" in capsys.readouterr().out
    assert (out / "report.html").is_file()


def test_a_report_before_the_first_student_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_sweep(tmp_path), tmp_path / "out"
    with sweep_folder(out, path):
        assert sweep(monkeypatch, path, "--out", out, "--report-only") == 0
    assert "no student is done yet; 0 of 10 tasks are" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_reported_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_sweep(tmp_path, methods=["fine-tune"], counts=[2]), tmp_path / "out"
    with sweep_folder(out, path):
        some_students_done(path, out, 2)
    for name in ("results.json", "report.html"):
        (out / name).mkdir()
    assert sweep(monkeypatch, path, "--out", out, "--report-only", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["students"] == 2
    assert "tables and figures are not written" in captured.err


def test_answers_of_a_version_before_the_one_store_are_not_reported_as_none(tmp_path: Path) -> None:
    data = [{"name": "colours", "source": "practice:20"}]
    path, out = write_sweep(tmp_path, datasets=data, methods=["all"], counts=[2]), tmp_path / "out"
    plan = plan_of(path)
    (asked,) = [task for task in plan.tasks if task.kind == "ask"]
    for facts, answers in (({"calls": 40}, None), ({"calls": 40, "asked_anew": 40}, 0)):
        write_json({"task_cpu_s": 0.0, **facts}, out / asked.name / DONE)
        assert collect(plan, out).asked == answers


@pytest.mark.parametrize("debug", [True, False])
def test_the_traceback_of_a_failed_task_is_shown_with_debug_alone(
    debug: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{", encoding="utf-8")
    students = [{"name": "lost", "model": str(tmp_path / "broken")}]
    path, out = write_sweep(tmp_path, students=students, methods=["fine-tune"], counts=[2], seeds=[0]), tmp_path / "out"
    here = HerePool(plan_of(path).sweep, out, tmp_path)
    monkeypatch.setattr("kp_train.experiments.pool.pool_named", lambda *given: nullcontext(here))
    code = sweep(monkeypatch, path, "--out", out, "--json", *(["--debug"] if debug else []))
    told = capsys.readouterr()
    assert code == 3
    assert "failed: colours: fine-tune, lost, seed 0: " in told.err
    assert ("Traceback" in told.err and "train_cell" in told.err) == debug
    assert "Traceback" not in told.out
