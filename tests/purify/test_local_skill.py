"""Local skill: log-odds by hand, bounded, and gone where nothing is known."""

import numpy as np
import pytest

from kp_data.purify.local_skill import LocalSkill

KNOWN = np.array([[1, 0], [0.8, 0.6], [-1, 0], [-0.8, 0.6]], dtype=np.float32)
GOOD = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], dtype=bool)
BAD = np.array([[0, 1], [0, 1], [1, 0], [1, 0]], dtype=bool)


def skill_of(*, share=0.5, weight=1.0, **rest):
    return LocalSkill.of_training(KNOWN, GOOD, BAD, share=share, weight=weight, seed=0, **rest)


def test_the_log_odds_are_those_of_the_neighbours_and_a_little_of_all_questions():
    odds = skill_of().log_odds(KNOWN[:1])[0]
    # The two nearest: the first teacher right twice, the second wrong twice. Over all: 2 of 4, and 1 of 3 known.
    first, second = (2 + 1) / (4 + 2), (1 + 1) / (3 + 2)
    assert odds[0] == pytest.approx(np.log((2 + 2 * first) / (2 * (1 - first))))
    assert odds[1] == pytest.approx(np.log(2 * second / (2 + 2 * (1 - second))))


def test_the_weight_scales_them_and_no_question_has_none():
    assert np.allclose(skill_of(weight=0.5).log_odds(KNOWN), 0.5 * skill_of().log_odds(KNOWN))
    assert skill_of().log_odds(KNOWN[:0]).shape == (0, 2)


def test_a_teacher_of_whom_nothing_is_known_is_as_likely_right_as_wrong():
    nothing = np.zeros((4, 1), dtype=bool)
    odds = LocalSkill.of_training(KNOWN, nothing, nothing, share=1.0, weight=1.0, seed=0).log_odds(KNOWN)
    assert np.array_equal(odds, np.zeros((4, 1)))


def test_very_many_training_questions_are_sampled(monkeypatch):
    monkeypatch.setattr("kp_data.purify.local_skill.MAX_KNOWN", 3)
    skill = skill_of()
    assert skill.known_KD.shape == (3, 2)
    assert np.isfinite(skill.log_odds(KNOWN)).all()
