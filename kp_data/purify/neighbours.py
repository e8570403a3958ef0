"""Nearest training questions by cosine, through faiss: exact while that is quick, by inverted lists above.

Axes: Q questions, K training questions, D embedding size, N neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

EXACT_BELOW: Final = 50_000
"""Training questions up to which every one of them is compared."""
WANTED_RECALL: Final = 0.95
RECALL_SAMPLE: Final = 256


@dataclass(frozen=True)
class NeighbourIndex:
    """Training questions, ready to be searched.

    Attributes:
        index: faiss index over K unit vectors, by inner product.
        kind: `exact` or `inverted lists`.
        recall: share of the true neighbours that a search finds, measured on training questions; 1 where exact.
    """

    index: Any
    kind: str
    recall: float

    def search(self, question_QD: Array, count: int) -> tuple[Array, Array]:
        """The nearest training questions.

        Returns: (Q, N) float32 cosines, highest first; (Q, N) int64 rows, -1 where the index found fewer than N.
        """
        similarity_QN, row_QN = self.index.search(np.ascontiguousarray(question_QD, dtype=np.float32), count)
        return similarity_QN, row_QN


def build_index(known_KD: Array, *, count: int, exact_below: int = EXACT_BELOW) -> NeighbourIndex:
    """An index of unit vectors.

    Inverted lists are fitted by faiss's own k-means, whose seed is fixed: the same vectors give the same lists. As many
    lists are visited as it takes to find 95 % of the neighbours, or all of them.

    Args:
        known_KD: (K, D) float, unit vectors.
        count: N, for which recall is measured.
        exact_below: K from which on lists are used.
    """
    import faiss

    known_KD = np.ascontiguousarray(known_KD, dtype=np.float32)
    exact = faiss.IndexFlatIP(known_KD.shape[1])
    exact.add(known_KD)
    if len(known_KD) < exact_below:
        return NeighbourIndex(exact, "exact", 1.0)
    num_lists = int(4 * np.sqrt(len(known_KD)))
    lists = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(known_KD.shape[1]), known_KD.shape[1], num_lists, faiss.METRIC_INNER_PRODUCT
    )
    lists.train(known_KD)
    lists.add(known_KD)
    sample_QD = known_KD[:: max(1, len(known_KD) // RECALL_SAMPLE)][:RECALL_SAMPLE]
    truth_QN = exact.search(sample_QD, count)[1]
    lists.nprobe = max(1, num_lists // 64)
    while (recall := _recall(lists.search(sample_QD, count)[1], truth_QN)) < WANTED_RECALL and lists.nprobe < num_lists:
        lists.nprobe = min(2 * lists.nprobe, num_lists)
    return NeighbourIndex(lists, "inverted lists", recall)


def _recall(found_QN: Array, truth_QN: Array) -> float:
    pairs = zip(found_QN, truth_QN, strict=True)
    return float(np.mean([np.isin(truth_N, found_N).mean() for found_N, truth_N in pairs]))
