"""The order of the purification methods on practice worlds, by what they keep and by the student that learns from it.

    python tests/benchmarks/order_of_methods.py --out runs/order --report tests/benchmarks/results/order_of_methods.md

In every world (a seed of the practice world) the teachers are asked, each method purifies the panel, and a small
student is distilled from each purified dataset: same steps, same gold answers, other rationales. Purifiers and students
learn on `train` and are selected on `validation`; `test` and `ood` are read once, here. A cell (panel, purified
dataset, student) that is finished is never made again, so the run can be stopped and goes on; two methods that keep the
same rationales share one student. Purified datasets come first, then students, each in the order of
`--methods`.

Axes: W worlds, Q questions of a split, M methods, B bootstrap draws.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from order_cells import (
    ALL,
    GOLD,
    SPLITS,
    Setting,
    World,
    answered_right_Q,
    is_purified,
    is_taught,
    kept_right_Q,
    make_cells,
    purify,
)

from kp_data.errors import KpError
from kp_data.purify.cmv import conflict_mitigation_value
from kp_data.purify.metrics import interval
from kp_data.tables import read_json

Array = np.ndarray[Any, Any]

SEEDS = "10,11,12"
"""Worlds that nothing was chosen by. Methods were tuned on others (0, 1, 2, 300); on 7, 8 and 9 it was seen that
teacher selection gave teachers up too early, and it was mended on world 0."""
QUESTIONS, STEPS = 2400, 400
"""Chosen on validation of world 0, where students of the oracle, of a random teacher and of gold answers alone then
answer 76.7, 70.1 and 67.4 % of 288 questions; of 600 questions a world, no student can be told from another."""
PAPER = {
    "similarity-router": 0,
    "teacher-selection": 0,
    "plm-classifier": 1,
    "plackett-luce": 2,
    "aggregation": 3,
}
"""Places of the five methods in the table of the Knowledge Purification paper (arXiv:2602.01064): similarity router and
teacher selection take turns at the top."""
METHODS = (
    f"similarity-router,aggregation,{GOLD},plackett-luce,teacher-selection,plm-classifier,{ALL},oracle,random,"
    "best-single,consensus,majority,weighted-vote"
)
NUM_DRAWS = 4000
CERTAIN = (
    "`certain`: the interval of the difference is on one side of 0, and so is the difference in every world; not "
    "corrected for the number of pairs."
)


def main() -> int:
    options = _options()
    setting = Setting(options.out, options.questions, options.steps, options.student)
    worlds = [World(setting, int(seed)) for seed in options.seeds.split(",")]
    names, mitigating = _names(options.methods), _names(options.cmv)
    try:
        smaller = {count: [World(setting, world.seed, count) for world in worlds] for count in _counts(worlds[0])}
        if not options.report_only:
            make_cells(worlds, names)
            for some in smaller.values() if mitigating else ():
                make_cells(some, [ALL, *mitigating])
        text = page(worlds, names, mitigating, smaller)
    except KpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(text, encoding="utf-8")
    print(text)
    return 0


def _counts(world: World) -> range:
    """Numbers of teachers above one and below all."""
    return range(2, len(world.panel.teachers))


@dataclass(frozen=True)
class Outcomes:
    """Whether each method is right on each question of one split: one (Q, M) array a world, and draws of its means.

    The bootstrap draws worlds, then questions of each drawn world, the same for all methods.
    """

    methods: tuple[str, ...]
    right_WQM: tuple[Array, ...]

    @cached_property
    def mean_WM(self) -> Array:
        """(W, M) float, accuracies."""
        return np.stack([right_QM.mean(0) for right_QM in self.right_WQM])

    @cached_property
    def draws_BM(self) -> Array:
        """(B, M) float, mean accuracy over worlds drawn with replacement, of questions drawn with replacement."""
        random = np.random.default_rng(0)
        draws_BM = np.zeros((NUM_DRAWS, len(self.methods)))
        for draw_M in draws_BM:
            for world in random.integers(0, len(self.right_WQM), len(self.right_WQM)):
                right_QM = self.right_WQM[world]
                count = len(right_QM)
                weight_Q = np.bincount(random.integers(0, count, count), minlength=count)
                draw_M += weight_Q @ right_QM / count / len(self.right_WQM)
        return draws_BM

    def accuracy(self, method: str) -> str:
        """Mean over worlds with its interval, in percent."""
        column = self.methods.index(method)
        return _cell(self.mean_WM[:, column].mean(), self.draws_BM[:, column])

    def per_world(self, method: str) -> str:
        """Accuracy in each world, in percent."""
        return " / ".join(f"{100 * value:.1f}" for value in self.mean_WM[:, self.methods.index(method)])

    def gap(self, method: str) -> str:
        """Share of the way from the best single teacher to the oracle, in percent; empty where one is missing."""
        if not {"best-single", "oracle"} <= {*self.methods}:
            return ""
        columns = [self.methods.index(name) for name in (method, "best-single", "oracle")]
        (value, best, oracle), draws_B3 = self.mean_WM[:, columns].mean(0), self.draws_BM[:, columns]
        width_B = draws_B3[:, 2] - draws_B3[:, 1]
        return _cell((value - best) / (oracle - best), (draws_B3[:, 0] - draws_B3[:, 1]) / width_B)

    def difference(self, method: str, other: str) -> tuple[float, tuple[float, float]]:
        """How much more often a method is right than another, paired, and the interval of it."""
        one, two = self.methods.index(method), self.methods.index(other)
        bounds = interval(self.draws_BM[:, one] - self.draws_BM[:, two])
        assert bounds is not None
        return float((self.mean_WM[:, one] - self.mean_WM[:, two]).mean()), bounds

    def versus(self, method: str, other: str) -> str:
        """The difference as a cell of a table; empty where one of the two is not there."""
        if method == other or other not in self.methods:
            return ""
        value, (low, high) = self.difference(method, other)
        return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def outcomes_of(worlds: Sequence[World], names: Sequence[str], split: str, *, students: bool) -> Outcomes:
    """Of the purified answers, or of the students."""
    right_Q = answered_right_Q if students else kept_right_Q
    columns = [np.stack([right_Q(world, name, split) for name in names], axis=1) for world in worlds]
    return Outcomes(tuple(names), tuple(columns))


# The page


def page(
    worlds: Sequence[World], names: Sequence[str], mitigating: Sequence[str], smaller: dict[int, list[World]]
) -> str:
    """Markdown: what was run, what was kept, what the students learned of it, and how that compares to the paper."""
    pure = [name for name in names if name != GOLD and all(is_purified(world, name) for world in worlds)]
    done = [name for name in (*pure, GOLD) if name in names and all(is_taught(world, name) for world in worlds)]
    kept = {split: outcomes_of(worlds, pure, split, students=False) for split in SPLITS if pure}
    taught = {split: outcomes_of(worlds, done, split, students=True) for split in SPLITS if done}
    lines = ["# The order of the methods on the practice world", "", *_heading(worlds, names)]
    lines += ["", "## What the methods keep", "", *_kept_table(kept), "", *_selection(kept)]
    if missing := [name for name in names if name not in (*pure, GOLD)]:
        lines += ["", f"Not purified in every world, and so not in this table: {', '.join(missing)}."]
    lines += ["", "## What the students answer", "", *_student_table(taught)]
    if missing := [name for name in names if name not in done]:
        lines += ["", f"Not trained in every world, and so not in this table: {', '.join(missing)}."]
    if mitigating:
        lines += ["", "## Conflict mitigation", "", *_mitigation(worlds, mitigating, smaller)]
    lines += ["", "## Against the order of the paper", "", CERTAIN, "", *_order(kept, "what they keep")]
    lines += _order(taught, "the students")
    lines += ["", "## How each was fitted", "", *_fits(worlds, pure)]
    return "\n".join(lines) + "\n"


def _heading(worlds: Sequence[World], names: Sequence[str]) -> list[str]:
    setting, panel = worlds[0].setting, worlds[0].panel
    counts = {split: int((panel.split_Q == split).sum()) for split in ("train", "validation", *SPLITS)}
    cells = [world.cells for world in worlds]
    spent = sum(read_json(path)["cpu_s"] for cell in cells for path in _records(cell))
    students = sum(1 for cell in cells for _ in cell.glob("answers/*.json"))
    return [
        f"Practice worlds {', '.join(str(world.seed) for world in worlds)} of {setting.questions} questions each "
        f"({', '.join(f'{split} {count}' for split, count in counts.items())}); {len(panel.teachers)} teachers, asked "
        f"blind. Student `{setting.student}`, {setting.steps} steps whatever it learns from; gold answers as labels, "
        "rationales as the second task. Everything else as it is by default. Fitted on train, selected on validation.",
        "",
        f"Intervals: 95 %, {NUM_DRAWS} bootstrap draws of worlds and of questions within them, the same for all "
        f"methods, so differences are paired. With {len(worlds)} worlds they are too narrow in what worlds and "
        "students have of their own: see the accuracies of each. Accuracies and gaps are in percent, differences in "
        "points.",
        "",
        f"{students} different students for {len(names) * len(worlds)} datasets; {spent / 60:.0f} minutes of CPU time.",
    ]


def _records(cell: Path) -> Iterator[Path]:
    yield from (*cell.glob("answers/*.json"), *cell.glob("purified/*.json"))


def _kept_table(kept: dict[str, Outcomes]) -> list[str]:
    lines = [
        "| split | method | accuracy | in each world | gap closed | − plackett-luce | − best-single |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for split, outcomes in kept.items():
        for name in _ranked(outcomes):
            versus = " | ".join(outcomes.versus(name, other) for other in ("plackett-luce", "best-single"))
            told = f"{outcomes.accuracy(name)} | {outcomes.per_world(name)} | {outcomes.gap(name)}"
            lines.append(f"| {split} | {name} | {told} | {versus} |")
    return lines


def _student_table(taught: dict[str, Outcomes]) -> list[str]:
    others = ("plackett-luce", ALL, GOLD)
    heads = " | ".join(f"− {other}" for other in others)
    lines = [f"| split | student of | accuracy | in each world | {heads} |", f"| {' | '.join(['---'] * 7)} |"]
    for split, outcomes in taught.items():
        for name in _ranked(outcomes):
            versus = " | ".join(outcomes.versus(name, other) for other in others)
            lines.append(f"| {split} | {name} | {outcomes.accuracy(name)} | {outcomes.per_world(name)} | {versus} |")
    return lines


def _selection(kept: dict[str, Outcomes]) -> list[str]:
    pair = ("teacher-selection", "similarity-router")
    told = [f"{split} {both.versus(*pair)}" for split, both in kept.items() if {*pair} <= {*both.methods}]
    if not told:
        return []
    return [
        f"Teacher selection − similarity router: {', '.join(told)}. The one reads the gold answer of every question "
        "that it purifies, the other the question alone: the difference is what the answers are worth."
    ]


def _mitigation(worlds: Sequence[World], names: Sequence[str], smaller: dict[int, list[World]]) -> list[str]:
    runs = {**smaller, len(worlds[0].panel.teachers): list(worlds)}

    def outcomes(name: str) -> dict[int, list[Array]]:
        return {count: [answered_right_Q(one, name, "test")[None] for one in some] for count, some in runs.items()}

    heads = " | ".join(f"{count} teachers" for count in runs)
    lines = [
        "Mean over numbers of teachers, and over worlds, of the accuracy on test of the method's student minus that of "
        f"`{ALL}`'s (TinyLLM), both of the same first teachers; in points. Its interval knows questions, not students.",
        "",
        f"| method | CMV | {heads} |",
        f"| {' | '.join(['---'] * (2 + len(runs)))} |",
    ]
    for name in names:
        value = conflict_mitigation_value(outcomes(name), outcomes(ALL), num_draws=NUM_DRAWS)
        low, high = value.ci95 or (np.nan, np.nan)
        deltas = " | ".join(f"{100 * delta:+.1f}" for delta in value.deltas.values())
        lines.append(f"| {name} | {100 * value.value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] | {deltas} |")
    return lines


def _order(measured: dict[str, Outcomes], what: str) -> list[str]:
    """One item a split: the order observed, and how far each pair of the paper's order can be told."""
    lines = []
    for split, outcomes in measured.items():
        five = [name for name in _ranked(outcomes) if name in PAPER]
        told: dict[str, list[str]] = {}
        for first, second in combinations(sorted(five, key=PAPER.__getitem__), 2):
            if PAPER[first] != PAPER[second]:
                verdict = _verdict(outcomes, first, second)
                told.setdefault(verdict, []).append(f"{first} over {second}")
        pairs = "; ".join(f"**{verdict}**: {', '.join(names)}" for verdict, names in sorted(told.items()))
        order = ", ".join(
            f"{name} {100 * outcomes.mean_WM[:, outcomes.methods.index(name)].mean():.1f}" for name in five
        )
        lines.append(f"* {split}, {what}: {order}. Pairs as the paper orders them: {pairs}.")
    return lines


def _verdict(outcomes: Outcomes, first: str, second: str) -> str:
    value, (low, high) = outcomes.difference(first, second)
    each_W = outcomes.mean_WM[:, outcomes.methods.index(first)] - outcomes.mean_WM[:, outcomes.methods.index(second)]
    if low > 0 and (each_W > 0).all():
        return "certain"
    if high < 0 and (each_W < 0).all():
        return "certainly the other way round"
    if low == high == 0:
        return "the same"
    return "so observed, not certain" if value > 0 else "not so observed, not certain"


def _fits(worlds: Sequence[World], names: Sequence[str]) -> list[str]:
    lines = []
    for name in names:
        told = [f"{world.seed}: {_fit(purify(world, name))}" for world in worlds]
        lines.append(f"* `{name}`: {'; '.join(told)}")
    return lines


def _fit(report: dict[str, Any]) -> str:
    share = max(report["teacher_share"].items(), key=lambda item: item[1])
    fallback = ", fell back to the best single teacher" if report["fit"].get("fallback") else ""
    kept = f"most kept {share[0]} {100 * share[1]:.0f} %" if share[1] else "all written anew"
    return f"{kept}{fallback}, {report['seconds_fit']:.0f} s to fit"


def _ranked(outcomes: Outcomes) -> list[str]:
    """Methods from most to least often right; equals in the order given."""
    order_M = np.argsort(-outcomes.mean_WM.mean(0), kind="stable")
    return [outcomes.methods[column] for column in order_M]


def _cell(value: float, draws_B: Array) -> str:
    low, high = interval(draws_B) or (np.nan, np.nan)
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the cells, found again by a further run")
    parser.add_argument("--seeds", default=SEEDS, help="worlds, comma-separated")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="of each world")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each student")
    parser.add_argument("--student", default="tiny-t5")
    parser.add_argument("--methods", default=METHODS, help=f"comma-separated; {GOLD!r}: a student without rationales")
    parser.add_argument("--cmv", default="", help="methods whose conflict mitigation value is measured too")
    parser.add_argument("--report-only", action="store_true", help="make no cell; report on those that are there")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
