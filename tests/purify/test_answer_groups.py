"""Agreement as evidence: groups, posteriors by hand, and skill without gold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kp_data.purify.answer_groups import (
    OPEN_OPTIONS,
    answer_posterior_QT,
    group_mean_QT,
    num_answers_Q,
    num_options_Q,
    same_answer_QTT,
    skill_by_agreement_T,
    skill_from_labels_T,
)
from kp_data.schema import Question

ANSWERS = arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.integers(-1, 3))


def world(skills, *, num=2000, options=4, seed=0, family=None):
    """Answers of teachers with these skills, right answer 0; a family copies its first member's answer."""
    random = np.random.default_rng(seed)
    right = random.random((num, len(skills))) < np.array(skills)
    answer_QT = np.where(right, 0, random.integers(1, options, (num, len(skills))))
    if family is not None:
        answer_QT[:, family[1:]] = answer_QT[:, family[:1]]
    return answer_QT


def test_one_teacher_of_skill_s_is_right_with_probability_s_whatever_the_number_of_options():
    for options in (2, 5, 10):
        posterior = answer_posterior_QT(np.array([[3]]), np.array([[0.7]]), np.array([options]))
        assert posterior == pytest.approx(0.7)


def test_two_against_one_by_hand():
    # Weights s (K - 1) / (1 - s) with K = 3: 0.5 gives 2, 0.8 gives 8; those who agree weigh 2 · 2, the unnamed 1.
    posterior = answer_posterior_QT(np.array([[1, 1, 2]]), np.array([[0.5, 0.5, 0.8]]), np.array([3]))
    assert posterior[0] == pytest.approx([4 / 13, 4 / 13, 8 / 13])


def test_a_teacher_worse_than_chance_counts_against_what_it_says():
    skill = np.array([[0.6, 0.05]])
    alone, joined = (answer_posterior_QT(np.array([row]), skill, np.array([4]))[0, 0] for row in ([2, -1], [2, 2]))
    assert joined < alone


@given(ANSWERS, st.permutations(range(4)))
def test_what_an_answer_is_called_never_matters(answer_QT, names):
    renamed_QT = np.where(answer_QT >= 0, np.array(names)[answer_QT], -1)
    skill_T, options_Q = np.linspace(0.3, 0.8, answer_QT.shape[1]), np.full(len(answer_QT), 5)
    for first, second in (
        (
            answer_posterior_QT(answer_QT, skill_T[None], options_Q),
            answer_posterior_QT(renamed_QT, skill_T[None], options_Q),
        ),
        (same_answer_QTT(answer_QT), same_answer_QTT(renamed_QT)),
        (num_answers_Q(answer_QT), num_answers_Q(renamed_QT)),
        (skill_by_agreement_T(answer_QT, options_Q), skill_by_agreement_T(renamed_QT, options_Q)),
    ):
        assert first == pytest.approx(second)


@given(ANSWERS)
def test_probabilities_of_the_answers_given_sum_to_less_than_one_and_groups_share_theirs(answer_QT):
    posterior_QT = answer_posterior_QT(answer_QT, np.full((1, answer_QT.shape[1]), 0.9), np.full(len(answer_QT), 6))
    for answers, values in zip(answer_QT, posterior_QT, strict=True):
        by_answer = dict(zip(answers.tolist(), values.tolist(), strict=True))
        assert by_answer.pop(-1, 0.0) == 0.0
        assert 0 <= sum(by_answer.values()) < 1
    assert np.where(answer_QT >= 0, posterior_QT, 0) == pytest.approx(group_mean_QT(posterior_QT, answer_QT))


def test_skill_without_gold_comes_near_the_truth_where_teachers_err_on_their_own():
    skills = [0.8, 0.6, 0.45, 0.3]
    found_T = skill_by_agreement_T(world(skills), np.full(2000, 4))
    assert found_T == pytest.approx(skills, abs=0.05)


def test_teachers_of_one_family_are_overrated_without_gold():
    # What the note of the method warns of; should it ever hold no more, the note can go.
    found_T = skill_by_agreement_T(world([0.5, 0.5, 0.5, 0.6], family=[0, 1, 2]), np.full(2000, 4))
    assert found_T[0] > 0.9


def test_without_a_question_that_two_answer_nothing_is_known_of_skill():
    assert skill_by_agreement_T(np.array([[1, -1], [-1, 2]]), np.array([4, 4])).tolist() == [0.5, 0.5]
    assert skill_by_agreement_T(np.zeros((0, 2), dtype=int), np.zeros(0, dtype=int)).tolist() == [0.5, 0.5]


def test_skill_from_few_labels_stays_near_the_mean_of_all():
    right_QT = np.zeros((100, 2), dtype=bool)
    right_QT[:50, 0] = True
    answered_QT = np.ones((100, 2), dtype=bool)
    answered_QT[1:, 1] = False
    skill_T = skill_from_labels_T(right_QT, answered_QT)
    assert skill_T[0] == pytest.approx(0.5, abs=0.01)
    assert 0.4 < skill_T[1] < 0.5


def test_an_open_question_has_room_for_an_answer_that_nobody_gave():
    questions = [Question("a", "?", ("x", "y")), Question("b", "?"), Question("c", "?")]
    answer_QT = np.array([[0] * 12, list(range(12)), [0] * 12])
    assert num_options_Q(questions, answer_QT).tolist() == [2, 13, OPEN_OPTIONS]
