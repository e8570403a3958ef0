"""The practice editor: a program that writes one explanation from several, as an aggregator is asked to.

It follows the majority: it reads what each quoted explanation concludes, and gives the first one of the answer that
most conclude, or of the answer that the prompt gives as correct. It knows nothing itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from kp_data.practice.reading import last_prompt
from kp_data.practice.teachers import Reply
from kp_data.teachers.aggregation_prompt import BAR, EXPLANATION_HEAD
from kp_data.teachers.prompts import GOLD_HEAD, QUESTION_HEAD

NOTHING_TO_EDIT: Final = "There is nothing here that I could write one explanation from."

_HEAD: Final = re.compile("^" + EXPLANATION_HEAD.replace("{number}", r"\d+") + "$")
_CONCLUSION: Final = re.compile(r"^The answer is \((\w+)\)\.$")
_GOLD: Final = re.compile("^" + re.escape(GOLD_HEAD) + r"\((\w+)\)")
_TOKEN: Final = re.compile(r"\s*(?:\w+|[^\w\s])")


@dataclass(frozen=True)
class PracticeEditor:
    """A program that aggregates; its model id is `practice/NAME`."""

    name: str

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        sample: int = 0,
        max_tokens: int | None = None,
    ) -> Reply:
        """The reply to chat messages; temperature, seed and sample change nothing.

        Args:
            messages: `{"role": …, "content": …}` each.
            temperature, seed, sample: as a practice teacher takes them.
            max_tokens: cut the reply off after so many tokens.
        """
        tokens = _TOKEN.findall(edit(last_prompt(messages)))
        finish_reason = "stop"
        if max_tokens is not None and len(tokens) > max_tokens:
            tokens, finish_reason = tokens[:max_tokens], "length"
        return Reply("".join(tokens), finish_reason, tuple((token, -0.2) for token in tokens))


def edit(prompt: str) -> str:
    """One explanation from the last question of an aggregation prompt.

    >>> print(edit("Question: Is ice cold?\\nExplanation 1:\\n| It is.\\n| The answer is (A)."))
    It is.
    The answer is (A).
    """
    gold, explanations = _read(prompt)
    concluded = [explanation for explanation in explanations if explanation[1] is not None]
    if not concluded:
        return NOTHING_TO_EDIT
    # Of answers with equally many votes, the one that came first.
    letter = gold or Counter(letter for _, letter in concluded).most_common(1)[0][0]
    text = next((text for text, own in concluded if own == letter), concluded[0][0])
    return f"{text}\nThe answer is ({letter})."


def _read(prompt: str) -> tuple[str | None, list[tuple[str, str | None]]]:
    """The answer that is given as correct, and each explanation with what it concludes."""
    lines = prompt.splitlines()
    # A quoted line that says "Question:" begins with a bar, and so begins no question.
    starts = [number for number, line in enumerate(lines) if line.startswith(QUESTION_HEAD)]
    gold: str | None = None
    blocks: list[list[str]] = []
    for line in lines[starts[-1] if starts else 0 :]:
        if found := _GOLD.match(line):
            gold = found[1]
        elif _HEAD.match(line):
            blocks.append([])
        elif line.startswith(BAR) and blocks:
            blocks[-1].append(line.removeprefix(BAR))
    return gold, [_explanation(block) for block in blocks]


def _explanation(lines: Sequence[str]) -> tuple[str, str | None]:
    found = _CONCLUSION.match(lines[-1]) if lines else None
    return "\n".join(lines[:-1] if found else lines), found[1] if found else None


EDITORS: Final[Mapping[str, PracticeEditor]] = MappingProxyType({"editor": PracticeEditor("editor")})
"""The practice editors by name."""
