"""Worths under Plackett-Luce: values by hand, and the laws that any fit keeps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kp_data.purify.worth import fit_worth, loss_Q, pairwise_contests, ranking_contests

outcomes = arrays(bool, (6, 3), elements=st.booleans())


def gradient(worth_T, weight_M, contests, ridge, step=1e-5):
    """By central differences."""

    def loss(moved):
        return loss_Q(moved[None], weight_M[None], contests, ridge)[0]

    return np.array([(loss(worth_T + d) - loss(worth_T - d)) / (2 * step) for d in np.eye(len(worth_T)) * step])


def test_two_teachers_have_the_worths_of_the_logistic_formula():
    # A wins with weight 3 and loses with weight 1; without a ridge the worths differ by log 3.
    good = np.array([[True, False], [False, True]])
    contests = pairwise_contests(good, ~good)
    weight = np.array([[3.0, 1.0]]) @ contests.count_KM
    (worth,) = fit_worth(weight, contests, ridge=1e-12)
    assert worth[0] - worth[1] == pytest.approx(np.log(3), abs=1e-6)
    assert worth.sum() == pytest.approx(0, abs=1e-9)


def test_the_loss_of_one_contest_is_that_of_the_formula():
    contests = ranking_contests(np.array([[1.0, 0.5, 0.0]]))
    worth = np.array([[0.7, -0.2, 0.1]])
    first = np.exp(0.7) / (np.exp(0.7) + np.exp(-0.2) + np.exp(0.1))
    second = np.exp(-0.2) / (np.exp(-0.2) + np.exp(0.1))
    expected = -np.log(first) - np.log(second) + 0.01 * (0.49 + 0.04 + 0.01)
    assert loss_Q(worth, np.ones((1, 2)), contests, 0.01)[0] == pytest.approx(expected)


def test_teachers_that_tie_do_not_compete_and_unknown_ones_not_at_all():
    contests = ranking_contests(np.array([[1.0, 1.0, 0.0, np.nan]]))
    members = sorted(map(tuple, contests.member_MT.astype(int).tolist()))
    assert members == [(0, 1, 1, 0), (1, 0, 1, 0)]


def test_the_closed_form_of_the_top_choice_is_where_the_gradient_vanishes():
    # "Which right teacher would be named": P(i) = sum of weight * C_i / |P|, over the sum of weights.
    random = np.random.default_rng(0)
    good = random.random((50, 4)) < 0.5
    good = good[good.any(1)]
    weight = random.random(len(good))
    share = good / good.sum(1, keepdims=True)
    closed = weight @ share / weight.sum()
    # The same likelihood as contests of each teacher against all others.
    everyone = ranking_contests(np.eye(4))
    order = everyone.winner_MT.argmax(1)
    (worth,) = fit_worth((weight @ share)[None, order], everyone, ridge=1e-12)
    fitted = np.exp(worth) / np.exp(worth).sum()
    assert fitted == pytest.approx(closed, abs=1e-9)
    assert np.abs(gradient(np.log(closed), (weight @ share)[order], everyone, 0.0)).max() < 1e-6


def test_a_teacher_that_never_loses_has_a_finite_worth():
    good = np.tile([True, False, False], (1000, 1))
    contests = pairwise_contests(good, ~good)
    weight = np.full((2, 1000), 100.0) @ contests.count_KM
    worth = fit_worth(weight, contests, ridge=1e-4)
    assert np.isfinite(worth).all()
    assert (worth[:, 0] > worth[:, 1] + 5).all()
    assert np.abs(gradient(worth[0], weight[0], contests, 1e-4)).max() < 1e-3


@settings(deadline=None, max_examples=40)
@given(outcomes, arrays(float, (6,), elements=st.floats(0, 100)))
def test_every_fit_is_a_minimum(good, weight):
    contests = pairwise_contests(good, ~good)
    weight_M = weight @ contests.count_KM
    (worth,) = fit_worth(weight_M[None], contests, ridge=1e-3)
    assert np.abs(gradient(worth, weight_M, contests, 1e-3)).max() < 1e-4 * max(1.0, weight_M.sum())


@settings(deadline=None, max_examples=40)
@given(arrays(float, (5, 6), elements=st.floats(0, 100)), st.permutations(range(5)))
def test_questions_are_fitted_apart_from_each_other(weight, order):
    contests = ranking_contests(np.array([[1.0, 0.5, 0.0]] * 3 + [[0.0, 1.0, np.nan]] * 3))
    weight_QM = weight @ contests.count_KM
    together = fit_worth(weight_QM, contests, ridge=1e-2)
    assert np.allclose(fit_worth(weight_QM[list(order)], contests, ridge=1e-2), together[list(order)], atol=1e-8)
    alone = fit_worth(weight_QM[[2]], contests, ridge=1e-2, start_T=np.array([2.0, -1.0, -1.0]))
    assert np.allclose(alone, together[[2]], atol=1e-7)
