"""The panel: alignment, conflicts and skill, by hand."""

import numpy as np
import pyarrow as pa
import pytest

from kp_data.errors import DataError
from kp_data.panel import Panel
from kp_data.schema import RESPONSES, Question
from kp_data.tables import check_responses

QUESTIONS = [
    Question("a", "Is ice cold?", ("yes", "no"), "yes", 0, split="train", subject="ice"),
    Question("b", "How many legs has a spider?", (), "8", None, split="test"),
]


def panel_of(*rows: dict[str, object], teachers: list[str] | None = None) -> Panel:
    # Arrow takes its columns from the first row: name them all.
    defaults = {**dict.fromkeys(RESPONSES.names), "sample": 0, "mode": "blind", "rationale": "because"}
    table = pa.Table.from_pylist([{**defaults, **row} for row in rows])
    return Panel.of_tables(QUESTIONS, check_responses(table, "r"), teachers=teachers)


def test_answers_are_aligned_whatever_the_order_of_the_rows() -> None:
    panel = panel_of(
        {"question_id": "b", "teacher": "t2", "answer": "Six."},
        {"question_id": "a", "teacher": "t1", "answer_index": 1},
        {"question_id": "b", "teacher": "t1", "answer": " 8 "},
    )
    assert panel.teachers == ("t2", "t1")
    # Gold "8" is code 0 of question b; "Six." is the next.
    assert panel.answer_QT.tolist() == [[-1, 1], [1, 0]]
    assert panel.gold_Q.tolist() == [0, 0]
    assert np.array_equal(panel.skill_QT, [[np.nan, 0.0], [0.0, 1.0]], equal_nan=True)
    assert panel.conflict_Q.tolist() == [False, True]


def test_skill_is_the_share_of_right_samples() -> None:
    panel = panel_of(
        {"question_id": "a", "teacher": "t", "answer_index": 0, "sample": 0},
        {"question_id": "a", "teacher": "t", "answer_index": 1, "sample": 1},
        {"question_id": "a", "teacher": "t", "answer_index": 0, "sample": 2},
        {"question_id": "a", "teacher": "t", "sample": 3},
    )
    assert panel.skill_QT[0, 0] == 0.5


def test_rationales_come_teacher_forced_and_skill_from_blind_answers() -> None:
    panel = panel_of(
        {"question_id": "a", "teacher": "t", "answer_index": 1},
        {"question_id": "a", "teacher": "t", "answer_index": 0, "mode": "teacher_forced", "rationale": "forced"},
    )
    assert panel.rationale_mode == "teacher_forced"
    assert panel.rationale_QT[0, 0] == "forced"
    assert panel.skill_QT[0, 0] == 0.0
    assert panel.stated_QT[0, 0] == 0


def test_a_failed_cell_has_been_asked_but_gives_no_rationale() -> None:
    panel = panel_of(
        {"question_id": "a", "teacher": "t", "rationale": None, "error": "refused"},
        {"question_id": "b", "teacher": "t", "rationale": "  "},
    )
    assert panel.asked_QT.tolist() == [[True], [True]]
    assert panel.has_rationale_QT.tolist() == [[False], [False]]
    assert panel.skill_QT[0, 0] == 0.0


def test_a_call_that_failed_on_the_way_says_nothing_about_skill() -> None:
    panel = panel_of(
        {"question_id": "a", "teacher": "t", "rationale": None, "error": "rate_limited"},
        {"question_id": "b", "teacher": "t", "rationale": None, "error": "truncated"},
    )
    assert np.array_equal(panel.skill_QT, [[np.nan], [0.0]], equal_nan=True)
    assert panel.asked_QT.all()


def test_a_split_or_teacher_that_is_not_there_is_named_with_those_that_are() -> None:
    panel = panel_of({"question_id": "a", "teacher": "t", "answer_index": 0})
    assert len(panel.split("train")) == 1
    with pytest.raises(DataError, match="this panel has test, train"):
        panel.split("validation")
    with pytest.raises(DataError, match="no responses of teacher 'x'; the panel has t"):
        panel_of({"question_id": "a", "teacher": "t"}, teachers=["x"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question_id": "z", "teacher": "t"}, "question 'z'"),
        ({"question_id": "a", "teacher": "t", "answer_index": 2}, "has 2 choices"),
    ],
)
def test_a_response_that_fits_no_question_is_refused(row: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        panel_of(row)
