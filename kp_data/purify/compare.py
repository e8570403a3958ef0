"""Methods side by side: fitted on `train`, selected on `validation`, reported on another split.

Axes: Q questions, M measured columns, B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from kp_data.errors import ConfigError, DataError
from kp_data.panel import Panel
from kp_data.purify.embedding import MINILM, Embedder
from kp_data.purify.encoders import LoadEncoder, load_encoder
from kp_data.purify.figures import Figures, Outcome, by_subject, outcome_of, panel_notes
from kp_data.purify.labels import fit_data
from kp_data.purify.metrics import (
    Difference,
    Interval,
    bootstrap_means,
    difference_interval,
    interval,
    paired_differences,
    share_interval,
)
from kp_data.purify.practicality import CallRecords, Practicality, practicality_of
from kp_data.purify.protocol import ALONE, Context, Labels, Partners, Progress, Purification, quiet
from kp_data.purify.purified import Run, run_method
from kp_data.purify.registry import check_needs, find_method, make_options
from kp_data.purify.reliability import PROBABILITY_RIGHT, SCORE_MEANING, Reliability, reliability_of
from kp_data.purify.split_facts import SPLIT_FILE, split_facts
from kp_data.tables import write_json

Array = np.ndarray[Any, Any]

COMPARE_FILE: Final = "compare.json"
MOST_BINS: Final = 10
LEAST_A_BIN: Final = 20
"""Questions: with fewer, the share of right ones in a bin of a reliability curve is mostly noise."""
TABLES: Final = ("questions.parquet", "responses.parquet", "purified.parquet", "manifest.json")
"""Each marks a folder that holds data: no place for a comparison."""


@dataclass(frozen=True)
class Comparison:
    """One method on one split.

    Attributes:
        method, split: what was measured, and where.
        kind: `baseline`, `router`, `selector` or `writer`.
        figures: the figures of the split.
        subjects: the figures of each of its subjects.
        best_single_teacher: the teacher most often right on train.
        gain: purified accuracy minus that of the best single teacher, None without gold.
        ci95: 95 % bootstrap intervals, over questions, of `purified_accuracy`, `gain` and `gap_closed`.
        differences: every other method to how much more often this one is right, paired by question.
        reliability: of the kept rationales' scores, where the method says that they are probabilities of being right.
        practicality: what using it takes.
        calls_per_question, extra_parameters, seconds_fit, seconds_score: what it costs; seconds are measured with
            a warm cache of embeddings where an earlier method has read the same questions.
        fit: how fitting went.
        notes: what a reader of the figures must know.
    """

    method: str
    kind: str
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
    practicality: Practicality
    reliability: Reliability | None = None
    differences: dict[str, Difference] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """One JSON object, the figures at its top level."""
        special = ("method", "kind", "split", "figures", "subjects", "practicality", "reliability", "differences")
        rest = {name: value for name, value in vars(self).items() if name not in special}
        return {
            "method": self.method,
            "kind": self.kind,
            "split": self.split,
            **vars(self.figures),
            **rest,
            "ci95": {**self.figures.ci95, **self.ci95},
            "practicality": self.practicality.as_dict(),
            "reliability": None if self.reliability is None else self.reliability.as_dict(),
            "differences": {name: asdict(difference) for name, difference in self.differences.items()},
            "subjects": {name: dict(vars(figures)) for name, figures in self.subjects.items()},
        }


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
    partners: Partners = ALONE,
    load: LoadEncoder = load_encoder,
) -> list[Comparison]:
    """Fit methods on one panel and measure them on the same questions.

    Args:
        panel: with the splits `train`, `validation` (or 15 % of train in its place) and `split`.
        methods: names of `methods()`, in the order to report.
        split: where to measure.
        seed: of every random choice; the bootstrap draws the same questions for every method.
        out: a folder to write `compare.json` into.
        labels, embedder, device, batch_size, progress, partners, load: as in `purify_panel`.
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
    embed = Embedder(
        embedder, batch_size, device, lambda done, total: progress("embedding questions", done, total), load=load
    )
    keep_Q = panel.split_Q == split
    records = CallRecords.of(panel).take(keep_Q)
    compared, outcomes, kept = [], [], {}
    for number, (method, settings) in enumerate(chosen, start=1):
        run = run_method(panel, method, settings, Context(seed, embed, progress, partners), labels=labels)
        outcome, part = outcome_of(panel, run.purification).take(keep_Q), _part(run.purification, keep_Q)
        usage = practicality_of(panel.take(keep_Q), run, part, records)
        compared.append(_measure(panel, run, outcome, usage, split=split, seed=seed, num_draws=num_draws))
        outcomes.append(outcome)
        kept[method.info.name] = part
        progress("methods", number, len(chosen))
    compared = _with_differences(compared, outcomes, seed, num_draws)
    if out is not None:
        write_json(split_facts(panel.take(keep_Q), split, kept), Path(out) / SPLIT_FILE)
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


def _measure(
    panel: Panel, run: Run, outcome: Outcome, usage: Practicality, *, split: str, seed: int, num_draws: int
) -> Comparison:
    keep_Q = panel.split_Q == split
    figures, fitted = outcome.figures(), run.fitted
    purified, best = figures.purified_accuracy, figures.best_single_accuracy
    notes = (*fitted.notes, *panel_notes(panel, figures))
    if split in ("train", "validation"):
        notes = (f"methods were fitted or selected on split '{split}': its figures flatter them", *notes)
    return Comparison(
        method=run.method.info.name,
        kind=run.method.info.kind,
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
        practicality=usage,
        reliability=_reliability(run, outcome, keep_Q),
    )


def _reliability(run: Run, outcome: Outcome, keep_Q: Array) -> Reliability | None:
    """Of the scores of the kept rationales; None where the method does not call them probabilities of being right."""
    if run.fitted.facts.get(SCORE_MEANING) != PROBABILITY_RIGHT:
        return None
    score_QT, chosen_Q = run.purification.score_QT[keep_Q], run.purification.chosen_Q[keep_Q]
    score_Q = np.where(chosen_Q >= 0, score_QT[np.arange(len(chosen_Q)), chosen_Q], np.nan)
    right_Q = np.where(outcome.labelled_Q, outcome.purified_Q, np.nan)
    num_bins = max(1, min(MOST_BINS, int((~np.isnan(right_Q)).sum()) // LEAST_A_BIN))
    return reliability_of(score_Q, right_Q, num_bins=num_bins)


def _part(purification: Purification, keep_Q: Array) -> Purification:
    """What was kept of some questions."""
    texts, answers = purification.text_Q, purification.answer_Q
    return replace(
        purification,
        score_QT=purification.score_QT[keep_Q],
        kept_QT=purification.kept_QT[keep_Q],
        text_Q=None if texts is None else texts[keep_Q],
        answer_Q=None if answers is None else answers[keep_Q],
    )


def _with_differences(
    compared: Sequence[Comparison], outcomes: Sequence[Outcome], seed: int, num_draws: int
) -> list[Comparison]:
    """Each comparison with its paired differences from every other method, on the same drawn questions."""
    right_QM = np.stack([np.where(one.labelled_Q, one.purified_Q, np.nan) for one in outcomes], axis=1)
    apart = [[_num_apart(one.kept_QT, two.kept_QT, one.labelled_Q) for two in outcomes] for one in outcomes]
    table = paired_differences(right_QM, apart_MM=np.array(apart), seed=seed, num_draws=num_draws)
    names = [one.method for one in compared]
    return [
        replace(one, differences={name: cell for name, cell in zip(names, row, strict=True) if name != one.method})
        for one, row in zip(compared, table, strict=True)
    ]


def bootstrap_intervals(outcome: Outcome, *, seed: int = 0, num_draws: int = 1000) -> dict[str, Interval]:
    """95 % intervals over labelled questions; None where the figure itself cannot be said.

    The gain and the gap are paired: one draw takes the same questions for the method, the best teacher and the oracle.
    Where every question came out alike, Wilson's interval stands in for a bootstrap that would have no width.
    """
    names = ("purified_accuracy", "gain", "gap_closed")
    known_Q = outcome.labelled_Q
    if not known_Q.any():
        return dict.fromkeys(names)
    value_QM = np.stack([outcome.purified_Q, outcome.best_Q, outcome.oracle_Q], axis=1)[known_Q]
    purified_Q, best_Q, _ = value_QM.T
    purified_B, best_B, oracle_B = bootstrap_means(value_QM, seed=seed, num_draws=num_draws).T
    gap_B = np.divide(purified_B - best_B, oracle_B - best_B, out=np.full(num_draws, np.nan), where=oracle_B > best_B)
    gain_B = purified_B - best_B
    ranges = (
        share_interval(purified_Q, purified_B),
        difference_interval(purified_Q - best_Q, gain_B, _num_apart(outcome.kept_QT, _best_QT(outcome), known_Q)),
        interval(gap_B),
    )
    return dict(zip(names, ranges, strict=True))


def _best_QT(outcome: Outcome) -> Array:
    """(Q, T) bool, the best single teacher of every question."""
    best_T = np.array([teacher == outcome.best_single for teacher in outcome.teachers])
    return np.broadcast_to(best_T, outcome.kept_QT.shape)


def _num_apart(kept_QT: Array, other_QT: Array, labelled_Q: Array) -> int:
    """On how many labelled questions two methods kept different rationales, a written one counting as different."""
    same_Q = (kept_QT == other_QT).all(1) & kept_QT.any(1)
    return int((~same_Q & labelled_Q).sum())
