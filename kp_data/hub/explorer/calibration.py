"""Whether the scores of a purified part mean what they say, where the run says that they are probabilities."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from kp_data.hub.explorer.dataset import Dataset, Part
from kp_data.hub.explorer.filters import Condition
from kp_data.hub.explorer.rows import Rows
from kp_data.purify.reliability import PROBABILITY_RIGHT, SCORE_MEANING, Reliability, reliability_of

MOST_ROWS: Final = 50_000
"""Rows looked at, drawn by their ids where there are more: bins of thousands have intervals of a point."""

LEAST_A_BIN: Final = 20
MAX_SPLITS: Final = 100
_COLUMNS: Final = frozenset({"id", "score", "answer_index", "purified_answer_index"})


def claims_probabilities(dataset: Dataset) -> bool:
    """Whether the run says that its scores are probabilities of being right."""
    fit: Any = dataset.json("report.json").get("fit")
    return isinstance(fit, dict) and fit.get(SCORE_MEANING) == PROBABILITY_RIGHT


def reliability(rows: Rows, purified: Part) -> tuple[Reliability, str] | None:
    """How often kept answers are right against what their scores claimed, and on which rows.

    Of a part that holds several splits, `test` alone counts where there is one: on the others the method may have been
    fitted. Kept answers that nobody could read are left out.

    Returns: None where too few questions have a gold answer.
    Raises: as `Rows.page`.
    """
    if not set(purified.kinds) >= _COLUMNS:
        return None
    splits = (rows.values(purified, "split", most=MAX_SPLITS) if "split" in purified.kinds else None) or ()
    tested = len(splits) > 1 and "test" in dict(splits)
    known = '"score" BETWEEN 0 AND 1 AND "answer_index" IS NOT NULL AND "purified_answer_index" IS NOT NULL'
    conditions = [known, f'hash("id") % {purified.num_rows // MOST_ROWS + 1} = 0']
    conditions += ["\"split\" = 'test'"] if tested else []
    found = rows.select(
        purified, '"score", "answer_index" = "purified_answer_index"', condition=Condition(" AND ".join(conditions))
    )
    if len(found) < 2 * LEAST_A_BIN:
        return None
    score_N, right_N = np.array(found, float).T
    measured = reliability_of(score_N, right_N, num_bins=min(10, len(found) // LEAST_A_BIN))
    return None if measured is None else (measured, "of the test split" if tested else "of this part")
