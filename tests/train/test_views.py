from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from kp_data.schema import Question
from kp_train.views import Row, all_views, label_view, purified_view, question_input, rationale_view, reordered

QUESTION = Question(
    id="1", question="Is ice cold?", choices=("yes", "no"), answer="yes", answer_index=0, context="Ice is water."
)
ROW = Row(QUESTION, {"ada": "Ice freezes.", "bruno": "Ice burns."}, purified="Ice freezes.", purified_answer="no")


def test_the_input_holds_context_question_and_lettered_choices_and_not_the_answer_alone() -> None:
    assert question_input(QUESTION) == "Ice is water.\nIs ice cold?\nAnswer Choices:\n(a) yes\n(b) no"


def test_an_open_question_has_no_list_of_choices() -> None:
    assert question_input(Question(id="1", question="Why?")) == "Why?"


def test_the_label_is_the_text_of_the_gold_choice_or_of_what_the_purified_rationale_concludes() -> None:
    ((gold,), (purified,)) = label_view(ROW, "gold"), label_view(ROW, "purified")
    assert (gold.prefix, gold.text) == ("predict: ", "yes")
    assert purified.text == "no"


def test_an_unlabelled_row_has_no_label() -> None:
    assert label_view(Row(Question(id="1", question="Why?"))) == []


def test_each_teacher_is_a_task_with_a_prefix_of_its_own() -> None:
    targets = all_views(ROW, ("ada", "bruno", "absent"), weight=0.5)
    assert [(target.task, target.prefix, target.weight) for target in targets] == [
        ("rationale ada", "explain as ada: ", 0.5),
        ("rationale bruno", "explain as bruno: ", 0.5),
    ]


def test_one_teacher_alone_and_the_purified_rationale_share_the_plain_prefix() -> None:
    (single,) = rationale_view(ROW, "bruno", own_prefix=False)
    (purified,) = purified_view(ROW)
    assert single.prefix == purified.prefix == "explain: "


@given(st.integers(0, 10_000))
def test_another_order_of_choices_keeps_choices_and_right_answer(seed: int) -> None:
    question = reordered(ROW, random.Random(seed)).question
    assert sorted(question.choices) == ["no", "yes"]
    assert question.answer_index is not None
    assert question.choices[question.answer_index] == question.answer == "yes"


def test_a_rationale_that_names_a_letter_keeps_its_order() -> None:
    for text in ("So (b) is wrong.", "The answer is not option A here."):
        row = Row(QUESTION, {"ada": text})
        assert all(reordered(row, random.Random(seed)) is row for seed in range(8))


def test_of_equal_choices_each_keeps_its_place_in_the_count() -> None:
    question = Question(id="1", question="?", choices=("x", "x", "y"), answer="y", answer_index=2)
    changed = reordered(Row(question), random.Random(0)).question
    assert changed.choices[changed.answer_index or 0] == "y"
