"""Local skill: how often each teacher was right on the training questions nearest to a question.

Axes: Q questions, K training questions, T teachers, D embedding size, N neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np

from kp_data.purify.neighbours import NeighbourIndex, build_index

Array = np.ndarray[Any, Any]

MAX_KNOWN: Final = 50_000
"""Training questions that are kept: bounds the size of a router on disk and in memory."""
MAX_NEIGHBOURS: Final = 100
PRIOR_QUESTIONS: Final = 2.0
"""How many questions a teacher's overall share of right counts for beside the neighbours'."""
BLOCK: Final = 4096


@dataclass(frozen=True)
class LocalSkill:
    """Training questions and who was right on them.

    Attributes:
        known_KD: float32, unit vectors.
        right_KT, wrong_KT: float32, 1 where a teacher was right, or wrong; both 0 where that is unknown.
        count: N.
        weight: of the log-odds, beside what they are added to.
    """

    known_KD: Array
    right_KT: Array
    wrong_KT: Array
    count: int
    weight: float

    @classmethod
    def of_training(
        cls, known_KD: Array, good_KT: Array, bad_KT: Array, *, share: float, weight: float, seed: int
    ) -> Self:
        """The local skill of training questions, of a sample where there are very many.

        Args:
            known_KD: (K, D) unit vectors.
            good_KT, bad_KT: (K, T) bool, who was right and who wrong.
            share: of the training questions that are neighbours, at most 100 of them.
            weight: of the log-odds.
            seed: of the sample.
        """
        rows = np.sort(np.random.default_rng(seed).permutation(len(known_KD))[:MAX_KNOWN])
        count = max(1, min(MAX_NEIGHBOURS, round(share * len(rows))))
        right_KT, wrong_KT = good_KT[rows].astype(np.float32), bad_KT[rows].astype(np.float32)
        return cls(known_KD[rows], right_KT, wrong_KT, count, weight)

    def log_odds(self, question_QD: Array) -> Array:
        """(Q, T) float64, weighted log-odds that each teacher is right on questions like these, in nats."""
        blocks = [self._log_odds(question_QD[start : start + BLOCK]) for start in range(0, len(question_QD), BLOCK)]
        return self.weight * np.concatenate([np.zeros((0, self.right_KT.shape[1])), *blocks])

    @cached_property
    def _index(self) -> NeighbourIndex:
        return build_index(self.known_KD, count=self.count, exact_below=MAX_KNOWN + 1)

    def _log_odds(self, question_QD: Array) -> Array:
        row_QN = self._index.search(question_QD, self.count)[1]
        all_right_T, all_wrong_T = (part.sum(0, dtype=np.float64) for part in (self.right_KT, self.wrong_KT))
        prior_T = (all_right_T + 1) / (all_right_T + all_wrong_T + 2)
        right_QT = self.right_KT[row_QN].sum(1, dtype=np.float64) + PRIOR_QUESTIONS * prior_T
        wrong_QT = self.wrong_KT[row_QN].sum(1, dtype=np.float64) + PRIOR_QUESTIONS * (1 - prior_T)
        return np.asarray(np.log(right_QT / wrong_QT))
