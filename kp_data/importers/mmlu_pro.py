"""Evaluation results of MMLU-Pro: JSON arrays of questions, each with what one model wrote.

Layout, of TIGER-AI-Lab/MMLU-Pro: `eval_results/MODEL/SUBJECT_result.json`, or an archive
`model_outputs_MODEL_5shots.zip`. An item has `question_id`, `question`, `options`, `answer` (a letter), `answer_index`,
`category`, `pred` (the letter that the benchmark's own patterns read, null where they read none) and the model's text,
under one of `model_outputs`, `generated_text` and `response`. The models were asked without the gold answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from kp_data.errors import ConfigError
from kp_data.importers.json_rows import Document, documents_of, elements_of
from kp_data.importers.records import (
    Imported,
    ImportOptions,
    LeftOut,
    Row,
    UnusableRow,
    clean,
    letter_index,
    text_of,
)
from kp_data.schema import Question, Response
from kp_data.teachers.parsing import parse_answer

TEXTS: Final = ("model_outputs", "generated_text", "response")
FILLER: Final = "N/A"
"""What fills up the options of questions that have fewer than ten; the models did not see it."""
_ARCHIVE: Final = re.compile(r"^model_outputs_(?P<model>.+?)(?:_\d+shots?)?$")


def read_mmlu_pro(sources: Sequence[Path], options: ImportOptions) -> Iterator[Row]:
    """Rows of result files, archives or folders of them; the teacher is named by folder or archive."""
    for source in sources:
        for document in documents_of(source, like=lambda name: not name.endswith("summary.json")):
            teacher = options.single_teacher or _teacher(document)
            for element in elements_of(document):
                if element.problem is not None or not isinstance(element.value, dict):
                    yield LeftOut(element.place, element.problem or "is no object")
                    continue
                try:
                    yield _imported(element.value, teacher, element.place, options)
                except UnusableRow as fault:
                    yield LeftOut(element.place, str(fault))


def _teacher(document: Document) -> str:
    """The model as the folder or archive is called.

    Raises:
        ConfigError: it has a name that says nothing.
    """
    match = _ARCHIVE.match(document.folder)
    name = match["model"] if match else document.folder
    if name in ("", ".", "eval_results"):
        raise ConfigError("no folder names the model; give --teacher NAME", place=document.place)
    return name


def _imported(item: Mapping[str, Any], teacher: str, place: str, options: ImportOptions) -> Imported:
    question = _question(item)
    key = next((name for name in TEXTS if item.get(name) is not None), None)
    if key is None:
        raise UnusableRow(f"none of the fields {', '.join(TEXTS)} is there")
    text = text_of(item, key)
    read = parse_answer(text, question.choices)
    pred = item.get("pred")
    index = letter_index(pred.strip(), len(question.choices)) if isinstance(pred, str) else read.index
    response = Response(
        question.id,
        teacher,
        options.mode or "blind",
        # Where the benchmark read another answer than ours, nobody knows which words state it.
        rationale=read.rationale if index == read.index else text,
        answer_index=index,
    )
    return Imported(question, (response,), place)


def _question(item: Mapping[str, Any]) -> Question:
    number, choices = item.get("question_id"), item.get("options")
    if isinstance(number, bool) or not isinstance(number, int | str):
        raise UnusableRow("field 'question_id' is missing or neither number nor text")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise UnusableRow("field 'options' is no list of texts")
    shown = [clean(choice) for choice in choices]
    while shown and shown[-1] == FILLER:
        shown.pop()
    index = item.get("answer_index")
    if index is None:
        index = letter_index(text_of(item, "answer"), len(shown))
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(shown):
        raise UnusableRow("the gold answer's index is no choice's")
    letter = item.get("answer")
    if isinstance(letter, str) and letter_index(letter.strip(), len(shown)) not in (None, index):
        raise UnusableRow("the gold answer and its index do not agree")
    return Question(
        id=f"mmlu-pro/{clean(str(number))}",
        question=text_of(item, "question"),
        choices=tuple(shown),
        answer=shown[index],
        answer_index=index,
        subject=text_of(item, "category", needed=False) or None,
    )
