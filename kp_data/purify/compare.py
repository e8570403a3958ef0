"""Methods side by side: fitted on `train`, selected on `validation`, reported on another split.

Axes: Q questions, M measured columns, B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from kp_data.errors import ConfigError, DataError
from kp_data.panel import Panel
from kp_data.purify.embedding import MINILM, Embedder
from kp_data.purify.figures import Figures, Outcome, by_subject, outcome_of, panel_notes
from kp_data.purify.labels import fit_data
from kp_data.purify.metrics import bootstrap_means, interval
from kp_data.purify.protocol import Context, Labels, Progress, quiet
from kp_data.purify.purified import Run, run_method
from kp_data.purify.registry import check_needs, find_method, make_options
from kp_data.tables import write_json

Array = np.ndarray[Any, Any]
Interval = tuple[float, float] | None

COMPARE_FILE: Final = "compare.json"
TABLES: Final = ("questions.parquet", "responses.parquet", "purified.parquet", "manifest.json")
"""Each marks a folder that holds data: no place for a comparison."""


@dataclass(frozen=True)
class Comparison:
    """One method on one split.

    Attributes:
        method, split: what was measured, and where.
        figures: the figures of the split.
        subjects: the figures of each of its subjects.
        best_single_teacher: the teacher most often right on train.
        gain: purified accuracy minus that of the best single teacher, None without gold.
        ci95: 95 % bootstrap intervals, over questions, of `purified_accuracy`, `gain` and `gap_closed`.
        calls_per_question, extra_parameters, seconds_fit, seconds_score: what it costs; seconds are measured with
            a warm cache of embeddings where an earlier method has read the same questions.
        fit: how fitting went.
        notes: what a reader of the figures must know.
    """

    method: str
    split: str
    figures: Figures
    subjects: dict[str, Figures]
    best_single_teacher: str | None
    gain: float | None
    ci95: dict[str, Interval]
    calls_per_question: float
    extra_parameters: int
    seconds_fit: float
    seconds_score: float
    fit: dict[str, Any]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """One JSON object, the figures at its top level."""
        special = ("method", "split", "figures", "subjects")
        rest = {name: value for name, value in vars(self).items() if name not in special}
        subjects = {name: dict(vars(figures)) for name, figures in self.subjects.items()}
        return {"method": self.method, "split": self.split, **vars(self.figures), **rest, "subjects": subjects}


def compare_methods(
    panel: Panel,
    methods: Sequence[str],
    *,
    split: str = "test",
    seed: int = 0,
    out: Path | None = None,
    labels: Labels = "gold",
    embedder: str = MINILM,
    device: str | None = None,
    batch_size: int = 64,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    num_draws: int = 1000,
    progress: Progress = quiet,
) -> list[Comparison]:
    """Fit methods on one panel and measure them on the same questions.

    Args:
        panel: with the splits `train`, `validation` (or 15 % of train in its place) and `split`.
        methods: names of `methods()`, in the order to report.
        split: where to measure.
        seed: of every random choice; the bootstrap draws the same questions for every method.
        out: a folder to write `compare.json` into.
        labels, embedder, device, batch_size, progress: as in `purify_panel`.
        options: method name to its own options.
        num_draws: of the bootstrap.

    Raises:
        ConfigError: no method, an unknown one, one that stands twice, or an unknown option.
        MethodError: the panel lacks what a method needs; found out before the first is fitted.
        DataError: no question has this split, or `out` holds something else or cannot be written.
    """
    if out is not None:
        _check_place(Path(out))
    if not methods or len(set(methods)) != len(methods):
        raise ConfigError("name one or more methods, each once", place="compare")
    panel.split(split)
    data = fit_data(panel, labels=labels, seed=seed)
    chosen = [(find_method(name), make_options(find_method(name), (options or {}).get(name, {}))) for name in methods]
    for method, _ in chosen:
        check_needs(method, panel, data)
    embed = Embedder(embedder, batch_size, device, lambda done, total: progress("embedding questions", done, total))
    compared = []
    for number, (method, settings) in enumerate(chosen, start=1):
        run = run_method(panel, method, settings, Context(seed, embed, progress), labels=labels)
        compared.append(_measure(panel, run, split, seed, num_draws))
        progress("methods", number, len(chosen))
    if out is not None:
        write_json([comparison.as_dict() for comparison in compared], Path(out) / COMPARE_FILE)
    return compared


def _check_place(out: Path) -> None:
    """Refuse a folder that is anything but new, empty, or an earlier comparison.

    Raises: DataError.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / COMPARE_FILE).is_file() or any((out / name).exists() for name in TABLES):
        raise DataError("holds something else; choose another --out or remove it", place=out)


def _measure(panel: Panel, run: Run, split: str, seed: int, num_draws: int) -> Comparison:
    keep_Q = panel.split_Q == split
    outcome = outcome_of(panel, run.purification).take(keep_Q)
    figures, fitted = outcome.figures(), run.fitted
    purified, best = figures.purified_accuracy, figures.best_single_accuracy
    notes = (*fitted.notes, *panel_notes(panel, figures))
    if split in ("train", "validation"):
        notes = (f"methods were fitted or selected on split '{split}': its figures flatter them", *notes)
    return Comparison(
        method=run.method.info.name,
        split=split,
        figures=figures,
        subjects=by_subject(panel.take(keep_Q), outcome),
        best_single_teacher=outcome.best_single,
        gain=None if purified is None or best is None else purified - best,
        ci95=bootstrap_intervals(outcome, seed=seed, num_draws=num_draws),
        calls_per_question=float(fitted.calls_per_question),
        extra_parameters=fitted.extra_parameters,
        seconds_fit=run.seconds_fit,
        seconds_score=run.seconds_score,
        fit=dict(fitted.facts),
        notes=notes,
    )


def bootstrap_intervals(outcome: Outcome, *, seed: int = 0, num_draws: int = 1000) -> dict[str, Interval]:
    """95 % intervals over labelled questions; None where the figure itself cannot be said.

    The gain and the gap are paired: one draw takes the same questions for the method, the best teacher and the oracle.
    """
    names = ("purified_accuracy", "gain", "gap_closed")
    known_Q = outcome.labelled_Q
    if not known_Q.any():
        return dict.fromkeys(names)
    value_QM = np.stack([outcome.purified_Q, outcome.best_Q, outcome.oracle_Q], axis=1)[known_Q]
    purified_B, best_B, oracle_B = bootstrap_means(value_QM, seed=seed, num_draws=num_draws).T
    gap_B = np.divide(purified_B - best_B, oracle_B - best_B, out=np.full(num_draws, np.nan), where=oracle_B > best_B)
    return dict(zip(names, map(interval, (purified_B, purified_B - best_B, gap_B)), strict=True))
