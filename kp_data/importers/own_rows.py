"""Rows under names of one's own: JSON lines whose fields are told, and the project's two tables in any of its formats.

`jsonl` reads one response a row, or, with `--teacher NAME=FIELD`, one question a row with a field for each teacher;
such a field may hold a list, which is then several samples. `--map OURS=PATH` says where each of our fields stands;
a path goes into objects by dots (`meta.subject`). What is not mapped is looked for under our own name:

    id, question, choices, answer, answer_index, split, subject, context          of the question; `answer` is the gold
    teacher, mode, sample, rationale, response, stated, stated_index, error, …    of the response

`response` is a text as the teacher wrote it, out of which its answer is read; `rationale` is one without the answer,
beside which `stated` or `stated_index` may say what the teacher concluded. Where an answer and an `error` stand in one
row, the answer is kept; where a text without an answer and an `error` do, the error is; the import counts both.

`tables` reads a folder with `questions.*` and `responses.*` (Parquet, JSONL or CSV) in the columns of a panel, other
columns left aside; a row that breaks the contract is left out, where reading the folder as a panel would refuse it.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from kp_data.errors import ConfigError, DataError
from kp_data.importers.json_rows import documents_of, elements_of
from kp_data.importers.records import Imported, ImportOptions, LeftOut, Row, UnusableRow, choice_index, clean
from kp_data.schema import ERROR_CLASSES, MODES, Mode, Question, Response
from kp_data.tables import READABLE, read_table
from kp_data.teachers.parsing import parse_answer

QUESTION_FIELDS: Final = ("id", "question", "choices", "answer", "answer_index", "split", "subject", "context")
RESPONSE_FIELDS: Final = (
    "teacher",
    "mode",
    "sample",
    "rationale",
    "response",
    "stated",
    "stated_index",
    "error",
    "model",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
    "latency_s",
    "logprob",
    "created_at",
)
NO_TIME: Final = "field 'created_at' is no time as ISO 8601 writes it; the response is kept without it"
_BATCH: Final = 1_000
_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")
_COLUMNS: Final = {"stated": "answer", "stated_index": "answer_index"}
"""Our fields to the columns of a responses table, where `answer` is the teacher's."""


def read_jsonl(sources: Sequence[Path], options: ImportOptions) -> Iterator[Row]:
    """Rows of JSON lines or arrays, their fields as the options say.

    Raises:
        ConfigError: a field is mapped that there is none of, here or in any row.
    """
    _check_mapped(options)
    unseen = _told_paths(options)
    for source in sources:
        for document in documents_of(source):
            for element in elements_of(document):
                if element.problem is not None or not isinstance(element.value, dict):
                    yield LeftOut(element.place, element.problem or "is no object")
                    continue
                fields = Fields(element.value, options.fields)
                unseen = {said: path for said, path in unseen.items() if not fields.has(path)}
                try:
                    yield _imported(fields, options, element.place)
                except UnusableRow as fault:
                    yield LeftOut(element.place, str(fault))
    _refuse_unseen(unseen, sources)


def read_tables(sources: Sequence[Path], options: ImportOptions) -> Iterator[Row]:
    """Rows of folders with a table of questions and one of responses.

    Raises:
        ConfigError: a field is mapped that there is none of, here or in any row.
        DataError: a table is missing or cannot be read.
    """
    _check_mapped(options)
    unseen = _told_paths(options)
    # In a table of responses `answer` and the like are the teacher's; those of the question are mapped in the other.
    paths = {**_COLUMNS, **{name: path for name, path in options.fields.items() if name not in QUESTION_FIELDS}}
    for folder in sources:
        questions: dict[str, Question] = {}
        for place, row in _table_rows(folder, "questions"):
            fields = Fields(row, options.fields)
            unseen = {said: path for said, path in unseen.items() if not fields.has(path)}
            try:
                question = _question(fields)
            except UnusableRow as fault:
                yield LeftOut(place, str(fault))
                continue
            # Kept, because a response is read and judged by the question it belongs to.
            questions.setdefault(question.id, question)
            yield Imported(question, (), place, own_split=fields.get("split") is not None)
        for place, row in _table_rows(folder, "responses"):
            fields = Fields(row, paths)
            unseen = {said: path for said, path in unseen.items() if not fields.has(path)}
            try:
                asked = questions.get(fields.text("question_id"))
                if asked is None:
                    raise UnusableRow("the response belongs to no question")
                yield Imported(asked, (_response(fields, asked, options),), place, without=_without(fields))
            except UnusableRow as fault:
                yield LeftOut(place, str(fault))
    _refuse_unseen(unseen, sources)


@dataclass(frozen=True)
class Fields:
    """A row whose values are asked for by our names."""

    row: Mapping[str, Any]
    paths: Mapping[str, str]

    def get(self, name: str) -> Any:
        """The value under our name; None where there is none."""
        return self.at(self.paths.get(name, name))

    def at(self, path: str) -> Any:
        """The value at a path; None where it leads nowhere."""
        if path in self.row:
            return self.row[path]
        value: Any = self.row
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def has(self, path: str) -> bool:
        """Whether the row has that field, be it null."""
        place, _, last = path.rpartition(".")
        above = self.at(place) if place else self.row
        return path in self.row or (isinstance(above, Mapping) and last in above)

    def text(self, name: str) -> str:
        """A text that must be there; a number is one, too.

        Raises:
            UnusableRow: it is missing or no text.
        """
        found = self.maybe(name)
        if found is None:
            raise UnusableRow(f"{self._called(name)} is missing")
        return found

    def maybe(self, name: str) -> str | None:
        """A text, or None where there is none.

        Raises:
            UnusableRow: it is no text.
        """
        value = self.get(name)
        if value is None or isinstance(value, str):
            return None if value is None else clean(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UnusableRow(f"{self._called(name)} is no text")
        return str(value)

    def whole(self, name: str) -> int | None:
        """A whole number, or None.

        Raises:
            UnusableRow: it is something else.
        """
        value = self.get(name)
        if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**31):
            raise UnusableRow(f"{self._called(name)} is no whole number")
        return value

    def number(self, name: str) -> float | None:
        """A number, or None.

        Raises:
            UnusableRow: it is something else.
        """
        value = self.get(name)
        try:
            number = None if value is None or value == "" else float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise UnusableRow(f"{self._called(name)} is no number") from error
        # Python's JSON has nan, which would make every sum nan; it is written where a number is not known.
        return number if number is not None and math.isfinite(number) else None

    def _called(self, name: str) -> str:
        path = self.paths.get(name, name)
        return f"field '{name}'" if path == name else f"field '{name}' (at '{path}')"


def _check_mapped(options: ImportOptions) -> None:
    known = (*QUESTION_FIELDS, *RESPONSE_FIELDS)
    if unknown := [name for name in options.fields if name not in known]:
        raise ConfigError(f"there is no field '{unknown[0]}' of ours; there are {', '.join(known)}", place="--map")


def _told_paths(options: ImportOptions) -> dict[str, str]:
    """What the user wrote to the path that it names."""
    teachers = {f"--teacher {name}={path}": path for name, path in options.teachers.items() if name}
    return {**{f"--map {name}={path}": path for name, path in options.fields.items()}, **teachers}


def _refuse_unseen(unseen: Mapping[str, str], sources: Sequence[Path]) -> None:
    """A field that is in no row is misspelt: without it, what it should hold would be lost in silence."""
    for said, path in unseen.items():
        place = ", ".join(map(str, sources))
        raise ConfigError(f"no row has a field '{path}'; correct {said}, or leave it out", place=place)


def _imported(fields: Fields, options: ImportOptions, place: str) -> Imported:
    question = _question(fields)
    wide = {name: path for name, path in options.teachers.items() if name}
    own_split = fields.get("split") is not None
    if wide:
        # Such a row has no fields of a response beside what the teachers wrote.
        return Imported(question, tuple(_wide(fields, wide, question, options)), place, own_split)
    return Imported(question, (_response(fields, question, options),), place, own_split, _without(fields))


def _wide(
    fields: Fields, teachers: Mapping[str, str], question: Question, options: ImportOptions
) -> Iterator[Response]:
    """The responses of a row that has a field for each teacher; a teacher whose field is missing gave none."""
    for teacher, path in teachers.items():
        value = fields.at(path)
        samples = value if isinstance(value, list) else [value] if value is not None else []
        for sample, text in enumerate(samples):
            if not isinstance(text, str):
                raise UnusableRow(f"what teacher {teacher} wrote (at '{path}') is no text")
            yield _read(Response(question.id, teacher, _mode(fields, options), sample), clean(text), question)


def _question(fields: Fields) -> Question:
    text, context = fields.text("question"), fields.maybe("context")
    choices = _choices(fields.get("choices"))
    # What is asked about different passages in the same words are different questions.
    asked = (text, choices) if context is None else (text, choices, context)
    answer, index = fields.maybe("answer"), fields.whole("answer_index")
    if choices and answer is not None:
        named = choice_index(answer, choices)
        if named is None:
            raise UnusableRow("the gold answer is none of the choices")
        index = named if index is None else index
        answer = choices[named]
    if choices and index is not None and answer is None:
        answer = choices[index] if 0 <= index < len(choices) else None
    return Question(
        # A row without an id is known by what it asks.
        id=fields.maybe("id") or hashlib.sha256(repr(asked).encode("utf-8", "replace")).hexdigest()[:16],
        question=text,
        choices=choices,
        answer=answer,
        answer_index=index,
        split=fields.maybe("split") or "train",
        subject=fields.maybe("subject"),
        context=context,
    )


def _choices(value: Any) -> tuple[str, ...]:
    """A list of texts; an object of letters to texts, or of texts and letters apart, as the Hub has them."""
    if isinstance(value, dict):
        value = value["text"] if isinstance(value.get("text"), list) else [value[key] for key in _in_order(value)]
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(choice, str | int | float) for choice in value):
        raise UnusableRow("field 'choices' is no list of texts")
    return tuple(clean(str(choice)) for choice in value)


def _in_order(keys: Collection[str]) -> list[str]:
    """Letters by the alphabet, numbers by their size: "10" stands behind "9"."""
    return sorted(keys, key=int if all(_WHOLE.fullmatch(key) for key in keys) else None)


def _response(fields: Fields, question: Question, options: ImportOptions) -> Response:
    teacher = fields.maybe("teacher") or options.single_teacher
    if teacher is None:
        raise UnusableRow("no teacher is named; map one (--map teacher=FIELD), or give --teacher NAME")
    error = fields.maybe("error")
    if error is not None and error not in ERROR_CLASSES:
        raise UnusableRow(f"field 'error' is none of {', '.join(ERROR_CLASSES)}")
    begun = Response(
        question.id,
        teacher,
        _mode(fields, options),
        sample=fields.whole("sample") or 0,
        error=error,
        model=fields.maybe("model"),
        finish_reason=fields.maybe("finish_reason"),
        prompt_tokens=fields.whole("prompt_tokens"),
        completion_tokens=fields.whole("completion_tokens"),
        cost_usd=fields.number("cost_usd"),
        latency_s=fields.number("latency_s"),
        logprob=fields.number("logprob"),
        created_at=moment_of(fields.get("created_at")),
    )
    if fields.get("rationale") is None and (text := fields.maybe("response")) is not None:
        return _read(begun, text, question)
    return _with(begun, fields.maybe("rationale"), *_stated(fields, question))


def _without(fields: Fields) -> tuple[str, ...]:
    """What a row holds in a form that says nothing, so that its response is kept without it."""
    said = fields.get("created_at")
    return (NO_TIME,) if said not in (None, "") and moment_of(said) is None else ()


def moment_of(value: Any) -> datetime | None:
    """A moment in UTC, from a time or from text as ISO 8601 writes it, which without an offset is UTC; else None.

    >>> str(moment_of("2026-02-03T04:05:06+01:00")), str(moment_of("2026-02-03")), moment_of("yesterday")
    ('2026-02-03 03:05:06+00:00', '2026-02-03 00:00:00+00:00', None)
    """
    try:
        moment = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
        if isinstance(moment, date) and not isinstance(moment, datetime):
            moment = datetime(moment.year, moment.month, moment.day)
        # Of a number nobody knows whether it counts seconds, and since when.
        if not isinstance(moment, datetime):
            return None
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _stated(fields: Fields, question: Question) -> tuple[str | None, int | None]:
    """What the row says that the teacher concluded, as text and as index."""
    answer, index = fields.maybe("stated"), fields.whole("stated_index")
    if question.choices and answer is not None and index is None:
        index = choice_index(answer, question.choices)
    return answer, index


def _read(begun: Response, text: str, question: Question) -> Response:
    read = parse_answer(text, question.choices)
    # A text that is nothing but its answer is kept as it is.
    return _with(begun, read.rationale or text, read.answer, read.index)


def _with(begun: Response, rationale: str | None, answer: str | None, index: int | None) -> Response:
    return replace(begun, rationale=rationale, answer=answer, answer_index=index)


def _mode(fields: Fields, options: ImportOptions) -> Mode:
    said = fields.maybe("mode") or options.mode or "blind"
    if said not in MODES:
        raise UnusableRow(f"field 'mode' is none of {', '.join(MODES)}")
    return said


def _table_rows(folder: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of one table of a folder, with their places.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    paths = [folder / f"{name}{suffix}" for suffix in READABLE]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise DataError(f"{name}.parquet (or .jsonl, .csv) is not there", place=folder)
    rows = _parquet_rows(path) if path.suffix == ".parquet" else iter(read_table(path).to_pylist())
    for number, row in zip(itertools.count(1), rows, strict=False):
        yield f"{path}, row {number}", row


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot be read as Parquet ({str(error).splitlines()[0][:200]})", place=path) from error
