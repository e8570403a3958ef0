"""What the students of a sweep start from, and what is left of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from small_rows import small_questions
from small_sweep import plan_of, write_sweep

from kp_data.tables import write_json
from kp_train.dataset import Dataset
from kp_train.experiments.config import load_sweep
from kp_train.experiments.plan import Cell
from kp_train.experiments.pool import answer_of
from kp_train.experiments.training import _checkpoint, _drop_weights
from kp_train.run_folder import RunFolder
from kp_train.views import Row


def test_out_of_domain_students_of_all_methods_start_from_the_same_weights_and_tokenizer(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path))
    rows = [Row(replace(question, id=f"new {question.id}")) for question in small_questions()]
    every = tuple(replace(row, rationales={"ada": "Because it glows.", "bruno": "No."}) for row in rows)
    one = tuple(replace(row, purified="Because it glows.") for row in rows)
    folders = {
        _checkpoint(
            sweep,
            Cell("plants", "out", method, 2, "tiny", 0),
            sweep.student("tiny"),
            tmp_path / "panel",
            lessons,
            tmp_path / "out",
        )
        for method, lessons in (
            ("all", Dataset("plants", every, ("ada", "bruno"))),
            ("similarity-router", Dataset("plants", one)),
            ("fine-tune", Dataset("plants", tuple(rows))),
        )
    }
    assert len(folders) == 1


def test_a_student_is_dropped_whole_and_its_record_stays(tmp_path: Path) -> None:
    student, left = tmp_path / "student", tmp_path / ".dropped"
    for folder in (student, left):  # an earlier try got no further than the rename
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
    write_json({"steps": 2}, student / "run.json")
    _drop_weights(student)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_crash_while_a_student_is_dropped_costs_no_more_than_the_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(write_sweep(tmp_path, methods=["fine-tune"], counts=[2], seeds=[0]))

    def do(number: int) -> str | None:
        told = asdict(plan.tasks[number])
        return answer_of(plan.sweep, told, root=tmp_path / "out", home=tmp_path)["error"]

    def crash(path: Path, ignore_errors: bool = False) -> None:
        for file in Path(path).glob("*.safetensors"):
            file.unlink()
            raise KeyboardInterrupt

    assert do(0) is None
    with monkeypatch.context() as patched:
        patched.setattr("kp_train.experiments.training.shutil.rmtree", crash)
        with pytest.raises(KeyboardInterrupt):
            do(-1)
    assert do(-1) is None
    assert (tmp_path / "out" / plan.tasks[-1].name / "done.json").is_file()


@pytest.mark.slow
def test_a_sweep_that_was_moved_goes_on_with_its_half_trained_students(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kp_train.evaluate

    changes = {"methods": ["fine-tune"], "counts": [2], "seeds": [0], "budget": {"steps": 4, "evaluations": 2}}
    plan = plan_of(write_sweep(tmp_path, **changes))
    there, here = tmp_path / "there", tmp_path / "here"

    def do(number: int, root: Path) -> str | None:
        return answer_of(plan.sweep, asdict(plan.tasks[number]), root=root, home=tmp_path)["error"]

    assert do(0, there) is None
    looks, look = 0, kp_train.evaluate.predict_choices

    def looked_once(*given: Any, **named: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt
        return look(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(kp_train.evaluate, "predict_choices", looked_once)
        with pytest.raises(KeyboardInterrupt):
            do(-1, there)
    student = plan.tasks[-1].name + "/student"
    assert [path.name for path in (there / student / "checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]
    there.rename(here)
    heard: list[str] = []
    monkeypatch.setattr("kp_train.run_folder.RunFolder.last_checkpoint", _heard(heard))
    assert do(-1, here) is None
    assert heard == ["checkpoint-2"]
    assert (here / plan.tasks[-1].name / "done.json").is_file()
    assert not there.exists()


def _heard(heard: list[str]) -> Callable[[RunFolder], Path | None]:
    last = RunFolder.last_checkpoint

    def tell(folder: RunFolder) -> Path | None:
        found = last(folder)
        heard.append(found.name if found else "none")
        return found

    return tell
