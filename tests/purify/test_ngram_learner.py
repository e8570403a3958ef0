"""The student that counts words: its losses by hand, and that it learns and forgets."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.learner import Lesson
from kp_data.purify.ngram_learner import ANY, BEFORE, CHANCE, COPIED, RELATED, NgramLearner, make_ngram_learner
from kp_data.schema import Question

QUESTION = Question("q", "sky", ("blue", "red"), "blue", 0)


def test_an_untaught_student_knows_a_copy_and_chance_alone():
    student = NgramLearner(10)
    assert pytest.approx(1.0) == BEFORE + COPIED + RELATED + ANY + CHANCE
    # Words in view: "sky", "blue", "red". A word of them is copied by one third, the end of the text never is.
    elsewhere = (1 - COPIED) / 10
    losses = student.answer_losses([Lesson(QUESTION)])
    assert losses[0] == pytest.approx(-(math.log(COPIED / 3 + elsewhere) + math.log(elsewhere)) / 2)


def test_one_lesson_by_hand():
    student = NgramLearner(10)
    student.train([Lesson(Question("q", "sky", (), "blue"))], epochs=1)
    # "blue" and the end came once each: 1/2 of all words, and the only one after its predecessor. With "sky" in view:
    # 1/2 each.
    first = BEFORE * 1 + COPIED * 0 + RELATED / 2 + ANY / 2 + CHANCE / 10
    assert student.answer_losses([Lesson(Question("q", "sky", (), "blue"))])[0] == pytest.approx(-math.log(first))


@given(
    st.lists(st.sampled_from(["a b", "b a c", "c", "a a"]), max_size=4),
    st.sampled_from(["a", "b c", "a a b", ""]),
    st.sampled_from(["a", "b", "c"]),
)
def test_the_probabilities_of_all_next_words_come_to_one(taught, view, before):
    lessons = [Lesson(Question("q", "a b c", (), "c"), text) for text in (*taught, None)]
    student = make_ngram_learner(lessons, seed=0)
    student.train(lessons, epochs=2)
    table, shown = student._rationales, Counter(view.split())
    related = [word for word in shown if ("about", word) in table._total]
    total = sum(table._probability(shown, related, before, word) for word in ("a", "b", "c", "\n", "never seen"))
    assert total == pytest.approx(1.0)


def test_a_rationale_that_names_the_answer_makes_it_likely():
    lessons = [Lesson(Question(str(n), f"thing {n}", ("up", "down"), "up", 0), "it goes up") for n in range(5)]
    student = make_ngram_learner(lessons, seed=0)
    student.train(lessons, epochs=1)
    new = Question("new", "thing", ("left", "right"), "left", 0)
    right, wrong = student.answer_losses([Lesson(new, "it goes left"), Lesson(new, "it goes right")])
    assert right < wrong


def test_it_learns_what_it_is_shown_and_forgets_what_it_is_not():
    first, second = (Lesson(QUESTION, text) for text in ("the sky is blue today", "some air looks rather bright"))
    student = make_ngram_learner([first, second], seed=0)
    before = student.rationale_losses([first, second])
    student.train([first], epochs=1)
    after = student.rationale_losses([first, second])
    assert after[0] < before[0]
    assert after[0] < after[1]
    for _ in range(6):
        student.train([second], epochs=1)
    later = student.rationale_losses([first, second])
    assert later[1] < later[0]
    assert later[0] > after[0]


def test_losses_are_means_so_that_length_alone_is_no_advantage():
    short, long = Lesson(QUESTION, "aa bb"), Lesson(QUESTION, "aa bb " * 20)
    student = make_ngram_learner([short], seed=0)
    student.train([short, long], epochs=1)
    losses = student.rationale_losses([short, long])
    assert losses[1] < 2 * losses[0]


def test_a_question_without_an_answer_has_no_answer_loss():
    student = make_ngram_learner([Lesson(QUESTION, "x")], seed=0)
    assert np.array_equal(
        student.answer_losses([Lesson(Question("q", "why?"), "x"), Lesson(Question("q", "?"))]), [0, 0]
    )
