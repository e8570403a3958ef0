"""Whom the loop asks: teachers through `kp-data generate`'s engine and store, or the recorded answers of a panel.

A call is one question to one teacher. What was answered once is in the store, durable before it counts, and is never
asked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from kp_data.errors import DataError, MethodError, Unfinished
from kp_data.panel import UNANSWERED
from kp_data.purify.verifier_input import Claim
from kp_data.schema import Question
from kp_data.tables import read_json, read_responses, table_of_questions, write_json, write_parquet

if TYPE_CHECKING:
    from kp_data.config import Generate, Teacher

CALLS: Final = "calls"
"""Folder of the panel that is asked for, inside the folder of the run."""

FAILED: Final = "failed.json"
"""Of a stage: calls that failed for good in an earlier run of it."""

HOPELESS: Final = "bad_response"
"""How a call fails that fails again however often it is made, as a prompt that a server does not take."""

GIVEN_UP: Final = 3
"""Calls of a stage that may be given up, or a tenth of them: if more fail, it is the server and not the prompts."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call: whom to ask what."""

    question: Question
    teacher: str


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of a call.

    Attributes:
        request: the call.
        claim: rationale and answer; None: the teacher refused, was cut off, or gave no answer that can be read.
        cost_usd: None: not known.
    """

    request: Request
    claim: Claim | None
    cost_usd: float | None


class TeacherSource(Protocol):
    """Where answers come from."""

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of all."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides about the answers, as JSON values."""

    def can_answer(self, question_id: str, teacher: str) -> bool:
        """Whether this call can be made at all."""

    def ask(self, requests: Sequence[Request], *, stage: Path) -> list[Answered]:
        """Make these calls, or take what they brought earlier.

        Args:
            requests: each once.
            stage: folder to keep the list of questions in.

        Raises: Unfinished, when some were not answered; those that were are saved.
        """


class ReplayedTeachers:
    """The recorded blind answers of a panel; a recorded answer is a call."""

    def __init__(self, folder: Path, questions: Sequence[Question], *, teachers: Sequence[str] | None = None) -> None:
        """Read a panel's answers to these questions.

        Raises:
            DataError: the panel is broken, or an unknown teacher is named.
            MethodError: it holds no blind answer to any of the questions.
        """
        table = read_responses(Path(folder) / "responses.parquet")
        there = list(dict.fromkeys(table["teacher"].to_pylist()))
        self.teachers = tuple(there if teachers is None else teachers)
        if unknown := [name for name in self.teachers if name not in there]:
            raise DataError(f"no responses of teacher {unknown[0]!r}; the panel has {', '.join(there)}", place=folder)
        self._answers = _answers_of(table, {question.id: question for question in questions}, frozenset(self.teachers))
        if not self._answers:
            raise MethodError(
                "the panel holds no blind answer to a question to learn from, and a teacher that was shown the gold "
                "answer is never wrong; ask with `kp-data generate --mode blind`, or name a --teacher",
                place=folder,
            )

    @property
    def identity(self) -> Mapping[str, Any]:
        """Teachers only: the panel's files are part of the dataset's hashes."""
        return {"replayed": list(self.teachers)}

    def can_answer(self, question_id: str, teacher: str) -> bool:
        """Whether the panel holds the cell."""
        return (question_id, teacher) in self._answers

    def ask(self, requests: Sequence[Request], *, stage: Path) -> list[Answered]:
        """See `TeacherSource.ask`."""
        return [self._answers[request.question.id, request.teacher] for request in requests]


class AskedTeachers:
    """Teachers that are asked now, each question in the words and with the key of `kp-data generate`."""

    def __init__(
        self, teachers: Sequence[Teacher], options: Generate, questions: Sequence[Question], out: Path
    ) -> None:
        """Prepare to ask.

        Args:
            teachers: whom.
            options: how: transport, concurrency, retries, store, budget in dollars.
            questions: all that may come to be asked; their gold answers do not matter.
            out: folder of the run.
        """
        self._teachers = {teacher.name: teacher for teacher in teachers}
        self.teachers = tuple(self._teachers)
        fixed = {"mode": "blind", "samples": 1, "examples": 0, "split": None, "limit": None, "batch": False}
        self._options = options.model_copy(update={**fixed, "engine": "local", "workers": None})
        self._questions, self._panel = list(questions), Path(out) / CALLS

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model, address and parameters of each; never a key."""
        shown = ("model", "api_base", "temperature", "top_p", "max_tokens", "seed")
        return {name: {key: getattr(one, key) for key in shown} for name, one in self._teachers.items()}

    def can_answer(self, question_id: str, teacher: str) -> bool:
        """Anyone can be asked anything."""
        return True

    def ask(self, requests: Sequence[Request], *, stage: Path) -> list[Answered]:
        """See `TeacherSource.ask`."""
        if not requests:
            return []
        if not (self._panel / "questions.parquet").is_file():
            # All of them, so that each stage asks about a part of one panel.
            write_parquet(table_of_questions(self._questions), self._panel / "questions.parquet")
        for name in self.teachers:
            self._ask_one(name, requests, stage)
        table = read_responses(self._panel / "responses.parquet")
        questions = {request.question.id: request.question for request in requests}
        answers = _answers_of(table, questions, frozenset(self.teachers))
        missing = [request for request in requests if (request.question.id, request.teacher) not in answers]
        if missing and not _hopeless(missing, table, stage, most=max(GIVEN_UP, len(requests) // 10)):
            raise Unfinished(
                f"{len(missing)} of {len(requests)} calls were not answered; what was answered is saved and never "
                "asked again: run the same command to go on",
                place=self._panel,
            )
        return [
            answers.get((request.question.id, request.teacher), Answered(request, None, None)) for request in requests
        ]

    def _ask_one(self, name: str, requests: Sequence[Request], stage: Path) -> None:
        """Ask one teacher its part."""
        from kp_data.generate import generate_panel

        mine = [request.question for request in requests if request.teacher == name]
        if not mine:
            return
        source = stage / f"asks-{self.teachers.index(name)}.parquet"
        write_parquet(table_of_questions(mine), source)
        asked = [self._teachers[name]]
        generate_panel(str(source), out=self._panel, teachers=asked, options=self._options)


def _hopeless(missing: Sequence[Request], table: Any, stage: Path, *, most: int) -> bool:
    """Whether these few calls failed for good in an earlier run already and in this one; else noted for the next run.

    Given up, they count as calls without an answer: one prompt that a server refuses must not keep a run from its end.
    """
    path = stage / FAILED
    before = {tuple(pair) for pair in read_json(path)} if path.is_file() else set()
    columns = (table[name].to_pylist() for name in ("question_id", "teacher", "error"))
    refused = {(question, teacher) for question, teacher, error in zip(*columns, strict=True) if error == HOPELESS}
    now = {(request.question.id, request.teacher) for request in missing} & refused
    write_json(sorted(now), path)
    return len(missing) <= most and len(now) == len(missing) and now <= before


def _answers_of(
    table: Any, questions: Mapping[str, Question], teachers: frozenset[str]
) -> dict[tuple[str, str], Answered]:
    """First blind samples by question and teacher; calls that failed on the way are none."""
    names = ("question_id", "teacher", "mode", "sample", "rationale", "answer", "answer_index", "error", "cost_usd")
    answers = {}
    for row in zip(*(table[name].to_pylist() for name in names), strict=True):
        question_id, teacher, mode, sample, rationale, answer, index, error, cost_usd = row
        question = questions.get(question_id)
        if question is None or teacher not in teachers or mode != "blind" or sample != 0 or error in UNANSWERED:
            continue
        said = question.choices[index] if question.choices and index is not None else answer
        read = said is not None and (not question.choices or said in question.choices)
        claim = Claim(question, rationale or "", said) if read and error is None else None
        answers[question_id, teacher] = Answered(Request(question, teacher), claim, cost_usd)
    return answers
