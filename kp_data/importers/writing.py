"""From imported rows to a panel folder: checked one by one, written as they come, there whole or not at all.

Kept in memory are id and digest of each question and the number of each cell, a few hundred bytes a question; never
the texts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from kp_data import __version__
from kp_data.answers import same_answer
from kp_data.errors import DataError
from kp_data.importers.records import Imported, LeftOut, Row
from kp_data.schema import QUESTIONS, RESPONSES, SCHEMA_VERSION, Question, Response
from kp_data.tables import parquet_writer, read_json, table_of_questions, table_of_responses, write_json

KIND: Final = "import"
RUN_FILE: Final = "run.json"
FILES: Final = ("questions.parquet", "responses.parquet", RUN_FILE)
ROWS_A_GROUP: Final = 2_000
ERROR_LEFT_OUT: Final = "an error stands beside an answer; the answer is kept, the error left out"
TEXT_LEFT_OUT: Final = "a text without an answer stands beside an error; the error is kept, the text left out"
PLACES_TOLD: Final = 5
"""Places remembered for each reason."""

SplitOf = Callable[[Imported], str]


@dataclass
class TeacherCount:
    """What came of one teacher's responses.

    Attributes:
        responses: imported.
        unparsed: those with a rationale out of which no answer could be read; they are kept.
        failed: those without a rationale; they are kept, with their error.
        judged: those whose answer can be compared with gold: blind, and both known.
        right: of these.
    """

    responses: int = 0
    unparsed: int = 0
    failed: int = 0
    judged: int = 0
    right: int = 0


@dataclass
class LeftOutCount:
    """Rows that were left out for one reason, and where the first of them stand."""

    count: int = 0
    places: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        out: the panel folder.
        format: of the sources.
        questions: split to how many.
        teachers: name to what came of its responses.
        left_out: reason to rows, or parts of rows, that were left out.
        unchanged: whether the folder held this very panel already.
    """

    out: Path
    format: str
    questions: Mapping[str, int]
    teachers: Mapping[str, TeacherCount]
    left_out: Mapping[str, LeftOutCount]
    unchanged: bool = False

    @property
    def num_left_out(self) -> int:
        """Rows, or parts of rows, that were left out."""
        return sum(each.count for each in self.left_out.values())

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "out": str(self.out),
            "format": self.format,
            "questions": sum(self.questions.values()),
            "splits": dict(self.questions),
            "responses": sum(each.responses for each in self.teachers.values()),
            "teachers": {name: vars(each) for name, each in self.teachers.items()},
            "left_out": {reason: vars(each) for reason, each in self.left_out.items()},
            "unchanged": self.unchanged,
        }


class PanelWriter:
    """Takes rows and fills the two tables of a panel."""

    def __init__(
        self,
        write_questions: Callable[[pa.Table], None],
        write_responses: Callable[[pa.Table], None],
        *,
        split_of: SplitOf,
    ) -> None:
        self.questions: Counter[str] = Counter()
        self.teachers: dict[str, TeacherCount] = {}
        self.left_out: dict[str, LeftOutCount] = {}
        self._write_questions, self._write_responses = write_questions, write_responses
        self._split_of = split_of
        self._number: dict[str, int] = {}
        self._digest: list[bytes] = []
        self._answered: dict[tuple[str, str, int], set[int]] = {}
        self._new_questions: list[Question] = []
        self._new_responses: list[Response] = []

    def add(self, row: Row) -> None:
        """Take one row: its question unless it is known, its responses unless they are."""
        if isinstance(row, LeftOut):
            self._leave_out(row)
            return
        if (reason := question_fault(row.question)) is not None:
            self._leave_out(LeftOut(row.place, reason))
            return
        question = replace(row.question, split=self._split_of(row))
        number = self._known(question)
        if number is None:
            self._leave_out(LeftOut(row.place, "another question has this id; the first one is kept"))
            return
        added = [self._add_response(response, question, number, row.place) for response in row.responses]
        for reason in row.without if any(added) else ():
            self._leave_out(LeftOut(row.place, reason))
        if len(self._new_responses) >= ROWS_A_GROUP or len(self._new_questions) >= ROWS_A_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write what has been taken since the last time."""
        if self._new_questions:
            self._write_questions(table_of_questions(self._new_questions))
        if self._new_responses:
            self._write_responses(table_of_responses(self._new_responses))
        self._new_questions, self._new_responses = [], []

    def _known(self, question: Question) -> int | None:
        """The question's number, a new one where it is new; None where its id belongs to another question."""
        # The split may be said in one source and not in the other.
        said = repr(replace(question, split="", subject=None)).encode("utf-8", "replace")
        digest = hashlib.blake2b(said, digest_size=16).digest()
        number = self._number.setdefault(question.id, len(self._digest))
        if number < len(self._digest):
            return number if self._digest[number] == digest else None
        self._digest.append(digest)
        self._new_questions.append(question)
        self.questions[question.split] += 1
        return number

    def _add_response(self, response: Response, question: Question, number: int, place: str) -> bool:
        """Take a response, unless something speaks against it; whether it was taken."""
        answered = self._answered.setdefault((response.teacher, response.mode, response.sample), set())
        if not response.teacher.strip():
            self._leave_out(LeftOut(place, "the teacher has no name"))
        elif response.sample < 0:
            self._leave_out(LeftOut(place, "the number of the sample is below 0"))
        elif number in answered:
            self._leave_out(LeftOut(place, "the same teacher answers the same question once more; the first is kept"))
        else:
            answered.add(number)
            response, contradiction = settled(judged(response, question))
            if contradiction is not None:
                self._leave_out(LeftOut(place, contradiction))
            self._new_responses.append(response)
            self._count(response)
            return True
        return False

    def _count(self, response: Response) -> None:
        count = self.teachers.setdefault(response.teacher, TeacherCount())
        count.responses += 1
        count.failed += response.error is not None
        count.unparsed += response.rationale is not None and response.answer is None
        count.judged += response.correct is not None
        count.right += bool(response.correct)

    def _leave_out(self, row: LeftOut) -> None:
        known = self.left_out.setdefault(row.reason, LeftOutCount())
        known.count += 1
        if len(known.places) < PLACES_TOLD:
            known.places.append(row.place)


def judged(response: Response, question: Question) -> Response:
    """A response with what follows from it: an empty one has an error, a blind one is right or wrong, if that is known.

    An index that is no choice's is no answer.
    """
    index = response.answer_index
    if question.choices:
        index = index if index is not None and 0 <= index < len(question.choices) else None
        response = replace(response, answer_index=index, answer=None if index is None else question.choices[index])
    else:
        response = replace(response, answer_index=None, answer=response.answer or None)
    if response.rationale is None or not response.rationale.strip():
        # A bare answer is a rationale of no words: kept as one, for the answer counts.
        rationale = "" if response.answer is not None else None
        response = replace(
            response, rationale=rationale, error=response.error or (None if response.answer else "empty")
        )
    return replace(response, correct=_correct(response, question))


def settled(response: Response) -> tuple[Response, str | None]:
    """A judged response that either says something or has an error, and what was left out for that; None: nothing.

    The answer decides, as it does when teachers are asked here: whoever concluded something has answered, and whoever
    did not and has an error has given no rationale, but a piece of one, or a refusal.
    """
    if response.error is None or response.rationale is None:
        return response, None
    if response.answer is not None:
        return replace(response, error=None), ERROR_LEFT_OUT
    return replace(response, rationale=None), TEXT_LEFT_OUT


def question_fault(question: Question) -> str | None:
    """Why a question cannot stand in a panel; None: it can."""
    index = question.answer_index
    if not question.id.strip():
        return "the question has no id"
    if not question.question.strip():
        return "the question has no text"
    if any(not choice.strip() for choice in question.choices):
        return "a choice is empty"
    if index is None:
        return "the gold answer is none of the choices" if question.choices and question.answer is not None else None
    if not 0 <= index < len(question.choices):
        return "the gold answer's index is no choice's"
    return None if question.answer == question.choices[index] else "the gold answer and its index do not agree"


@contextmanager
def panel_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends without an error.

    Raises:
        DataError: it cannot be written.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror or error})", place=out) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def tables_of(folder: Path, *, split_of: SplitOf) -> Iterator[PanelWriter]:
    """A writer of both tables of a panel; they are whole when the block ends."""
    with ExitStack() as stack:
        writers = [
            stack.enter_context(parquet_writer(folder / name, schema))
            for name, schema in (("questions.parquet", QUESTIONS), ("responses.parquet", RESPONSES))
        ]
        writer = PanelWriter(writers[0], writers[1], split_of=split_of)
        yield writer
        writer.flush()


def write_run(folder: Path, writer: PanelWriter, *, told: Mapping[str, Any]) -> None:
    """Write run.json: where the panel comes from, and what was left out. No time, no path of this machine."""
    run = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        **told,
        "teachers": [{"name": name} for name in writer.teachers],
        "left_out": {reason: each.count for reason, each in writer.left_out.items()},
        "versions": {"knowledge-purification": __version__},
    }
    write_json(run, folder / RUN_FILE)


def check_out(out: Path) -> None:
    """Refuse a folder that holds anything but an imported panel, before any work is done.

    Raises:
        DataError: it does.
    """
    if out.name in ("", ".."):
        raise DataError("give --out a name: the folder is put in place by a rename", place=out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    refusal = DataError("holds something else; choose another --out or remove it", place=out)
    if not out.is_dir() or {path.name for path in out.iterdir()} != set(FILES):
        raise refusal
    run = read_json(out / RUN_FILE)
    if not isinstance(run, dict) or run.get("kind") != KIND:
        raise refusal


def put_in_place(made: Path, out: Path) -> bool:
    """Move a finished folder to where it is wanted; False where the very same panel is there already.

    Raises:
        DataError: another panel is there.
    """
    if out.exists() and any(out.iterdir()):
        if all(_same_bytes(made / name, out / name) for name in FILES):
            return False
        raise DataError("holds another imported panel; choose another --out or remove it", place=out)
    if out.exists():
        out.rmdir()
    made.rename(out)
    return True


def _correct(response: Response, question: Question) -> bool | None:
    if response.mode != "blind" or response.answer is None or question.answer is None:
        return None
    if question.choices:
        return response.answer_index == question.answer_index
    return same_answer(response.answer, question.answer)


def _same_bytes(one: Path, other: Path) -> bool:
    return _digest(one) == _digest(other)


def _digest(path: Path) -> bytes:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()
