"""The layout that Distilling Step-by-Step and, after it, TinyLLM publish their data in.

    NAME/NAME_train.json, NAME_valid.json, NAME_test.json    questions: JSON lines, or an array
    NAME/llm/train_CoT_0.json, train_CoT_1.json, …           what was written to them, in their order: arrays of texts

A text is a rationale, an anchor such as "So the answer is", and an answer; what follows belongs to a next question
that the model made up. In TinyLLM's files the text of FLAN-T5 is followed by "llama rationale: " and that of Llama 2,
which has no anchor; both models were given the gold answer. In those of Distilling Step-by-Step the text is PaLM's, and
beside the folder NAME there may be `gpt-neox/NAME/train.json`; neither model was given the gold answer.

Questions come in four shapes: `question`, `choices`, `answer`; `premise`, `hypothesis`, `label`; `input`, `label`; and
`Body`, `Question`, `Answer`.
Source of the layout: arXiv:2305.02301 and arXiv:2402.04616 with their published code. Ids and names of teachers: own.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from kp_data.errors import DataError
from kp_data.importers.json_rows import Document, Element, documents_of, elements_of
from kp_data.importers.records import (
    Imported,
    ImportOptions,
    LeftOut,
    Row,
    UnusableRow,
    choice_index,
    clean,
    letter_index,
    text_of,
)
from kp_data.schema import Mode, Question, Response
from kp_data.teachers.parsing import parse_answer

SPLITS: Final = {"train": "train", "valid": "validation", "test": "test"}
"""Theirs to ours."""
PALM, NEOX, FLAN, LLAMA = "palm-540b", "gpt-neox-20b", "flan-t5-xl", "llama-2-7b-chat"
RELATIONS: Final = ("entailment", "neutral", "contradiction")
"""What the labels 0, 1 and 2 of inference datasets mean; -1 is none."""
_LLAMA: Final = "llama rationale: "
_NEXT: Final = re.compile(r"\b(?:Q|Premise):|\n\s*Question\s*:")
_ANCHOR: Final = re.compile(r"(?:Thus,|So|Therefore,)?\s*\b[Tt]he answer is\b:?|\bAnswer:")
_LETTERED: Final = re.compile(r"\(([A-Za-z])\)")
_EQUATION: Final = re.compile(r"\(.*\)")
_BATCH: Final = re.compile(r"^(?P<split>train|valid|test)_CoT_(?P<number>\d+)\.json$")

Said = Mapping[str, str]
"""Teacher to what it wrote."""


def read_tinyllm(sources: Sequence[Path], options: ImportOptions) -> Iterator[Row]:
    """Rows of TinyLLM's `datasets/NAME` folders: FLAN-T5 and Llama 2, both given the gold answer."""

    def said(text: str) -> Said:
        first, mark, second = text.partition(_LLAMA)
        return {FLAN: first, LLAMA: second} if mark else {FLAN: first}

    for source in sources:
        yield from _read_folder(source, said, options.mode or "teacher_forced")


def read_step_by_step(sources: Sequence[Path], options: ImportOptions) -> Iterator[Row]:
    """Rows of the `datasets/NAME` folders of Distilling Step-by-Step: PaLM, and GPT-NeoX where it is there."""
    for source in sources:
        yield from _read_folder(source, lambda text: {PALM: text}, options.mode or "blind", beside=True)


def _read_folder(folder: Path, said: Callable[[str], Said], mode: Mode, *, beside: bool = False) -> Iterator[Row]:
    if not folder.is_dir():
        raise DataError("no such folder; give a folder datasets/NAME", place=folder)
    name, found = folder.resolve().name, False
    for split in SPLITS:
        questions, texts = folder / f"{name}_{split}.json", _batches(folder / "llm", split)
        other = folder.parent / "gpt-neox" / name / f"{split}.json"
        if not questions.is_file():
            if texts:
                yield LeftOut(str(texts[0]), f"there is no {name}_{split}.json whose questions these texts answer")
            continue
        found = True
        streams = [(said, _elements(texts))]
        if beside and other.is_file():
            streams.append((lambda text: {NEOX: text}, _elements([other])))
        yield from _read_split(f"{name}/{SPLITS[split]}", questions, streams, mode)
    if not found:
        raise DataError(f"neither {name}_train.json nor {name}_test.json is there", place=folder)


def _read_split(
    prefix: str, questions: Path, streams: list[tuple[Callable[[str], Said], Iterator[Element]]], mode: Mode
) -> Iterator[Row]:
    """Questions and texts side by side; whatever is bad in one, the others keep their places."""
    for number, asked in enumerate(_elements([questions])):
        written = [(said, next(elements, None)) for said, elements in streams]
        try:
            question = _question(asked, f"{prefix}/{number:05d}")
        except UnusableRow as fault:
            yield LeftOut(asked.place, str(fault))
            continue
        responses: list[Response] = []
        for said, element in written:
            if element is None:
                yield LeftOut(asked.place, "nothing was written to this question")
            elif not isinstance(element.value, str):
                yield LeftOut(element.place, element.problem or "what was written is no text")
            else:
                texts = said(clean(element.value)).items()
                responses += [_response(question, teacher, text, mode) for teacher, text in texts]
        yield Imported(question, tuple(responses), asked.place, own_split=True)
    for _, elements in streams:
        for element in elements:
            yield LeftOut(element.place, f"there is no question for this text in {questions.name}")


def _batches(folder: Path, split: str) -> list[Path]:
    """The files of a split in the order of their numbers.

    Raises:
        DataError: a number is missing: what follows would stand beside the wrong questions.
    """
    found = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        if (match := _BATCH.match(path.name)) is not None and match["split"] == split:
            found[int(match["number"])] = path
    for number in range(len(found)):
        if number not in found:
            raise DataError(
                f"{split}_CoT_{number}.json is missing, so later texts would stand beside the wrong questions",
                place=folder,
            )
    return [found[number] for number in sorted(found)]


def _elements(paths: Sequence[Path]) -> Iterator[Element]:
    documents: Iterator[Document] = itertools.chain.from_iterable(map(documents_of, paths))
    return itertools.chain.from_iterable(map(elements_of, documents))


def _question(asked: Element, name: str) -> Question:
    if asked.problem is not None or not isinstance(asked.value, dict):
        raise UnusableRow(asked.problem or "is no object")
    row = asked.value
    _, split, _ = name.rsplit("/", 2)
    text, choices, answer = _shape(row)
    index = choice_index(answer, choices) if choices and answer is not None else None
    if choices and answer is not None and index is None:
        raise UnusableRow("the gold answer is none of the choices")
    return Question(
        id=name,
        question=text,
        choices=choices,
        answer=choices[index] if index is not None else answer,
        answer_index=index,
        split=split,
        subject=name.split("/")[0],
    )


def _shape(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...], str | None]:
    """Question, choices and gold answer of a row of any of the four shapes.

    Raises:
        UnusableRow: it has none of them.
    """
    if "choices" in row:
        return text_of(row, "question"), _choices(row["choices"]), text_of(row, "answer", needed=False) or None
    if "premise" in row:
        text = f"Premise: {text_of(row, 'premise')}\nHypothesis: {text_of(row, 'hypothesis')}"
        return text, RELATIONS, _relation(row.get("label"))
    if "input" in row:
        return text_of(row, "input"), (), text_of(row, "label", needed=False) or None
    if "Body" in row:
        answer = text_of(row, "Answer", needed=False) or None
        return f"{text_of(row, 'Body')}\n{text_of(row, 'Question')}", (), answer
    raise UnusableRow("has none of the fields 'choices', 'premise', 'input' and 'Body'")


def _choices(value: Any) -> tuple[str, ...]:
    """Choices as a list, or as the Hub has them, texts and letters apart."""
    texts = value.get("text") if isinstance(value, dict) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise UnusableRow("field 'choices' is no list of texts")
    return tuple(clean(text) for text in texts)


def _relation(label: Any) -> str | None:
    if isinstance(label, str) and label in RELATIONS:
        return label
    if isinstance(label, bool) or not isinstance(label, int) or not -1 <= label < len(RELATIONS):
        raise UnusableRow("field 'label' is none of 0, 1, 2 and -1")
    return RELATIONS[label] if label >= 0 else None


def _response(question: Question, teacher: str, text: str, mode: Mode) -> Response:
    # Llama 2 was let write on; FLAN-T5, PaLM and GPT-NeoX were shown where an answer ends.
    own = text if teacher == LLAMA else _NEXT.split(text, maxsplit=1)[0]
    anchor = None if teacher == LLAMA else _last(_ANCHOR, own)
    index, answer = (None, None) if anchor is None else _stated(own[anchor.end() :], question)
    if anchor is not None and (index is not None or answer is not None):
        rationale = own[: anchor.start()].strip()
    else:
        read = parse_answer(own, question.choices)
        rationale, index, answer = read.rationale, read.index, read.answer
    return Response(question.id, teacher, mode, rationale=rationale or None, answer=answer, answer_index=index)


def _stated(rest: str, question: Question) -> tuple[int | None, str | None]:
    """The answer that follows an anchor: a lettered choice, a choice's own text, or an expression in brackets."""
    if question.choices:
        plain = rest.strip().rstrip(".").strip()
        same = [index for index, choice in enumerate(question.choices) if choice.strip().rstrip(".") == plain]
        lettered = _LETTERED.search(rest)
        index = letter_index(lettered[1], len(question.choices)) if lettered else None
        return (same[0] if index is None and len(same) == 1 else index), None
    equation = _EQUATION.search(rest)
    stated = equation[0] if equation else rest.strip().rstrip(".").strip()
    return None, stated or None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(reversed(list(pattern.finditer(text))), None)
