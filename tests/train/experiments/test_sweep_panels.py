from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from small_rows import small_questions, write_panel

from kp_data.errors import DataError
from kp_data.practice import make_questions
from kp_data.schema import Question
from kp_data.tables import read_questions, read_responses, table_of_questions, write_parquet
from kp_train.dataset import read_dataset
from kp_train.experiments.panels import in_splits, join_panels, own_rows, routed_rows


def test_questions_without_a_train_split_are_dealt_by_their_ids() -> None:
    questions = make_questions(900, subjects=["plants"])
    dealt = in_splits(questions, "plants")
    share = {name: sum(question.split == name for question in dealt) / 900 for name in ("train", "validation", "test")}
    assert share == pytest.approx({"train": 0.62, "validation": 0.12, "test": 0.26}, abs=0.05)
    # One question more or less changes no other question's split.
    assert in_splits(questions[100:], "plants") == dealt[100:]


def test_splits_that_are_there_stay_and_others_are_left_out() -> None:
    questions = make_questions(100)
    assert {question.split for question in in_splits(questions, "world")} == {"train", "validation", "test"}


def test_questions_to_learn_from_without_any_to_test_on_are_refused() -> None:
    with pytest.raises(DataError, match=r"here: no question in split 'test'"):
        in_splits(small_questions(4, 2, 0), "here")


def test_test_questions_without_gold_are_refused() -> None:
    questions = [*small_questions(4, 0, 0), Question("t", "?", ("a", "b"), split="test")]
    with pytest.raises(DataError, match="no test question has a gold answer"):
        in_splits(questions, "here")


def test_joined_panels_keep_their_questions_apart(tmp_path: Path) -> None:
    one, other = (
        small_questions(),
        [
            Question(f"q{number}", f"What is {number}?", ("one", "two"), "one", 0, "train" if number else "test")
            for number in range(3)
        ],
    )
    write_panel(tmp_path / "a", one)
    write_panel(tmp_path / "b", other)
    join_panels([("a", tmp_path / "a"), ("b", tmp_path / "b")], tmp_path / "all")
    ids = read_questions(tmp_path / "all" / "questions.parquet")["id"].to_pylist()
    assert ids == [*(f"a/q{number}" for number in range(20)), "b/q0", "b/q1", "b/q2"]
    assert set(read_responses(tmp_path / "all" / "responses.parquet")["question_id"].to_pylist()) == set(ids)
    whole = read_dataset(tmp_path / "all")
    assert len(own_rows(whole, "b", joined=True).rows) == 3
    assert len(own_rows(whole, "b", joined=False).rows) == 23


def test_a_test_question_that_another_dataset_trains_on_is_refused(tmp_path: Path) -> None:
    write_panel(tmp_path / "a", small_questions(4, 0, 2))
    write_panel(tmp_path / "b", small_questions(6, 0, 0))
    with pytest.raises(DataError, match=r"test question a/q4 is train question b/q4"):
        join_panels([("a", tmp_path / "a"), ("b", tmp_path / "b")], tmp_path / "all")


def test_out_of_domain_a_student_learns_what_the_one_teacher_said(tmp_path: Path) -> None:
    questions = small_questions(4, 2, 2)
    write_parquet(table_of_questions(questions), tmp_path / "questions.parquet")
    write_panel(tmp_path / "panel", questions[:4])
    rows = routed_rows(tmp_path, method="all", teachers=["ada", "bruno"])
    assert [len(row.rationales) for row in rows.rows] == [2, 2, 2, 2, 0, 0, 0, 0]
    responses = read_responses(tmp_path / "panel" / "responses.parquet")
    write_parquet(responses.take(list(range(0, 8, 2))), tmp_path / "panel" / "responses.parquet")
    rows = routed_rows(tmp_path, method="similarity-router", teachers=["ada", "bruno"])
    assert [bool(row.purified) for row in rows.rows] == [True] * 4 + [False] * 4
    assert rows.teachers == ()


def test_copies_of_test_questions_are_neither_learned_nor_selected_on() -> None:
    questions = small_questions(4, 2, 2)
    test = questions[-1]
    copies = [
        replace(test, id="a", split="train", choices=test.choices[::-1], question=test.question.upper()),
        replace(test, id="b", split="validation"),
    ]
    assert in_splits([*copies, *questions], "here") == questions


def test_a_limit_that_leaves_no_question_to_test_is_refused_before_anything_is_learned(tmp_path: Path) -> None:
    from small_sweep import plan_of, write_sweep

    from kp_train.experiments.pool import answer_of

    path = write_sweep(tmp_path, datasets=[{"name": "colours", "panel": "panel", "limit": 10}])
    plan = plan_of(path)
    answer = answer_of(plan.sweep, asdict(plan.tasks[0]), root=tmp_path / "out", home=tmp_path)
    assert answer["error"] == "colours: no question in split 'test'; a sweep needs train and test"
