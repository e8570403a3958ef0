"""What purified rationales add to a small student, on the sets of the paper's own experiments.

    python tests/benchmarks/student_mcqa.py DATA --work FOLDER --frozen --rows plain,all,…   every row, cheaply
    python tests/benchmarks/student_mcqa.py DATA --work FOLDER --rows plain,flan-t5-xl       fine-tuned, cell by cell
    python tests/benchmarks/student_mcqa.py DATA --work FOLDER --test --out FILE             read test once, report

DATA holds a panel folder a set (obqa, arc, riddle, pubmedqa, bioasq, piqa, mmlu_pro; those that are there are run).
A student that scores choices writes no rationales, so it cannot learn to write them: it looks the rationales of the
training questions up while it answers, never its own nor that of a question in almost the same words. A row says whose
rationales it looks up; see `mcqa_sets`. What is selected is selected on validation. Cells that are done stay in
FOLDER, half-done ones go on, and `--test` reports those that are done, whatever `--rows` says.

Axes: S seeds, Q questions.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from frozen_scorer import EPOCHS, encode_pairs, fit_frozen
from mcqa_sets import ALL, EVERY_SET, PLAIN, PLANS, SetFolder, reading_accuracy

from kp_data.errors import ConfigError, KpError
from kp_data.tables import read_json, write_json
from kp_train.comparison import RESAMPLES, bootstrap_interval, paired_interval
from kp_train.evaluate import evaluate_student
from kp_train.fit import fit
from kp_train.fit_options import FitOptions

Array = np.ndarray[Any, Any]

RETRIEVED: Final = 32
KINDS: Final = ("fine-tuned", "frozen")
PUBLISHED: Final = (
    ("77 M", 43.52, 41.47, 42.38, 45.66),
    ("248 M", 53.12, 54.23, 52.76, 56.68),
    ("783 M", 63.18, 62.76, 62.53, 67.55),
)
"""Of arXiv:2602.01064: student, fine-tuning, step by step, TinyLLM, its best purification; four sets, four teachers."""


@dataclass(frozen=True)
class Cell:
    """One student of one set: which rows of rationales it looks up, from which seed, and how it was trained."""

    folder: SetFolder
    kind: str
    row: str
    seed: int

    @property
    def place(self) -> Path:
        """Its folder, or its file where the encoder was frozen."""
        if self.kind == "frozen":
            return self.folder.work / "frozen" / f"{self.row}-{self.seed}.json"
        return self.folder.work / f"{self.row}-{self.seed}"

    @property
    def done(self) -> bool:
        """Whether it is there, trained to the end."""
        if self.kind == "frozen":
            return self.place.is_file()
        return (self.place / "student.json").is_file() and not (self.place / "checkpoints").exists()

    @cached_property
    def validation(self) -> float:
        """Accuracy on validation of what was selected there."""
        if self.kind == "frozen":
            return float(read_json(self.place)["validation"])
        return float(read_json(self.place / "run.json")["validation_accuracy"])

    @cached_property
    def right_Q(self) -> Array:
        """(Q,) bool, which test questions it answers right; read once and kept."""
        if self.kind == "frozen":
            return np.array(read_json(self.place)["right"]["test"], dtype=bool)
        kept = self.folder.work / "tested" / f"{self.row}-{self.seed}.json"
        if not kept.is_file():
            evaluation = evaluate_student(self.place, self.folder.dataset(PLAIN), split="test")
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json([bool(answer.correct) for answer in evaluation.predictions], kept)
        return np.array(read_json(kept), dtype=bool)

    def run(self) -> None:
        """Train it, go on with it, or find it done."""
        dataset = self.folder.dataset(self.row)
        if self.kind == "frozen":
            pairs = encode_pairs(self.folder.dataset(PLAIN), self.folder.work / "pairs.safetensors")
            fit_frozen(dataset, pairs, self.place, count=None if self.row == PLAIN else RETRIEVED, seed=self.seed)
            return
        if self.row.endswith(EVERY_SET):
            raise ConfigError("what other sets hold can be looked up with --frozen alone", place=f"--rows {self.row}")
        plan = self.folder.plan
        options = FitOptions(
            student="minilm",
            objective="fine-tune",
            teachers=None if self.row == PLAIN or not dataset.teachers else dataset.teachers,
            retrieve=None if self.row == PLAIN else RETRIEVED,
            retrieve_as=None if self.row == PLAIN else "vectors",
            epochs=plan.epochs,
            eval_steps=plan.eval_steps,
            seed=self.seed,
        )
        fit(dataset, options, self.place, say=lambda message: print(message, flush=True))


def main() -> int:
    """Run the cells asked for, or report those that are done."""
    arguments = _arguments()
    folders = [
        SetFolder(PLANS[name], arguments.data / name, arguments.work / name)
        for name in arguments.sets
        if (arguments.data / name / "questions.parquet").is_file()
    ]
    try:
        if arguments.test:
            text = report(folders, arguments)
            print(text)
            if arguments.out:
                arguments.out.write_text(text, encoding="utf-8")
            return 0
        for cell in _cells(folders, arguments):
            cell.run()
            print(f"{cell.folder.plan.name} {cell.kind} {cell.row} seed {cell.seed}: {cell.validation:.3f}", flush=True)
    except KpError as error:
        print(f"error: {error}")
        return error.exit_code
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def names(text: str) -> list[str]:
        return text.split(",")

    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--sets", type=names, default=list(PLANS))
    parser.add_argument("--rows", type=names, default=[PLAIN, ALL, "similarity-router"])
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0])
    parser.add_argument("--frozen", action="store_true", help="train the head and the look-up alone")
    parser.add_argument("--test", action="store_true", help="read the test split of what is done, and report")
    parser.add_argument("--out", type=Path, default=None, help="write the report here")
    return parser.parse_args()


def _cells(folders: Sequence[SetFolder], arguments: argparse.Namespace) -> Iterator[Cell]:
    kind = "frozen" if arguments.frozen else "fine-tuned"
    for seed in arguments.seeds:
        for folder in folders:
            yield from (Cell(folder, kind, row, seed) for row in arguments.rows)


def report(folders: Sequence[SetFolder], arguments: argparse.Namespace) -> str:
    """Markdown: a table a set and kind of student, their averages, and the published figures beside them."""
    found = {(folder.plan.name, kind): _done(folder, kind) for folder in folders for kind in KINDS}
    lines = [
        "# Purified rationales and a 22.7 M encoder",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, torch {version('torch')}, transformers "
        f"{version('transformers')}, CPU. Each choice is read with the {RETRIEVED} rationales of training questions "
        "nearest to it, as vectors. Selected on validation; test read once, by this report. Accuracies in percent; "
        "intervals of 95 % by bootstrap over questions, differences paired, each student the mean of its seeds.",
    ]
    for folder in folders:
        for kind in KINDS:
            lines += _set_table(folder, kind, found[folder.plan.name, kind])
    for kind in KINDS:
        lines += _average(folders, {folder.plan.name: found[folder.plan.name, kind] for folder in folders}, kind)
    return "\n".join([*lines, *_published()]) + "\n"


def _done(folder: SetFolder, kind: str) -> dict[str, list[Cell]]:
    """Row to its finished cells, `plain` first, then in alphabetical order."""
    where = folder.work / "frozen" if kind == "frozen" else folder.work
    rows: dict[str, list[Cell]] = {}
    for path in sorted(where.glob("*-[0-9]*")) if where.is_dir() else ():
        row, _, seed = path.stem.rpartition("-")
        if seed.isdigit() and (cell := Cell(folder, kind, row, int(seed))).done:
            rows.setdefault(row, []).append(cell)
    return dict(sorted(rows.items(), key=lambda item: (item[0] != PLAIN, item[0])))


def _set_table(folder: SetFolder, kind: str, rows: dict[str, list[Cell]]) -> list[str]:
    if not rows:
        return []
    panel = folder.panel()
    counts = {split: int((panel.split_Q == split).sum()) for split in ("train", "validation", "test")}
    read = ", ".join(f"{teacher} {100 * share:.0f} %" for teacher, share in reading_accuracy(folder).items())
    given = "are" if "blind" in panel.modes else "(read without the gold answer, see mcqa_sets) are"
    lines = [
        "",
        f"## {folder.plan.name}, {_words(kind)}",
        "",
        f"{counts['train']} / {counts['validation']} / {counts['test']} questions (train / validation / test). "
        f"Training rationales whose conclusions {given} the gold answer: {read}.",
        "",
        "| rationales | seeds | validation | test | interval | minus plain | minus all teachers |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    mean = {row: _mean_Q(cells) for row, cells in rows.items()}
    for row, cells in rows.items():
        low, high = bootstrap_interval(round(float(mean[row].sum())), len(mean[row]))
        validation = 100 * float(np.mean([cell.validation for cell in cells]))
        lines.append(
            f"| {row} | {len(cells)} | {validation:.1f} | {100 * mean[row].mean():.1f} | {100 * low:.1f} to "
            f"{100 * high:.1f} | {_difference(mean, row, PLAIN)} | {_difference(mean, row, ALL)} |"
        )
    return lines


def _words(kind: str) -> str:
    if kind == "fine-tuned":
        return "the whole encoder fine-tuned"
    return f"the encoder frozen, head and look-up trained for {EPOCHS} epochs"


def _mean_Q(cells: Sequence[Cell]) -> Array:
    """(Q,) float, share of the seeds that answer each test question right."""
    return np.asarray(np.mean([cell.right_Q for cell in cells], axis=0))


def _difference(mean: dict[str, Array], row: str, other: str) -> str:
    if row == other or other not in mean:
        return ""
    low, high = paired_interval(mean[row] - mean[other])
    return f"{100 * (mean[row] - mean[other]).mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _average(folders: Sequence[SetFolder], found: dict[str, dict[str, list[Cell]]], kind: str) -> list[str]:
    """The mean over the in-domain sets that have the row, beside plain fine-tuning on the same sets."""
    names = [folder.plan.name for folder in folders if folder.plan.in_domain and PLAIN in found[folder.plan.name]]
    rows = [row for row in found[names[0]] if all(row in found[name] for name in names)] if names else []
    if not rows:
        return []
    lines = [
        "",
        f"## Average of {', '.join(names)}: {_words(kind)}",
        "",
        "| rationales | seeds | test | minus plain |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        mean = [_mean_Q(found[name][row]) for name in names]
        plain = [_mean_Q(found[name][PLAIN]) for name in names]
        seeds = ", ".join(str(len(found[name][row])) for name in names)
        gained = "" if row == PLAIN else _average_difference([one - two for one, two in zip(mean, plain, strict=True)])
        lines.append(f"| {row} | {seeds} | {100 * np.mean([each.mean() for each in mean]):.2f} | {gained} |")
    return lines


def _average_difference(differences: Sequence[Array]) -> str:
    """Mean over sets of the mean over questions, with an interval: every set is drawn anew for itself."""
    drawn = np.mean([_drawn_means(each, seed) for seed, each in enumerate(differences)], axis=0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{100 * np.mean([each.mean() for each in differences]):+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def _drawn_means(difference_Q: Array, seed: int) -> Array:
    value_V, count_V = np.unique(difference_Q, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(difference_Q), count_V / len(difference_Q), size=RESAMPLES)
    return np.asarray(drawn @ value_V / len(difference_Q))


def _published() -> list[str]:
    lines = [
        "",
        "## Published, for comparison",
        "",
        "Averages over OpenBookQA, ARC-Challenge, RiddleSense and PubMedQA of arXiv:2602.01064: encoder-decoders that "
        "learn to write, four teachers, own answers known. Ours is an encoder that chooses among the given options and "
        "cannot write, on fewer sets and with one or two teachers: the figures stand side by side, not against each "
        "other.",
        "",
        "| student | fine-tuning | step by step | TinyLLM | best purification |",
        "| --- | --- | --- | --- | --- |",
    ]
    return [*lines, *(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |" for name, *values in PUBLISHED)]


if __name__ == "__main__":
    raise SystemExit(main())
