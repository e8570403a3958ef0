"""The selector: what it learns, and that no question is scored by its own label."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from topic_panels import grid

from kp_data.purify.selector import (
    FAR,
    NEIGHBOUR_STRENGTH,
    Judged,
    Seen,
    coherent_QT,
    fit_selector,
    fold_of,
    kinds_to_try,
    local_skill_QT,
    surprise,
)
from kp_data.purify.surface import surface_evidence

NO_NEIGHBOURS = 0


def family_panel(num=300, *, seed=0):
    """a, b, c err together, each right in half; d is right in six of ten, on its own. Gold is always choice 0."""
    random = np.random.default_rng(seed)
    family = np.where(random.random(num) < 0.5, 0, random.integers(1, 4, num))
    own = np.where(random.random(num) < 0.6, 0, random.integers(1, 4, num))
    return grid(np.stack([family, family, family, own], axis=1).tolist())


def probabilities(selector, seen):
    return selector.probability_QT(selector.log_odds_QT(seen), seen.answer_QT)


def see(panel, neighbour_QN=None):
    rows = np.zeros((len(panel), NO_NEIGHBOURS), dtype=int) if neighbour_QN is None else neighbour_QN
    return Seen.of(panel, surface_evidence(panel, choices=False), rows)


@pytest.mark.parametrize("kind", ["logistic", "boosted"])
def test_the_agreement_of_a_family_is_seen_through(kind):
    panel = family_panel(600)
    seen, judged = see(panel), Judged.of(panel)
    votes, learned = (fit_selector(seen, judged, each) for each in ("vote", kind))
    conflict_Q = panel.answer_QT[:, 0] != panel.answer_QT[:, 3]
    score_QT = probabilities(learned, seen)[conflict_Q]
    assert (probabilities(votes, seen)[conflict_Q, 0] > probabilities(votes, seen)[conflict_Q, 3]).all()
    assert (score_QT[:, 3] > score_QT[:, 0]).mean() > 0.9
    assert surprise(learned, seen, judged) < surprise(votes, seen, judged)


@pytest.mark.parametrize("kind", ["vote", "logistic", "boosted"])
def test_no_training_question_is_scored_by_its_own_label(kind):
    panel = family_panel()
    neighbour_QN = np.stack([np.arange(300), (np.arange(300) + 1) % 300], axis=1)
    seen = see(panel, neighbour_QN)
    before = fit_selector(seen, Judged.of(panel), kind).log_odds_QT(seen)
    gold_Q = np.where(np.arange(300) == 7, 3, panel.gold_Q)
    after = fit_selector(seen, Judged.of(replace(panel, gold_Q=gold_Q)), kind).log_odds_QT(seen)
    assert np.array_equal(before[7], after[7])
    assert not np.array_equal(before, after)


def test_shuffled_labels_teach_nothing():
    panel = family_panel(600)
    random = np.random.default_rng(1)
    lost = replace(panel, gold_Q=random.integers(0, 4, len(panel)))
    seen, judged = see(panel), Judged.of(lost)
    rate = judged.right_KT[judged.known_KT].mean()
    baseline = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert surprise(fit_selector(seen, judged, "boosted"), seen, judged) > baseline - 0.01


def test_what_was_not_trained_on_hears_all_folds():
    panel = family_panel()
    selector = fit_selector(see(panel), Judged.of(panel), "logistic")
    strangers = replace(see(panel), ids=tuple(f"new-{number}" for number in range(len(panel))))
    score_QT, own_QT = selector.log_odds_QT(strangers), np.full(len(panel), -1)
    assert score_QT == pytest.approx(
        np.mean([model.log_odds_QT(strangers, own_QT) for model in selector.models], axis=0)
    )


def test_local_skill_by_hand():
    right_KT = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], dtype=bool)
    known_KT = np.array([[1, 1], [1, 1], [1, 0], [1, 1]], dtype=bool)
    skill = local_skill_QT(
        np.array([[0, 1, 2], [3, -1, -1]]), np.array([-1, 3]), right_KT, known_KT, np.array([0.5, 0.4])
    )
    strength = NEIGHBOUR_STRENGTH
    assert skill[0] == pytest.approx([(2 + strength * 0.5) / (3 + strength), (1 + strength * 0.4) / (2 + strength)])
    # Its only neighbour is itself: nothing is known beyond the skill on everything.
    assert skill[1] == pytest.approx([0.5, 0.4])


@given(
    arrays(float, (4, 3), elements=st.floats(0, 1)),
    arrays(np.int64, (4, 5), elements=st.integers(-1, 2)),
)
def test_probabilities_of_rival_answers_never_sum_to_more_than_one(by_answer_QA, answer_QT):
    pooled_QT = np.where(answer_QT >= 0, np.take_along_axis(by_answer_QA, np.maximum(answer_QT, 0), axis=1), 0.7)
    coherent = coherent_QT(pooled_QT, answer_QT)
    for answers, values in zip(answer_QT, coherent, strict=True):
        named = dict(zip(answers.tolist(), values.tolist(), strict=True))
        assert named.pop(-1, 0.0) == 0.0
        assert sum(named.values()) <= 1 + 1e-9
    assert (coherent <= pooled_QT).all()


def test_a_rationale_without_an_answer_is_surely_wrong():
    panel = grid([[0, None, 1]] * 30 + [[1, 0, None]] * 30)
    selector = fit_selector(see(panel), Judged.of(panel), "vote")
    assert selector.log_odds_QT(see(panel))[0, 1] == -FAR
    assert probabilities(selector, see(panel))[0, 1] == 0


def test_few_labels_are_left_to_the_vote():
    assert kinds_to_try(Judged.of(family_panel(10))) == ("vote",)
    assert kinds_to_try(Judged.of(family_panel(60))) == ("vote", "logistic")
    assert kinds_to_try(Judged.of(family_panel(300))) == ("vote", "logistic", "boosted")
    assert kinds_to_try(Judged.of(grid([[1, 1, 2]] * 500))) == ("vote",)


def test_folds_depend_on_the_id_alone_and_are_of_like_size():
    folds = [fold_of(f"q{number}") for number in range(2000)]
    assert folds == [fold_of(f"q{number}") for number in range(2000)]
    assert min(np.bincount(folds)) > 300
