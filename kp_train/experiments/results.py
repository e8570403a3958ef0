"""The tables of a sweep: one row a line of the comparison, as Markdown, CSV and JSON.

results.json   everything: rows, CMV, claims, calls saved, what failed
results.csv    the rows
results.md     tables for people
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from kp_data.errors import StoreError
from kp_data.store import Store
from kp_data.tables import read_questions, read_responses, replacing, write_json
from kp_train.experiments.claims import Claim, cmv, judge
from kp_train.experiments.config import ALL, UNTAUGHT
from kp_train.experiments.outcomes import Group, Measured, Outcomes, read_outcomes
from kp_train.experiments.panels import CELLS, PANEL, TRAIN, spent_on
from kp_train.experiments.plan import IN_DOMAIN, OUT_OF_DOMAIN, Plan, Task
from kp_train.experiments.run import Standing
from kp_train.experiments.work import is_done, read_done

JSON_FILE, CSV_FILE, MARKDOWN_FILE = "results.json", "results.csv", "results.md"
NOTE: Final = (
    "Intervals: 95 %, bootstrap over seeds and questions, the same draws for everything, so differences are paired. "
    "Not corrected for the number of comparisons. With two or three seeds that differ much they are too narrow: in "
    "simulations with seeds ten points apart (standard deviation), 83 and 88 of 100 held the true value."
)
CALLS_NOTE: Final = (
    "Calls and cost are what a line's lessons would take by themselves, for the train questions. A sweep pays for each "
    "answer once, whichever lines use it, so what it has paid in all is less than their sum."
)


@dataclass(frozen=True, slots=True)
class Row:
    """One method with one number of teachers and one student: mean over datasets and seeds.

    Attributes:
        domain: `in` or `out`.
        method, teachers, student: what.
        accuracy, low, high: share of test questions right, with its interval.
        seeds, questions: how many each stands on.
        steps, tokens, flops: of training, mean over seeds and datasets; tokens are those learned.
        calls, teacher_tokens, cost_usd: what the lessons take from teachers by themselves, for the train questions,
            whatever of it other lines had paid for already; None: unknown.
        cpu_s: processor seconds of training a student.
    """

    domain: str
    method: str
    teachers: int
    student: str
    accuracy: float
    low: float
    high: float
    seeds: int
    questions: int
    steps: float | None
    tokens: float | None
    flops: float | None
    calls: int
    teacher_tokens: int | None
    cost_usd: float | None
    cpu_s: float | None


@dataclass(frozen=True)
class Results:
    """What a sweep found.

    Attributes:
        plan: what was planned.
        outcomes: the students' answers.
        rows: one a line of the comparison.
        cmvs: (method, student) to its conflict mitigation value.
        claims: the paper's, judged.
        saved: (dataset, method) to the share of teacher calls that the method by itself saves out of domain.
        asked: answers of teachers that the sweep has paid for so far, whoever uses them; None: unknown.
        failed: task to its reason, for people.
        seconds: processor seconds of all tasks that are done, and of how many.
    """

    plan: Plan
    outcomes: Outcomes
    rows: tuple[Row, ...]
    cmvs: dict[tuple[str, str], Measured]
    claims: tuple[Claim, ...]
    saved: dict[tuple[str, str], float]
    asked: int | None
    failed: dict[str, str]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For results.json and `--json`."""
        return {
            "name": self.plan.sweep.name,
            "students": self.outcomes.num_students,
            "planned": len(self.plan.cells),
            "budget": self.plan.sweep.budget.words,
            "rows": [asdict(row) for row in self.rows],
            "cmv": [{"method": method, "student": name, **asdict(one)} for (method, name), one in self.cmvs.items()],
            "claims": [asdict(claim) for claim in self.claims],
            "calls_saved": [
                {"dataset": dataset, "method": method, "share": share}
                for (dataset, method), share in self.saved.items()
            ],
            "answers_paid": self.asked,
            "failed": self.failed,
            "cpu_s": round(self.seconds, 1),
        }


def collect(plan: Plan, root: Path, standing: Standing | None = None) -> Results:
    """Read what is done and put it together; parts that are not done are left out.

    Args:
        plan: of the sweep.
        root: its folder.
        standing: how a run ended, for what failed.
    """
    outcomes = read_outcomes(plan, root)
    methods = [name for name in outcomes.names("method", IN_DOMAIN) if name not in (*UNTAUGHT, "step-by-step", ALL)]
    students = outcomes.names("student", IN_DOMAIN)
    found = {(method, name): cmv(outcomes, [method], [name]) for method in methods for name in students}
    failed = {} if standing is None else {one.task.words: str(one.error) for one in standing.failed.values()}
    done = [read_done(root, task) for task in plan.tasks if is_done(root, task)]
    return Results(
        plan,
        outcomes,
        tuple(_rows(plan, root, outcomes)),
        {pair: one for pair, one in found.items() if one is not None},
        judge(outcomes),
        _saved(plan, root),
        _asked(plan, root),
        failed,
        sum(float(record["task_cpu_s"]) for record in done),
    )


def write_results(results: Results, root: Path) -> None:
    """Write the three tables."""
    write_json(results.as_dict(), root / JSON_FILE)
    _write(as_csv(results.rows), root / CSV_FILE)
    _write(as_markdown(results), root / MARKDOWN_FILE)


def as_csv(rows: Sequence[Row]) -> str:
    """One line a row, with a heading."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(Row.__slots__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return buffer.getvalue()


def as_markdown(results: Results) -> str:
    """The tables for people: accuracy, CMV, claims, what it took."""
    sweep = results.plan.sweep
    lines = [f"# {sweep.name}", ""]
    lines += [sweep.about.strip(), ""] if sweep.about else []
    lines += [
        f"{results.outcomes.num_students} of {len(results.plan.cells)} students, {sweep.budget.words} each; seeds "
        f"{', '.join(str(seed) for seed in sweep.seeds)}; teachers, in the order in which they are added: "
        f"{', '.join(teacher.name for teacher in sweep.teachers)}. {results.seconds / 60:.1f} minutes of processor "
        "time.",
        "",
        NOTE,
        "",
    ]
    lines += ["## The paper's claims", "", *_claim_lines(results.claims), ""]
    for domain, heading in ((IN_DOMAIN, "In domain"), (OUT_OF_DOMAIN, "Out of domain")):
        for student in results.outcomes.names("student", domain):
            lines += [f"## {heading}: {student}", "", *_accuracy_lines(results, domain, student), ""]
    paid = "" if results.asked is None else f" This sweep has paid for {results.asked:,} answers so far."
    lines += ["## What it took", "", f"{CALLS_NOTE}{paid}", ""]
    lines += _cost_lines(results.rows)
    if results.saved:
        lines += ["", "Teacher calls that a method by itself saves out of domain, against asking every teacher:", ""]
        lines += [f"* {dataset}, {method}: {share:.0%}" for (dataset, method), share in results.saved.items() if share]
    if results.failed:
        lines += ["", "## What failed", "", *(f"* {words}: {reason}" for words, reason in results.failed.items())]
    return "\n".join(lines) + "\n"


def points(one: Measured | None) -> str:
    """A difference in points with its interval."""
    return "–" if one is None else f"{100 * one.value:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"


def _claim_lines(claims: Sequence[Claim]) -> list[str]:
    lines = ["| claim | measured as | points | verdict |", "| --- | --- | --- | --- |"]
    for claim in claims:
        overall = f"**{claim.verdict}**"
        lines.append(f"| ({claim.key}) {claim.text} | {claim.measure} | {points(claim.overall)} | {overall} |")
        lines += [f"| | {part.name} | {points(part.difference)} | {part.verdict} |" for part in claim.parts]
    return lines


def _accuracy_lines(results: Results, domain: str, student: str) -> list[str]:
    """Methods by number of teachers, best single number last."""
    outcomes = results.outcomes
    counts = outcomes.counts(domain)
    # Where no teacher takes part in anything, there is still a column to stand in.
    counts = (counts if domain == IN_DOMAIN else counts[-1:]) or [0]
    methods = list(dict.fromkeys(name for name in outcomes.names("method", domain) if name != "step-by-step"))
    with_cmv = domain == IN_DOMAIN and any(name == student for _, name in results.cmvs)
    heads = [f"{count} teacher{'' if count == 1 else 's'}" for count in counts] + (["CMV"] if with_cmv else [])
    lines = [f"| method | {' | '.join(heads)} |", f"| {' | '.join(['---'] * (1 + len(heads)))} |"]
    for method in methods:
        cells = [_percent(outcomes.mean(domain, method, count, student)) for count in counts]
        if method in UNTAUGHT:
            cells = [f"{cells[0]} (no teacher)", *([""] * (len(counts) - 1))]
        lines.append(
            f"| {method} | {' | '.join(cells + ([_cmv_cell(results, method, student)] if with_cmv else []))} |"
        )
    if 1 in counts:
        lines += ["", "With one teacher there is nothing to purify: those are the students of step by step, for all."]
    return lines


def _cmv_cell(results: Results, method: str, student: str) -> str:
    one = results.cmvs.get((method, student))
    return points(one) if one is not None else ""


def _percent(one: Measured | None) -> str:
    return "–" if one is None else f"{100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def _cost_lines(rows: Sequence[Row]) -> list[str]:
    heads = ("domain", "method", "teachers", "student", "steps", "tokens learned", "FLOPs", "CPU s", "calls", "cost")
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join(['---'] * len(heads))} |"]
    for row in rows:
        cost = "unknown" if row.cost_usd is None else f"${row.cost_usd:.4f}"
        figures = (_whole(row.steps), _whole(row.tokens), "–" if row.flops is None else f"{row.flops:.2e}")
        cells = (row.domain, row.method, str(row.teachers), row.student, *figures, _whole(row.cpu_s), f"{row.calls:,}")
        lines.append(f"| {' | '.join((*cells, cost))} |")
    return lines


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _rows(plan: Plan, root: Path, outcomes: Outcomes) -> list[Row]:
    lines: dict[tuple[str, str, int, str], list[Group]] = {}
    for group in outcomes.right:
        lines.setdefault((group.domain, group.method, group.count, group.student), []).append(group)
    rows = []
    teachers = _TeacherCosts(plan, root)
    for (domain, method, count, student), groups in lines.items():
        accuracy = outcomes.mean(domain, method, count, student)
        if accuracy is None:  # a dataset is missing
            continue
        took = [teachers.of(group) for group in groups]
        means = {name: _mean([outcomes.spent(group, name) for group in groups]) for name in _TRAINING}
        rows.append(
            Row(
                domain,
                method,
                count,
                student,
                accuracy.value,
                accuracy.low,
                accuracy.high,
                seeds=min(len(outcomes.seeds[group]) for group in groups),
                questions=sum(outcomes.right[group].shape[1] for group in groups),
                calls=sum(one["calls"] for one in took),
                teacher_tokens=_sum([one["tokens"] for one in took]),
                cost_usd=_sum([one["cost_usd"] for one in took]),
                **means,
            )
        )
    return rows


_TRAINING: Final = ("steps", "tokens", "flops", "cpu_s")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _sum(values: Sequence[Any]) -> Any:
    return None if any(value is None for value in values) else sum(values)


class _TeacherCosts:
    """What a group's lessons took from teachers: their answers to the train questions, in whatever mode."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self._plan, self._root = plan, root
        asks = [task for task in plan.tasks if task.kind == "ask" and is_done(root, task)]
        self._ask = {(str(task.facts["dataset"]), task.facts.get("method")): task for task in asks}
        self._tables: dict[str, tuple[pa.Table, pa.Array]] = {}

    def of(self, group: Group) -> dict[str, Any]:
        """Calls, tokens and cost."""
        routed = group.method if group.domain == OUT_OF_DOMAIN else None
        task = self._ask.get((group.dataset, routed))
        if task is None or group.count == 0:
            return {"calls": 0, "tokens": 0, "cost_usd": 0.0}
        responses, train = self._table(task)
        names = pa.array([teacher.name for teacher in self._plan.sweep.teachers[: group.count]])
        spent = spent_on(responses.filter(pc.is_in(responses["teacher"], names)), train)
        return {
            "calls": spent["calls"],
            "tokens": _sum([spent["prompt_tokens"], spent["completion_tokens"]]),
            "cost_usd": spent["cost_usd"],
        }

    def _table(self, task: Task) -> tuple[pa.Table, pa.Array]:
        if task.name not in self._tables:
            folder = self._root / task.name
            questions = read_questions(folder / "questions.parquet")
            train = questions.filter(pc.equal(questions["split"], TRAIN))["id"].combine_chunks()
            self._tables[task.name] = read_responses(folder / PANEL / "responses.parquet"), train
        return self._tables[task.name]


def _asked(plan: Plan, root: Path) -> int | None:
    """Cells in the sweep's store.

    None where they are not all there, because a version before there was one store has asked, or where it cannot be
    opened, as in a folder of somebody else.
    """
    sources = {data.name: data.source for data in plan.sweep.all_data}
    for task in plan.tasks:
        if task.kind == "ask" and sources[str(task.facts["dataset"])] and is_done(root, task):
            done = read_done(root, task)
            if done["calls"] and "asked_anew" not in done:
                return None
    if not (root / CELLS).is_file():
        return 0
    try:
        store = Store.of_folder(root)
    except StoreError:
        return None
    try:
        return store.count()
    finally:
        store.close()


def _saved(plan: Plan, root: Path) -> dict[tuple[str, str], float]:
    shares = {}
    for task in plan.tasks:
        if task.kind == "ask" and task.facts.get("count") and is_done(root, task):
            share = read_done(root, task).get("calls_saved")
            if share is not None:
                shares[str(task.facts["dataset"]), str(task.facts["method"])] = float(share)
    return shares


def _write(text: str, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


__all__ = ["Results", "Row", "as_csv", "as_markdown", "collect", "points", "write_results"]
