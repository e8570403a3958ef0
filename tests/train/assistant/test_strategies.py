"""Which questions are asked first."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kp_data.errors import ConfigError, MethodError
from kp_train.assistant import STRATEGIES, Pool, strategy_named
from kp_train.assistant.strategies import farthest_first

Array = np.ndarray[Any, Any]
POINTS = arrays(float, st.tuples(st.integers(2, 8), st.just(3)), elements=st.floats(0, 1))


def pool(size: int = 6, *, seed: int = 0) -> Pool:
    """A pool with numbers of its own for each signal."""
    draw = np.random.default_rng(3)
    share_QC = draw.dirichlet(np.ones(4), size)
    return Pool(
        tuple(f"q{number}" for number in range(size)),
        draw.random(size),
        draw.random(size),
        share_QC,
        draw.dirichlet(np.ones(4), 2),
        draw.random((size, 3)),
        seed,
    )


def ids(of: Pool, strategy: str, count: int) -> list[str]:
    """What a strategy asks, by id."""
    return [of.ids[row] for row in strategy_named(strategy)(of, count)]


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_order_of_the_pool_does_not_matter(name: str) -> None:
    one = pool()
    turned = np.array([4, 2, 0, 5, 1, 3])
    assert one.teacher_QT is not None
    other = replace(
        one,
        ids=tuple(one.ids[row] for row in turned),
        consistency_Q=one.consistency_Q[turned],
        student_Q=one.student_Q[turned],
        share_QC=one.share_QC[turned],
        teacher_QT=one.teacher_QT[turned],
    )
    assert ids(one, name, 4) == ids(other, name, 4)


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_more_are_asked_than_may_be_and_none_twice(name: str) -> None:
    for count in (0, 1, 4, 6, 99):
        asked = ids(pool(), name, count)
        assert len(asked) == len(set(asked)) == min(count, 6)


def test_the_least_consistent_and_the_least_trusted_come_first() -> None:
    of = replace(pool(3), consistency_Q=np.array([0.9, 0.2, 0.5]), student_Q=np.array([0.1, 0.8, 0.4]))
    assert ids(of, "self-consistency", 3) == ["q1", "q2", "q0"]
    assert ids(of, "assistant", 2) == ["q0", "q2"]


def test_the_random_order_is_another_with_another_seed() -> None:
    assert ids(pool(40), "random", 40) != ids(pool(40, seed=1), "random", 40)


def test_the_router_strategy_asks_where_scores_are_most_alike() -> None:
    of = replace(pool(3), teacher_QT=np.array([[0.9, 0.1, 0.0], [0.2, 0.2, 0.2], [0.4, 0.6, 0.1]]))
    assert ids(of, "router", 3) == ["q1", "q2", "q0"]


def test_the_router_strategy_needs_a_router() -> None:
    with pytest.raises(MethodError, match="two teachers or more"):
        strategy_named("router")(replace(pool(), teacher_QT=None), 1)


def test_coverage_needs_choices() -> None:
    with pytest.raises(MethodError, match="have none"):
        strategy_named("coverage")(replace(pool(), share_QC=np.zeros((6, 0))), 1)


def test_an_unknown_strategy_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="no strategy 'luck'; there are random"):
        strategy_named("luck")


def test_coverage_takes_a_question_of_every_cluster_before_it_repeats_one() -> None:
    corners = np.array([[1.0, 0.0, 0.0], [0.6, 0.4, 0.0], [0.34, 0.33, 0.33]])
    draw = np.random.default_rng(0)
    share_QC = np.repeat(corners, 5, axis=0) + draw.uniform(0, 0.01, (15, 3))
    of = Pool(tuple(f"q{row}" for row in range(15)), np.ones(15), np.ones(15), share_QC, corners[:1])
    asked = strategy_named("coverage")(of, 3)
    assert {int(row) // 5 for row in asked[:2]} == {1, 2}


def test_coverage_does_not_care_which_choice_is_the_likely_one() -> None:
    same = Pool(
        ("a", "b"), np.ones(2), np.ones(2), np.array([[0.7, 0.2, 0.1], [0.1, 0.7, 0.2]]), np.array([[0.5, 0.5]])
    )
    far = replace(same, share_QC=np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]]))
    assert ids(same, "coverage", 1) == ids(far, "coverage", 1)


def test_the_first_pick_is_the_farthest_from_what_is_known() -> None:
    point_QC, known_LC = np.array([[0.0], [0.4], [1.0]]), np.array([[0.1]])
    assert farthest_first(point_QC, known_LC, 3, order_Q=np.arange(3)).tolist() == [2, 1, 0]


@given(POINTS, st.integers(1, 8))
def test_the_radius_of_coverage_never_grows(point_QC: Array, count: int) -> None:
    known_LC = np.zeros((1, 3))
    chosen = farthest_first(point_QC, known_LC, count, order_Q=np.arange(len(point_QC)))

    def radius(taken: int) -> float:
        centre_KC = np.concatenate([known_LC, point_QC[chosen[:taken]]])
        return float(np.linalg.norm(point_QC[:, None] - centre_KC[None], axis=2).min(1).max())

    radii = [radius(taken) for taken in range(len(chosen) + 1)]
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(radii))
    assert len(set(chosen.tolist())) == len(chosen) == min(count, len(point_QC))
