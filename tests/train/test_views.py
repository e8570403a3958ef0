from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from kp_data.schema import Question
from kp_train.views import (
    VIEWS,
    Row,
    all_views,
    combined_view,
    label_view,
    purified_view,
    question_input,
    rationale_prefix,
    rationale_view,
    reordered,
    teacher_prefix,
)

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


def test_a_combined_text_has_rationale_and_answer_in_the_order_that_was_asked_for() -> None:
    (first,) = combined_view(ROW, purified_view(ROW, weight=0.5), "rationale-first")
    (last,) = combined_view(ROW, purified_view(ROW, weight=0.5), "answer-first")
    assert (first.prefix, first.text, first.weight) == ("reason: ", "Ice freezes.\nThe answer is yes", 0.5)
    assert (last.prefix, last.text, last.weight) == ("answer and explain: ", "yes\nIce freezes.", 0.5)


def test_combined_texts_of_several_teachers_keep_their_names() -> None:
    targets = combined_view(ROW, all_views(ROW, ("ada", "bruno")), "rationale-first")
    assert [(target.task, target.prefix) for target in targets] == [
        ("rationale-first rationale ada", "reason as ada: "),
        ("rationale-first rationale bruno", "reason as bruno: "),
    ]


def test_a_combined_text_ends_in_the_labels_that_were_asked_for() -> None:
    (target,) = combined_view(ROW, purified_view(ROW), "rationale-first", "purified")
    assert target.text.endswith("The answer is no")
    assert (
        combined_view(Row(Question(id="1", question="Why?"), purified="So."), purified_view(ROW), "answer-first") == []
    )


def test_apart_from_the_answer_rationales_stay_as_they_are() -> None:
    assert combined_view(ROW, all_views(ROW, ("ada",)), "separate") == all_views(ROW, ("ada",))


def test_every_view_of_every_teacher_has_a_prefix_of_its_own() -> None:
    prefixes = [rationale_prefix(view, teacher) for view in VIEWS for teacher in (None, "ada", "bruno")]
    assert len(set(prefixes)) == len(prefixes)
    assert rationale_prefix("separate", "ada") == teacher_prefix("ada")


def test_confidence_weighs_purified_texts_and_answers_and_leaves_gold_alone() -> None:
    sure = Row(QUESTION, purified="Ice freezes.", purified_answer="no", confidence=1.5)
    assert [target.weight for target in purified_view(sure, weight=2.0)] == [3.0]
    assert [target.weight for target in label_view(sure, "purified")] == [1.5]
    assert [target.weight for target in label_view(sure, "gold")] == [1.0]


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
