"""When two runs of an assistant are the same run: folders count by what they hold, not by where they lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted, world

from kp_data.errors import ConfigError
from kp_train.assistant.identity import run_identity
from kp_train.assistant.options import AssistantOptions
from kp_train.fit_options import FitOptions
from kp_train.run_folder import RunFolder

DATASET = world(20)


def folder_in(path: Path, weights: bytes = b"one") -> Path:
    (path / "inner").mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "inner" / "model.safetensors").write_bytes(weights)
    return path


def identity(kind: str, folder: Path) -> dict[str, Any]:
    fitting = FitOptions(str(folder) if kind == "student" else "tiny-t5", "teaching-assistant")
    given: dict[str, Any] = {"router": {"router": folder}, "assistant": {"assistant": str(folder)}}.get(kind, {})
    return json.loads(json.dumps(run_identity(DATASET, fitting, AssistantOptions(10, **given), Scripted())))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "file"), [("router", "inner/model.safetensors"), ("assistant", "config.json")])
def test_a_folder_whose_content_changed_under_the_same_path_is_another(tmp_path: Path, kind: str, file: str) -> None:
    folder = folder_in(tmp_path / "made")
    before = identity(kind, folder)
    assert identity(kind, folder) == before
    (folder / file).write_bytes(b"two")
    assert identity(kind, folder) != before


@pytest.mark.parametrize("kind", ["router", "assistant"])
def test_a_folder_that_was_moved_is_the_same_and_hidden_files_are_no_part_of_it(tmp_path: Path, kind: str) -> None:
    folder = folder_in(tmp_path / "made")
    before = identity(kind, folder)
    moved = folder.rename(tmp_path / "elsewhere")
    (moved / ".cache").mkdir()
    (moved / ".cache" / "x").write_text("y")
    assert identity(kind, moved) == before
    assert str(tmp_path) not in json.dumps(before)


def test_a_file_under_another_name_makes_another_folder(tmp_path: Path) -> None:
    folder = folder_in(tmp_path / "made")
    before = identity("router", folder)
    (folder / "config.json").rename(folder / "router.json")
    assert identity("router", folder) != before


def test_a_finished_run_is_not_taken_for_one_with_a_student_that_has_changed(tmp_path: Path) -> None:
    student = folder_in(tmp_path / "student")
    before = identity("student", student)
    RunFolder.open(tmp_path / "out", before).begin()
    # Moved, it is the same run.
    student = student.rename(tmp_path / "moved")
    RunFolder.open(tmp_path / "out", identity("student", student))
    (student / "config.json").write_text('{"d_model": 8}')
    with pytest.raises(ConfigError, match="holds a run with another student"):
        RunFolder.open(tmp_path / "out", identity("student", student))


def test_a_folder_that_has_the_name_of_an_assistant_of_ours_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("verifier", "surface", "gold", "none"):
        options, fitting = AssistantOptions(10, assistant=name), FitOptions("tiny-t5", "x")
        before = run_identity(DATASET, fitting, options, Scripted())
        folder_in(tmp_path / name)
        assert run_identity(DATASET, fitting, options, Scripted()) == before


def test_a_model_that_is_asked_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = run_identity(DATASET, FitOptions("tiny-t5", "x"), AssistantOptions(10, assistant="practice/ada"), Scripted())
    assert told["assistant"]["assistant"] == "practice/ada"
