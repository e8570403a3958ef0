"""Recorded answers of a panel, found again by the text of a prompt.

What was recorded is served as it was, failures included. A rationale stands in a panel without the line that states
its answer; the line is put back where the rationale does not state one itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kp_data.errors import DataError
from kp_data.schema import Mode, Question, Response
from kp_data.teachers.prompts import GOLD_HEAD, last_question_block, render_answer, render_question

Cell = tuple[str, str, Mode, int]
"""Question id, teacher, mode, sample."""

_COLUMNS: Final = (
    *("question_id", "teacher", "mode", "sample", "rationale", "answer", "answer_index"),
    *("error", "finish_reason", "prompt_tokens", "completion_tokens", "logprob"),
)
_HINT: Final = re.compile(
    r"\W*(?:so|then|therefore|thus|hence|finally|in conclusion)\b(?!.*(?:answer|\())", re.I | re.S
)
"""A closing sentence that concludes without saying that it states the answer."""


@dataclass(frozen=True)
class Asked:
    """What a prompt asks: the questions that read like this (more than one where a text stands twice), and how."""

    questions: tuple[Question, ...]
    mode: Mode


class Recorded:
    """The questions and responses of a panel, indexed for prompts."""

    def __init__(self, questions: Iterable[Question], responses: Iterable[Response]) -> None:
        self._cells: dict[Cell, Response] = {(it.question_id, it.teacher, it.mode, it.sample): it for it in responses}
        self.teachers = tuple(dict.fromkeys(teacher for _, teacher, _, _ in self._cells))
        self._by_text: dict[str, list[Question]] = {}
        self._texts_by_block: dict[str, list[str]] = {}
        for question in questions:
            text = render_question(replace(question, context=None))
            self._by_text.setdefault(text, []).append(question)
        for text in self._by_text:
            self._texts_by_block.setdefault(last_question_block(text), []).append(text)

    @classmethod
    def read(cls, folder: Path) -> Recorded:
        """The records of a panel folder.

        Raises:
            DataError: no panel there, or a broken one.
        """
        from kp_data.tables import questions_of, read_questions, read_responses

        folder = Path(folder)
        for name in ("questions.parquet", "responses.parquet"):
            if not (folder / name).is_file():
                raise DataError(f"no panel here: {name} is missing; make one with `kp-data generate`", place=folder)
        table = read_responses(folder / "responses.parquet").select(_COLUMNS)
        columns = [table[name].to_pylist() for name in _COLUMNS]
        responses = (Response(**dict(zip(_COLUMNS, row, strict=True))) for row in zip(*columns, strict=True))
        recorded = cls(questions_of(read_questions(folder / "questions.parquet")), responses)
        if not recorded.teachers:
            raise DataError("no responses to replay", place=folder)
        return recorded

    def asked(self, prompt: str) -> Asked | None:
        """What a prompt asks, None where its question is not in the panel."""
        known = [text for text in self._texts_by_block.get(last_question_block(prompt), ()) if text in prompt]
        # A prompt of another layout may end its question otherwise: whichever known one ends last is asked.
        known = known or [text for text in self._by_text if text in prompt]
        if not known:
            return None
        text = max(known, key=lambda text: (prompt.rfind(text) + len(text), len(text)))
        end = prompt.rfind(text) + len(text)
        twins = self._by_text[text]
        before = prompt[: end - len(text)]
        same = [question for question in twins if before.endswith(f"Context: {question.context}\n")]
        return Asked(tuple(same or twins), "teacher_forced" if GOLD_HEAD in prompt[end:] else "blind")

    def response(self, asked: Asked, teacher: str, sample: int) -> tuple[Question, Response] | None:
        """The recorded response of a teacher; that of sample 0 where this sample was not recorded."""
        for number in dict.fromkeys((sample, 0)):
            for question in asked.questions:
                if (found := self._cells.get((question.id, teacher, asked.mode, number))) is not None:
                    return question, found
        return None


def spoken(question: Question, response: Response) -> str:
    """The text of a recorded response, with the line that states its answer where that line was taken out.

    The line is put back where the rationale states no answer; and where it only hints at one ("So it is cold.") or
    seems to state another, if the whole then reads as exactly what was recorded.
    """
    rationale = response.rationale or ""
    if response.answer is None and response.answer_index is None:
        return rationale
    from kp_data.teachers.parsing import parse_answer

    said = render_answer(replace(question, answer=response.answer, answer_index=response.answer_index))
    whole = f"{rationale}\n{said}" if rationale else said
    as_it_is = parse_answer(rationale, question.choices)
    if as_it_is.answer is None:
        return whole
    # Taken for the statement, a closing sentence of the argument would be lost, or a letter in passing would count.
    is_other = (as_it_is.index, as_it_is.answer) != (response.answer_index, response.answer)
    if is_other or _HINT.match(rationale.removeprefix(as_it_is.rationale)):
        again = parse_answer(whole, question.choices)
        return whole if (again.index, again.rationale) == (response.answer_index, rationale.strip()) else rationale
    return rationale
