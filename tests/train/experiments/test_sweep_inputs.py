"""Mistakes in what a sweep starts from are told before anybody is asked, in a dry run and in a run alike."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from small_rows import small_questions, write_panel
from small_sweep import plan_of, write_sweep

from kp_data.tables import table_of_questions, write_json, write_parquet
from kp_train.cli import main
from kp_train.experiments.inputs import check_inputs
from kp_train.experiments.work import DONE
from kp_train.serve import serving_writers


def refused(
    path: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, dry: bool
) -> str:
    """What the command says when it refuses a file; nothing may have been written."""
    arguments = ["kp-train", "sweep", str(path), "--out", str(out), *(["--dry-run"] if dry else ["--jobs", "1"])]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert not out.exists()
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


TEACHERS = [{"name": "ada", "model": "ada", "api_base": "URL"}]
TWO = [{"name": name, "source": f"{name}.parquet"} for name in ("one", "other")]
COLUMN = [{"name": "one", "source": "one.parquet", "columns": {"question": "stem"}}]
MISSING = [{"name": "one", "source": "gone.parquet"}]
CHECKPOINT = [{"name": "tiny", "model": "./checkpoints/gone"}]
NO_STUDENT = [{"name": "tiny", "model": "tiny-t6"}]
ENCODER = ["all", {"name": "plm-classifier", "options": {"encoder": "/gone/encoder"}}]
LESSONS = {"student": "tiny", "knows": ["alchemy"]}
TAUGHT = [{"name": "north", "taught": LESSONS}]
TWICE = [{"name": "north", "taught": {"student": "tiny", "knows": ["plants", "plants:0"]}}]
OOD = {"datasets": [{"name": "plants", "source": "one.parquet", "columns": {"answer": "right"}}], "methods": ["all"]}

MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"datasets": TWO}, "test question one/q4 is train question other/q4; leave one of the datasets out"),
    ({"datasets": COLUMN}, "no column 'stem' to map to 'question'; it has id, question"),
    ({"datasets": MISSING}, "gone.parquet"),
    ({"students": CHECKPOINT}, "student tiny: no folder ./checkpoints/gone"),
    ({"students": NO_STUDENT}, "student tiny: no student 'tiny-t6'; there are tiny-t5"),
    ({"methods": ENCODER}, "method plm-classifier: encoder: no folder /gone/encoder"),
    ({"embedder": "./gone"}, "embedder: no folder ./gone"),
    ({"teachers": TAUGHT}, "teacher north: knows: no subject 'alchemy'"),
    ({"teachers": TWICE}, "teacher north: knows: subject 'plants' stands there twice"),
    ({"teachers": ["practice/nobody"]}, "no practice teacher 'nobody'"),
    ({"out_of_domain": OOD}, "no column 'right' to map to 'answer'"),
]


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(("changes", "told"), MISTAKES)
def test_a_mistake_is_told_in_one_message_before_a_call_is_paid(
    changes: dict[str, Any],
    told: str,
    dry: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_parquet(table_of_questions(small_questions(4, 0, 2)), tmp_path / "one.parquet")
    write_parquet(table_of_questions(small_questions(6, 0, 2)), tmp_path / "other.parquet")
    asked: list[object] = []

    def write(questions: Any, prefix: str) -> list[str]:
        asked.append(questions)
        return ["The answer is red" for _ in questions]

    with serving_writers({"ada": write}) as url:
        teachers = [{**TEACHERS[0], "api_base": url}]
        values = {"datasets": [{"name": "one", "source": "one.parquet"}], "teachers": teachers, **changes}
        said = refused(write_sweep(tmp_path, **values), tmp_path / "out", capsys, monkeypatch, dry=dry)
    assert said.startswith("error: ")
    assert told in said
    assert "Traceback" not in said
    assert asked == []


def test_a_panel_without_a_teacher_is_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sweep(tmp_path, teachers=["ada", "clara"])
    said = refused(path, tmp_path / "out", capsys, monkeypatch, dry=True)
    assert "no answers of teacher 'clara'; the panel has ada, bruno" in said


def test_a_checkpoint_of_a_hub_that_cannot_be_had_is_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    path = write_sweep(tmp_path, students=[{"name": "lost", "model": "no/where-at-all"}])
    said = refused(path, tmp_path / "out", capsys, monkeypatch, dry=False)
    assert said.startswith("looking for no/where-at-all on the hub\nerror: student lost: ")
    assert "no/where-at-all is no folder here and cannot be had from the hub" in said
    # A dry run asks nobody, not even a hub.
    check_inputs(plan_of(path), tmp_path / "out", home=tmp_path, only_local=True)


def test_what_is_done_is_not_looked_at_again(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, teachers=["ada", "bruno"])
    plan = plan_of(path)
    write_json({"task_cpu_s": 0.0}, tmp_path / "out" / plan.tasks[0].name / DONE)
    (tmp_path / "panel" / "responses.parquet").unlink()
    check_inputs(plan, tmp_path / "out", home=tmp_path)


def test_data_that_the_file_foretells_may_come_later_but_not_after_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {"train": 10, "validation": 2, "test": 4}
    data = [{"name": "colours", "source": "later.parquet", "expected": expected}]
    path = write_sweep(tmp_path, datasets=data, teachers=["practice/ada"])
    check_inputs(plan_of(path), tmp_path / "out", home=tmp_path, only_local=True)
    assert "later.parquet" in refused(path, tmp_path / "out", capsys, monkeypatch, dry=False)


def test_columns_of_a_panel_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_panel(tmp_path / "panel")
    path = write_sweep(tmp_path, datasets=[{"name": "c", "panel": "panel", "columns": {"question": "stem"}}])
    assert "columns has no effect on a panel" in refused(path, tmp_path / "out", capsys, monkeypatch, dry=True)
