"""How a practice teacher finds the question in a prompt: by the world's own wording, whatever stands around it.

Only the last question counts: earlier ones are examples. What is not worded as the world words it is no question of
this world.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from kp_data.practice.beliefs import Case
from kp_data.practice.subjects import SUBJECTS, Subject
from kp_data.teachers.prompts import GOLD_HEAD, QUESTION_HEAD, choice_letter

_LONGEST_STATEMENT: Final = 200
"""Characters before an ask in which its statement is looked for."""


@dataclass(frozen=True)
class Choice:
    """One choice as the prompt shows it."""

    letter: str
    text: str


@dataclass(frozen=True)
class Reading:
    """What a teacher understood of a prompt.

    Attributes:
        case: what the last question is about.
        question: its wording.
        choices: in the prompt's order; empty for an open question.
        gold: the outcome that the prompt gives as correct, None when asked blind.
    """

    case: Case
    question: str
    choices: tuple[Choice, ...]
    gold: str | None


def last_prompt(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last message of the user; parts that are not text are passed over."""
    asked = [message for message in messages if message.get("role") == "user"] or messages
    return content_text(asked[-1]) if asked else ""


def content_text(message: Mapping[str, Any]) -> str:
    """The text of one message, written as a string or as parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(
        str(part.get("text")) for part in parts if isinstance(part, Mapping) and part.get("type") == "text"
    )


def read_prompt(prompt: str) -> Reading | None:
    """The last question of a prompt; None where it is none of the practice world.

    >>> reading = read_prompt("Question: What does the quillon do in a hard frost?\\n(A) curls up\\n(B) stands still")
    >>> reading.case.thing, reading.case.when, [choice.text for choice in reading.choices], reading.gold
    ('quillon', 'a hard frost', ['curls up', 'stands still'], None)
    >>> read_prompt("Question: What is the capital of France?")
    """
    # What stands before the last question is other people's; a teacher that answered it would look wise by luck.
    return _read(prompt[max(prompt.rfind(QUESTION_HEAD), 0) :])


# Five teachers are asked the same question one after another.
@lru_cache(maxsize=4096)
def _read(text: str) -> Reading | None:
    found = max(
        (match for pattern in _ASKS for match in pattern.finditer(text)), key=lambda match: match.end(), default=None
    )
    if found is None:
        return None
    case, start = _case(text, found)
    if case is None:
        return None
    rest = text[found.end() :]
    before_gold, marker, after_gold = rest.partition(GOLD_HEAD)
    outcomes = _OUTCOMES[case.subject.name]
    gold = outcomes.search(after_gold.split("\n", 1)[0]) if marker else None
    return Reading(case, text[start : found.end()], _choices(before_gold, outcomes), gold[0].lower() if gold else None)


def _case(text: str, ask: re.Match[str]) -> tuple[Case | None, int]:
    """What is asked about, and where the question begins: before the ask, where the kind is stated."""
    statement = _statement_before(text, ask.start())
    thing = ask["thing"] or (statement["thing"] if statement is not None else None)
    if thing is None:
        return None, ask.start()
    thing, when = thing.lower(), ask["when"].lower()
    kind = statement["kind"].lower() if statement is not None and statement["thing"].lower() == thing else None
    for subject in SUBJECTS.values():
        if when in subject.class_of and (kind is None or kind in subject.rule) and _has(subject, thing):
            return Case(subject, thing, when, kind), statement.start() if statement and kind else ask.start()
    return None, ask.start()


def _statement_before(text: str, position: int) -> re.Match[str] | None:
    """The statement of a kind that stands right before a position."""
    statements = _STATEMENT.finditer(text, max(0, position - _LONGEST_STATEMENT), position)
    return next((found for found in statements if not text[found.end() : position].strip()), None)


def _has(subject: Subject, thing: str) -> bool:
    return thing in subject.kind_of_base or subject.is_generated(thing)


def _choices(text: str, outcomes: re.Pattern[str]) -> tuple[Choice, ...]:
    """Outcomes in order of appearance, up to the first that comes again."""
    choices: dict[str, Choice] = {}
    for match in outcomes.finditer(text):
        outcome = match[0].lower()
        if outcome in choices:
            break
        choices[outcome] = Choice(choice_letter(len(choices)), outcome)
    return tuple(choices.values())


def _any_of(texts: Sequence[str]) -> str:
    return "|".join(re.escape(text).replace(r"\ ", r"\s+") for text in sorted(texts, key=len, reverse=True))


def _ask_pattern(ask: str, subjects: Sequence[Subject]) -> re.Pattern[str]:
    """A wording as a pattern; the circumstances of all subjects that share it."""
    circumstances = _any_of(list({when for subject in subjects for when in subject.class_of}))
    pronouns = _any_of(list({subject.pronoun for subject in subjects}))
    pattern = re.escape(ask).replace(r"\ ", r"\s+")
    pattern = pattern.replace(re.escape("{it}"), rf"(?:the\s+(?P<thing>[a-z]+)|{pronouns})")
    return re.compile(pattern.replace(re.escape("{when}"), rf"(?P<when>{circumstances})"), re.IGNORECASE)


_ASKS: Final = tuple(
    _ask_pattern(ask, [subject for subject in SUBJECTS.values() if ask in subject.asks])
    for ask in dict.fromkeys(ask for subject in SUBJECTS.values() for ask in subject.asks)
)
_KINDS: Final = _any_of([kind for subject in SUBJECTS.values() for kind in subject.kinds])
_STATEMENT: Final = re.compile(
    rf"(?:take\s+)?the\s+(?P<thing>[a-z]+)(?:\s+is|,)\s+a\s+(?P<kind>{_KINDS})\.", re.IGNORECASE
)
_OUTCOMES: Final = {
    subject.name: re.compile(rf"\b(?:{_any_of(subject.outcomes)})\b", re.IGNORECASE) for subject in SUBJECTS.values()
}
