"""The policy of teacher selection: one Bernoulli choice a teacher, learned by REINFORCE.

Axes: Q questions, T teachers, S state size.
    pi(s_i, a_i) = a_i sigma(W_i s_i + b_i) + (1 - a_i) (1 - sigma(W_i s_i + b_i)),   a_i in {0, 1}
Source: Reinforced Multi-Teacher Selection (arXiv:2012.06048), as Knowledge Purification (arXiv:2602.01064) takes it
up: of the teachers whose action is 1, the one with the highest sigma is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
States = Callable[[Array], Array]
"""Rows (B,) to their states (B, T, S): made when they are needed, because all of them may not fit into memory."""


@dataclass(frozen=True)
class Policy:
    """One linear choice a teacher.

    Attributes:
        weight_TS: (T, S) float64.
        bias_T: (T,) float64.
    """

    weight_TS: Array
    bias_T: Array

    @classmethod
    def undecided(cls, num_teachers: int, size: int) -> Policy:
        """Probability one half for every teacher in every state."""
        return cls(np.zeros((num_teachers, size)), np.zeros(num_teachers))

    def probability_QT(self, state_QTS: Array) -> Array:
        """(Q, T) float in (0, 1), sigma(W_i s_i + b_i)."""
        logit_QT = np.matmul(state_QTS.swapaxes(0, 1), self.weight_TS[:, :, None])[:, :, 0].T + self.bias_T
        # Beyond 30 a float64 sigmoid is 1 to the last digits, and its logarithm would be lost.
        return np.asarray(1 / (1 + np.exp(-np.clip(logit_QT, -30, 30))))

    @property
    def num_parameters(self) -> int:
        """Of all teachers' choices."""
        return self.weight_TS.size + self.bias_T.size


@dataclass(frozen=True, slots=True)
class Learning:
    """How the policy is trained in one round.

    Attributes:
        epochs: passes over the questions.
        batch: questions a step.
        rate: beta, the step along the gradient of a batch mean.
        draws: of actions for each question of a step; their mean has less variance, at the price of time.
        entropy: what an undecided choice is worth, in standard deviations of the reward a nat. Without it, a teacher
            that is a little worse than another where both are good is soon never tried, not even where it alone is
            good, and the policy is stuck with two teachers.
    """

    epochs: int
    batch: int
    rate: float
    draws: int = 1
    entropy: float = 0.0


def log_probability_Q(policy: Policy, state_QTS: Array, action_QT: Array, available_QT: Array) -> Array:
    """(Q,) float, sum over the available teachers of log pi(s_i, a_i), in nats."""
    sigma_QT = policy.probability_QT(state_QTS)
    log_QT = np.where(action_QT, np.log(sigma_QT), np.log1p(-sigma_QT))
    return np.asarray(np.where(available_QT, log_QT, 0.0).sum(1))


def log_probability_gradient(
    policy: Policy, state_QTS: Array, action_QT: Array, available_QT: Array, advantage_Q: Array
) -> tuple[Array, Array]:
    """Gradient of mean_q advantage_q sum_i log pi(s_qi, a_qi): (T, S) of the weights, (T,) of the biases.

    For a sigmoid choice it is (a_i - sigma_i) s_i; a teacher that was not to be had has no action, and no part.
    """
    pull_QT = _pull_QT(policy.probability_QT(state_QTS), action_QT, available_QT, advantage_Q)
    return _gradient(pull_QT, state_QTS)


def act(probability_QT: Array, available_QT: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Draw every teacher's action, and the one teacher that is used.

    Where no action is 1, the choice is among all available teachers. Equal teachers are chosen equally often: an
    untrained policy must not favour the first column.

    Returns: (Q, T) bool, the actions; (Q,) int, the teacher used. Every question needs an available teacher.
    """
    action_QT = np.asarray(available_QT & (random.random(probability_QT.shape) < probability_QT))
    some_Q1 = action_QT.any(1, keepdims=True)
    among_QT = np.where(some_Q1, action_QT, available_QT)
    reach_QT = np.where(among_QT, probability_QT, -1.0)
    best_QT = reach_QT >= reach_QT.max(1, keepdims=True) - 1e-12
    return action_QT, np.where(best_QT, random.random(best_QT.shape), -1.0).argmax(1)


def advantages_QT(reward_QT: Array, available_QT: Array) -> Array:
    """(Q, T) float, what choosing a teacher brings beyond a teacher at random, in standard deviations; 0 if not there.

    The baseline of a question is the mean reward of its available teachers. It depends on no action, so the gradient
    stays unbiased, and it takes out what no choice can change: how hard the question is, and L_PR, which with a frozen
    student is the same for all rationales. Dividing by one number a round keeps the step as large when the student
    improves and rewards draw together.
    """
    count_Q = available_QT.sum(1)
    mean_Q = np.where(available_QT, reward_QT, 0.0).sum(1) / np.maximum(count_Q, 1)
    raw_QT = np.where(available_QT, reward_QT - mean_Q[:, None], 0.0)
    deviation = float(np.sqrt((raw_QT**2).sum() / max(int(count_Q.sum()), 1)))
    return raw_QT / deviation if deviation > 1e-12 else np.zeros_like(raw_QT)


def reinforce(
    policy: Policy,
    states: States,
    reward_QT: Array,
    available_QT: Array,
    *,
    learning: Learning,
    random: np.random.Generator,
) -> Policy:
    """The policy after one round against a frozen student, whose rewards do not change within it.

    Args:
        policy: as the last round left it.
        states: see `States`.
        reward_QT: (Q, T) float, reward of each teacher's rationale, any number where there is none.
        available_QT: (Q, T) bool, teachers that have a rationale, at least one a question.
        learning: how long and how fast.
        random: of order and actions.

    Source: REINFORCE (Williams, 1992) with a baseline a question: theta += beta (R - b) grad sum_i log pi(s_i, a_i);
        the entropy of the choices is rewarded too (Williams and Peng, 1991), which the papers do not say.
    """
    gain_QT = advantages_QT(reward_QT, available_QT)
    weight_TS, bias_T = policy.weight_TS.copy(), policy.bias_T.copy()
    for _ in range(learning.epochs):
        order_Q = random.permutation(len(gain_QT))
        for start in range(0, len(order_Q), learning.batch):
            rows = order_Q[start : start + learning.batch]
            now, state_BTS, there_BT = Policy(weight_TS, bias_T), states(rows), available_QT[rows]
            sigma_BT = now.probability_QT(state_BTS)
            pull_BT = _towards_half_QT(sigma_BT, there_BT) * learning.entropy
            for _ in range(learning.draws):
                action_BT, used_B = act(sigma_BT, there_BT, random)
                pull_BT += _pull_QT(sigma_BT, action_BT, there_BT, gain_QT[rows, used_B]) / learning.draws
            # The draws are from one policy, so their gradients share the states: one product does for all.
            gradient_TS, gradient_T = _gradient(pull_BT, state_BTS)
            weight_TS, bias_T = weight_TS + learning.rate * gradient_TS, bias_T + learning.rate * gradient_T
    return Policy(weight_TS, bias_T)


def _pull_QT(sigma_QT: Array, action_QT: Array, available_QT: Array, advantage_Q: Array) -> Array:
    """(Q, T) float, how hard each choice is pulled towards its action, as a share of the mean over questions."""
    return np.asarray(np.where(available_QT, action_QT - sigma_QT, 0.0) * advantage_Q[:, None] / len(advantage_Q))


def _towards_half_QT(sigma_QT: Array, available_QT: Array) -> Array:
    """(Q, T) float, gradient along the logits of the entropy of the choices, summed over teachers, mean over questions.

    Of one choice it is -logit sigma (1 - sigma).
    """
    logit_QT = np.log(sigma_QT) - np.log1p(-sigma_QT)
    pull_QT = np.where(available_QT, -logit_QT * sigma_QT * (1 - sigma_QT), 0.0)
    return np.asarray(pull_QT / len(sigma_QT))


def _gradient(pull_QT: Array, state_QTS: Array) -> tuple[Array, Array]:
    # One small matrix product a teacher: several times as fast as an einsum.
    return np.matmul(pull_QT.T[:, None, :], state_QTS.swapaxes(0, 1))[:, 0, :], pull_QT.sum(0)
