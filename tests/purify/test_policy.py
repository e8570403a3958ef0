"""The policy of teacher selection: its probabilities, its gradient, and what it learns from fixed rewards."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kp_data.purify.policy import (
    Learning,
    Policy,
    act,
    advantages_QT,
    log_probability_gradient,
    log_probability_Q,
    reinforce,
)

Q, T, S = 5, 3, 4


@pytest.fixture
def world():
    """A policy that has learned something, states, actions and who was to be had."""
    random = np.random.default_rng(0)
    policy = Policy(random.normal(size=(T, S)), random.normal(size=T))
    available_QT = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 1], [1, 1, 0]], dtype=bool)
    action_QT = available_QT & (random.random((Q, T)) < 0.5)
    return policy, random.normal(size=(Q, T, S)), action_QT, available_QT, random.normal(size=Q)


def constant_states(num_questions, num_teachers, size=1):
    return lambda rows: np.ones((len(rows), num_teachers, size))


def test_the_probability_is_the_sigmoid_of_weights_and_bias():
    policy = Policy(np.array([[1.0, 2.0]]), np.array([0.5]))
    sigma = policy.probability_QT(np.array([[[1.0, -1.0]]]))
    assert sigma == pytest.approx(1 / (1 + math.exp(0.5)))


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=2), st.floats(-50, 50))
def test_the_policy_sums_to_one_over_its_actions(weights, bias):
    policy, state_QTS = Policy(np.array([weights]), np.array([bias])), np.array([[[0.3, -0.7]]])
    there = np.ones((1, 1), dtype=bool)
    both = [np.exp(log_probability_Q(policy, state_QTS, np.array([[a]], dtype=bool), there))[0] for a in (True, False)]
    assert sum(both) == pytest.approx(1.0)
    assert all(0 < one < 1 for one in both)


def test_a_hand_computed_log_probability():
    policy = Policy(np.zeros((2, 1)), np.array([math.log(3), 0.0]))
    action, there = np.array([[True, False]]), np.ones((1, 2), dtype=bool)
    # sigma = 3/4 and 1/2: log(3/4) + log(1/2).
    assert log_probability_Q(policy, np.zeros((1, 2, 1)), action, there)[0] == pytest.approx(math.log(3 / 8))


def test_the_gradient_agrees_with_finite_differences(world):
    policy, state_QTS, action_QT, available_QT, advantage_Q = world

    def value(weight_TS, bias_T):
        return (advantage_Q * log_probability_Q(Policy(weight_TS, bias_T), state_QTS, action_QT, available_QT)).mean()

    weight_TS, bias_T = log_probability_gradient(policy, state_QTS, action_QT, available_QT, advantage_Q)
    step = 1e-6
    for place in np.ndindex(T, S):
        up, down = policy.weight_TS.copy(), policy.weight_TS.copy()
        up[place], down[place] = up[place] + step, down[place] - step
        slope = (value(up, policy.bias_T) - value(down, policy.bias_T)) / (2 * step)
        assert weight_TS[place] == pytest.approx(slope, abs=1e-8)
    for place in range(T):
        shift = step * np.eye(T)[place]
        slope = (value(policy.weight_TS, policy.bias_T + shift) - value(policy.weight_TS, policy.bias_T - shift)) / (
            2 * step
        )
        assert bias_T[place] == pytest.approx(slope, abs=1e-8)


def test_the_gradient_agrees_with_autograd(world):
    policy, state_QTS, action_QT, available_QT, advantage_Q = world
    weight, bias = (torch.tensor(value, requires_grad=True) for value in (policy.weight_TS, policy.bias_T))
    sigma = torch.sigmoid(torch.einsum("qts,ts->qt", torch.tensor(state_QTS), weight) + bias)
    action, there = torch.tensor(action_QT), torch.tensor(available_QT)
    log = torch.where(action, sigma.log(), (1 - sigma).log())
    loss = (torch.tensor(advantage_Q) * torch.where(there, log, 0.0).sum(1)).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    ours = log_probability_gradient(policy, state_QTS, action_QT, available_QT, advantage_Q)
    assert np.allclose(ours[0], weight.grad)
    assert np.allclose(ours[1], bias.grad)


def test_a_teacher_that_is_not_there_is_neither_drawn_nor_chosen_nor_taught(world):
    policy, state_QTS, _, available_QT, _ = world
    available_QT = available_QT & np.array([True, False, True])
    available_QT[2] = [True, False, False]
    random = np.random.default_rng(1)
    for _ in range(50):
        action_QT, used_Q = act(policy.probability_QT(state_QTS), available_QT, random)
        assert not (action_QT & ~available_QT).any()
        assert available_QT[np.arange(Q), used_Q].all()
    weight_TS, bias_T = log_probability_gradient(policy, state_QTS, action_QT, available_QT, np.ones(Q))
    assert not weight_TS[1].any()
    assert bias_T[1] == 0


def test_of_the_teachers_that_act_the_likeliest_is_used_and_of_none_any_may_be():
    random = np.random.default_rng(0)
    probability_QT, there = np.array([[0.2, 0.5, 0.4]]), np.ones((1, 3), dtype=bool)
    for _ in range(200):
        action_QT, used_Q = act(probability_QT, there, random)
        among = action_QT[0] if action_QT.any() else there[0]
        assert used_Q[0] == np.where(among, probability_QT[0], -1).argmax()


def test_an_undecided_policy_favours_no_column():
    random, count = np.random.default_rng(0), 6000
    policy = Policy.undecided(3, 1)
    _, used_Q = act(policy.probability_QT(np.ones((count, 3, 1))), np.ones((count, 3), dtype=bool), random)
    # Four standard deviations of a fair draw are 146.
    assert np.abs(np.bincount(used_Q, minlength=3) - 2000).max() < 146


def test_the_baseline_takes_out_the_question_and_the_scale():
    there = np.array([[True, True], [True, True], [True, False]])
    gain_QT = advantages_QT(np.array([[1.0, 3.0], [-8.0, -10.0], [5.0, np.nan]]), there)
    # Deviations from the question's mean: -1, 1; 1, -1; 0 for a teacher that is alone. Five cells: deviation sqrt(4/5).
    assert np.allclose(gain_QT, np.array([[-1, 1], [1, -1], [0, 0]]) / math.sqrt(4 / 5))
    assert np.allclose(
        advantages_QT(7 * np.array([[1.0, 3.0]]) - 100, there[:1]), advantages_QT(np.array([[1.0, 3.0]]), there[:1])
    )


def test_equal_rewards_teach_nothing():
    policy = reinforce(
        Policy.undecided(3, 1),
        constant_states(10, 3),
        np.full((10, 3), -2.5),
        np.ones((10, 3), dtype=bool),
        learning=Learning(5, 4, 1.0),
        random=np.random.default_rng(0),
    )
    assert not policy.weight_TS.any()
    assert not policy.bias_T.any()


@pytest.mark.parametrize("best", [0, 1, 2, 3])
def test_with_fixed_rewards_the_probability_of_the_best_teacher_rises(best):
    """A bandit: whichever column pays best, its probability rises in the mean over seeds, round after round."""
    reward_QT = np.full((64, 4), -2.0)
    reward_QT[:, best] = -1.0
    learning, paths = Learning(3, 16, 0.3), []
    for seed in range(8):
        random, policy, path = np.random.default_rng(seed), Policy.undecided(4, 1), [0.5]
        for _ in range(4):
            policy = reinforce(
                policy,
                constant_states(64, 4),
                reward_QT,
                np.ones((64, 4), dtype=bool),
                learning=learning,
                random=random,
            )
            path.append(float(policy.probability_QT(np.ones((1, 4, 1)))[0, best]))
        paths.append(path)
        assert policy.probability_QT(np.ones((1, 4, 1)))[0].argmax() == best
    assert (np.diff(np.mean(paths, axis=0)) > 0).all()


def test_it_learns_which_teacher_suits_which_question():
    states = np.zeros((80, 2, 2))
    states[:40, :, 0], states[40:, :, 1] = 1, 1
    reward_QT = np.tile([0.0, -1.0], (80, 1))
    reward_QT[40:] = [-1.0, 0.0]
    policy = reinforce(
        Policy.undecided(2, 2),
        lambda rows: states[rows],
        reward_QT,
        np.ones((80, 2), dtype=bool),
        learning=Learning(30, 16, 1.0, draws=2),
        random=np.random.default_rng(0),
    )
    assert (policy.probability_QT(states).argmax(1) == np.repeat([0, 1], 40)).all()


def test_more_draws_make_a_step_steadier():
    def first_step(draws, seed):
        return reinforce(
            Policy.undecided(2, 1),
            constant_states(8, 2),
            np.tile([0.0, -1.0], (8, 1)),
            np.ones((8, 2), dtype=bool),
            learning=Learning(1, 8, 0.1, draws),
            random=np.random.default_rng(seed),
        ).bias_T[0]

    spread = {draws: np.std([first_step(draws, seed) for seed in range(60)]) for draws in (1, 16)}
    assert spread[16] < spread[1] / 2


def test_a_step_towards_an_undecided_choice_by_hand():
    """Where rewards teach nothing, entropy alone pulls: of sigma = 3/4 its slope is -log 3 times 3/16."""
    there = np.array([[True, True], [True, False]])
    policy = reinforce(
        Policy(np.zeros((2, 1)), np.array([math.log(3), math.log(3)])),
        constant_states(2, 2),
        np.zeros((2, 2)),
        there,
        learning=Learning(1, 2, 0.5, entropy=0.2),
        random=np.random.default_rng(0),
    )
    step = -0.5 * 0.2 * math.log(3) * 3 / 16
    # The second teacher is there for one question of two, and a step is a mean over questions.
    assert np.allclose(policy.bias_T, [math.log(3) + step, math.log(3) + step / 2])
    assert np.allclose(policy.weight_TS[:, 0], [step, step / 2])


@pytest.mark.parametrize(("entropy", "recovers"), [(0.0, False), (0.5, True)])
def test_entropy_brings_back_a_teacher_that_was_given_up_too_early(entropy, recovers):
    """It pays best, but its probability is 1 in 400 and the other's 399 in 400: draws alone hardly ever try it."""
    policy = reinforce(
        Policy(np.zeros((2, 1)), np.array([6.0, -6.0])),
        constant_states(64, 2),
        np.tile([-1.0, 0.0], (64, 1)),
        np.ones((64, 2), dtype=bool),
        learning=Learning(150, 16, 1.0, entropy=entropy),
        random=np.random.default_rng(0),
    )
    assert (policy.probability_QT(np.ones((1, 2, 1)))[0].argmax() == 1) == recovers
