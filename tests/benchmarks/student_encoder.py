"""An encoder student that reads retrieved rationales, beside the same student that does not.

    python tests/benchmarks/student_encoder.py DATA --work FOLDER                    fit, look at validation
    python tests/benchmarks/student_encoder.py DATA --work FOLDER --test --out FILE  and read the test split

DATA is a panel folder (or a purified one) of choice questions with splits train, validation and test; OpenBookQA with
the rationales of the TinyLLM repository is what the results in this folder are of. Every run is `kp_train.fit` with
the student's own recipe: what is done stays in FOLDER, and the same command goes on. Options are chosen on validation;
the test split is read by `--test` alone.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kp_data.tables import read_json
from kp_train.comparison import bootstrap_interval, paired_interval
from kp_train.dataset import Dataset, read_dataset
from kp_train.evaluate import Evaluation, evaluate_student
from kp_train.fit import fit
from kp_train.fit_options import FitOptions
from kp_train.students.retrieval import SAME_QUESTION
from kp_train.students.retrieval_embedding import sentence_embedder

Array = np.ndarray[Any, Any]

ARMS = ("plain", "retrieval")


@dataclass(frozen=True)
class Run:
    """One fitted student."""

    arm: str
    seed: int
    folder: Path

    @property
    def record(self) -> dict[str, float]:
        """What its run.json says."""
        return dict(read_json(self.folder / "run.json"))


def main() -> None:
    """Fit every arm with every seed, then report."""
    arguments = _arguments()
    dataset = read_dataset(arguments.data, teachers=arguments.teachers)
    runs = [Run(arm, seed, arguments.work / f"{arm}-{seed}") for seed in arguments.seeds for arm in arguments.arms]
    for run in runs:
        fit(dataset, _options(run, arguments), run.folder, say=lambda message: print(message, flush=True))
        print(f"{run.arm} seed {run.seed}: validation {run.record['validation_accuracy']:.3f}", flush=True)
    if arguments.test:
        report = _report(dataset, runs, arguments)
        print(report)
        if arguments.out:
            arguments.out.write_text(report, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for the fitted students")
    parser.add_argument("--student", default="minilm")
    parser.add_argument("--teachers", type=lambda text: text.split(","), default=None, help="whose rationales")
    parser.add_argument("--retrieve", type=int, default=32, help="rationales read with each choice")
    parser.add_argument("--retrieve-as", choices=("vectors", "text"), default="vectors")
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS))
    parser.add_argument("--epochs", type=float, default=None)
    parser.add_argument("--steps", type=int, default=None, help="for a quick look")
    parser.add_argument("--test", action="store_true", help="read the test split and report")
    parser.add_argument("--out", type=Path, default=None, help="write the report here")
    return parser.parse_args()


def _options(run: Run, arguments: argparse.Namespace) -> FitOptions:
    retrieves = run.arm == "retrieval"
    return FitOptions(
        student=arguments.student,
        objective="fine-tune",
        teachers=tuple(arguments.teachers) if retrieves and arguments.teachers else None,
        retrieve=arguments.retrieve if retrieves else None,
        retrieve_as=arguments.retrieve_as if retrieves else None,
        epochs=arguments.epochs,
        steps=arguments.steps,
        seed=run.seed,
    )


def _report(dataset: Dataset, runs: Sequence[Run], arguments: argparse.Namespace) -> str:
    evaluations = {run: evaluate_student(run.folder, dataset, split="test") for run in runs}
    lines = [
        f"# Encoder student `{arguments.student}` with and without retrieved rationales",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, torch {version('torch')}, "
        f"transformers {version('transformers')}. Data: {arguments.data.name}; rationales of "
        f"{', '.join(arguments.teachers or dataset.teachers or ('the purifier',))}, the {arguments.retrieve} nearest "
        f"read with each choice, as {arguments.retrieve_as}. Recipe: the student's own; best of its validations kept; "
        "the test split read once, by this report.",
        "",
        "| student | seed | validation | test | 95 % interval | calibration error | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_line(run, evaluation) for run, evaluation in evaluations.items()),
        "",
        *_differences(evaluations, arguments.arms, _new_questions(dataset)),
    ]
    return "\n".join(lines) + "\n"


def _line(run: Run, evaluation: Evaluation) -> str:
    low, high = evaluation.ci95
    error = evaluation.calibration.ece if evaluation.calibration else float("nan")
    return (
        f"| {run.arm} | {run.seed} | {run.record['validation_accuracy']:.3f} | {evaluation.accuracy:.3f} | "
        f"{low:.3f} to {high:.3f} | {error:.3f} | {run.record['seconds']:.0f} |"
    )


def _new_questions(dataset: Dataset) -> Array:
    """(Q,) bool, the test questions that no training question asks in almost the same words."""
    embed = sentence_embedder()
    test_QD, train_KD = (
        embed([row.question.question for row in dataset.split(split).rows]) for split in ("test", "train")
    )
    return np.asarray((test_QD @ train_KD.T).max(axis=1) < SAME_QUESTION)


def _differences(evaluations: dict[Run, Evaluation], arms: Sequence[str], new_Q: Array) -> list[str]:
    """The arms' means over seeds, and their difference with an interval over questions."""
    correct = {arm: np.array([_correct(each) for run, each in evaluations.items() if run.arm == arm]) for arm in arms}
    lines = []
    for arm, correct_SQ in correct.items():
        low, high = bootstrap_interval(round(float(correct_SQ.mean() * correct_SQ.shape[1])), correct_SQ.shape[1])
        lines.append(f"{arm}: mean of {len(correct_SQ)} seeds {correct_SQ.mean():.4f} ({low:.3f} to {high:.3f}).")
    if len(arms) == 2:
        difference_Q = correct[arms[1]].mean(axis=0) - correct[arms[0]].mean(axis=0)
        low, high = paired_interval(difference_Q)
        lines.append(
            f"{arms[1]} minus {arms[0]}: {difference_Q.mean():+.4f}, 95 % interval over questions, paired, each the "
            f"mean of its seeds: {low:+.4f} to {high:+.4f}."
        )
        low, high = paired_interval(difference_Q[new_Q])
        lines.append(
            f"The same over the {new_Q.sum()} of {len(new_Q)} test questions that no training question asks in almost "
            f"the same words: {difference_Q[new_Q].mean():+.4f}, {low:+.4f} to {high:+.4f}."
        )
    return lines


def _correct(evaluation: Evaluation) -> list[bool]:
    return [bool(prediction.correct) for prediction in evaluation.predictions]


if __name__ == "__main__":
    main()
