"""What a sweep would take: `--dry-run`, without asking, training or writing anything.

Sizes are measured where data is at hand (the practice world, local panels and files) and otherwise what the file
expects of a dataset. FLOPs are 6 x parameters x tokens; of an encoder-decoder half of the parameters see the input
and half the labels (arXiv:2001.08361, attention left out).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from kp_data.errors import ConfigError, KpError
from kp_data.schema import Question
from kp_train.experiments.config import ALL, INFERENCE, UNTAUGHT, Data, Expected, Hardware, StudentSpec
from kp_train.experiments.panels import SPLITS, TEST, TRAIN, VALIDATION, is_at_hand, load_data
from kp_train.experiments.plan import Cell, Plan, Task
from kp_train.experiments.work import is_done

TOKENS_PER_WORD: Final = 1.35
"""Tokens of a word of English, about; only for data whose student's tokenizer is not at hand."""
RATIONALE_TOKENS: Final = 45
"""Of a rationale where nothing is known of it."""
PRACTICE_TOKENS, ANSWER_TOKENS = 60.0, 5
"""Of a question of the practice world with its choices, and of an answer."""
DEFAULT_BATCH: Final = 16
MADE_HERE: Final = {"tiny-t5": 640_000, "tiny-llama": 640_000, "minilm": 22_700_000}


@dataclass(frozen=True, slots=True)
class Line:
    """Students of one kind: all datasets, seeds and numbers of teachers of a method and a student.

    Attributes:
        what: domain, method, student.
        students: planned.
        left: not done yet.
        steps: of each, the mean.
        tokens: read and written by each in training, the mean.
        flops: of all.
        left_flops: of those left.
        hours: for those left, on the file's hardware; None without.
    """

    what: str
    students: int
    left: int
    steps: int
    tokens: float
    flops: float
    left_flops: float
    hours: float | None


@dataclass(frozen=True)
class Estimate:
    """What a sweep would take.

    Attributes:
        name: of the sweep.
        lines: by method and student.
        panels, purified: tasks that come first.
        calls: of teachers, in domain and out of domain, at most: what several methods need is asked once.
        prompt_tokens, completion_tokens: of those calls, about.
        calls_saved: calls that routers would make needless out of domain, each used by itself.
        hardware: what hours are of; None without.
        usd: of those hours; None where no price is given.
    """

    name: str
    lines: tuple[Line, ...]
    panels: int
    purified: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    calls_saved: int
    hardware: str | None
    usd: float | None

    @property
    def flops(self) -> float:
        """Of everything planned."""
        return sum(line.flops for line in self.lines)

    @property
    def hours(self) -> float | None:
        """For what is left."""
        known = [line.hours for line in self.lines if line.hours is not None]
        return sum(known) if known else None

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "flops": self.flops, "hours": self.hours}

    def sentences(self) -> Iterator[str]:
        """The rest, for people."""
        trained, left = sum(line.students for line in self.lines), sum(line.left for line in self.lines)
        yield f"{trained} models to train, {left} of them left; {self.flops:.2e} FLOPs in all"
        yield f"before that, {self.panels} panels to ask for or read, and {self.purified} times to purify"
        yield (
            f"about {self.calls:,} calls of teachers, {self.prompt_tokens:,} tokens read and "
            f"{self.completion_tokens:,} written; routers by themselves save {self.calls_saved:,} calls out of domain"
        )
        if self.hours is not None:
            price = "" if self.usd is None else f", about ${self.usd:,.0f}"
            yield f"about {self.hours:.1f} hours on {self.hardware}{price}; purifying and testing come on top"
        yield "nothing was run"


@dataclass(frozen=True, slots=True)
class Sizes:
    """A dataset in numbers: questions of each split, and tokens of a question, a rationale and an answer."""

    train: int
    validation: int
    test: int
    question: float
    rationale: float
    answer: float


def estimate_sweep(plan: Plan, root: Path, *, home: Path) -> Estimate:
    """What is left of a plan, in tokens, FLOPs and hours.

    Args:
        plan: of the sweep.
        root: its folder, which need not exist.
        home: where relative paths of the file start.

    Raises:
        ConfigError: a dataset is not at hand and the file does not say what to expect of it.
    """
    sweep = plan.sweep
    sizes = {data.name: _sizes(data, home) for data in sweep.all_data}
    groups: dict[tuple[str, str, str], list[tuple[Cell, bool]]] = {}
    for task in plan.cells:
        assert task.cell is not None
        key = task.cell.domain, task.cell.method, task.cell.student
        groups.setdefault(key, []).append((task.cell, is_done(root, task)))
    lines = (*_teachers(plan, root), *(_line(plan, key, cells, sizes) for key, cells in groups.items()))
    calls, saved, read, written = _calls(plan, sizes)
    hardware = sweep.hardware
    hours = sum(line.hours or 0 for line in lines)
    usd = hours * hardware.usd_per_hour if hardware and hardware.usd_per_hour is not None else None
    panels, purified = (sum(task.kind == kind for task in plan.tasks) for kind in ("ask", "purify"))
    name = hardware.name if hardware else None
    return Estimate(sweep.name, lines, panels, purified, calls, read, written, saved, name, usd)


def _line(plan: Plan, key: tuple[str, str, str], cells: Sequence[tuple[Cell, bool]], sizes: dict[str, Sizes]) -> Line:
    took = [(_cost(plan, cell, sizes[cell.dataset]), done) for cell, done in cells]
    left_flops = sum(flops for (_, _, flops), done in took if not done)
    domain, method, student = key
    return Line(
        f"{method}, {student}" + (", out of domain" if domain == "out" else ""),
        len(cells),
        sum(not done for _, done in took),
        round(sum(steps for (steps, _, _), _ in took) / len(took)),
        sum(tokens for (_, tokens, _), _ in took) / len(took),
        sum(flops for (_, _, flops), _ in took),
        left_flops,
        _hours(plan.sweep.hardware, left_flops, sum(steps for (steps, _, _), done in took if not done)),
    )


def _hours(hardware: Hardware | None, flops: float, steps: int) -> float | None:
    """Time to compute, or that of so many steps where it is longer."""
    if hardware is None:
        return None
    return max(flops / hardware.flops_per_s, steps * hardware.step_s) / 3600


def _teachers(plan: Plan, root: Path) -> Iterator[Line]:
    """Teachers that are trained here first."""
    for task in plan.tasks:
        if task.kind != "teach":
            continue
        lessons = next(one.taught for one in plan.sweep.teachers if one.name == task.facts["teacher"])
        assert lessons is not None
        spec, done = plan.sweep.student(lessons.student), is_done(root, task)
        # Label, and rationale with the answer after it; questions of the practice world are short.
        read, written = 2 * PRACTICE_TOKENS, float(RATIONALE_TOKENS + 2 * ANSWER_TOKENS)
        visits = lessons.steps * (spec.batch or DEFAULT_BATCH)
        flops = visits * flops_per_row(spec, read, written)
        left = 0.0 if done else flops
        hours = _hours(plan.sweep.hardware, left, 0 if done else lessons.steps)
        yield Line(task.words, 1, int(not done), lessons.steps, visits * (read + written), flops, left, hours)


def _cost(plan: Plan, cell: Cell, sizes: Sizes) -> tuple[int, float, float]:
    """Steps, tokens and FLOPs of one student."""
    if cell.method == INFERENCE:
        return 0, 0.0, 0.0
    spec, budget = plan.sweep.student(cell.student), plan.sweep.budget
    rationales = cell.count if cell.method == ALL else 0 if cell.method in UNTAUGHT else 1
    targets = 1 + rationales
    # A target is read with its prefix and question, every one anew: they stand under different prefixes.
    read, written = targets * sizes.question, sizes.answer + rationales * sizes.rationale
    flops = flops_per_row(spec, read, written)
    batch = spec.batch or DEFAULT_BATCH
    if budget.steps is not None:
        steps = budget.steps
    else:
        rows = budget.tokens / (read + written) if budget.tokens is not None else float(budget.flops or 0) / flops
        steps = max(1, round(rows / batch))
    return steps, steps * batch * (read + written), steps * batch * flops


def flops_per_row(spec: StudentSpec, read: float, written: float) -> float:
    """FLOPs of one forward and backward pass over a row of so many tokens.

    >>> spec = StudentSpec(name="small", model="google/flan-t5-small", parameters=77_000_000)
    >>> flops_per_row(spec, 100, 0) == 3 * 77_000_000 * 100
    True
    """
    if spec.shape is not None and spec.shape.architecture == "llama":
        return 6.0 * parameters_of(spec) * (read + written)
    return 3.0 * parameters_of(spec) * (read + written)


def parameters_of(spec: StudentSpec) -> int:
    """Parameters as the file gives them, or of the shape.

    Raises:
        ConfigError: a checkpoint whose size nobody gave.
    """
    if spec.parameters is not None:
        return spec.parameters
    if spec.shape is not None:
        width, layers = spec.shape.width, spec.shape.layers
        # Of a T5, an encoder layer has 12 and a decoder layer 16 squares of the width; of a Llama, a layer has 12.
        blocks = layers * (28 if spec.shape.architecture == "t5" else 12) * width * width
        return blocks + 2048 * width
    if spec.model in MADE_HERE:
        return MADE_HERE[spec.model]
    raise ConfigError(
        f"how large is {spec.model}? give `parameters`, such as 77000000, to have its FLOPs estimated",
        place=f"student {spec.name}",
    )


def _sizes(data: Data, home: Path) -> Sizes:
    if data.expected is not None:
        return _as_expected(data.expected)
    try:
        questions = _questions(data, home)
    except (KpError, OSError) as error:
        raise ConfigError(
            f"is not at hand ({error}); give `expected` to have it estimated", place=f"dataset {data.name}"
        ) from error
    count = {name: sum(question.split == name for question in questions) for name in SPLITS}
    words = [len(f"{one.question} {one.context or ''} {' '.join(one.choices)}".split()) for one in questions]
    answers = [len((one.answer or "").split()) for one in questions]
    question = TOKENS_PER_WORD * sum(words) / len(words) + 4 * 4
    answer = TOKENS_PER_WORD * sum(answers) / len(answers) + 1
    return Sizes(count[TRAIN], count[VALIDATION], count[TEST], question, RATIONALE_TOKENS, answer)


def _as_expected(expected: Expected) -> Sizes:
    return Sizes(
        expected.train,
        expected.validation,
        expected.test,
        float(expected.question_tokens),
        float(expected.rationale_tokens),
        float(expected.answer_tokens),
    )


def _questions(data: Data, home: Path) -> list[Question]:
    """Questions that can be had without a network."""
    if not is_at_hand(data, home):
        raise ConfigError("neither a file nor a folder here", place=data.source or data.panel)
    return load_data(data, home)


def _calls(plan: Plan, sizes: dict[str, Sizes]) -> tuple[int, int, int, int]:
    """Calls of teachers, those saved, and tokens read and written. What several methods need is asked once."""
    sweep = plan.sweep
    modes = 2 if sweep.mode == "both" else 1
    needed: dict[str, list[tuple[int, int]]] = {}
    for task in plan.tasks:
        if task.kind == "ask":
            data = next(one for one in sweep.all_data if one.name == task.facts["dataset"])
            needed.setdefault(data.name, []).append(_needed(task, data, sizes[data.name], modes * len(sweep.teachers)))
    calls = {name: min(sum(mine for mine, _ in each), max(most for _, most in each)) for name, each in needed.items()}
    saved = sum(most - mine for each in needed.values() for mine, most in each)
    read = sum(number * sizes[name].question * (1 + sweep.examples) for name, number in calls.items())
    written = sum(number * sizes[name].rationale for name, number in calls.items())
    return sum(calls.values()), saved, round(read), round(written)


def _needed(task: Task, data: Data, size: Sizes, answers: int) -> tuple[int, int]:
    """Calls that a task needs by itself, and that it would need if it asked every teacher.

    Args:
        task: of kind `ask`.
        data, size: its dataset.
        answers: to each question in domain.
    """
    if "method" not in task.facts:
        most = (size.train + size.validation + size.test) * answers if data.source else 0
        return most, most
    most = size.train * int(task.facts["count"])
    return (most if task.facts["method"] == ALL else min(size.train, most)), most
