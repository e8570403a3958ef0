"""Agreement and intervals, by hand and by law."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kp_data.measures import both_answered_TT, kappa_TT, wilson_interval

answers = arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(1, 4)), elements=st.integers(-1, 3))


def test_kappa_matches_the_table_worked_by_hand():
    # 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: agreement 0.7, chance 0.5 x 0.6 + 0.5 x 0.4 = 0.5.
    pairs = [(0, 0)] * 20 + [(0, 1)] * 5 + [(1, 0)] * 10 + [(1, 1)] * 15
    assert kappa_TT(np.array(pairs))[0, 1] == pytest.approx(0.4)


def test_kappa_leaves_out_what_one_of_the_pair_did_not_answer():
    answer_QT = np.array([[0, 0], [1, 1], [1, 0], [0, 1], [0, -1], [-1, 1]])
    assert kappa_TT(answer_QT)[0, 1] == pytest.approx(kappa_TT(answer_QT[:4])[0, 1]) == 0.0
    assert both_answered_TT(answer_QT).tolist() == [[5, 4], [4, 5]]


def test_kappa_says_nothing_where_both_always_answer_alike_or_never_together():
    assert np.isnan(kappa_TT(np.array([[2, 2], [2, 2]]))[0, 1])
    assert np.isnan(kappa_TT(np.array([[2, -1], [-1, 2]]))[0, 1])


@given(answers)
def test_kappa_is_symmetric_and_never_above_one(answer_QT):
    kappa = kappa_TT(answer_QT)
    assert np.array_equal(kappa, kappa.T, equal_nan=True)
    assert (kappa[~np.isnan(kappa)] <= 1 + 1e-12).all()
    assert np.allclose(np.diag(kappa)[~np.isnan(np.diag(kappa))], 1)


@pytest.mark.parametrize(("share", "num"), [(0.0, 10), (1.0, 10), (0.5, 1), (0.3, 1000)])
def test_the_interval_of_a_share_holds_it_and_stays_within_0_and_1(share, num):
    low, high = wilson_interval(share, num)
    assert 0.0 <= low <= share <= high <= 1.0
    # By hand, for no successes: the upper bound is z² / (n + z²).
    if share == 0.0:
        assert np.isclose(high, 3.8414588 / (num + 3.8414588), atol=1e-6)


def test_no_questions_give_no_interval():
    assert wilson_interval(0.5, 0) is None
