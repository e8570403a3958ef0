from __future__ import annotations

import csv
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from small_sweep import HerePool, plan_of, write_sweep

from kp_train.cli import main
from kp_train.experiments.figures import write_figures
from kp_train.experiments.plan import Plan
from kp_train.experiments.results import Results, collect, write_results
from kp_train.experiments.run import Standing, run_plan


def run_here(path: Path, out: Path) -> tuple[Plan, Standing, HerePool]:
    plan = plan_of(path)
    out.mkdir(exist_ok=True)
    pool = HerePool(plan.sweep, out, path.parent)
    return plan, run_plan(plan, out, pool), pool


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sweep file and the folder in which it is done."""
    folder = tmp_path_factory.mktemp("sweep")
    path = write_sweep(folder)
    _, standing, _ = run_here(path, folder / "out")
    assert [outcome.trace or outcome.error for outcome in standing.failed.values()] == []
    return path, folder / "out"


def results_of(finished: tuple[Path, Path]) -> Results:
    path, out = finished
    return collect(plan_of(path), out)


def test_every_line_of_the_table_has_its_students(finished: tuple[Path, Path]) -> None:
    rows = {(row.method, row.teachers): row for row in results_of(finished).rows}
    assert set(rows) == {("fine-tune", 0), ("step-by-step", 1), ("all", 2), ("best-single", 2)}
    assert all((row.seeds, row.questions, row.steps) == (2, 4, 2) for row in rows.values())
    # 12 train questions; lessons of two teachers take the answers of both.
    assert {key: row.calls for key, row in rows.items()} == {
        ("fine-tune", 0): 0,
        ("step-by-step", 1): 12,
        ("all", 2): 24,
        ("best-single", 2): 24,
    }
    flops = {method: row.flops or 0 for (method, _), row in rows.items()}
    assert flops["fine-tune"] < flops["step-by-step"] < flops["all"]


def test_tables_say_the_same_in_three_formats(finished: tuple[Path, Path]) -> None:
    out, results = finished[1], results_of(finished)
    write_results(results, out)
    told = json.loads((out / "results.json").read_text(encoding="utf-8"))
    with (out / "results.csv").open(encoding="utf-8", newline="") as lines:
        listed = list(csv.DictReader(lines))
    assert [row["accuracy"] for row in told["rows"]] == [float(row["accuracy"]) for row in listed]
    markdown = (out / "results.md").read_text(encoding="utf-8")
    for row in results.rows:
        assert f"{100 * row.accuracy:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]" in markdown
    assert [claim["verdict"] for claim in told["claims"]] == [claim.verdict for claim in results.claims]


def test_figures_are_whole_documents(finished: tuple[Path, Path]) -> None:
    out = finished[1]
    write_figures(results_of(finished), out)
    drawn = {path.name for path in (out / "figures").iterdir()}
    assert {"teachers-tiny.svg", "cmv.svg", "flops-in-tiny.svg"} <= drawn
    for path in (out / "figures").iterdir():
        assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "Accuracy against the number of teachers: tiny" in page


def test_the_same_command_finds_everything_done(
    finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = finished
    stamps = {file: file.stat().st_mtime_ns for file in out.glob("cells/*/done.json")}
    path_of_copy = out / "sweep.yaml"
    path_of_copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(sys, "argv", ["kp-train", "sweep", str(path), "--out", str(out), "--json", "--jobs", "1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = json.loads(capsys.readouterr().out)
    assert (told["students"], told["failed"]) == (8, {})
    assert {file: file.stat().st_mtime_ns for file in out.glob("cells/*/done.json")} == stamps


def test_test_questions_are_not_among_what_is_learned_or_selected_on(finished: tuple[Path, Path]) -> None:
    for answers in finished[1].glob("cells/*/answers.jsonl"):
        lines = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
        assert {line["split"] for line in lines} == {"test"}
        run = json.loads(answers.with_name("run.json").read_text(encoding="utf-8"))
        assert run["rows"]["learned"] == 12
        assert run["rows"]["validation"] == 4


def test_a_student_whose_lessons_do_not_fit_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "config.json").write_text("{", encoding="utf-8")
    students = [
        {"name": "lost", "model": str(tmp_path / "lost"), "batch": 4},
        {"name": "tiny", "shape": {"width": 16, "layers": 1, "heads": 2}, "batch": 4, "bf16": False},
    ]
    path = write_sweep(tmp_path, students=students, methods=["fine-tune"], counts=[2], seeds=[0])
    plan, standing, _ = run_here(path, tmp_path / "out")
    assert len(standing.failed) == 1
    (outcome,) = standing.failed.values()
    assert outcome.task.cell is not None
    assert outcome.task.cell.student == "lost"
    assert standing.done["cell"] == 1
    results = collect(plan, tmp_path / "out", standing)
    write_results(results, tmp_path / "out")
    write_figures(results, tmp_path / "out")
    markdown = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "colours: fine-tune, lost, seed 0: " in markdown
    assert "| fine-tune |" in markdown


def test_a_dry_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_sweep(tmp_path), tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["kp-train", "sweep", str(path), "--out", str(out), "--json", "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = json.loads(capsys.readouterr().out)
    assert sum(line["students"] for line in told["lines"]) == 8
    assert not out.exists()
