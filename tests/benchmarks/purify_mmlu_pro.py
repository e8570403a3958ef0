"""Which method keeps the right rationale, on a panel of real teachers: fitted on train, selected on validation.

    python tests/benchmarks/purify_mmlu_pro.py --data PANEL --teachers A,B,… --methods M,M:option=value,… --out TABLE.md

Each method is fitted once and measured on every split asked for. Intervals come from a bootstrap over questions; a
difference is paired: one draw takes the same questions for both. `gap closed` is the share of the way from the best
single teacher to an oracle.

Axes: Q questions, M methods, B bootstrap draws.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kp_data.errors import ConfigError, KpError
from kp_data.panel import Panel
from kp_data.purify import Context, Embedder, find_method
from kp_data.purify.figures import Outcome, outcome_of
from kp_data.purify.metrics import bootstrap_means, interval
from kp_data.purify.purified import Run, run_method
from kp_data.purify.registry import make_options

Array = np.ndarray[Any, Any]

TEACHERS = "llama-3.1-8b-instruct,mathstral-7b,phi-3-mini-4k-instruct,mixtral-8x7b-instruct-v0.1"
METHODS = "majority,weighted-vote,similarity-router,consensus,consensus:choice_prior=false"
VOTE = "weighted-vote"
HEADER = (
    "| method | accuracy | gap closed | accuracy − best single | accuracy − weighted vote "
    "| gap closed − weighted vote | CPU, s |\n| --- | --- | --- | --- | --- | --- | ---: |"
)


@dataclass(frozen=True)
class Contestant:
    """A method as asked for, what came of it, and the CPU time of fitting it and purifying all of the panel."""

    label: str
    run: Run
    outcome: Outcome
    seconds_cpu: float


@dataclass(frozen=True)
class Draws:
    """Bootstrap means: of one method, of the best single teacher, of the oracle and of the weighted vote."""

    method_B: Array
    best_B: Array
    oracle_B: Array
    vote_B: Array

    def gap(self, value_B: Array) -> Array:
        """(B,) float, share of the gap that is closed, nan where there is none."""
        width_B = self.oracle_B - self.best_B
        gap_B: Array = np.divide(value_B - self.best_B, width_B, out=np.full(len(width_B), np.nan), where=width_B > 0)
        return gap_B


def main() -> int:
    options = _options()
    try:
        panel = Panel.read(options.data, teachers=options.teachers.split(",") if options.teachers else None)
        contestants = compete(panel, _labels(options.methods), seed=options.seed, embedder=options.embedder)
        text = page(panel, contestants, options)
    except KpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    print(text)
    return 0


def compete(panel: Panel, labels: list[str], *, seed: int, embedder: str) -> list[Contestant]:
    """Every method, fitted and applied; all share one embedder, so only the first pays for the questions."""
    embed = Embedder(embedder)
    contestants = []
    for label in labels:
        method, settings = _method_of(label)
        print(f"{label} …", file=sys.stderr)
        start = time.process_time()
        run = run_method(panel, method, settings, Context(seed, embed, _Progress()))
        spent = time.process_time() - start
        contestants.append(Contestant(label, run, outcome_of(panel, run.purification), spent))
    return contestants


def page(panel: Panel, contestants: list[Contestant], options: argparse.Namespace) -> str:
    """Markdown: what was measured, a table a split, and what each method said of its fit."""
    counts = {split: int((panel.split_Q == split).sum()) for split in dict.fromkeys(panel.split_Q.tolist())}
    lines = [
        f"# Purification methods on {Path(options.data).name}",
        "",
        f"Teachers: {', '.join(panel.teachers)}. "
        f"Questions: {', '.join(f'{name} {count}' for name, count in counts.items())}. Seed {options.seed}.",
        f"Fitted on train, selected on validation; 95 % intervals from {options.draws} bootstrap draws over questions, "
        "differences paired. Accuracies and gaps in percent, differences in percentage points. CPU time is that of "
        "fitting and of purifying the whole panel; a method finds the questions embedded that an earlier one has read.",
    ]
    for split in options.splits.split(","):
        lines += ["", *_table(panel, contestants, split, options)]
    lines += ["", "## How each was fitted", ""]
    for one in contestants:
        facts = {name: value for name, value in one.run.fitted.facts.items() if name != "score_meaning"}
        lines.append(f"* `{one.label}`: {_in_words(facts) or 'nothing is fitted beyond the accuracies of teachers'}")
        lines += [f"  * {note}" for note in one.run.fitted.notes]
    return "\n".join(lines) + "\n"


def _table(panel: Panel, contestants: list[Contestant], split: str, options: argparse.Namespace) -> list[str]:
    panel.split(split)  # Refuses a split that no question has.
    keep_Q = panel.split_Q == split
    outcomes = [one.outcome.take(keep_Q) for one in contestants]
    votes = [outcome for one, outcome in zip(contestants, outcomes, strict=True) if one.label == VOTE]
    first = outcomes[0]
    vote_Q = votes[0].purified_Q if votes else np.full(len(first.best_Q), np.nan)
    columns = [outcome.purified_Q for outcome in outcomes] + [first.best_Q, first.oracle_Q, vote_Q]
    value_QM = np.stack([np.where(first.labelled_Q, column, np.nan) for column in columns], axis=1)
    draws_BM = bootstrap_means(value_QM, seed=options.seed, num_draws=options.draws)
    point_M = np.array(
        [column[~np.isnan(column)].mean() if (~np.isnan(column)).any() else np.nan for column in value_QM.T]
    )
    rows = []
    for number, one in enumerate(contestants):
        pick = [number, -3, -2, -1]
        draws, points = Draws(*draws_BM[:, pick].T), Draws(*point_M[None, pick].T)
        rows.append(_row(one, points, draws))
    best, oracle = 100 * point_M[-3], 100 * point_M[-2]
    title = f"## {split}: {int(first.labelled_Q.sum())} questions, best single {best:.1f}, oracle {oracle:.1f}"
    if split in ("train", "validation"):
        title += " (fitted or selected on)"
    return [title, "", HEADER, *rows]


def _row(one: Contestant, point: Draws, draws: Draws) -> str:
    cells = [
        _cell(point.method_B, draws.method_B),
        _cell(point.gap(point.method_B), draws.gap(draws.method_B)),
        _cell(point.method_B - point.best_B, draws.method_B - draws.best_B, signed=True),
        _cell(point.method_B - point.vote_B, draws.method_B - draws.vote_B, signed=True),
        _cell(
            point.gap(point.method_B) - point.gap(point.vote_B),
            draws.gap(draws.method_B) - draws.gap(draws.vote_B),
            signed=True,
        ),
    ]
    return f"| {one.label} | {' | '.join(cells)} | {one.seconds_cpu:.0f} |"


def _cell(point_1: Array, draws_B: Array, *, signed: bool = False) -> str:
    value, bounds = float(point_1[0]), interval(draws_B)
    if np.isnan(value) or bounds is None:
        return "—"
    form = "+.1f" if signed else ".1f"
    return f"{100 * value:{form}} [{100 * bounds[0]:{form}}, {100 * bounds[1]:{form}}]"


def _labels(text: str) -> list[str]:
    """Methods as asked for; a comma parts methods, a semicolon the options of one."""
    labels = [label.strip() for label in text.split(",") if label.strip()]
    return labels if VOTE in labels else [VOTE, *labels]


def _method_of(label: str) -> tuple[Any, Any]:
    name, _, given = label.partition(":")
    pairs = [part.partition("=") for part in given.split(";") if part]
    if bad := [key for key, equals, _ in pairs if not equals]:
        raise ConfigError(f"{bad[0]!r} has no value; write NAME:option=value;option=value", place="--methods")
    method = find_method(name)
    return method, make_options(method, {key: yaml.safe_load(value) for key, _, value in pairs})


def _in_words(facts: dict[str, Any]) -> str:
    return "; ".join(f"{name} {_short(value)}" for name, value in facts.items())


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_short(each)}" for name, each in value.items()) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return str(value)


class _Progress:
    """A line every half minute, on stderr."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if time.monotonic() - self._said > 30:
            self._said = time.monotonic()
            print(f"  {stage}: {done} of {total}", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="panel folder")
    parser.add_argument("--teachers", default=TEACHERS, help="comma-separated; empty: all of the panel")
    parser.add_argument("--methods", default=METHODS, help="comma-separated NAME or NAME:option=value;option=value")
    parser.add_argument("--splits", default="validation,test,ood", help="where to measure")
    parser.add_argument("--embedder", default="minilm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
