"""What a rationale looks like, and how its answer stands among the choices: evidence that needs no model.

Everything is read from the question, its choices, the rationales and the answers, never from the gold answer. Nothing
depends on how choices are labelled.

Axes: Q questions, T teachers, C choices of one question, F kinds of evidence.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from kp_data.panel import NONE, Panel
from kp_data.purify.arithmetic import check_arithmetic, close, numbers_in
from kp_data.purify.evidence import Evidence
from kp_data.schema import Question

Array = np.ndarray[Any, Any]
Numbers = dict[str, float]

LONGEST_READ: Final = 8_000
"""Characters of a rationale, from its end, that are read; its length is known from all of them."""
NUMERIC_SHARE: Final = 0.9
"""Share of the choices that must hold a number before they are ranked by it."""
CHOICE_KINDS: Final = ("value_rank", "choice_position", "choice_length", "choice_relative_length", "choice_resemblance")
"""What is known of an answer from the list of choices alone: how distractors were made shows in it."""

_WORD: Final = re.compile(r"[^\W_]+(?:[.,]\d+)?")
_HEDGE: Final = re.compile(
    r"\b(?:may|might|could|perhaps|possibly|likely|probably|seems?|appears?|assum\w{0,4}|approximately|however"
    r"|unclear|not sure|unknown|cannot|depends?|closest|nearest|not among|not listed|none of)\b",
    re.IGNORECASE,
)
_COMMON: Final = frozenset(
    {"the", "a", "an", "of", "to", "in", "is", "and", "or", "for", "on", "that", "by", "with", "as", "are", "be", "it"}
    | {"this", "from", "at", "was", "were", "not"}
)


def surface_evidence(panel: Panel, *, rationales: bool = True, choices: bool = True) -> Evidence:
    """The look of each rationale, of its answer among the choices, and of the one in the light of the other.

    Args:
        panel: its gold answers are not read.
        rationales: read the rationales; without, only question and choices speak.
        choices: read what the list of choices alone says of an answer (`CHOICE_KINDS`).

    Returns: evidence, nan where a rationale, an answer or a list of choices lacks.
    Source: own.
    """
    rows = [
        [
            {name: value for name, value in cell.items() if choices or name not in CHOICE_KINDS}
            for cell in _cells(question, panel.rationale_QT[row], panel.concluded_QT[row], rationales)
        ]
        for row, question in enumerate(panel.questions)
    ]
    names = tuple(sorted({name for cells in rows for cell in cells for name in cell}))
    value_QTF = np.array([[[cell.get(name, math.nan) for name in names] for cell in cells] for cells in rows])
    return Evidence(names, value_QTF.reshape(len(panel), len(panel.teachers), len(names)))


@dataclass(frozen=True, slots=True)
class _Reading:
    """A rationale, read once."""

    length: int
    text: str
    words: frozenset[str]
    numbers: list[float]

    @property
    def result(self) -> float:
        """The last number; nan where there is none."""
        return self.numbers[-1] if self.numbers else math.nan


@dataclass(frozen=True, slots=True)
class _Choices:
    """The choices of a question, read once."""

    words: list[frozenset[str]]
    value: list[float]
    numeric: float
    known: Mapping[str, Array]


def _cells(question: Question, rationale_T: Array, answer_T: Array, rationales: bool) -> list[Numbers]:
    listed = _read_choices(question.choices)
    asked = {
        "num_choices": float(len(question.choices)),
        "question_length": math.log1p(len(question.question)),
        "numeric_choices": listed.numeric,
    }
    read = [_read(text) if rationales and text is not None else None for text in rationale_T]
    looks = _looks(read)
    question_words = _words(question.question)
    cells = []
    for teacher, answer in enumerate(answer_T.tolist()):
        cell = {**asked, **looks[teacher]}
        if answer != NONE and question.choices:
            cell |= {name: float(value[answer]) for name, value in listed.known.items()}
            cell["question_names_it"] = _share(listed.words[answer], question_words)
            cell |= _support(teacher, answer, read, listed)
        cells.append(cell)
    return cells


def _read(text: str) -> _Reading:
    kept = text[-LONGEST_READ:]
    return _Reading(len(text), kept, _words(kept), numbers_in(kept))


def _looks(read: list[_Reading | None]) -> list[Numbers]:
    lengths = [math.log1p(reading.length) for reading in read if reading is not None]
    mean = sum(lengths) / max(len(lengths), 1)
    return [{} if reading is None else _look(reading, mean) for reading in read]


def _look(reading: _Reading, mean_length: float) -> Numbers:
    right, wrong = check_arithmetic(reading.text)
    packed = len(zlib.compress(reading.text.encode("utf-8", "replace"), 1))
    return {
        "length": math.log1p(reading.length),
        "relative_length": math.log1p(reading.length) - mean_length,
        "num_numbers": math.log1p(len(reading.numbers)),
        "num_equal_signs": math.log1p(reading.text.count("=")),
        "sums_right": float(right),
        "sums_wrong": float(wrong),
        "num_hedges": float(len(_HEDGE.findall(reading.text))),
        # Text that repeats itself packs well; very short text never does.
        "packed_share": packed / max(len(reading.text), 30),
    }


def _support(teacher: int, answer: int, read: list[_Reading | None], listed: _Choices) -> Numbers:
    """How far the own rationale, and those of the others, speak for the answer and for its rivals."""
    own = read[teacher]
    others = [reading for column, reading in enumerate(read) if column != teacher and reading is not None]
    rivals = [choice for choice in range(len(listed.words)) if choice != answer]
    support: Numbers = {}
    if own is not None:
        support["named"] = _share(listed.words[answer], own.words)
        support["rival_named"] = max((_share(listed.words[rival], own.words) for rival in rivals), default=0.0)
        support["result_is_answer"] = float(close(own.result, listed.value[answer]))
        support["result_is_rival"] = float(any(close(own.result, listed.value[rival]) for rival in rivals))
    if others:
        named = [_share(listed.words[answer], reading.words) for reading in others]
        support["named_by_others"] = sum(named) / len(named)
        support["named_by_another"] = max(named)
        support["result_of_others"] = float(sum(close(reading.result, listed.value[answer]) for reading in others))
    return support


def _read_choices(choices: tuple[str, ...]) -> _Choices:
    value = [next(iter(numbers_in(choice)), math.nan) for choice in choices]
    numeric = sum(not math.isnan(number) for number in value) / max(len(choices), 1)
    length_C = np.log1p([len(choice) for choice in choices])
    known = {
        "value_rank": _rank_C(value) if choices and numeric >= NUMERIC_SHARE else np.full(len(choices), math.nan),
        "choice_position": np.arange(len(choices)) / max(len(choices) - 1, 1),
        "choice_length": length_C,
        "choice_relative_length": length_C - (length_C.mean() if choices else 0.0),
        "choice_resemblance": _resemblance_C(choices),
    }
    return _Choices([_words(choice) for choice in choices], value, numeric, known)


def _rank_C(value: list[float]) -> Array:
    """(C,) float in [0, 1], from the lowest number to the highest; a choice without one ranks as 0 would."""
    order_C = np.argsort(np.nan_to_num(np.array(value)), kind="stable")
    return np.asarray(np.argsort(order_C, kind="stable") / max(len(value) - 1, 1))


def _resemblance_C(choices: tuple[str, ...]) -> Array:
    """(C,) float, how much of its letter triples a choice shares with the others, against the mean of all choices."""
    triples = [{padded[start : start + 3] for start in range(len(padded) - 2)} for padded in map(_padded, choices)]
    mean_C = np.array(
        [
            sum(len(one & other) / len(one | other) for other in triples if other is not one) / max(len(triples) - 1, 1)
            for one in triples
        ]
    )
    return mean_C - (mean_C.mean() if choices else 0.0)


def _padded(choice: str) -> str:
    return f"  {choice[:LONGEST_READ].casefold()}  "


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold())) - _COMMON


def _share(words: frozenset[str], there: frozenset[str]) -> float:
    """Share of some words that occur; 0 where there are none."""
    return len(words & there) / max(len(words), 1)
