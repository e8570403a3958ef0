"""The whole chain in a few minutes, without a key: ask, purify, publish, train, compare.

Everything goes through the two programs `kp-data` and `kp-train`, and every command is shown, so that each step can be
repeated by hand. Run it with `make demo`; a second run finds everything done and only shows the results again.

The teachers are programs that know a made-up world (the practice world): each is expert in some subjects and holds
misconceptions in others. The students are real: small T5 models trained here from scratch.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUESTIONS = 600
STEPS = 400
"""The same for every student, whatever it learns from: a step shows it the same number of questions."""


@dataclass(frozen=True)
class Student:
    """One row of the final table: what it learned from, and how that is asked for."""

    label: str
    folder: str
    dataset: str
    objective: str


STUDENTS = (
    Student("gold only", "gold_only", "panel", "fine-tune"),
    Student("all teachers", "all_teachers", "panel", "tinyllm"),
    Student("purified", "purified_student", "purified", "purified"),
    Student("oracle", "oracle_student", "oracle", "purified"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the results")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help=f"practice questions (default {QUESTIONS})")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps of each student (default {STEPS})")
    options = parser.parse_args()
    started = time.monotonic()
    out: Path = options.out
    say("1 · Ask five teachers, over HTTP")
    kp_data("generate", f"practice:{options.questions}", "--out", out / "panel")
    say("2 · Set the methods side by side, then keep one rationale a question")
    methods = "random,majority,best-single,similarity-router,oracle"
    kp_data("compare", out / "panel", "--methods", methods, "--out", out / "compare")
    kp_data("purify", out / "panel", "--method", "similarity-router", "--out", out / "purified")
    kp_data("purify", out / "panel", "--method", "oracle", "--out", out / "oracle", "--quiet")
    say("3 · Publish it as a version (here to a folder; `kp-data push DIR you/name` goes to a hub)")
    kp_data("push", out / "purified", "you/practice", "--dry-run", "--to", out / "published")
    say("4 · Train the same small student four times: on gold answers, all rationales, the purified one, the best one")
    results = train_all(out, options.steps)
    say("5 · What came of it")
    show(results)
    page = out / "report.html"
    students = [
        option for student in STUDENTS for option in ("--students", f"{student.label}={out / student.folder}.json")
    ]
    kp_data("report", out / "purified", "--html", page, *students)
    print(f"\n{time.monotonic() - started:.0f} s. The report, with pictures: {page.resolve()}")


def train_all(out: Path, steps: int) -> dict[str, dict[str, Any]]:
    """Train and evaluate every student, side by side: so small a model gains nothing from a second core."""
    # The longest first, so that nobody waits for it at the end.
    order = sorted(STUDENTS, key=lambda student: student.objective != "tinyllm")
    with ThreadPoolExecutor(min(len(STUDENTS), os.cpu_count() or 1)) as pool:
        results = dict(pool.map(lambda student: train(student, out, steps), order))
    return {student.label: results[student.label] for student in STUDENTS}


def train(student: Student, out: Path, steps: int) -> tuple[str, dict[str, Any]]:
    folder, dataset, result = out / student.folder, out / student.dataset, out / f"{student.folder}.json"
    fit = ["fit", dataset, "--student", "tiny-t5", "--objective", student.objective, "--out", folder]
    kp_train(*fit, "--steps", steps, "--quiet")
    printed = kp_train("evaluate", folder, dataset, "--split", "test,ood", "--json", capture=True)
    result.write_text(printed, encoding="utf-8")
    say(f"  {student.label}: trained and evaluated")
    return student.label, json.loads(printed)


def show(results: dict[str, dict[str, Any]]) -> None:
    from kp_data.report import Column, print_table

    splits = ("test", "ood")
    rows = []
    for label, result in results.items():
        row: dict[str, object] = {"label": label}
        for split in splits:
            part = result["splits"][split]
            low, high = part["ci95"]
            row[split] = f"{100 * part['accuracy']:.1f} %  ({100 * low:.0f}–{100 * high:.0f})"
        rows.append(row)
    sizes = {split: next(iter(results.values()))["splits"][split]["n"] for split in splits}
    columns = [Column("label", "student learned from")]
    columns += [Column(split, f"{split}, {sizes[split]} questions", "range") for split in splits]
    print_table(rows, columns, title="Accuracy of the students (95 % interval)")
    for split in splits:
        say_what_is_certain({label: result["splits"][split]["ci95"] for label, result in results.items()}, split)


def say_what_is_certain(intervals: dict[str, tuple[float, float]], split: str) -> None:
    """Which students differ beyond doubt: those whose intervals do not touch."""
    certain = [
        f"{better} beats {worse}"
        for better, (low, _) in intervals.items()
        for worse, (_, high) in intervals.items()
        if low > high
    ]
    told_apart = ", ".join(certain) or "the intervals overlap, so no student can be told from another"
    print(f"{split}: {told_apart}.")


def kp_data(*arguments: object) -> None:
    run("kp-data", *arguments)


def kp_train(*arguments: object, capture: bool = False) -> str:
    return run("kp-train", *arguments, capture=capture)


def run(program: str, *arguments: object, capture: bool = False) -> str:
    """One command of ours, shown as one would type it; its failure ends the demo."""
    words = [str(argument) for argument in arguments]
    print(f"$ {shlex.join([program, *words])}", file=sys.stderr, flush=True)
    executable = Path(sys.executable).with_name(program)
    # One thread a student: two processes that fight for two cores are many times slower than taking turns.
    threads = {"OMP_NUM_THREADS": "1"} if program == "kp-train" else {}
    done = subprocess.run(
        [str(executable), *words],
        stdout=subprocess.PIPE if capture else None,
        text=True,
        check=False,
        env={**os.environ, **threads},
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stderr.isatty() else f"\n{text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
