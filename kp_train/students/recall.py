"""Attention of an encoder student over the rationales in its store, as vectors.

Each pair of question and choice looks up the rationales nearest to what the student makes of it, and how near they are
and what they say enters the pair's score. Nothing is added to the text, so reading costs next to nothing, and the
student learns what to look for: gradients reach the encoder through the likenesses. A pair is compared with the whole
store, exactly: for 5,000 rationales and MiniLM that is a hundredth of a step, for a million it would be most of it.

Axes: R pairs, D size of the student's hidden states, E size of a stored vector, K rationales in the store, N looked at,
B kept apart from a pair.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SHARPNESS: Final = 40.0
"""Of the softmax over cosines: the nearest few count. Best of 10, 20 and 40 for untrained vectors on validation."""
LIKENESS: Final = 20.0
"""What a cosine counts in a score at the beginning: choices differ by about 0.1, which makes 2 nats."""


class Recall(nn.Module):
    """Looks rationales up for pairs, and scores what was found.

    Source: own, in the spirit of kNN-LM (arXiv:1911.00172) and of attention over a fixed memory.
    """

    known_KE: Tensor

    def __init__(self, known_KE: np.ndarray[Any, Any], *, hidden_size: int, count: int) -> None:
        """A memory of unit vectors, which are no parameters and are saved with the store.

        Args:
            known_KE: (K, E) unit vectors of the stored rationales.
            hidden_size: D.
            count: N, rationales that a pair looks at.
        """
        super().__init__()
        size = known_KE.shape[1]
        self.count = count
        self.register_buffer("known_KE", torch.tensor(known_KE, dtype=torch.float32), persistent=False)
        self.query = nn.Linear(hidden_size, size, bias=False)
        if hidden_size == size:
            # The packaged encoder made the vectors: before it has learned anything it finds what its text is like.
            nn.init.eye_(self.query.weight)
        self.sharpness = nn.Parameter(torch.tensor(math.log(SHARPNESS)))
        self.likeness = nn.Parameter(torch.tensor(1.0))
        self.said = nn.Linear(2 * size, 1, bias=False)
        nn.init.zeros_(self.said.weight)

    def forward(self, pooled_RD: Tensor, apart_RB: Tensor) -> Tensor:
        """(R,) float32, what the rationales found for each pair add to its score; 0 where all are kept apart.

        Args:
            pooled_RD: what the student makes of each pair.
            apart_RB: (R, B) int64, rationales that a pair must not meet; K fills up.
        """
        with torch.autocast(pooled_RD.device.type, enabled=False):
            query_RE = functional.normalize(self.query(pooled_RD.float()), dim=1)
            cosine_RK = query_RE @ self.known_KE.T
            hidden_RK = _marked(apart_RB, cosine_RK.shape[1])
            cosine_RN, found_RN = cosine_RK.masked_fill(hidden_RK, -torch.inf).topk(
                min(self.count, cosine_RK.shape[1]), dim=1
            )
            met_RN = cosine_RN > -torch.inf
            cosine_RN = torch.where(met_RN, cosine_RN, 0.0)
            # Not minus infinity: a pair that meets nothing would have a softmax over nothing.
            weight_RN = torch.where(met_RN, self.sharpness.exp() * cosine_RN, -1e9).softmax(dim=1) * met_RN
            found_RE = (weight_RN[:, :, None] * self.known_KE[found_RN]).sum(dim=1)
            # Unit vectors of E parts: without the root, a head that learns at the usual rate would hardly see them.
            said_R2E = torch.cat([found_RE, query_RE * found_RE * self.known_KE.shape[1] ** 0.5], dim=1)
            score_R: Tensor = LIKENESS * self.likeness * (weight_RN * cosine_RN).sum(dim=1) + self.said(said_R2E)[:, 0]
        return score_R


def _marked(apart_RB: Tensor, num_known: int) -> Tensor:
    """(R, K) bool, True where a pair is kept apart."""
    marked = torch.zeros(len(apart_RB), num_known + 1, dtype=torch.bool, device=apart_RB.device)
    return marked.scatter(1, apart_RB, True)[:, :num_known]
