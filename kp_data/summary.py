"""What a folder says about itself: the facts that a dataset card and a report page show.

Axes: Q questions, T teachers. Every number is computed from the tables or read from `report.json` and `run.json`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kp_data import measures
from kp_data.errors import DataError
from kp_data.panel import NONE, Array, Panel
from kp_data.schema import EVERY_RATIONALE, QUESTIONS
from kp_data.tables import check_purified, questions_of, read_json, read_questions, read_responses, read_table

Kind = Literal["panel", "purified"]


@dataclass(frozen=True)
class FolderTables:
    """The tables and documents of a panel folder, a purified folder, or a published release of one.

    Attributes:
        kind: `purified` where there are purified rows.
        questions: the questions table, one row a question.
        purified: purified rows; None for a panel.
        responses: what the teachers said; None where the folder does not hold it.
        report: `report.json`, {} where there is none.
        run: `run.json`, {} where there is none.
        inputs: every table or document read, name in the folder to path.
    """

    folder: Path
    kind: Kind
    questions: pa.Table
    purified: pa.Table | None
    responses: pa.Table | None
    report: Mapping[str, Any]
    run: Mapping[str, Any]
    inputs: Mapping[str, Path]


@dataclass(frozen=True)
class TeacherFacts:
    """What one teacher did. Money and accuracy are None where they are not known for certain.

    Attributes:
        num_asked: responses recorded, failed ones included.
        failures: class of failure to how many responses.
        accuracy: share of the labelled questions it answered blind that it got right; see `kp_data.measures`.
        num_judged: questions that `accuracy` rests on.
        comparable: whether these are enough for it to be called the best single teacher.
        cost_usd: sum over its responses; None where the price of one is unknown.
        num_chosen: purified rows that hold its rationale.
        chosen_share: the same, as a share of all purified rows; None for a panel.
    """

    name: str
    models: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    num_asked: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    accuracy: float | None = None
    num_judged: int = 0
    comparable: bool = False
    cost_usd: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    num_chosen: int = 0
    chosen_share: float | None = None

    @property
    def num_failed(self) -> int:
        """Responses without a rationale."""
        return sum(self.failures.values())


@dataclass(frozen=True)
class Voice:
    """What one teacher said to one question; `correct` is None where no answer was read or none is known."""

    teacher: str
    rationale: str | None
    conclusion: str | None
    correct: bool | None
    chosen: bool


@dataclass(frozen=True)
class Conflict:
    """A question on which teachers conclude differently, with every voice and what was kept."""

    question_id: str
    split: str
    question: str
    choices: tuple[str, ...]
    gold: str | None
    voices: tuple[Voice, ...]
    kept: str | None
    kept_from: str | None


@dataclass(frozen=True)
class Summary:
    """The facts of one folder.

    Attributes:
        agreement_TT: (T, T) share of the questions both answered on which two teachers agree, nan: no such question;
            None without responses.
        kappa_TT: (T, T) the same beyond chance (Cohen's kappa), on the questions with choices.
        both_answered_TT: (T, T) how many questions both answered.
        conflict_rate: share of questions on which two teachers conclude differently; None where unknown.
        oracle_accuracy: share, of the labelled questions that some teacher answered blind, that some teacher got
            right; None where unknown.
        notes: what a reader of the accuracies must know.
    """

    tables: FolderTables
    num_questions: int
    splits: Mapping[str, int]
    teachers: tuple[TeacherFacts, ...]
    agreement_TT: Array | None
    kappa_TT: Array | None
    both_answered_TT: Array | None
    conflict_rate: float | None
    oracle_accuracy: float | None
    conflicts: tuple[Conflict, ...]
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """Whether it is a panel or purified."""
        return self.tables.kind

    @property
    def cost_usd(self) -> float | None:
        """What all teachers cost together; None where one price is unknown or nothing was recorded."""
        costs = [teacher.cost_usd for teacher in self.teachers]
        return math.fsum(cost for cost in costs if cost is not None) if costs and None not in costs else None


def summarise(folder: Path, *, num_conflicts: int = 6) -> Summary:
    """The facts of a panel folder, a purified folder or a release folder.

    Args:
        folder: where the tables are.
        num_conflicts: how many example conflicts to keep at most, spread evenly over the folder.

    Raises:
        DataError: the folder holds neither kind of table, or one is broken.
    """
    return summarise_tables(read_folder(folder), num_conflicts=num_conflicts)


def _kappa_TT(panel: Panel) -> Array:
    # Chance agreement has a meaning only where an answer's number means the same in every question.
    choice_Q = np.array([bool(question.choices) for question in panel.questions], dtype=bool)
    return measures.kappa_TT(panel.concluded_QT[choice_Q])


def summarise_tables(tables: FolderTables, *, num_conflicts: int = 6) -> Summary:
    """As `summarise`, for tables already read."""
    panel = _panel(tables)
    splits = Counter(tables.questions["split"].to_pylist())
    return Summary(
        tables=tables,
        num_questions=tables.questions.num_rows,
        splits=dict(splits),
        teachers=_teacher_facts(tables, panel),
        agreement_TT=measures.agreement_TT(panel.concluded_QT) if panel else None,
        kappa_TT=_kappa_TT(panel) if panel else None,
        both_answered_TT=measures.both_answered_TT(panel.concluded_QT) if panel else None,
        conflict_rate=_conflict_rate(tables, panel),
        oracle_accuracy=_oracle_accuracy(panel),
        conflicts=_conflicts(tables, panel, num_conflicts) if panel else (),
        notes=(note,) if panel and (note := measures.unfinished_note(panel)) else (),
    )


def read_folder(folder: Path) -> FolderTables:
    """The tables of a panel folder, a purified folder or a release folder.

    Raises:
        DataError: the folder holds neither kind of table, or one is broken.
    """
    folder = Path(folder)
    shards = [folder / "purified.parquet"] if (folder / "purified.parquet").is_file() else _shards(folder, "purified")
    if shards:
        return _purified_tables(folder, shards)
    questions_path, responses_path = folder / "questions.parquet", folder / "responses.parquet"
    if not questions_path.is_file() or not responses_path.is_file():
        message = "neither a panel (questions.parquet and responses.parquet) nor a purified folder (purified.parquet)"
        raise DataError(f"{message}; give a folder made by `kp-data generate` or `kp-data purify`", place=folder)
    inputs = {path.name: path for path in (questions_path, responses_path)} | _documents(folder)
    return FolderTables(
        folder=folder,
        kind="panel",
        questions=read_questions(questions_path),
        purified=None,
        responses=read_responses(responses_path),
        report=_document(folder / "report.json"),
        run=_document(folder / "run.json"),
        inputs=inputs,
    )


def base_id(row_id: str, teacher: str | None, method: str) -> str:
    """The question a purified row belongs to: its id, without the teacher where there is one row a teacher.

    >>> base_id("q1#ada", "ada", "all"), base_id("q1#ada", "ada", "majority")
    ('q1', 'q1#ada')
    """
    return row_id.removesuffix(f"#{teacher}") if method == EVERY_RATIONALE else row_id


def question_ids(purified: pa.Table) -> list[str]:
    """The question each purified row belongs to."""
    columns = (purified[name].to_pylist() for name in ("id", "teacher", "method"))
    return [base_id(*row) for row in zip(*columns, strict=True)]


def _purified_tables(folder: Path, shards: Sequence[Path]) -> FolderTables:
    table = pa.concat_tables([read_table(path) for path in shards], promote_options="permissive")
    purified = check_purified(table, shards[0] if len(shards) == 1 else folder / "purified")
    ids = question_ids(purified)
    first_rows = list(dict(zip(reversed(ids), range(len(ids) - 1, -1, -1), strict=True)).values())[::-1]
    questions = purified.select(QUESTIONS.names).take(pa.array(first_rows, pa.int64()))
    questions = questions.set_column(0, QUESTIONS.field("id"), pa.array([ids[row] for row in first_rows], pa.string()))
    responses, found = _responses(folder)
    return FolderTables(
        folder=folder,
        kind="purified",
        questions=questions,
        purified=purified,
        responses=responses,
        report=_document(folder / "report.json"),
        run=_document(folder / "run.json"),
        inputs={path.relative_to(folder).as_posix(): path for path in (*shards, *found)} | _documents(folder),
    )


def _responses(folder: Path) -> tuple[pa.Table | None, list[Path]]:
    if (path := folder / "responses.parquet").is_file():
        return read_responses(path), [path]
    if shards := _shards(folder, "panel"):
        table = pa.concat_tables([read_responses(path) for path in shards], promote_options="permissive")
        return table.drop_columns([name for name in ("split",) if name in table.column_names]), shards
    return None, []


def _shards(folder: Path, config: str) -> list[Path]:
    return sorted((folder / config).glob("*.parquet")) if (folder / "manifest.json").is_file() else []


def _documents(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in ("report.json", "run.json") if (folder / name).is_file()}


def _document(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError("not a JSON object; write the folder again with the command that made it", place=path)
    return value


def _panel(tables: FolderTables) -> Panel | None:
    if tables.responses is None or not tables.responses.num_rows or not tables.questions.num_rows:
        return None
    return Panel.of_tables(questions_of(tables.questions), tables.responses, place=tables.folder)


def _teacher_facts(tables: FolderTables, panel: Panel | None) -> tuple[TeacherFacts, ...]:
    chosen = Counter(tables.purified["teacher"].to_pylist()) if tables.purified is not None else Counter[Any]()
    num_rows = tables.purified.num_rows if tables.purified is not None else 0
    known = list(panel.teachers) if panel else []
    # A rationale written anew ("aggregated") has a share too, and so has a teacher whose responses are not here.
    names = [*known, *sorted(str(name) for name in chosen if name is not None and name not in known)]
    facts = []
    for name in names:
        share = chosen[name] / num_rows if num_rows else None
        facts.append(_facts_of(name, tables.responses, panel, chosen[name], share))
    return tuple(facts)


def _facts_of(
    name: str, responses: pa.Table | None, panel: Panel | None, num_chosen: int, share: float | None
) -> TeacherFacts:
    if responses is None or panel is None or name not in panel.teachers:
        return TeacherFacts(name, num_chosen=num_chosen, chosen_share=share)
    own = responses.filter(pc.equal(responses["teacher"], name))
    column = panel.teachers.index(name)
    accuracy = float(measures.accuracy_T(panel)[column])
    return TeacherFacts(
        name,
        models=_distinct(own["model"]),
        modes=_distinct(own["mode"]),
        num_asked=own.num_rows,
        failures=dict(sorted(Counter(value for value in own["error"].to_pylist() if value is not None).items())),
        accuracy=None if math.isnan(accuracy) else accuracy,
        num_judged=int(measures.judged_QT(panel)[:, column].sum()),
        comparable=not np.isnan(measures.comparable_accuracy_T(panel)[column]),
        cost_usd=_sum_if_known(own["cost_usd"]),
        prompt_tokens=_sum_if_known(own["prompt_tokens"]),
        completion_tokens=_sum_if_known(own["completion_tokens"]),
        num_chosen=num_chosen,
        chosen_share=share,
    )


def _distinct(column: pa.ChunkedArray) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in column.to_pylist() if value is not None))


def _sum_if_known(column: pa.ChunkedArray) -> Any:
    return pc.sum(column).as_py() if len(column) and not column.null_count else None


def _conflict_rate(tables: FolderTables, panel: Panel | None) -> float | None:
    if panel is not None:
        return float(panel.conflict_Q.mean())
    if tables.purified is None or not tables.purified.num_rows:
        return None
    by_question = dict(zip(question_ids(tables.purified), tables.purified["conflict"].to_pylist(), strict=True))
    return float(sum(by_question.values()) / len(by_question))


def _oracle_accuracy(panel: Panel | None) -> float | None:
    if panel is None:
        return None
    judged_QT = measures.judged_QT(panel)
    right_Q = np.asarray((measures.correct_QT(panel.answer_QT, panel.gold_Q) & judged_QT).any(axis=1))
    known_Q = np.asarray(judged_QT.any(axis=1))
    return float(right_Q[known_Q].mean()) if known_Q.any() else None


def _conflicts(tables: FolderTables, panel: Panel, num_conflicts: int) -> tuple[Conflict, ...]:
    rows = np.flatnonzero(panel.conflict_Q & (panel.has_rationale_QT.sum(axis=1) >= 2))
    # Evenly spread and never by outcome: examples picked for being flattering would be a lie.
    picked = rows[np.linspace(0, len(rows) - 1, min(num_conflicts, len(rows))).astype(int)] if len(rows) else rows
    kept, spoken = _kept(tables), _spoken(tables)
    return tuple(_conflict(panel, int(row), kept, spoken) for row in picked)


def _kept(tables: FolderTables) -> dict[str, tuple[str | None, str | None]]:
    if tables.purified is None or EVERY_RATIONALE in tables.purified["method"].to_pylist():
        return {}
    columns = (tables.purified[name].to_pylist() for name in ("id", "rationale", "teacher"))
    return {row_id: (rationale, teacher) for row_id, rationale, teacher in zip(*columns, strict=True)}


def _spoken(tables: FolderTables) -> dict[tuple[str, str], str]:
    """Answer texts of open-ended questions; choice questions speak through their choices."""
    if tables.responses is None:
        return {}
    columns = (tables.responses[name].to_pylist() for name in ("question_id", "teacher", "sample", "mode", "answer"))
    spoken: dict[tuple[str, str], str] = {}
    for question_id, teacher, sample, mode, answer in zip(*columns, strict=True):
        if sample == 0 and answer is not None and (mode == "blind" or (question_id, teacher) not in spoken):
            spoken[question_id, teacher] = answer
    return spoken


def _conflict(
    panel: Panel, row: int, kept: Mapping[str, tuple[str | None, str | None]], spoken: Mapping[tuple[str, str], str]
) -> Conflict:
    question = panel.questions[row]
    rationale, teacher = kept.get(question.id, (None, None))
    voices = []
    for column, name in enumerate(panel.teachers):
        code, gold = int(panel.concluded_QT[row, column]), int(panel.gold_Q[row])
        text = question.choices[code] if question.choices and code != NONE else spoken.get((question.id, name))
        judged = gold != NONE and "blind" in panel.modes
        voices.append(
            Voice(
                teacher=name,
                rationale=panel.rationale_QT[row, column],
                conclusion=text if code != NONE else None,
                correct=code == gold if judged and code != NONE else None,
                chosen=name == teacher,
            )
        )
    return Conflict(
        question.id,
        question.split,
        question.question,
        question.choices,
        question.answer,
        tuple(voices),
        rationale,
        teacher,
    )
