"""Metrics: the formulas by hand, and the laws they obey."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kp_data.measures import agreement_TT, correct_QT
from kp_data.purify.metrics import (
    bootstrap_means,
    choose,
    difference_interval,
    gap_closed,
    interval,
    majority_Q,
    paired_differences,
    paired_gain,
    ranking_T,
    share_interval,
    teacher_share_T,
    votes_QT,
)

answers = arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.integers(-1, 3))


def test_gap_closed_is_the_share_of_the_way_from_best_teacher_to_oracle():
    assert gap_closed(0.55, 0.5, 0.7) == pytest.approx(0.25)
    assert gap_closed(0.4, 0.5, 0.7) == pytest.approx(-0.5)
    assert gap_closed(0.5, 0.5, 0.5) is None


def test_a_tied_vote_goes_to_the_answer_of_the_better_teacher():
    answer_QT = np.array([[0, 1]])
    assert majority_Q(answer_QT, np.array([0, 1])).tolist() == [0]
    assert majority_Q(answer_QT, np.array([1, 0])).tolist() == [1]


def test_unknown_accuracies_rank_last_and_keep_their_order():
    assert ranking_T(np.array([np.nan, 0.0, np.nan, 0.3])).tolist() == [3, 1, 0, 2]


@given(answers)
def test_the_majority_has_at_least_as_many_votes_as_any_answer(answer_QT):
    order_T = np.arange(answer_QT.shape[1])
    for row, winner in zip(answer_QT, majority_Q(answer_QT, order_T), strict=True):
        counts = [int((row == answer).sum()) for answer in set(row.tolist()) - {-1}]
        assert ((row == winner).sum() == max(counts)) if counts else winner == -1


@given(answers)
def test_votes_do_not_depend_on_the_order_of_teachers(answer_QT):
    assert np.array_equal(votes_QT(answer_QT)[:, ::-1], votes_QT(answer_QT[:, ::-1]))


@given(answers)
def test_agreement_is_symmetric_and_one_with_oneself(answer_QT):
    agreement = agreement_TT(answer_QT)
    assert np.array_equal(agreement, agreement.T, equal_nan=True)
    answered = (answer_QT != -1).any(0)
    assert np.array_equal(np.diag(agreement)[answered], np.ones(answered.sum()))
    assert np.isnan(np.diag(agreement)[~answered]).all()


@given(answers, st.integers(0, 2**16))
def test_what_is_chosen_is_available_and_no_available_score_is_higher(answer_QT, seed):
    random = np.random.default_rng(seed)
    score_QT = np.where(random.random(answer_QT.shape) < 0.2, np.nan, random.integers(0, 3, answer_QT.shape))
    available_QT = answer_QT != -1
    for row, teacher in enumerate(choose(score_QT, available_QT, random.permutation(answer_QT.shape[1]))):
        if teacher == -1:
            assert not available_QT[row].any()
            continue
        assert available_QT[row, teacher]
        others = score_QT[row, available_QT[row]]
        assert np.isnan(others).all() or score_QT[row, teacher] == np.nanmax(others)


@given(answers)
def test_shares_sum_to_one_or_nothing_is_kept(answer_QT):
    kept_QT = answer_QT == 0
    assert teacher_share_T(kept_QT).sum() == pytest.approx(float(kept_QT.any()))


def test_nobody_is_right_without_gold_even_when_the_answer_is_missing_too():
    assert not correct_QT(np.array([[-1, 2]]), np.array([-1])).any()


def test_paired_gain_matches_the_textbook_standard_error():
    gain, error = paired_gain(np.array([1, 1, 0, 1, 0]), np.array([0, 1, 0, 0, 1]))
    difference = np.array([1, 0, 0, 1, -1])
    assert gain == pytest.approx(0.2)
    assert error == pytest.approx(math.sqrt(((difference - 0.2) ** 2).sum() / 4 / 5))
    assert paired_gain(np.array([1]), np.array([0]))[1] == math.inf


def test_bootstrap_draws_the_same_questions_in_every_column():
    values = np.random.default_rng(0).random((40, 1))
    draws = bootstrap_means(np.hstack([values, values + 1]), seed=3, num_draws=50)
    assert np.allclose(draws[:, 1] - draws[:, 0], 1)
    assert np.array_equal(draws, bootstrap_means(np.hstack([values, values + 1]), seed=3, num_draws=50))
    assert draws[:, 0].std() > 0


def test_the_interval_of_a_share_has_the_width_of_the_normal_approximation():
    values = (np.arange(400) < 120).astype(float)[:, None]
    low, high = interval(bootstrap_means(values, num_draws=2000)[:, 0])
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.3 * 0.7 / 400), rel=0.1)
    assert low < 0.3 < high


def test_bootstrap_means_leave_out_what_is_not_known():
    values = np.array([[1.0, np.nan], [0.0, np.nan], [np.nan, np.nan]])
    draws = bootstrap_means(values, num_draws=200)
    assert set(draws[~np.isnan(draws[:, 0]), 0]) <= {0.0, 1 / 3, 0.5, 2 / 3, 1.0}
    assert np.nanmean(draws[:, 0]) == pytest.approx(0.5, abs=0.1)
    assert np.isnan(draws[:, 1]).all()


def test_there_is_no_gap_where_the_best_teacher_answered_easier_questions_than_the_oracle():
    assert gap_closed(0.6, 0.8, 0.7) is None


def test_the_interval_of_nothing_is_none():
    assert interval(np.full(3, np.nan)) is None


def test_being_right_on_every_question_is_no_proof_of_always_being_right():
    low, high = share_interval(np.ones(20), np.ones(100))
    # Wilson's lower bound for n of n: n / (n + z²).
    assert (low, high) == (pytest.approx(20 / (20 + 3.8414588)), 1.0)
    mixed = np.array([1.0, 0.0, np.nan])
    assert share_interval(mixed, np.array([0.2, 0.4])) == interval(np.array([0.2, 0.4]))
    assert share_interval(np.array([np.nan]), np.array([np.nan])) is None


def test_a_difference_that_never_varies_has_the_width_of_what_was_not_seen():
    low, high = difference_interval(np.zeros(20), np.zeros(100))
    assert high == -low == pytest.approx(3.8414588 / (20 + 3.8414588))
    assert difference_interval(np.ones(20), np.ones(100))[1] == 1.0


def test_paired_differences_use_the_questions_that_both_methods_answered():
    right_QM = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, np.nan], [1.0, 0.0]])
    table = paired_differences(right_QM, num_draws=200)
    assert (table[0][1].value, table[0][1].num) == (pytest.approx(2 / 3), 3)
    assert table[1][0].value == pytest.approx(-2 / 3)
    assert table[0][1].ci95 == pytest.approx((-table[1][0].ci95[1], -table[1][0].ci95[0]))
    assert table[0][0].value == 0.0


def test_pairing_is_certain_where_two_accuracies_overlap():
    hard = np.arange(200) < 100
    better = hard | (np.arange(200) >= 192)
    (_, gain), _ = paired_differences(np.stack([better, hard], axis=1).astype(float))
    assert gain.value == pytest.approx(0.04)
    assert gain.ci95[0] > 0
    draws = bootstrap_means(np.stack([better, hard], axis=1).astype(float))
    assert interval(draws[:, 0])[0] < interval(draws[:, 1])[1]
