"""Practice teachers whose error rate is a knob: `practice/erring-30` is wrong on 30 % of the questions.

Unlike the others they hold no misconception: which questions they are wrong about follows from a hash of what is asked,
the same for every rate, so that a higher rate is wrong where a lower one is, and elsewhere too. Where one is wrong, one
of its three steps is, and the rest follows from it. Like the others they are now and then cut off, or refuse.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from kp_data.practice.beliefs import Argument, Case, argue_rightly
from kp_data.practice.reading import Reading
from kp_data.practice.subjects import SUBJECTS
from kp_data.practice.teachers import TEACHERS, PracticeTeacher

RATES: Final = tuple(range(0, 55, 5))
"""Percent of the questions; there is a teacher for each."""


@dataclass(frozen=True)
class ErringTeacher(PracticeTeacher):
    """A teacher that is wrong now and then, whatever the subject.

    Attributes:
        rate: share of the questions that it is wrong about, in [0, 1].
    """

    rate: float = 0.0

    def argument(self, reading: Reading) -> Argument:
        """The three steps, one of them wrong where the hash of the question says so."""
        case = reading.case
        right = argue_rightly(case)
        draw = _draw(case)
        if draw.random() >= self.rate:
            return right
        slips = _slips(case, right)
        shown = [slip for slip in slips if slip.outcome in {choice.text for choice in reading.choices}]
        return draw.choice(shown or slips)


def _slips(case: Case, right: Argument) -> list[Argument]:
    """Every argument with one wrong step that ends in a wrong outcome; a kind that the question states is not mistaken.

    >>> from kp_data.practice.subjects import ANIMALS
    >>> case = Case(ANIMALS, "quillon", "a hard frost")
    >>> all(slip.outcome != argue_rightly(case).outcome for slip in _slips(case, argue_rightly(case)))
    True
    """
    subject = case.subject
    kinds = () if case.stated_kind is not None else subject.kinds
    slips = [Argument(kind, right.class_name, subject.outcome(kind, right.class_name)) for kind in kinds]
    slips += [Argument(right.kind, name, subject.outcome(right.kind, name)) for name in subject.classes]
    slips += [Argument(right.kind, right.class_name, outcome) for outcome in subject.outcomes]
    return [slip for slip in slips if slip.outcome != right.outcome]


def _draw(case: Case) -> random.Random:
    asked = f"{case.subject.name}|{case.thing}|{case.when}|{case.stated_kind}"
    return random.Random(hashlib.blake2b(asked.encode(), digest_size=8).digest())


ERRING: Final[Mapping[str, ErringTeacher]] = MappingProxyType(
    {
        f"erring-{percent}": ErringTeacher(f"erring-{percent}", tuple(SUBJECTS), TEACHERS["ada"].style, percent / 100)
        for percent in RATES
    }
)
"""Erring teachers by name."""
