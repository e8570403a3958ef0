from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.purify.cmv import conflict_mitigation_value
from kp_train.experiments.claims import cmv, judge
from kp_train.experiments.outcomes import Group, Outcomes

Array = np.ndarray


def group(method: str, count: int, *, dataset: str = "d", domain: str = "in", student: str = "s") -> Group:
    return Group(domain, dataset, method, count, student)


def outcomes(right: dict[Group, Array]) -> Outcomes:
    arrays = {one: np.atleast_2d(array).astype(bool) for one, array in right.items()}
    seeds = {one: tuple(range(len(array))) for one, array in arrays.items()}
    return Outcomes(arrays, seeds, {one: ({},) * len(array) for one, array in arrays.items()})


def first(share: float, num: int = 200, seeds: int = 2) -> Array:
    """(S, Q), the first so many questions right."""
    return np.tile(np.arange(num) < round(share * num), (seeds, 1))


def test_accuracy_is_the_mean_over_seeds_questions_and_datasets() -> None:
    found = outcomes({group("all", 2): first(0.5), group("all", 2, dataset="e"): first(0.7, num=100)})
    mean = found.mean("in", "all", 2, "s")
    assert mean is not None
    assert mean.value == pytest.approx(0.6)
    assert mean.low < 0.6 < mean.high


def test_a_dataset_without_a_student_leaves_the_mean_out() -> None:
    found = outcomes({group("all", 2): first(0.5), group("fine-tune", 0, dataset="e"): first(0.5)})
    assert found.mean("in", "all", 2, "s") is None


def test_only_seeds_that_both_sides_have_are_compared() -> None:
    right = {
        group("all", 2): np.array([[1, 1], [0, 0]], dtype=bool),
        group("random", 2): np.array([[1, 1]], dtype=bool),
    }
    found = Outcomes(right, {group("all", 2): (0, 1), group("random", 2): (0,)}, dict.fromkeys(right, ()))
    gain = found.difference("in", ("random", 2), ("all", 2), ["s"])
    assert gain is not None
    assert gain.value == 0


def test_every_line_begins_at_the_student_of_the_first_teacher() -> None:
    found = outcomes({group("step-by-step", 1): first(0.4), group("all", 2): first(0.5)})
    assert found.mean("in", "all", 1, "s") == found.mean("in", "step-by-step", 1, "s")


def test_equal_answers_differ_by_exactly_nothing() -> None:
    found = outcomes({group("all", 2): first(0.5), group("random", 2): first(0.5)})
    gain = found.difference("in", ("random", 2), ("all", 2), ["s"])
    assert gain is not None
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)


def test_the_interval_knows_how_seeds_differ() -> None:
    accuracies = np.array([0.2, 0.4, 0.6, 0.8])
    right = np.stack([first(share, num=4000, seeds=1)[0] for share in accuracies])
    # Every question is drawn together with its seeds, so what is left is the spread of the seeds: s / sqrt(S).
    mean = outcomes({group("all", 2): right}).mean("in", "all", 2, "s")
    assert mean is not None
    error = accuracies.std(ddof=1) / np.sqrt(4)
    assert (mean.high - mean.low) / (2 * 1.96) == pytest.approx(error, rel=0.12)


def test_the_cmv_is_that_of_the_formula() -> None:
    random = np.random.default_rng(0)
    arrays = {
        (method, n): random.random((3, 60)) < share
        for n in (2, 3)
        for method, share in (("plackett-luce", 0.6), ("all", 0.5))
    }
    found = outcomes({group(method, n): array for (method, n), array in arrays.items()})
    ours = cmv(found, ["plackett-luce"], ["s"])
    sides = [{n: [arrays[method, n].astype(float)] for n in (2, 3)} for method in ("plackett-luce", "all")]
    theirs = conflict_mitigation_value(*sides, num_draws=2000)
    assert ours is not None
    assert ours.value == pytest.approx(theirs.value)
    assert theirs.ci95 is not None
    assert (ours.low, ours.high) == pytest.approx(theirs.ci95, abs=0.02)


def claims_of(all_2: float, all_3: float, router: float, *, ood: tuple[float, float] = (0.5, 0.5)) -> list[str]:
    right = {
        group("all", 2): first(all_2, 2000),
        group("all", 3): first(all_3, 2000),
        group("similarity-router", 2): first(router, 2000),
        group("similarity-router", 3): first(router, 2000),
        group("all", 3, dataset="o", domain="out"): first(ood[0], 2000),
        group("similarity-router", 3, dataset="o", domain="out"): first(ood[1], 2000),
    }
    return [claim.verdict for claim in judge(outcomes(right))]


def test_claims_are_confirmed_by_what_confirms_them() -> None:
    assert claims_of(0.6, 0.5, 0.7, ood=(0.4, 0.6)) == ["confirmed"] * 3


def test_claims_are_not_confirmed_by_the_opposite() -> None:
    assert claims_of(0.5, 0.6, 0.4, ood=(0.6, 0.4)) == ["not confirmed"] * 3


def test_claims_are_undecided_where_nothing_differs() -> None:
    assert claims_of(0.5, 0.5, 0.5) == ["undecided"] * 3


def test_a_claim_without_its_students_says_what_it_needs() -> None:
    for claim in judge(outcomes({group("all", 2): first(0.5)})):
        assert (claim.overall, claim.verdict) == (None, "undecided")
        assert claim.measure.startswith("not measured: needs")


@given(st.integers(0, 2**16))
def test_a_difference_turns_its_sign_with_its_sides(seed: int) -> None:
    random = np.random.default_rng(seed)
    found = outcomes({group(name, 2): random.random((2, 8)) < 0.5 for name in ("all", "random")})
    forth = found.difference("in", ("all", 2), ("random", 2), ["s"])
    back = found.difference("in", ("random", 2), ("all", 2), ["s"])
    assert forth is not None
    assert back is not None
    assert (forth.value, forth.low, forth.high) == pytest.approx((-back.value, -back.high, -back.low))


def test_out_of_domain_one_teacher_is_no_reason_to_look_for_step_by_step() -> None:
    found = outcomes({group("all", 1, domain="out"): first(0.4), group("random", 1, domain="out"): first(0.5)})
    gain = found.difference("out", ("random", 1), ("all", 1), ["s"])
    assert gain is not None
    assert gain.value == pytest.approx(0.1)


def test_a_dataset_that_was_planned_and_failed_leaves_the_mean_out() -> None:
    found = replace(outcomes({group("all", 2): first(0.5)}), planned={"in": ("d", "e")})
    assert found.mean("in", "all", 2, "s") is None
    assert replace(found, planned={"in": ("d",)}).mean("in", "all", 2, "s") is not None


def test_a_number_of_teachers_that_was_planned_and_failed_leaves_the_cmv_open() -> None:
    found = outcomes({group("all", 2): first(0.5), group("similarity-router", 2): first(0.6)})
    value = cmv(found, ["similarity-router"], ["s"])
    assert value is not None
    assert value.value == pytest.approx(0.1)
    partial = replace(found, planned_counts={"in": (0, 2, 3)})
    assert cmv(partial, ["similarity-router"], ["s"]) is None
    assert judge(partial)[1].verdict == "undecided"
