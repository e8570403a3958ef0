"""The page of `student_mcqa.py`: a table a set and kind of student, averages, and what was published.

Axes: Q test questions, V distinct values, B bootstrap draws.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from frozen_scorer import EPOCHS
from mcqa_cells import FINE_TUNED, KINDS, RETRIEVED, Cell, cells_done, kept_shares, mean_right_Q, mean_validation
from mcqa_sets import ALL, ANSWERS, PLAIN, SetFolder, reading_accuracy

from kp_train.comparison import RESAMPLES, bootstrap_interval, paired_interval

Array = np.ndarray[Any, Any]
Rows = Mapping[str, Sequence[Cell]]

PUBLISHED: Final = (
    ("77 M", 43.52, 41.47, 42.38, 45.66),
    ("248 M", 53.12, 54.23, 52.76, 56.68),
    ("783 M", 63.18, 62.76, 62.53, 67.55),
)
"""Of arXiv:2602.01064: student, fine-tuning, step by step, TinyLLM, its best purification; four sets, four teachers."""
EDGES: Final = (0.025, 0.975)
OTHERS: Final = {PLAIN: "plain", ALL: "all teachers", ANSWERS: "answers"}
"""Rows from which every other is told apart, and how the page names them."""


def report(folders: Sequence[SetFolder]) -> str:
    """Markdown of every cell that is done; reads the test split."""
    found = {folder.plan.name: {kind: cells_done(folder, kind) for kind in KINDS} for folder in folders}
    lines = [
        "# Rationales that a 22.7 M encoder looks up",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, torch {version('torch')}, transformers "
        f"{version('transformers')}, CPU. Student: all-MiniLM-L6-v2, which scores each choice of a question; beside "
        f"the choice it looks up the {RETRIEVED} nearest rationales of training questions, as vectors. It writes "
        "nothing, so a row of one teacher stands where the papers have step-by-step distillation. Steps and epochs are "
        "selected on validation; test is read once, by this report. Accuracies in percent; intervals of 95 % by "
        "bootstrap over questions, differences paired, each student the mean of its seeds. `answers` looks up the gold "
        "answers of training questions without any rationale.",
    ]
    for folder in folders:
        if any(found[folder.plan.name].values()):
            lines += ["", f"## {folder.plan.name}", "", _about(folder)]
            for kind in KINDS:
                lines += _table(kind, found[folder.plan.name][kind])
    in_domain = [
        folder.plan.name for folder in folders if folder.plan.in_domain and any(found[folder.plan.name].values())
    ]
    lines += _averages({name: found[name] for name in in_domain})
    return "\n".join([*lines, *_published()]) + "\n"


def _about(folder: SetFolder) -> str:
    panel = folder.panel()
    counts = [f"{int((panel.split_Q == split).sum())} {split}" for split in ("train", "validation", "test")]
    read = ", ".join(f"{teacher} {100 * share:.0f} %" for teacher, share in reading_accuracy(folder).items())
    given = "are right" if "blind" in panel.modes else "argue for the gold answer, read without it (see `mcqa_sets`)"
    kept = [
        f"`{method}` keeps {', '.join(f'{teacher} {100 * share:.0f} %' for teacher, share in shares.items())}"
        for method, shares in kept_shares(folder).items()
    ]
    return f"Questions: {', '.join(counts)}. Training rationales that {given}: {read}." + (
        f" Of the training questions, {'; '.join(kept)}." if kept else ""
    )


def _table(kind: str, rows: Rows) -> list[str]:
    if not rows:
        return []
    lines = [
        "",
        f"{_words(kind)}:",
        "",
        f"| looked up | seeds | validation | test | interval | minus {' | minus '.join(OTHERS.values())} |",
        f"|{' --- |' * (5 + len(OTHERS))}",
    ]
    right = {row: mean_right_Q(cells) for row, cells in rows.items()}
    for row, cells in rows.items():
        low, high = bootstrap_interval(round(float(right[row].sum())), len(right[row]))
        differences = " | ".join(_difference(right, row, other) for other in OTHERS)
        lines.append(
            f"| {row} | {len(cells)} | {100 * mean_validation(cells):.1f} | {100 * right[row].mean():.1f} | "
            f"{100 * low:.1f} to {100 * high:.1f} | {differences} |"
        )
    return lines


def _words(kind: str) -> str:
    if kind == FINE_TUNED:
        return "Everything fine-tuned"
    return f"Encoder frozen, head and look-up trained for {EPOCHS} epochs"


def _difference(right: Mapping[str, Array], row: str, other: str) -> str:
    if row == other or other not in right:
        return ""
    low, high = paired_interval(right[row] - right[other])
    return f"{100 * (right[row] - right[other]).mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _averages(found: Mapping[str, Mapping[str, Rows]]) -> list[str]:
    """The means over sets of rows that all of them have: as validation selects among the kinds, and of each kind."""
    if not found:
        return []
    names = ", ".join(found)
    return [
        *_average(
            f"Average of {names}",
            "Each row of each set in the kind of training, fine-tuned or frozen, that is better on validation. A row "
            "that was not fine-tuned on a set stands there frozen, and loses by that.",
            {name: _best_kinds(kinds) for name, kinds in found.items()},
        ),
        *(
            line
            for kind in KINDS
            for line in _average(f"The same, {kind} alone", "", {name: kinds[kind] for name, kinds in found.items()})
        ),
    ]


def _average(title: str, about: str, chosen: Mapping[str, Rows]) -> list[str]:
    rows = [row for row in next(iter(chosen.values()), {}) if all(row in each for each in chosen.values())]
    if PLAIN not in rows:
        return []
    right = {row: [mean_right_Q(each[row]) for each in chosen.values()] for row in rows}
    lines = [f"## {title}", about, _average_head(list(chosen))]
    table = [
        f"| {row} | "
        + " | ".join(
            f"{100 * one.mean():.1f} {each[row][0].kind}" for one, each in zip(of, chosen.values(), strict=True)
        )
        + f" | {100 * np.mean([one.mean() for one in of]):.2f} | "
        + " | ".join(_mean_difference(of, right[other]) if other in right and other != row else "" for other in OTHERS)
        + " |"
        for row, of in right.items()
    ]
    return [piece for line in lines if line for piece in ("", line)] + table


def _average_head(sets: Sequence[str]) -> str:
    columns = ["looked up", *sets, "average", *(f"minus {OTHERS[other]}" for other in OTHERS)]
    return f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}"


def _best_kinds(kinds: Mapping[str, Rows]) -> dict[str, Sequence[Cell]]:
    """Row to the cells of the kind that is best on validation."""
    rows: dict[str, Sequence[Cell]] = {}
    for found in kinds.values():
        for row, cells in found.items():
            if row not in rows or mean_validation(cells) > mean_validation(rows[row]):
                rows[row] = cells
    return rows


def _mean_difference(right: Sequence[Array], others: Sequence[Array]) -> str:
    """Mean over sets of the mean difference over questions, with an interval: every set is drawn for itself."""
    differences = [one - other for one, other in zip(right, others, strict=True)]
    drawn_B = np.mean([_drawn_means(each, seed) for seed, each in enumerate(differences)], axis=0)
    low, high = np.quantile(drawn_B, EDGES)
    return f"{100 * np.mean([each.mean() for each in differences]):+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def _drawn_means(difference_Q: Array, seed: int) -> Array:
    """(B,) means of as many questions, drawn with replacement."""
    value_V, count_V = np.unique(difference_Q, return_counts=True)
    n = len(difference_Q)
    drawn_BV = np.random.default_rng(seed).multinomial(n, count_V / n, size=RESAMPLES)
    return np.asarray(drawn_BV @ value_V / n)


def _published() -> list[str]:
    lines = [
        "",
        "## Published",
        "",
        "Averages over OpenBookQA, ARC-Challenge, RiddleSense and PubMedQA of arXiv:2602.01064: encoder-decoders that "
        "learn to write, four teachers whose own answers are known. The student here is an encoder that chooses among "
        "the options it is given, on fewer sets, with two teachers that were shown the gold answer. The figures stand "
        "beside each other; they are not of one experiment.",
        "",
        "| student | fine-tuning | step by step | TinyLLM | best purification |",
        "| --- | --- | --- | --- | --- |",
    ]
    return [*lines, *(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |" for name, *values in PUBLISHED)]
