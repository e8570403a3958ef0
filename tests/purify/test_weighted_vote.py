"""The vote weighted by accuracy, by hand."""

import pytest
from topic_panels import grid

from kp_data.purify import Context
from kp_data.purify.labels import fit_data
from kp_data.purify.weighted_vote import fit_weighted_vote


def test_one_good_teacher_outweighs_two_poor_ones_and_two_fair_ones_outweigh_it():
    # Of ten questions a is right in eight, b and c in three each, but never both.
    rows = [[0, 0, 1]] * 3 + [[0, 1, 0]] * 3 + [[0, 1, 2]] * 2 + [[1, 2, 3]] * 2
    train, asked = grid(rows), grid([[1, 2, 2], [1, 2, 3], [None, 2, 3], [None, None, None]], split="test")
    purification = fit_weighted_vote(fit_data(train), None, Context()).purify(asked)
    assert purification.chosen_Q.tolist() == [0, 0, 1, 0]
    accuracy = [0.8, 0.3, 0.3]
    fitted = fit_weighted_vote(fit_data(train), None, Context())
    assert fitted.calls_per_question == 3
    assert purification.score_QT[0] == pytest.approx([accuracy[0] / 1.4, 0.6 / 1.4, 0.6 / 1.4])
    assert purification.score_QT[2] == pytest.approx([0.0, 0.5, 0.5])
