"""Platt's scaling: finds the truth, keeps the order, and survives samples that say nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.purify.calibration import Platt, fit_platt, log_loss, logit, sigmoid


def sample(slope, shift, *, num=20_000):
    random = np.random.default_rng(0)
    score_N = random.normal(size=num)
    return score_N, random.random(num) < sigmoid(slope * score_N + shift)


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (0.3, -1.0), (4.0, 2.0)])
def test_the_slope_and_shift_that_made_the_outcomes_are_found(slope, shift):
    platt = fit_platt(*sample(slope, shift))
    assert (platt.slope, platt.shift) == pytest.approx((slope, shift), rel=0.1, abs=0.06)
    assert platt.num_items == 20_000


def test_calibration_lowers_the_surprise_of_scores_that_boast():
    score_N, right_N = sample(0.5, 0.0)
    platt = fit_platt(6 * score_N, right_N)
    assert log_loss(platt(6 * score_N), right_N) < log_loss(sigmoid(6 * score_N), right_N) - 0.1


def test_scores_that_point_the_wrong_way_become_the_base_rate():
    score_N, right_N = sample(-2.0, 0.0)
    platt = fit_platt(score_N, right_N)
    assert platt(np.array([-5.0, 5.0])) == pytest.approx(right_N.mean())


@pytest.mark.parametrize("right_N", [[], [0, 0, 0], [1, 1]])
def test_outcomes_that_are_all_alike_change_nothing(right_N):
    assert fit_platt(np.arange(len(right_N)), np.array(right_N)) == Platt(num_items=len(right_N))


@given(st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=2, max_size=30))
def test_a_higher_score_never_gets_a_lower_probability(pairs):
    score_N = np.array([score for score, _ in pairs])
    platt = fit_platt(score_N, np.array([right for _, right in pairs]))
    probability_N = platt(np.sort(score_N))
    assert (np.diff(probability_N) >= 0).all()
    assert ((probability_N >= 0) & (probability_N <= 1)).all()


def test_scores_that_part_right_from_wrong_get_a_finite_slope():
    platt = fit_platt(np.array([-1.0, -0.5, 0.5, 1.0]), np.array([0, 0, 1, 1]))
    assert 1 < platt.slope < 1000


def test_log_odds_and_probabilities_undo_each_other():
    assert sigmoid(logit(np.array([0.01, 0.5, 0.999]))) == pytest.approx([0.01, 0.5, 0.999])
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()
