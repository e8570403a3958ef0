"""Few calls to teachers that err: the teaching assistant in the loop against fine-tuning without signals.

    python tests/benchmarks/teaching_assistant.py --out runs/assistant --report tests/benchmarks/results/FILE.md

Practice worlds, one teacher that is wrong on a known share of the questions, the same number of calls and the same
training in every arm. Signals are computed on train, calibrated and selected on `validation`; `test` is read once,
here. A cell (world, arm) that is finished is never made again, so the run can be stopped and goes on; the page says
what is missing.

Axes: W worlds, Q questions of the test split, B bootstrap draws.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from kp_data.config import Generate, Price, Teacher
from kp_data.console import set_quiet
from kp_data.practice import make_questions
from kp_data.tables import read_json, write_json
from kp_train.assistant import AssistantOptions, Thresholds
from kp_train.assistant.lessons import Classroom
from kp_train.assistant.loop import fit_with_assistant, run_identity
from kp_train.assistant.teachers import AskedTeachers
from kp_train.dataset import Dataset, gold_dataset
from kp_train.fit_options import FitOptions
from kp_train.run_folder import RunFolder

Array = np.ndarray[Any, Any]

SEEDS: Final = "20,21,22,23,24"
"""Worlds that nothing was chosen by; sizes and steps were chosen on world 10."""
QUESTIONS, SUBJECTS, CALLS, STEPS = 400, ("animals",), 150, 120
JUDGE: Final = "judge=practice/judge-20"
PRICE: Final = Price(input=1.0, output=4.0)
"""US dollars a million tokens, made up, so that there is something to count."""
NUM_DRAWS: Final = 4000

FULL: Final = AssistantOptions(CALLS, JUDGE, thresholds=Thresholds(0.6, 0.5, 0.5))
PLAIN: Final = AssistantOptions(CALLS, "none", rounds=0, warm_up=1.0, thresholds=Thresholds(0.0, 0.0, 0.0))


@dataclass(frozen=True)
class Arm:
    """One way to spend the calls.

    Attributes:
        name: in the table.
        what: in a few words.
        options: of the run.
        percent: of the questions that the teacher is wrong about.
        like: another arm whose warm-up is the same, and need not be made again.
    """

    name: str
    what: str
    options: AssistantOptions
    percent: int = 30
    like: str | None = None


def _without(**changes: float) -> AssistantOptions:
    return replace(FULL, thresholds=replace(FULL.thresholds, **changes))


ARMS: Final = {
    arm.name: arm
    for arm in (
        Arm("no signals", "every answer of calls at random is learned", PLAIN),
        Arm("full", "all three signals", FULL),
        Arm("no s3", "every answer of the teacher is learned", _without(teacher=0.0)),
        Arm("no s2", "own answers need consistency alone", _without(student=0.0), like="full"),
        Arm(
            "no s1",
            "own answers need the assistant alone, calls at random",
            replace(_without(consistency=0.0), ask_first="random"),
            like="full",
        ),
        Arm(
            "no own answers",
            "calls by s1, teachers' answers filtered by s3",
            _without(consistency=1.0, student=1.0),
            like="full",
        ),
        Arm("full, random", "all signals, calls at random", replace(FULL, ask_first="random"), like="full"),
        Arm("full, assistant", "all signals, calls by lowest s2", replace(FULL, ask_first="assistant"), like="full"),
        Arm("full, coverage", "all signals, calls by coverage", replace(FULL, ask_first="coverage"), like="full"),
        Arm(
            "full, verifier", "the assistant is a verifier trained on the warm-up", replace(FULL, assistant="verifier")
        ),
        *(
            arm
            for percent in (0, 15, 50)
            for arm in (
                Arm(f"no signals, {percent} %", "every answer is learned", PLAIN, percent),
                Arm(f"full, {percent} %", "all three signals", FULL, percent),
            )
        ),
    )
}


PARTS: Final = {
    "no s1": "s1, the student's self-consistency",
    "no s2": "s2, the assistant's word about the student's answers",
    "no s3": "s3, the assistant's word about the teacher's answers",
    "no own answers": "the student's own answers",
    "full, random": "self-consistency as the strategy (calls at random instead)",
}
"""Arms that lack a part of the whole, and what they lack."""


def main() -> int:
    options = _options()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    names = list(ARMS) if options.arms is None else options.arms.split("|")
    set_quiet(True)
    if not options.report_only:
        for name in names:
            for seed in seeds:
                make_cell(options.out, ARMS[name], seed)
    text = page(options.out, [int(seed) for seed in SEEDS.split(",")])
    if options.report is not None:
        options.report.write_text(text, encoding="utf-8")
    print(text)
    return 0


def world(seed: int) -> Dataset:
    """The questions of a practice world."""
    return gold_dataset(make_questions(QUESTIONS, seed=seed, subjects=SUBJECTS), f"practice world {seed}")


def make_cell(out: Path, arm: Arm, seed: int) -> dict[str, Any]:
    """Run an arm in a world and test its student, or read what an earlier run found."""
    folder = out / str(seed) / arm.name.replace(" ", "-").replace(",", "").replace("%", "percent")
    result = folder.with_suffix(".json")
    if result.is_file():
        return dict(read_json(result))
    start = time.process_time()
    dataset, fitting = (
        world(seed),
        FitOptions("tiny-t5", "teaching-assistant", steps=STEPS, eval_steps=STEPS // 2, log_to=(), seed=seed),
    )
    fitting = replace(fitting, labels="purified")
    pool = Classroom.of(dataset, split="train", validation_split="validation").pool
    teacher = Teacher(name="teacher", model=f"practice/erring-{arm.percent}", price=PRICE)
    source = AskedTeachers([teacher], Generate(), pool, folder)
    if arm.like is not None:
        _take_warm_up(out / str(seed) / arm.like, folder, run_identity(dataset, fitting, arm.options, source))
    record = fit_with_assistant(dataset, fitting, arm.options, source, folder)
    found = {"cpu_s": time.process_time() - start, **_tested(folder, dataset), "stages": record["stages"]}
    write_json(found, result)
    print(arm.name, seed, found["accuracy"], round(found["cpu_s"]), flush=True)
    return found


def _take_warm_up(home: Path, folder: Path, identity: dict[str, Any]) -> None:
    """Begin a run with the warm-up of another, which is the same to the last byte."""
    if (folder / "run.json").is_file() or not (home / "warm-up" / "signals.parquet").is_file():
        return
    RunFolder.open(folder, identity).path.mkdir(parents=True, exist_ok=True)
    RunFolder.open(folder, identity).begin()
    for name in ("warm-up", "calls", "assistant"):
        if (home / name).is_dir():
            shutil.copytree(home / name, folder / name, dirs_exist_ok=True)


def _tested(folder: Path, dataset: Dataset) -> dict[str, Any]:
    """Whether the student of each stage, and the one that was selected, answers each question of `test` right."""
    from kp_train.evaluate import evaluate_loaded
    from kp_train.students import load_student

    test = dataset.split("test")
    homes = {"selected": folder, **{path.parent.name: path for path in sorted(folder.glob("*/student"))}}
    evaluations = {name: evaluate_loaded(load_student(home), test) for name, home in homes.items()}
    return {
        "accuracy": evaluations["selected"].accuracy,
        "right": [bool(one.correct) for one in evaluations["selected"].predictions],
        "accuracy_of_stage": {name: one.accuracy for name, one in evaluations.items()},
    }


# The page


def page(out: Path, seeds: Sequence[int]) -> str:
    """Markdown of whatever is done."""
    cells = {name: _cells(out, name, seeds) for name in ARMS}
    spent = sum(cell["cpu_s"] for of in cells.values() for cell in of.values())
    lines = ["# Few calls, imperfect teachers", "", *_heading(seeds, spent), "", *_arms(cells), "", *_curve(cells)]
    lines += ["", *_rates(cells), "", *_labels(cells)]
    return "\n".join(lines) + "\n"


def _cells(out: Path, name: str, seeds: Sequence[int]) -> dict[int, dict[str, Any]]:
    file = name.replace(" ", "-").replace(",", "").replace("%", "percent") + ".json"
    return {seed: read_json(out / str(seed) / file) for seed in seeds if (out / str(seed) / file).is_file()}


def _heading(seeds: Sequence[int], spent: float) -> list[str]:
    least = FULL.thresholds
    room = Classroom.of(world(seeds[0]), split="train", validation_split="validation")
    return [
        f"Practice worlds {', '.join(map(str, seeds))} of {QUESTIONS} questions on {' and '.join(SUBJECTS)}: "
        f"{len(room.pool)} to learn from, {len(room.validation)} to select and calibrate on. One teacher, wrong on "
        f"30 % unless said otherwise; {CALLS} calls in every arm. Student `tiny-t5`, {STEPS} steps whatever it learns "
        f"from; the kept answer as label, the kept rationale as second task. Warm-up: {FULL.warm_up:.0%} of the "
        f"calls, one round after it, K = {FULL.samples}, thresholds {least.consistency}, {least.student}, "
        f"{least.teacher}. The assistant is a program that judges 80 % of all answers right "
        "(`practice/judge-20`), a stand-in for a model; its calls are not counted. The method is reconstructed from "
        "the abstract of arXiv:2406.05322, which reports up to 20.79 % relative.",
        "",
        "Accuracy on test in percent; intervals: 95 %, bootstrap over worlds and over questions within them, paired. "
        f"{spent / 60:.0f} minutes of CPU time.",
    ]


def _arms(cells: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    lines = [
        "## Each signal",
        "",
        "| arm | what | worlds | accuracy | in each world | − no signals | relative | − full |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, arm in ARMS.items():
        if arm.percent == 30 and cells[name]:
            base, full = (_versus(cells, name, other) for other in ("no signals", "full"))
            relative = _relative(cells, name)
            each = " / ".join(f"{100 * cell['accuracy']:.1f}" for cell in cells[name].values())
            mean = _mean(cells[name])
            lines.append(
                f"| {name} | {arm.what} | {len(cells[name])} | {mean:.1f} | {each} | {base} | {relative} | {full} |"
            )
    missing = [name for name, arm in ARMS.items() if arm.percent == 30 and not cells[name]]
    lines += ["", *_verdicts(cells)]
    return [*lines, *([f"\nNot run: {', '.join(missing)}."] if missing else [])]


def _verdicts(cells: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    """One sentence for each part that can be left out: whether its absence can be told."""
    lines = []
    for name, what in PARTS.items():
        if not (pairs := _pairs(cells, name, "full")):
            continue
        low, high = _interval(pairs)
        told = "costs accuracy" if high < 0 else "gains accuracy" if low > 0 else "makes no difference that can be told"
        lines.append(f"* Without {what}: {told} ({_versus(cells, name, 'full')} points, {len(pairs)} worlds).")
    return lines


def _curve(cells: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    lines = [
        "## Accuracy against calls and dollars",
        "",
        "| strategy | worlds | calls | dollars | accuracy |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in ("no signals", "full", "full, random", "full, assistant", "full, coverage"):
        for place in range(max((len(cell["stages"]) for cell in cells[name].values()), default=0)):
            stages = [(cell["stages"][place], cell["accuracy_of_stage"]) for cell in cells[name].values()]
            calls, cost = (np.mean([stage[key] for stage, _ in stages]) for key in ("calls_total", "cost_usd_total"))
            value = 100 * np.mean([accuracies[stage["stage"]] for stage, accuracies in stages])
            lines.append(f"| {name} | {len(stages)} | {calls:.0f} | {cost:.4f} | {value:.1f} |")
    return lines


def _rates(cells: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    lines = [
        "## How often the teacher is wrong",
        "",
        "| wrong | worlds | no signals | full | difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    for percent in (0, 15, 30, 50):
        ending = "" if percent == 30 else f", {percent} %"
        plain, full = f"no signals{ending}", f"full{ending}"
        if cells[plain] and cells[full]:
            both = sorted(cells[plain].keys() & cells[full].keys())
            means = [_mean({seed: cells[name][seed] for seed in both}) for name in (plain, full)]
            difference = _versus(cells, full, plain)
            lines.append(f"| {percent} % | {len(both)} | {means[0]:.1f} | {means[1]:.1f} | {difference} |")
    return lines


def _labels(cells: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    lines = [
        "## What was learned from",
        "",
        "Means over worlds, of the last stage: answers learned, how many of them the student's own, and the share of "
        "each that is right (gold decides nothing, it is only counted here).",
        "",
        "| arm | calls | learned | right | own | own right | dropped |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in ARMS:
        last = [cell["stages"][-1] for cell in cells[name].values()]
        if last:
            keys = ("calls_total", "kept", "label_accuracy", "kept_own", "own_accuracy", "dropped")
            calls, kept, right, own, own_right, dropped = (_mean_of([stage[key] for stage in last]) for key in keys)
            shares = [" " if value is None else f"{100 * value:.1f} %" for value in (right, own_right)]
            lines.append(
                f"| {name} | {calls:.0f} | {kept:.0f} | {shares[0]} | {own:.0f} | {shares[1]} | {dropped:.0f} |"
            )
    return lines


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _mean(cells: dict[int, dict[str, Any]]) -> float:
    return 100 * float(np.mean([cell["accuracy"] for cell in cells.values()]))


def _pairs(cells: dict[str, dict[int, dict[str, Any]]], name: str, other: str) -> list[tuple[Array, Array]]:
    both = sorted(cells[name].keys() & cells[other].keys())
    return [(np.array(cells[name][seed]["right"]), np.array(cells[other][seed]["right"])) for seed in both]


def _draws(pairs: Sequence[tuple[Array, Array]]) -> Array:
    """(B, 2) float, mean accuracies over worlds drawn with replacement, of questions drawn with replacement."""
    random = np.random.default_rng(0)
    draws_B2 = np.zeros((NUM_DRAWS, 2))
    for draw_2 in draws_B2:
        for number in random.integers(0, len(pairs), len(pairs)):
            rows = random.integers(0, len(pairs[number][0]), len(pairs[number][0]))
            draw_2 += [float(right_Q[rows].mean()) / len(pairs) for right_Q in pairs[number]]
    return draws_B2


def _versus(cells: dict[str, dict[int, dict[str, Any]]], name: str, other: str) -> str:
    pairs = _pairs(cells, name, other)
    if name == other or not pairs:
        return ""
    value = float(np.mean([one.mean() - two.mean() for one, two in pairs]))
    low, high = _interval(pairs)
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _interval(pairs: Sequence[tuple[Array, Array]]) -> tuple[float, float]:
    """95 % of the difference of mean accuracies."""
    low, high = np.quantile(np.subtract(*_draws(pairs).T), (0.025, 0.975))
    return float(low), float(high)


def _relative(cells: dict[str, dict[int, dict[str, Any]]], name: str) -> str:
    pairs = _pairs(cells, name, "no signals")
    if name == "no signals" or not pairs:
        return ""
    one, two = (float(np.mean([pair[side].mean() for pair in pairs])) for side in (0, 1))
    return f"{100 * (one / two - 1):+.1f} %"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the cells")
    parser.add_argument("--report", type=Path, help="write the page here")
    parser.add_argument("--report-only", action="store_true", help="make no cell")
    parser.add_argument("--seeds", default=SEEDS, help="worlds to make")
    parser.add_argument("--arms", help="names, separated by |; default: all")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
