from __future__ import annotations

from pathlib import Path

import pytest

from kp_data.errors import ConfigError
from kp_train.run_folder import RunFolder

IDENTITY = {"objective": "purified", "seed": 0, "teachers": ("ada",)}


def _begun(path: Path) -> RunFolder:
    folder = RunFolder.open(path, IDENTITY)
    folder.begin()
    return folder


def _checkpoint(folder: RunFolder, step: int, state: str | None) -> Path:
    path = folder.checkpoints / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if state is not None:
        (path / "trainer_state.json").write_text(state, encoding="utf-8")
    return path


def test_opening_writes_nothing(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "new", IDENTITY)
    assert not (tmp_path / "new").exists()


def test_the_same_run_may_open_its_folder_again(tmp_path: Path) -> None:
    _begun(tmp_path)
    assert RunFolder.open(tmp_path, IDENTITY).finished is None


def test_another_run_is_refused_and_the_first_difference_is_named(tmp_path: Path) -> None:
    _begun(tmp_path)
    with pytest.raises(ConfigError, match="another seed: 0 there, 1 here"):
        RunFolder.open(tmp_path, {**IDENTITY, "seed": 1})


def test_a_folder_is_held_by_one_run_at_a_time(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path / "out", IDENTITY)
    with folder.locked(), pytest.raises(ConfigError, match="another fit is writing here"), folder.locked():
        pass
    with folder.locked():
        folder.begin()


def test_a_lock_file_alone_makes_no_folder_foreign(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    folder = RunFolder.open(tmp_path, IDENTITY)
    with folder.locked():
        assert folder.finished is None


def test_a_run_begun_by_another_process_after_the_first_look_is_seen_under_the_lock(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path, IDENTITY)
    RunFolder.open(tmp_path, {**IDENTITY, "seed": 1}).begin()
    with pytest.raises(ConfigError, match="another seed"), folder.locked():
        pass


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match="cannot be written"),
        RunFolder.open(tmp_path / "file" / "out", IDENTITY).locked(),
    ):
        pass


def test_foreign_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ConfigError, match="not of a training run"):
        RunFolder.open(tmp_path, IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("record", ['{"rows": 3}', "[]"])
def test_a_run_file_of_another_command_is_refused(tmp_path: Path, record: str) -> None:
    (tmp_path / "run.json").write_text(record, encoding="utf-8")
    with pytest.raises(ConfigError, match="not of a training run of kp-train"):
        RunFolder.open(tmp_path, IDENTITY)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="is a file"):
        RunFolder.open(tmp_path / "out", IDENTITY)


def test_the_newest_whole_checkpoint_is_taken_and_half_written_ones_are_removed(tmp_path: Path) -> None:
    folder = _begun(tmp_path)
    _checkpoint(folder, 9, "{}")
    newest = _checkpoint(folder, 10, "{}")
    torn = [_checkpoint(folder, 11, '{"epoch": '), _checkpoint(folder, 12, None)]
    assert folder.last_checkpoint() == newest
    assert not any(path.exists() for path in torn)


def test_a_moved_folder_still_knows_its_best_checkpoint(tmp_path: Path) -> None:
    folder = _begun(tmp_path)
    newest = _checkpoint(folder, 4, '{"best_model_checkpoint": "/old/place/checkpoint-2"}')
    folder.last_checkpoint()
    assert str(folder.checkpoints / "checkpoint-2") in (newest / "trainer_state.json").read_text(encoding="utf-8")


def test_finishing_moves_the_student_in_records_it_and_drops_checkpoints(tmp_path: Path) -> None:
    folder = _begun(tmp_path)
    _checkpoint(folder, 1, "{}")
    (folder.prepare_saving() / "student.json").write_text("{}", encoding="utf-8")
    folder.finish({"steps": 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "student.json"]
    finished = RunFolder.open(tmp_path, IDENTITY).finished
    assert finished is not None
    assert finished["steps"] == 3


def test_a_checkpoint_that_was_moved_is_the_same_student(tmp_path: Path) -> None:
    files = {"config.json": "aa", "model.safetensors": "bb"}
    RunFolder.open(tmp_path, {**IDENTITY, "student": "/old/t5", "student_files": files}).begin()
    RunFolder.open(tmp_path, {**IDENTITY, "student": "/new/t5", "student_files": files})
    with pytest.raises(ConfigError, match='another student: "/old/t5" there, "/new/t5" here'):
        RunFolder.open(tmp_path, {**IDENTITY, "student": "/new/t5", "student_files": {**files, "config.json": "cc"}})


def test_students_without_files_are_told_apart_by_name(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, {**IDENTITY, "student": "tiny-t5"}).begin()
    with pytest.raises(ConfigError, match="another student"):
        RunFolder.open(tmp_path, {**IDENTITY, "student": "tiny-llama"})
