"""Confidence: how much a row's purified rationale counts, from what its purifier gave it.

A row counts score / m, where m is the mean score of all rows with a purified rationale: twice as sure counts twice as
much, lambda means what it meant, and a method that is equally sure of everything changes nothing. Rows whose
rationale has no score (an aggregated one belongs to no teacher) count 1.
Source: own; weighing texts by a router's or a verifier's confidence in them.
"""

from __future__ import annotations

import math
from dataclasses import replace

from kp_data.errors import MethodError
from kp_train.dataset import Dataset


def weigh_by_score(dataset: Dataset) -> Dataset:
    """The dataset with each row's confidence.

    Args:
        dataset: rows to learn from, of one split.

    Raises:
        MethodError: no row has a score, one is negative or no number, or all are 0.
    """
    scores = [row.score for row in dataset.rows if row.purified and row.score is not None]
    if not scores:
        raise MethodError(
            "no purified rationale here has a score to weigh it by; leave --weight-by out, or purify with a router "
            "or a verifier",
            place=dataset.place,
        )
    if bad := [score for score in scores if not (math.isfinite(score) and score >= 0)]:
        raise MethodError(
            f"a rationale has the score {bad[0]}, and weights are 0 or above; leave --weight-by out, or purify with a "
            "method whose scores are probabilities, such as similarity-router or verifier",
            place=dataset.place,
        )
    mean = math.fsum(scores) / len(scores)
    if mean == 0:
        raise MethodError("every score is 0; nothing would be learned", place=dataset.place)
    rows = tuple(
        replace(row, confidence=row.score / mean) if row.purified and row.score is not None else row
        for row in dataset.rows
    )
    return replace(dataset, rows=rows)
