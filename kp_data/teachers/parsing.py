"""Read what a teacher concluded out of what it wrote.

Teachers state answers as letters, "(b)", option texts, "the answer is …", several times, on into a next question that
nobody asked, or not at all. The first statement counts: what follows it may belong to a question of the teacher's own.
Nothing is guessed: a text that states no answer gives none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from kp_data.panel import normalise_answer

_NEXT_QUESTION: Final = re.compile(r"\n\s*(?:\*\*)?(?:Question|Q)\s*\d*\s*(?:\*\*)?\s*:", re.IGNORECASE)
_STATEMENT: Final = re.compile(
    r"\b(?:answer|(?:correct|right|best)\s+(?:choice|option|one))\b(?:\s+\w+){0,3}?\s*(?:\*\*)?\s*"
    r"(?:is\b(?!\s+(?:not|n't))|are\b|would\s+be\b|must\s+be\b|should\s+be\b|:|=)\s*(?:\*\*)?\s*:?\s*",
    re.IGNORECASE,
)
_DRESS: Final = r"(?:\*\*|__|\$|\\boxed\{|\\text\{|option\s+|choice\s+|letter\s+)*"
_BRACKETED: Final = re.compile(_DRESS + r"[(\[{]\s*([A-Za-z]|\d{2})\s*[)\]}]", re.IGNORECASE)
# "A" and "I" are words too: they count only where a sentence could not go on with them.
_UPPER: Final = re.compile(
    r"(?i:" + _DRESS + r")([A-Z])(?![A-Za-z'’])(?:(?<![AI])|(?=\s*(?:[).,:;*\]}$]|$|because\b|since\b|as\b)))",
    re.MULTILINE,
)
# A lower-case letter counts only where it cannot be the article "a".
_LOWER: Final = re.compile(r"(?i:" + _DRESS + r")([a-z])(?=\s*(?:[).:*\]]|$))", re.MULTILINE)
# "… the answer: (A) red, (B) blue": the choices told over, not one of them stated.
_LISTED: Final = re.compile(r"[^\n.!?]*[,;]\s*(?:or\s+|and\s+)?[(\[]\s*[A-Za-z]\s*[)\]]\s*\w")
_LETTER_IS_RIGHT: Final = re.compile(
    r"(?:\(([A-Za-z])\)|\b(?:option|choice)\s+\(?([A-Za-z])\)?)\s+(?:is|must be|would be)\s+"
    r"(?:the\s+)?(?:correct|right|best|true)\b",
    re.IGNORECASE,
)
_LONE_LETTER: Final = re.compile(r"^\W*(?:option\s+|choice\s+)?([A-Za-z])\W*$", re.IGNORECASE)
_MENTION: Final = re.compile(r"\(([A-Za-z])\)")
_BOLD: Final = re.compile(r"\*\*(.+?)\*\*")
_CONCLUDES: Final = re.compile(
    r"\b(?:so|therefore|thus|hence|finally|conclu\w+|answer|choose|pick|select|go\s+with)\b", re.IGNORECASE
)
_OPENS_CONCLUSION: Final = re.compile(r"^\s*(?:so|therefore|thus|hence|finally|in conclusion)\b", re.IGNORECASE)
_NEGATION: Final = re.compile(r"\bnot\b|n['’]t\b", re.IGNORECASE)
# "42, because …" states 42: what follows is a reason, not a part of the answer.
_REASON: Final = re.compile(r",?\s+(?:because|since)\b", re.IGNORECASE)
_BOXED: Final = re.compile(r"\\boxed\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
_CONNECTIVE: Final = re.compile(
    r"(?:^|(?<=[.!?\n,;]))\s*(?:\*\*|#+\s*)?(?:(?:and|so|therefore|thus|hence|finally)\b,?\s*)*(?:the|my|our)?\s*(?:final|correct|right|best)?\s*$",
    re.IGNORECASE,
)
# A full stop after a single letter ends no sentence ("U.S. law", "e.g. water") unless the line ends there.
_SENTENCE_END: Final = re.compile(r"(?<!\b\w)[.!?](?=\s|$|\*)|\.(?=\s*$)|\n", re.MULTILINE)
_REFUSAL: Final = re.compile(
    r"^\W*(?:i['’]?\s?a?m\s+(?:really\s+|very\s+)?sorry,?\s+but\s+i|sorry,?\s+(?:but\s+)?i\s+can|i\s+(?:can\s?not|can['’]t|am\s+unable\s+to|won['’]t)\s+"
    r"(?:help|assist|answer|provide|comply|fulfil|do\s+that)|as\s+an\s+ai\b.*?\b(?:can\s?not|can['’]t|unable))",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """What a reply concludes.

    Attributes:
        index: choice, 0-based; None without choices, or where none could be read.
        answer: text of the answer; the choice's own text for a choice question.
        rationale: the reply up to a next question, without the phrase that states the answer.
    """

    index: int | None
    answer: str | None
    rationale: str


@dataclass(frozen=True, slots=True)
class _Found:
    """An answer and the stretch of text that states it."""

    index: int | None
    answer: str
    start: int
    end: int


def parse_answer(text: str, choices: Sequence[str] = ()) -> ParsedAnswer:
    """The first answer that a reply states, and the rationale without that statement.

    Args:
        text: the reply, untrusted.
        choices: the question's choices; empty for an open-ended question.

    >>> parse_answer("Ice is cold. The answer is (B).", ["hot", "cold"])
    ParsedAnswer(index=1, answer='cold', rationale='Ice is cold.')
    >>> parse_answer("It is hot: **cold** is wrong. Answer: a", ["hot", "cold"]).index
    0
    >>> parse_answer("6 times 7. The answer is 42.").answer
    '42'
    """
    text = text.replace("\r\n", "\n")
    own = text[: cut.start()] if (cut := _NEXT_QUESTION.search(text, 1)) else text
    found = _find_choice(own, choices) if choices else _find_open(own)
    if found is None and own != text:
        # A teacher may open with its own heading "Question:" and answer below it.
        found = _find_choice(text, choices) if choices else _find_open(text)
        own = text if found is not None else own
    if found is None:
        return ParsedAnswer(None, None, own.strip())
    return ParsedAnswer(found.index, found.answer, _without(own, found))


def is_refusal(text: str) -> bool:
    """Whether a reply opens as a refusal.

    >>> is_refusal("I'm sorry, but I can't help with that."), is_refusal("I can see that ice melts.")
    (True, False)
    """
    return bool(_REFUSAL.search(text[:300]))


def _find_choice(text: str, choices: Sequence[str]) -> _Found | None:
    finders: tuple[Callable[[str, Sequence[str]], _Found | None], ...] = (
        _by_statement,
        _by_boxed,
        _by_letter_is_right,
        _by_lone_line,
        _by_bold_choice,
        _by_last_sentence,
    )
    return next((found for find in finders if (found := find(text, choices)) is not None), None)


def _by_statement(text: str, choices: Sequence[str]) -> _Found | None:
    """ "The answer is (B)", "Answer: b", "the correct option is cold".

    A bracketed letter anywhere goes before an option's text: "so the answer is 1. The answer is (A)." means A.
    """
    statements = list(_STATEMENT.finditer(text))
    for leading in (_leading_bracketed, _leading_option_text, _leading_letter):
        for statement in statements:
            index = leading(text[statement.end() : statement.end() + 400], choices)
            if index is not None:
                return _Found(index, choices[index], statement.start(), _sentence_end(text, statement.end()))
    return None


def _leading_bracketed(rest: str, choices: Sequence[str]) -> int | None:
    match = _BRACKETED.match(rest)
    if match is None or _LISTED.match(rest[match.end() :]):
        return None
    return _index_of_letter(match[1], choices)


def _leading_letter(rest: str, choices: Sequence[str]) -> int | None:
    match = _UPPER.match(rest) or _LOWER.match(rest)
    return _index_of_letter(match[1], choices) if match else None


def _leading_option_text(rest: str, choices: Sequence[str]) -> int | None:
    start = _plain(rest)
    hits = [index for index, choice in enumerate(choices) if (plain := _plain(choice)) and _begins_with(start, plain)]
    # "warm air" wins over "warm"; options that read alike cannot be told apart.
    hits.sort(key=lambda index: -len(_plain(choices[index])))
    if len(hits) > 1 and _plain(choices[hits[0]]) == _plain(choices[hits[1]]):
        return None
    return hits[0] if hits else None


def _by_boxed(text: str, choices: Sequence[str]) -> _Found | None:
    for boxed in _BOXED.finditer(text):
        inner = re.sub(r"\\(?:text|mathrm|mathbf)\{([^{}]*)\}", r"\1", boxed[1]).strip()
        lone = _LONE_LETTER.match(inner)
        index = _index_of_letter(lone[1], choices) if lone else _equal_choice(inner, choices)
        if index is not None:
            return _Found(index, choices[index], boxed.start(), boxed.end())
    return None


def _by_letter_is_right(text: str, choices: Sequence[str]) -> _Found | None:
    for match in _LETTER_IS_RIGHT.finditer(text):
        index = _index_of_letter(match[1] or match[2], choices)
        if index is not None:
            return _Found(index, choices[index], match.start(), _sentence_end(text, match.end()))
    return None


def _by_lone_line(text: str, choices: Sequence[str]) -> _Found | None:
    """The first or the last line is nothing but a letter or an option, with or without its letter."""
    lines = [(match.start(), match.end()) for match in re.finditer(r"[^\n]*\S[^\n]*", text)]
    for start, end in dict.fromkeys([lines[0], lines[-1]]) if lines else ():
        line = text[start:end]
        lone = _LONE_LETTER.match(line)
        index = _index_of_letter(lone[1], choices) if lone else _equal_choice(line, choices)
        if index is None and (lettered := re.match(r"^\W*([A-Za-z])\s*[).:]\W*(.+)$", line)):
            same = _equal_choice(lettered[2], choices)
            index = same if same is not None and same == _index_of_letter(lettered[1], choices) else None
        if index is not None:
            return _Found(index, choices[index], start, end)
    return None


def _by_bold_choice(text: str, choices: Sequence[str]) -> _Found | None:
    hits = [(index, bold) for bold in _BOLD.finditer(text) if (index := _equal_choice(bold[1], choices)) is not None]
    if len({index for index, _ in hits}) != 1:
        return None
    index, bold = hits[-1]
    return _Found(index, choices[index], bold.start(), bold.end())


def _by_last_sentence(text: str, choices: Sequence[str]) -> _Found | None:
    """A closing sentence that names one letter, or that concludes ("So …") with one option's text."""
    body = text.rstrip()
    starts = [0, *(match.end() for match in _SENTENCE_END.finditer(body) if match.end() < len(body))]
    start = starts[-1]
    sentence = body[start:]
    if _NEGATION.search(sentence):
        return None
    if not _CONCLUDES.search(sentence):
        return None
    letters = (_index_of_letter(match[1], choices) for match in _MENTION.finditer(sentence))
    named = {index for index in letters if index is not None}
    if not named and _OPENS_CONCLUSION.match(sentence):
        plain = f" {_plain(sentence)} "
        named = {index for index, choice in enumerate(choices) if _plain(choice) and f" {_plain(choice)} " in plain}
    if len(named) != 1:
        return None
    index = named.pop()
    return _Found(index, choices[index], start, len(body))


def _find_open(text: str) -> _Found | None:
    if boxed := _BOXED.search(text):
        return _Found(None, boxed[1].strip(), boxed.start(), boxed.end())
    if marked := re.search(r"^####\s*(.+)$", text, re.MULTILINE):
        return _Found(None, marked[1].strip(), marked.start(), marked.end())
    for statement in _STATEMENT.finditer(text):
        end = _sentence_end(text, statement.end())
        stated = _REASON.split(text[statement.end() : end], maxsplit=1)[0]
        answer = stated.strip().strip("*_$ ").rstrip(".!").strip("*_$ ")
        if answer:
            return _Found(None, answer, statement.start(), end)
    return None


def _without(text: str, found: _Found) -> str:
    """The text without the phrase that states the answer and the connective that leads to it."""
    before, after = text[: found.start], text[found.end :]
    if connective := _CONNECTIVE.search(before):
        before = before[: connective.start()]
    before, after = before.rstrip(" \t\n,;:-*#("), after.lstrip(" \t\n*.").rstrip(" \t\n*")
    # A reply that opens with the answer explains it afterwards.
    return f"{before}\n{after}".strip() if before and after else before or after


def _sentence_end(text: str, position: int) -> int:
    """Where the sentence around a position ends, its full stop included; a decimal point ends none."""
    match = _SENTENCE_END.search(text, position)
    if match is None:
        return len(text)
    return match.start() if match[0] == "\n" else match.end()


def _index_of_letter(letter: str, choices: Sequence[str]) -> int | None:
    index = int(letter) - 1 if letter.isdigit() else ord(letter.upper()) - ord("A")
    return index if 0 <= index < len(choices) else None


def _equal_choice(text: str, choices: Sequence[str]) -> int | None:
    plain = _plain(text)
    hits = [index for index, choice in enumerate(choices) if _plain(choice) == plain] if plain else []
    return hits[0] if len(hits) == 1 else None


def _begins_with(text: str, start: str) -> bool:
    return text == start or (text.startswith(start) and not text[len(start)].isalnum())


def _plain(text: str) -> str:
    return normalise_answer(text.replace("*", "").replace("_", " "))
