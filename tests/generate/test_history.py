"""What a change asks again: exactly the cells that it concerns, and `explain` says why."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from practice_runs import reset, run, stats

from kp_data.config import Generate, Teacher
from kp_data.generate import explain_cell, generate_panel
from kp_data.generate import plan as plan_module
from kp_data.practice import practice_server

FIRST = "practice/0/000000"


def ask(out: Path, url: str, *, mode: Any = "blind", **fields: Any) -> None:
    """Ask ada, who is as she is, and bruno with some fields changed."""
    ada = Teacher(name="ada", model="practice/ada", api_base=url)
    bruno = Teacher(name="bruno", model="practice/bruno", api_base=url, **fields)
    generate_panel("practice:12", out=out, teachers=[ada, bruno], options=Generate(mode=mode))


def explained(out: Path, teacher: str = "bruno", index: int = 0) -> dict[str, Any]:
    return explain_cell(out, question=FIRST, teacher=teacher)[index]


def test_one_more_teacher_asks_exactly_its_own_cells(tmp_path: Path) -> None:
    with practice_server() as url:
        run(tmp_path, url, "practice:25")
        reset(url)
        run(tmp_path, url, "practice:25", names="ada bruno clara")
        assert stats(url)["completed_per_model"] == {"clara": 25}
    cell = explained(tmp_path, "clara")
    assert cell["state"] == "answered"
    assert "why" not in cell


@pytest.mark.parametrize(
    ("fields", "difference"),
    [
        ({"temperature": 0.5}, "temperature 0.0 → 0.5"),
        ({"temperature": None}, "temperature 0.0 → not sent"),
        ({"max_tokens": 300}, "max_tokens 1024 → 300"),
        ({"logprobs": True}, "logprobs not sent → True"),
    ],
)
def test_a_parameter_of_one_teacher_asks_its_cells_again_and_says_so(
    tmp_path: Path, fields: dict[str, Any], difference: str
) -> None:
    with practice_server() as url:
        ask(tmp_path, url)
        reset(url)
        ask(tmp_path, url, **fields)
        assert stats(url)["completed_per_model"] == {"bruno": 12}
        cell = explained(tmp_path)
        assert cell["before"][0]["differences"] == [difference]
        assert f"(answered), and since then has changed: {difference}" in cell["why"]
        assert "why" not in explained(tmp_path, "ada")
        # Back to the first: nothing is asked, and the first was not new.
        reset(url)
        ask(tmp_path, url)
        assert stats(url)["requests"] == 0
        assert "why" not in explained(tmp_path)


def test_another_prompt_of_one_mode_asks_all_of_that_mode_again_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reworded(*args: Any, mode: str, **options: Any) -> Any:
        messages = build(*args, mode=mode, **options)
        if mode == "teacher_forced":
            messages = [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + "\nBe brief."}]
        return messages

    build = plan_module.build_messages
    with practice_server() as url:
        ask(tmp_path, url, mode="both")
        reset(url)
        monkeypatch.setattr(plan_module, "build_messages", reworded)
        ask(tmp_path, url, mode="both")
        assert stats(url)["completed_per_model"] == {"ada": 12, "bruno": 12}
        blind, forced = explain_cell(tmp_path, question=FIRST, teacher="ada")
        assert "why" not in blind
        assert "the messages (the words of the prompt" in forced["why"]


def test_a_new_version_of_the_prompts_asks_everything_again_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with practice_server() as url:
        ask(tmp_path, url)
        old = plan_module.PROMPT_VERSION
        monkeypatch.setattr(plan_module, "PROMPT_VERSION", "next")
        cell = explained(tmp_path)
        assert (cell["state"], cell["next_run"]) == ("never asked in these words", "asks it")
        assert cell["before"][0]["differences"] == [f"prompt version {old} → next"]
        reset(url)
        ask(tmp_path, url)
        assert stats(url)["completed"] == 24


def test_a_server_that_moved_is_named_and_so_is_a_question_that_was_never_asked(tmp_path: Path) -> None:
    with practice_server() as old:
        ask(tmp_path, old)
    with practice_server() as new:
        ask(tmp_path, new)
    assert explained(tmp_path)["before"][0]["differences"] == [f"endpoint {old}|practice/bruno → {new}|practice/bruno"]
    forget(tmp_path)
    cell = explained(tmp_path)
    assert cell["why"] == "this question was not asked of this model before, in this mode and sample"
    assert cell["before"] == []


def forget(out: Path) -> None:
    with sqlite3.connect(out / "cells.sqlite") as connection:
        connection.execute("DELETE FROM cells")
    connection.close()


def test_a_store_whose_cells_do_not_name_their_question_is_understood(tmp_path: Path) -> None:
    with practice_server() as url:
        ask(tmp_path, url)
        with sqlite3.connect(tmp_path / "cells.sqlite") as connection:
            for key, request in connection.execute("SELECT key, request FROM cells").fetchall():
                fields = {name: value for name, value in json.loads(request).items() if name != "question"}
                bare = json.dumps(fields, sort_keys=True)
                connection.execute("UPDATE cells SET request = ? WHERE key = ?", (bare, key))
        connection.close()
        ask(tmp_path, url, temperature=1.0)
    assert explained(tmp_path)["before"][0]["differences"] == ["temperature 0.0 → 1.0"]
