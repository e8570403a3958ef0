"""Who agrees with whom, as a heatmap and a table of pairs.

Axes: T teachers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from kp_data.report.charts import heatmap
from kp_data.report.html import Section
from kp_data.report.terminal import Column, as_html_table

Array = np.ndarray[Any, Any]

PAIR_COLUMNS: Final = (
    Column("pair", "teachers"),
    Column("agreement", "agree", "percent"),
    Column("kappa", "Cohen's κ", "number"),
    Column("num", "questions", "number"),
)


def agreement_sections(
    names: Sequence[str], share_TT: Array, *, kappa_TT: Array | None = None, both_TT: Array | None = None
) -> list[Section]:
    """A heatmap of agreement, and a table of pairs where more than agreement is known; nothing for one teacher.

    Args:
        names: T names.
        share_TT: (T, T) float in [0, 1], nan where two share no question.
        kappa_TT: (T, T) float, Cohen's kappa, nan where it says nothing.
        both_TT: (T, T) int, questions both answered.
    """
    if len(share_TT) < 2:
        return []
    low, high = _extreme_pairs(names, share_TT)
    lead = "Percent of the questions both answered on which two teachers agree. Columns are numbered like rows."
    chart = heatmap(names, share_TT, title="Agreement between teachers", description=f"{low} {high}")
    note = f"{low} {high}".strip()
    table = None
    if kappa_TT is not None and both_TT is not None:
        note += " κ counts only the agreement beyond what each teacher's habit of choosing positions would give."
        table = as_html_table(_pair_rows(names, share_TT, kappa_TT, both_TT), PAIR_COLUMNS)
    return [Section("Who agrees with whom", lead, chart=chart, table=table, note=note)]


def _pair_rows(names: Sequence[str], share_TT: Array, kappa_TT: Array, both_TT: Array) -> list[dict[str, Any]]:
    pairs = sorted(itertools.combinations(range(len(names)), 2), key=lambda pair: -float(np.nan_to_num(share_TT[pair])))
    return [
        {
            "pair": f"{names[row]} – {names[column]}",
            "agreement": float(share_TT[row, column]),
            "kappa": float(kappa_TT[row, column]),
            "num": int(both_TT[row, column]),
        }
        for row, column in pairs
    ]


def _extreme_pairs(names: Sequence[str], share_TT: Array) -> tuple[str, str]:
    pairs = [
        (float(share_TT[row, column]), names[row], names[column])
        for row in range(len(names))
        for column in range(row)
        if share_TT[row, column] == share_TT[row, column]
    ]
    if len(pairs) < 2:
        return ("No two teachers answered the same question.", "") if not pairs else ("", "")
    words = [f"{pair[2]} and {pair[1]}, {100 * pair[0]:.0f} %." for pair in (min(pairs), max(pairs))]
    return f"Furthest apart: {words[0]}", f"Closest: {words[1]}"
