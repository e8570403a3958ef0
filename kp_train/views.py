"""What a student reads and writes: one row of a dataset as label, rationale and combined views.

    predict:                →  ANSWER                                label
    explain:                →  RATIONALE                             rationale, apart from the label
    reason:                 →  RATIONALE ⏎ The answer is ANSWER      combined, rationale first
    answer and explain:     →  ANSWER ⏎ RATIONALE                    combined, answer first

Rationales of several teachers are told apart by name: "explain as ada: ". All of it is made from the row as it is
read; the dataset stays as it was published.

A *row* is a question with what is known about it: the gold answer, every teacher's rationale, the purified one. A
*target* is one pair of texts to learn, under a prefix that tells the student which of its tasks is asked for.
Source of the layout: TinyLLM (arXiv:2402.04616): the question, "Answer Choices:", one lettered choice a line; the
label is the option's text, not its letter.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from kp_data.schema import Question

LABEL: Final = "label"
LABEL_PREFIX: Final = "predict: "
RATIONALE: Final = "rationale"
RATIONALE_PREFIX: Final = "explain: "

_LETTER: Final = re.compile(r"\([A-Za-z]\)|\b(?:option|choice|answer|letter)s?:? +\(?[A-Z]\b", re.IGNORECASE)

Labels = Literal["gold", "purified"]
View = Literal["separate", "rationale-first", "answer-first"]
VIEWS: Final[tuple[View, ...]] = ("separate", "rationale-first", "answer-first")
"""How a rationale is learned: apart from the answer, before it in one text, or after it."""

CONCLUSION: Final = "The answer is "
_VERBS: Final[Mapping[View, str]] = {
    "separate": "explain",
    "rationale-first": "reason",
    "answer-first": "answer and explain",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A question and everything that a student may learn about it.

    Attributes:
        question: with its gold answer, where there is one.
        rationales: teacher to its rationale; teachers that gave none are absent.
        purified: the one rationale that a purifier kept.
        purified_answer: text of the answer that the purified rationale concludes.
        score: what the purifier gave the rationale it kept; None: nothing.
        confidence: how much the purified rationale counts beside those of other rows; 1 is the mean.
    """

    question: Question
    rationales: Mapping[str, str] = field(default_factory=dict)
    purified: str | None = None
    purified_answer: str | None = None
    score: float | None = None
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """One text to learn, and how much it counts.

    Attributes:
        task: targets of one task are averaged together; `label`, or the rationales of one source.
        prefix: what stands before the question.
        text: what the student should write.
        weight: factor of this target in the loss; the lambda of its task.
    """

    task: str
    prefix: str
    text: str
    weight: float = 1.0


def question_lines(question: Question) -> list[str]:
    """Context, question and choices, one element a line; the gold answer is never among them."""
    lines = [question.context] if question.context else []
    lines.append(question.question)
    if question.choices:
        lines.append("Answer Choices:")
        lines += [f"({_letter(index)}) {choice}" for index, choice in enumerate(question.choices)]
    return lines


def question_input(question: Question) -> str:
    """A question as the student reads it, without prefix.

    >>> print(question_input(Question(id="1", question="Is ice cold?", choices=("yes", "no"))))
    Is ice cold?
    Answer Choices:
    (a) yes
    (b) no
    """
    return "\n".join(question_lines(question))


def reordered(row: Row, draw: random.Random) -> Row:
    """The row with its choices in another order: the right one is known by its text, so nothing else changes.

    A row whose rationales name choices by letter comes back as it is, for the letters would no longer fit.
    """
    question = row.question
    rationales = [*row.rationales.values(), row.purified or ""]
    if not question.choices or any(_LETTER.search(text) for text in rationales):
        return row
    choices = tuple(draw.sample(question.choices, len(question.choices)))
    index = None if question.answer is None else choices.index(question.answer)
    return replace(row, question=replace(question, choices=choices, answer_index=index))


def label_view(row: Row, labels: Labels = "gold") -> list[Target]:
    """The answer to predict; nothing where the row has no answer of that kind.

    A purified answer is as sure as the rationale that concludes it, and counts so; a gold one counts fully.
    """
    answer = answer_of(row, labels)
    confidence = 1.0 if labels == "gold" else row.confidence
    return [Target(LABEL, LABEL_PREFIX, answer, confidence)] if answer else []


def answer_of(row: Row, labels: Labels) -> str | None:
    """The answer of that kind; None: the row has none."""
    return (row.question.answer if labels == "gold" else row.purified_answer) or None


def rationale_view(row: Row, teacher: str, *, weight: float = 1.0, own_prefix: bool = True) -> list[Target]:
    """One teacher's rationale; nothing where that teacher gave none.

    Args:
        row: the row.
        teacher: whose rationale.
        weight: lambda of this teacher.
        own_prefix: under a prefix of the teacher's own, so that a student can tell several teachers apart.
    """
    text = row.rationales.get(teacher)
    if not text:
        return []
    return [Target(f"{RATIONALE} {teacher}", teacher_prefix(teacher) if own_prefix else RATIONALE_PREFIX, text, weight)]


def purified_view(row: Row, *, weight: float = 1.0) -> list[Target]:
    """The purified rationale; nothing where purification kept none."""
    return [Target(RATIONALE, RATIONALE_PREFIX, row.purified, weight * row.confidence)] if row.purified else []


def all_views(row: Row, teachers: Sequence[str], *, weight: float = 1.0) -> list[Target]:
    """Every one of these teachers' rationales, each as a task of its own."""
    return [target for teacher in teachers for target in rationale_view(row, teacher, weight=weight)]


def combined_view(row: Row, rationales: Sequence[Target], view: View, labels: Labels = "gold") -> list[Target]:
    """Rationales as one text with the answer, under prefixes of their own; nothing where the row has no answer.

    The answer is the row's label, whoever wrote the rationale, and so the same after every one of them.

    >>> row = Row(Question(id="1", question="Is ice cold?", answer="yes"), purified="Ice is frozen.")
    >>> combined_view(row, purified_view(row), "rationale-first")[0].text
    'Ice is frozen.\\nThe answer is yes'
    """
    if view == "separate":
        return list(rationales)
    if not (answer := answer_of(row, labels)):
        return []
    return [_combined(target, answer, view) for target in rationales]


def _combined(target: Target, answer: str, view: View) -> Target:
    first = view == "rationale-first"
    text = f"{target.text}\n{CONCLUSION}{answer}" if first else f"{answer}\n{target.text}"
    prefix = _VERBS[view] + target.prefix.removeprefix(_VERBS["separate"])
    return replace(target, task=f"{view} {target.task}", prefix=prefix, text=text)


def rationale_prefix(view: View = "separate", teacher: str | None = None) -> str:
    """The prefix under which a student of that view writes rationales, or those of one teacher.

    >>> rationale_prefix("rationale-first"), rationale_prefix(teacher="ada")
    ('reason: ', 'explain as ada: ')
    """
    return f"{_VERBS[view]}: " if teacher is None else f"{_VERBS[view]} as {teacher}: "


def teacher_prefix(teacher: str) -> str:
    """The prefix under which one teacher's rationales are learned.

    >>> teacher_prefix("ada")
    'explain as ada: '
    """
    return rationale_prefix(teacher=teacher)


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else str(index + 1)
