"""The loop as a whole, with students that hardly learn: what is spent, what is kept, and how it goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted, classroom, world

from kp_data.errors import ConfigError, DataError, MethodError
from kp_train.assistant import AssistantOptions, Thresholds
from kp_train.assistant.lessons import kept_rows, lessons_of
from kp_train.assistant.loop import fit_with_assistant
from kp_train.assistant.records import PLAN, SIGNALS, Signal, read_signals
from kp_train.fit import fit
from kp_train.fit_options import FitOptions
from kp_train.students import load_student

FITTING = FitOptions("tiny-t5", "teaching-assistant", steps=2, eval_steps=2, log_to=())
FEW = AssistantOptions(call_budget=31, assistant="gold", rounds=2, samples=4, thresholds=Thresholds(0.25, 0.5, 0.5))
WORLD = world()


def run(out: Path, options: AssistantOptions = FEW, source: Scripted | None = None, **changes: Any) -> dict[str, Any]:
    """A run on the small world."""
    return fit_with_assistant(WORLD, replace(FITTING, **changes), options, source or Scripted(), out)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Scripted]:
    """A whole run, for tests that only look."""
    out, source = tmp_path_factory.mktemp("loop") / "run", Scripted()
    return out, run(out, source=source), source


def test_the_budget_is_spent_to_the_last_call_and_no_further(
    finished: tuple[Path, dict[str, Any], Scripted],
) -> None:
    out, record, source = finished
    stages = record["stages"]
    assert [stage["calls"] for stage in stages] == [9, 11, 11]
    assert record["teacher_calls"] == len(source.asked) == 31
    assert record["teacher_cost_usd"] == pytest.approx(0.31)
    asked = [one for one in read_signals(out / SIGNALS) if one.decision == "asked"]
    assert {(one.question_id, one.teacher) for one in asked} == set(source.asked)


def test_with_an_oracle_nothing_wrong_is_ever_learned(finished: tuple[Path, dict[str, Any], Scripted]) -> None:
    out, record, _ = finished
    gold = classroom(WORLD).gold
    said = read_signals(out / SIGNALS)
    assert all(one.kept == (one.teacher_answer == gold[one.question_id]) for one in said if one.decision == "asked")
    assert all(one.student_answer == gold[one.question_id] for one in said if one.decision == "own")
    assert {stage["label_accuracy"] for stage in record["stages"]} == {1.0}


def test_the_best_stage_becomes_the_student_of_the_folder(finished: tuple[Path, dict[str, Any], Scripted]) -> None:
    out, record, _ = finished
    best = max(stage["validation_accuracy"] for stage in record["stages"])
    assert record["validation_accuracy"] == best
    assert load_student(out).writes_text
    kept = (out / record["best_stage"] / "student" / "model.safetensors").read_bytes()
    assert (out / "model.safetensors").read_bytes() == kept


def test_the_card_tells_of_the_whole_run_and_not_of_the_stage_that_was_best(
    finished: tuple[Path, dict[str, Any], Scripted],
) -> None:
    out, record, _ = finished
    card = (out / "README.md").read_text(encoding="utf-8")
    line = next(line for line in card.splitlines() if "calls to teachers while training" in line)
    assert str(record["teacher_calls"]) in line
    assert not (out / "logs").exists()


def test_a_finished_run_is_given_back_without_a_call(finished: tuple[Path, dict[str, Any], Scripted]) -> None:
    out, record, _ = finished
    again = Scripted()
    assert run(out, source=again)["teacher_calls"] == record["teacher_calls"]
    assert not again.asked


def test_another_run_does_not_touch_the_folder(finished: tuple[Path, dict[str, Any], Scripted]) -> None:
    with pytest.raises(ConfigError, match="holds a run with another assistant"):
        run(finished[0], replace(FEW, call_budget=30))


@pytest.mark.parametrize(
    "left",
    [
        pytest.param("warm-up/plan.parquet", marks=pytest.mark.slow),
        pytest.param("warm-up/signals.parquet", marks=pytest.mark.slow),
        "round-1/plan.parquet",
    ],
)
def test_a_run_that_was_stopped_behind_any_file_goes_on_to_the_same_end(
    left: str, finished: tuple[Path, dict[str, Any], Scripted], tmp_path: Path
) -> None:
    whole, record, _ = finished
    out = tmp_path / "run"
    files = [f"{stage}/{name}" for stage in ("warm-up", "round-1", "round-2") for name in (PLAN, SIGNALS)]
    for name in files[: files.index(left) + 1]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole / name, out / name)
        facts = Path(name).parent / "plan.json"
        shutil.copy(whole / facts, out / facts)
    running = {"state": "running", "identity": json.loads((whole / "run.json").read_text())["identity"]}
    (out / "run.json").write_text(json.dumps(running))
    source = Scripted()
    assert run(out, source=source)["teacher_calls"] == record["teacher_calls"]
    assert read_signals(out / SIGNALS) == read_signals(whole / SIGNALS)


def test_all_calls_at_random_and_no_thresholds_are_plain_distillation(tmp_path: Path) -> None:
    room, source = classroom(WORLD), Scripted()
    plain = AssistantOptions(
        call_budget=len(room.pool), assistant="none", warm_up=1.0, rounds=0, thresholds=Thresholds(0, 0, 0)
    )
    run(tmp_path / "loop", plain, source)
    said = read_signals(tmp_path / "loop" / SIGNALS)
    assert len(source.asked) == len(room.pool) == len(kept_rows(room, said, rationales=True))
    taught = [replace(one, kept=True, teacher_confidence=1.0) for one in said]
    lessons = lessons_of(room, kept_rows(room, taught, rationales=True), name="plain")
    fit(lessons, replace(FITTING, objective="purified", labels="purified"), tmp_path / "plain")
    same = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("loop", "plain")]
    assert same[0] == same[1]


def test_a_scorer_of_choices_learns_answers_alone() -> None:
    room = classroom(WORLD)
    said = [
        Signal(room.pool[0].id, "warm-up", "asked", teacher="t", teacher_answer="x", teacher_rationale="r", kept=True)
    ]
    assert [row.purified for row in kept_rows(room, said, rationales=False)] == [None]
    assert [row.purified for row in kept_rows(room, said, rationales=True)] == ["r"]


def test_gold_as_assistant_needs_a_gold_answer_of_every_question(tmp_path: Path) -> None:
    rows = tuple(
        replace(row, question=replace(row.question, answer=None, answer_index=None))
        if row.question.split == "train"
        else row
        for row in WORLD.rows
    )
    with pytest.raises(MethodError, match="has no gold answer to verify by"):
        fit_with_assistant(replace(WORLD, rows=rows), FITTING, FEW, Scripted(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validation_needs_gold_answers(tmp_path: Path) -> None:
    rows = tuple(replace(row, question=replace(row.question, answer=None, answer_index=None)) for row in WORLD.rows)
    with pytest.raises(DataError, match="no choice question with a gold answer in 'validation'"):
        fit_with_assistant(
            replace(WORLD, rows=rows), FITTING, replace(FEW, assistant="none"), Scripted(), tmp_path / "run"
        )


def test_when_nothing_is_trusted_the_message_says_what_to_change(tmp_path: Path) -> None:
    everything = frozenset(question.id for question in classroom(WORLD).pool)
    with pytest.raises(MethodError, match="no answer was trusted enough"):
        run(tmp_path / "run", replace(FEW, assistant="none"), Scripted(refuses=everything))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"call_budget": 0}, "below 1"),
        ({"warm_up": 0.0}, "no share"),
        ({"rounds": 0}, "--warm-up 1"),
        ({"ask_first": "luck"}, "no strategy 'luck'"),
        ({"recall": 1.5}, "--keep-recall"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        run(tmp_path / "run", replace(FEW, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"assistant": "surface"}, "learns from 40 answers of the warm-up or more, which has 9 calls"),
        ({"assistant": "judge=openai/gpt@http://me:secret@host/v1"}, "without user, password or query"),
        (
            {"ask_first": "router"},
            "24 calls of the warm-up to two teachers or more; there are .* 9 calls and 1 teachers",
        ),
    ],
)
def test_what_would_fail_after_the_warm_up_is_refused_before_a_call(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    source = Scripted()
    with pytest.raises((ConfigError, MethodError), match=says):
        run(tmp_path / "run", replace(FEW, **changes), source)
    assert not source.asked
    assert not (tmp_path / "run").exists()


def test_a_verifier_that_could_learn_nothing_is_refused_before_a_call(tmp_path: Path) -> None:
    bare = tuple(
        replace(row, question=replace(row.question, answer=None, answer_index=None))
        if row.question.split == "train"
        else row
        for row in WORLD.rows
    )
    source = Scripted()
    with pytest.raises(MethodError, match="split 'train' that have gold answers, and none has"):
        fit_with_assistant(
            replace(WORLD, rows=bare), FITTING, replace(FEW, assistant="verifier"), source, tmp_path / "run"
        )
    assert not source.asked


def test_a_folder_without_an_assistant_is_refused_before_a_call(tmp_path: Path) -> None:
    source = Scripted()
    with pytest.raises(DataError, match="no student here"):
        run(tmp_path / "run", replace(FEW, assistant=str(tmp_path)), source)
    assert not source.asked


def test_where_the_warm_up_teaches_no_router_chance_decides_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kp_train.assistant.loop.fit_router", lambda *_, **__: None)
    said: list[str] = []
    options = replace(FEW, call_budget=90, ask_first="router", rounds=1)
    source = Scripted(percents=(30, 50))
    record = fit_with_assistant(WORLD, FITTING, options, source, tmp_path / "run", say=said.append)
    assert [stage.get("ask_first") for stage in record["stages"]] == [None, "random"]
    assert any("and questions too" in line for line in said)
