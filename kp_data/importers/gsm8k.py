"""Example solutions of GSM8K: JSON lines, each a problem with what several models wrote.

Layout, of openai/grade-school-math, `example_model_solutions.jsonl`: `question`, `ground_truth` (worked out, the answer
after `A:` or `####` in its last line) and, under the name of each model, an object with `solution` and `is_correct`.
Marks for the calculator, `<<16-3=13>>`, are taken out: they are instructions to a program, not words. Whether a
solution is right is found here by comparing answers, as for every other panel, and not taken from `is_correct`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from kp_data.importers.json_rows import documents_of, elements_of
from kp_data.importers.records import Imported, ImportOptions, LeftOut, Row, UnusableRow, clean, text_of
from kp_data.schema import Question, Response

SOLUTION: Final = "solution"
_CALCULATION: Final = re.compile(r"<<[^<>]*>>")
_ANSWER: Final = re.compile(r"^(?:A:|####)\s*(?P<answer>\S.*?)\s*$", re.MULTILINE)


def read_gsm8k(sources: Sequence[Path], options: ImportOptions) -> Iterator[Row]:
    """Rows of files of example solutions; the teachers are the fields that hold a solution."""
    number = 0
    for source in sources:
        for document in documents_of(source):
            for element in elements_of(document):
                # Counted by line, so that a bad one does not move the ids of those after it.
                number += 1
                if element.problem is not None or not isinstance(element.value, dict):
                    yield LeftOut(element.place, element.problem or "is no object")
                    continue
                try:
                    yield _imported(element.value, f"gsm8k/{number:05d}", element.place, options)
                except UnusableRow as fault:
                    yield LeftOut(element.place, str(fault))


def _imported(row: Mapping[str, Any], name: str, place: str, options: ImportOptions) -> Imported:
    _, gold = _worked(text_of(row, "ground_truth"))
    if gold is None:
        raise UnusableRow("field 'ground_truth' states no answer after 'A:' or '####'")
    question = Question(name, text_of(row, "question"), answer=gold, split="test", subject="gsm8k")
    solved = {key: value[SOLUTION] for key, value in row.items() if isinstance(value, dict) and SOLUTION in value}
    if not solved:
        raise UnusableRow(f"no model's field holds a '{SOLUTION}'")
    responses = []
    for teacher, text in solved.items():
        if text is not None and not isinstance(text, str):
            raise UnusableRow(f"a '{SOLUTION}' is no text")
        rationale, answer = _worked(clean(text or ""))
        responses.append(Response(name, clean(teacher), options.mode or "blind", rationale=rationale, answer=answer))
    return Imported(question, tuple(responses), place, own_split=True)


def _worked(text: str) -> tuple[str, str | None]:
    """A solution without calculator marks and without its last line's answer, and that answer."""
    plain = _CALCULATION.sub("", text)
    found = list(_ANSWER.finditer(plain))
    if not found:
        return plain.strip(), None
    return plain[: found[-1].start()].strip(), found[-1]["answer"]
