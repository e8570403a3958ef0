"""What an aggregator is given: the teachers' rationales in a shuffled order, and examples from train.

Axes: Q questions, T teachers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from kp_data.errors import ConfigError
from kp_data.panel import NONE, Panel
from kp_data.schema import Question
from kp_data.teachers.aggregation_prompt import Example, Explanation, about_tokens, shuffled_order
from kp_data.teachers.prompts import choice_letter

if TYPE_CHECKING:
    from kp_data.config import Config, Teacher
    from kp_data.purify.aggregation import AggregationOptions

Array = np.ndarray[Any, Any]

SPARE_EXAMPLES: Final = 8
"""Examples drawn beyond those asked for: they step in where an example is the question itself or has its words."""


def explanations_of(panel: Panel, row: int, *, seed: int) -> tuple[Explanation, ...]:
    """The rationales of one question without their teachers' names, in an order that its id and the seed decide.

    What a rationale concludes was parsed off it; for a choice question it is given back as a letter.
    """
    question = panel.questions[row]
    given = [
        Explanation(str(text), _letter(question, int(stated)))
        for text, stated in zip(panel.rationale_QT[row], panel.stated_QT[row], strict=True)
        if text is not None
    ]
    return tuple(given[place] for place in shuffled_order(question, len(given), seed=seed))


@dataclass(frozen=True)
class ExamplePool:
    """In-context examples, the same for every question, so that providers can reuse what they have read.

    Attributes:
        wanted: how many a prompt shows.
        examples: those and some to spare.
    """

    wanted: int
    examples: tuple[Example, ...]

    def __len__(self) -> int:
        return min(self.wanted, len(self.examples))

    @property
    def ids(self) -> list[str]:
        """Questions of the examples that are shown, unless a question is one of them itself."""
        return [example.question.id for example in self.examples[: self.wanted]]

    def for_question(self, question: Question) -> tuple[Example, ...]:
        """The examples for one question; itself, and any with its words, is never among them."""
        others = (
            example
            for example in self.examples
            if example.question.id != question.id and example.question.question != question.question
        )
        return tuple(example for example, _ in zip(others, range(self.wanted), strict=False))

    @classmethod
    def of_panel(cls, train: Panel, order_T: Array, options: AggregationOptions, *, seed: int) -> ExamplePool:
        """Train questions that some teacher explains rightly, in an order that the seed decides, conflicts first.

        The text to imitate is the rationale of the best teacher that concludes the gold answer: no aggregated text of
        a known quality exists.

        Args:
            train: questions of split train alone.
            order_T: (T,) int, teachers from best to worst.
            options: number of examples, and the greatest length of one.
            seed: of the order.
        """
        if not options.examples:
            return cls(0, ())
        fits = (
            example
            for row in _draw(train, seed)
            if (example := _example(train, row, order_T, options.max_target_tokens, seed)) is not None
        )
        count = options.examples + SPARE_EXAMPLES
        return cls(options.examples, tuple(example for example, _ in zip(fits, range(count), strict=False)))


def aggregator_teacher(options: AggregationOptions, config: Config | None) -> Teacher:
    """The model that aggregates; what kp.yaml says of the same model (key, price, limits) holds here too.

    Raises: ConfigError, when none is named, or it has a form that cannot be.
    """
    from kp_data.config import Teacher, parse_teacher
    from kp_data.teachers.transport import PRACTICE_PREFIX

    text = options.aggregator.strip()
    if not text:
        raise ConfigError(
            "no model to write with; give --aggregator MODEL as litellm writes it, NAME=MODEL@URL, or practice/editor, "
            "which needs no key",
            place="aggregation",
        )
    teacher = parse_teacher(text if "=" in text or text.startswith(PRACTICE_PREFIX) else f"{_name_of(text)}={text}")
    if teacher.model.startswith(PRACTICE_PREFIX) and teacher.api_base is None:
        _check_program(teacher.model.removeprefix(PRACTICE_PREFIX))
    known = next(
        (
            other
            for other in (config.teachers if config is not None else ())
            if (other.model, other.api_base) == (teacher.model, teacher.api_base)
        ),
        teacher,
    )
    changes: dict[str, Any] = {"name": teacher.name, "max_tokens": options.max_reply_tokens, "logprobs": False}
    # A model that takes no temperature is said so in kp.yaml.
    if known is teacher or known.temperature is not None:
        changes["temperature"] = options.temperature
    if options.api_key_env:
        changes["api_key_env"] = options.api_key_env
    return Teacher(**{**known.model_dump(), **changes})


def aggregator_text(given: str, config: Config | None) -> str:
    """An aggregator as the option holds it: the name of a model in kp.yaml becomes `NAME=MODEL[@URL]`.

    The option goes into run.json, and a name alone would hide that kp.yaml has changed.
    """
    for teacher in config.teachers if config is not None else ():
        if teacher.name == given:
            return f"{teacher.name}={teacher.model}" + (f"@{teacher.api_base}" if teacher.api_base else "")
    return given


def _check_program(name: str) -> None:
    from kp_data.practice.editors import EDITORS
    from kp_data.practice.teachers import TEACHERS

    if name not in {*EDITORS, *TEACHERS}:
        there = ", ".join((*EDITORS, *TEACHERS))
        raise ConfigError(f"no practice model {name!r}; there are {there}", place="--aggregator")


def _draw(train: Panel, seed: int) -> Iterator[int]:
    """Rows in the order of a lottery by question id, those with a conflict first."""
    lots = [hashlib.sha256(f"example:{seed}:{question.id}".encode()).digest() for question in train.questions]
    conflict_Q = train.conflict_Q
    yield from sorted(range(len(train)), key=lambda row: (not conflict_Q[row], lots[row]))


def _example(train: Panel, row: int, order_T: Array, max_tokens: int, seed: int) -> Example | None:
    question, gold = train.questions[row], train.gold_Q[row]
    if question.answer is None or gold == NONE or train.has_rationale_QT[row].sum() < 2:
        return None
    right = [column for column in order_T if train.stated_QT[row, column] == gold]
    texts = (train.rationale_QT[row, column] for column in right)
    written = next((str(text) for text in texts if text is not None and about_tokens(text) <= max_tokens), None)
    return None if written is None else Example(question, explanations_of(train, row, seed=seed), written)


def _letter(question: Question, index: int) -> str | None:
    return choice_letter(index) if question.choices and index != NONE else None


def _name_of(model: str) -> str:
    """A name for a model that was given without one: the last part of its id, as names are written."""
    last = re.sub(r"[^A-Za-z0-9._-]", "-", model.partition("@http")[0].rstrip("/").rpartition("/")[2])
    return last.lstrip("._-")[:64] or "aggregator"
