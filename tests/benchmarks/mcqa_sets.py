"""The sets and the rows of `student_mcqa.py`: whose rationales a student reads, and how each row's dataset is made.

A row is a name: `plain` reads nothing; a teacher's name reads what this teacher wrote; `all` reads every teacher;
a method of `kp-data methods` reads what it keeps; `answers` reads the gold answers of the training questions without
any rationale, so that what retrieval alone gives is known. With `+sets` after it, the rationales of the other in-domain
sets' training questions can be looked up too, by the same row there.

Panels that are teacher-forced alone hold no answers of the teachers' own, which most methods learn from. For these
`read_panel` makes a stand-in: each rationale is read without the gold answer, and the choice whose own words it repeats
most fully is what it concludes; one that repeats none, or two equally, concludes nothing. That is no answer the teacher
gave; it tells rationales that argue for the gold from those that lost their way. Where choices are yes and no, it says
little.

Axes: Q questions, T teachers.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kp_data.panel import Panel
from kp_data.purify import purify_panel
from kp_data.schema import Question, Response
from kp_data.tables import (
    questions_of,
    read_questions,
    read_responses,
    table_of_questions,
    table_of_responses,
    write_parquet,
)
from kp_train.dataset import Dataset, read_dataset

Array = np.ndarray[Any, Any]

PLAIN: Final = "plain"
ALL: Final = "all"
ANSWERS: Final = "answers"
SPLITS: Final = ("train", "validation", "test")
STORED: Final = ("train", "elsewhere")
"""Splits whose rationales may be looked up; `elsewhere` are training questions of other sets."""
EVERY_SET: Final = "+sets"
SMALLEST_WEIGHT: Final = 0.1
OFTEN: Final = 1e-3
_WORD: Final = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class SetPlan:
    """How a set is run.

    Attributes:
        name: of its folder.
        in_domain: whether the published averages count it.
        limits: split to how many of its questions are kept, those whose hashed ids are smallest; absent: all.
        context: whether a question's last line asks, and what stands above it is context: a rationale is then known by
            what is asked, not by an abstract that is longer than what an embedder reads.
        epochs: of the fine-tuned student; None: its recipe's.
        eval_steps: between two validations of it; None: twelve a run.
    """

    name: str
    in_domain: bool = True
    limits: tuple[tuple[str, int], ...] = ()
    context: bool = False
    epochs: float | None = None
    eval_steps: int | None = None


PLANS: Final = {
    plan.name: plan
    for plan in (
        SetPlan("obqa"),
        SetPlan("arc", epochs=4, eval_steps=35),
        SetPlan("riddle", epochs=3),
        SetPlan("pubmedqa", context=True, epochs=2, eval_steps=16),
        SetPlan("bioasq", in_domain=False, context=True, epochs=3),
        SetPlan("piqa", in_domain=False, limits=(("train", 4000),), epochs=2),
        SetPlan("mmlu_pro", in_domain=False, limits=(("train", 1000), ("validation", 300), ("test", 500)), epochs=2),
    )
}


@dataclass(frozen=True)
class SetFolder:
    """One set: its panel as published, and the folder in which everything made from it lies."""

    plan: SetPlan
    source: Path
    work: Path

    def panel(self) -> Panel:
        """The panel that is run: the source's, or a prepared copy of it."""
        return Panel.read(self._prepared())

    def dataset(self, row: str) -> Dataset:
        """The dataset of a row, made when it is first asked for."""
        if row.endswith(EVERY_SET):
            return self._with_other_sets(row.removesuffix(EVERY_SET))
        place = self._prepared()
        teachers = Panel.read(place).teachers
        if row == PLAIN:
            return read_dataset(place)
        if row == ALL:
            return read_dataset(place, teachers=teachers)
        if row in teachers:
            return read_dataset(place, teachers=[row])
        if row == ANSWERS:
            dataset = read_dataset(place)
            rows = tuple(replace(each, rationales={ANSWERS: each.question.answer or ""}) for each in dataset.rows)
            return replace(dataset, rows=rows, teachers=(ANSWERS,), hashes=dataset.hashes | {"rationales": ANSWERS})
        # Test questions are no business of a purifier here: only rationales of training questions are looked up.
        panel = Panel.read(self.read_panel()).split("train", "validation")
        purify_panel(panel, method=row, out=self.work / "purified" / row)
        return read_dataset(self.work / "purified" / row)

    def read_panel(self) -> Path:
        """The folder of the panel that methods purify: with answers of the teachers' own, or those read for them."""
        panel = self.panel()
        if "blind" in panel.modes:
            return Path(str(panel.folder))
        folder = self.work / "read"
        if not (folder / "responses.parquet").is_file():
            concluded_QT = read_conclusions(panel)
            write_parquet(_responses(panel, concluded_QT), folder / "responses.parquet")
            write_parquet(read_questions(Path(str(panel.folder)) / "questions.parquet"), folder / "questions.parquet")
        return folder

    def _with_other_sets(self, row: str) -> Dataset:
        """This set's dataset, and the training rows of the other in-domain sets that have the row."""
        dataset, rows = self.dataset(row), []
        for plan in PLANS.values():
            other = SetFolder(plan, self.source.parent / plan.name, self.work.parent / plan.name)
            if plan.in_domain and plan.name != self.plan.name and other.source.is_dir():
                rows += [
                    replace(each, question=replace(each.question, split="elsewhere"))
                    for each in other.dataset(row).split("train").rows
                ]
        return replace(dataset, rows=(*dataset.rows, *rows))

    def _prepared(self) -> Path:
        """The source, or a copy of it with fewer questions, or with contexts told from questions."""
        if not (self.plan.limits or self.plan.context):
            return self.source
        folder = self.work / "panel"
        if not (folder / "questions.parquet").is_file():
            table = read_questions(self.source / "questions.parquet")
            kept = _kept(table["id"].to_pylist(), table["split"].to_pylist(), dict(self.plan.limits))
            questions = [question for question in questions_of(table) if question.id in kept]
            if self.plan.context:
                questions = [_with_context(question) for question in questions]
            responses = read_responses(self.source / "responses.parquet")
            ours = pc.is_in(responses["question_id"], pa.array(sorted(kept)))
            write_parquet(responses.filter(ours), folder / "responses.parquet")
            write_parquet(table_of_questions(questions), folder / "questions.parquet")
        return folder


def read_conclusions(panel: Panel) -> Array:
    """(Q, T) int, the choice whose own words each rationale repeats most fully, -1 where no choice is ahead.

    A choice's own words are those that not every choice of its question has; a rare word counts more than a common one.
    Source: own.
    """
    texts = [" ".join((question.question, *question.choices)) for question in panel.questions]
    known_in = Counter(word for text in texts for word in set(_words(text)))
    weight = {word: math.log(len(panel) / count) + SMALLEST_WEIGHT for word, count in known_in.items()}
    concluded_QT = np.full(panel.rationale_QT.shape, -1)
    for place, question in enumerate(panel.questions):
        choices = [set(_words(choice)) for choice in question.choices]
        own = [{word for word in choice if not all(word in other for other in choices)} for choice in choices]
        for column, text in enumerate(panel.rationale_QT[place]):
            said = Counter(_words(text or ""))
            scores = [_repeated(words, said, weight) for words in own]
            if scores and max(scores) > 0 and scores.count(max(scores)) == 1:
                concluded_QT[place, column] = scores.index(max(scores))
    return concluded_QT


def _repeated(own: set[str], said: Counter[str], weight: Mapping[str, float]) -> float:
    """How fully a text repeats words, by weight; how often it does decides where two are repeated in full."""
    if not own:
        return 0.0
    total = sum(weight[word] for word in own)
    return sum(weight[word] for word in own if said[word]) / total + OFTEN * sum(said[word] for word in own)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def reading_accuracy(folder: SetFolder) -> dict[str, float]:
    """Teacher to the share of training rationales whose conclusion, given or read, is the gold answer."""
    train = Panel.read(folder.read_panel()).split("train")
    return {
        teacher: float((train.answer_QT[:, column] == train.gold_Q).mean())
        for column, teacher in enumerate(train.teachers)
    }


def _responses(panel: Panel, concluded_QT: Array) -> pa.Table:
    responses = []
    for place, question in enumerate(panel.questions):
        for column, teacher in enumerate(panel.teachers):
            index = int(concluded_QT[place, column])
            responses.append(_response(question, teacher, panel.rationale_QT[place, column], index))
    return table_of_responses(responses)


def _response(question: Question, teacher: str, rationale: str | None, index: int) -> Response:
    if index < 0:
        return Response(question.id, teacher, "blind", rationale=rationale)
    correct = None if question.answer_index is None else index == question.answer_index
    return Response(
        question.id,
        teacher,
        "blind",
        rationale=rationale,
        answer=question.choices[index],
        answer_index=index,
        correct=correct,
    )


def _with_context(question: Question) -> Question:
    """The question with what stands above its last line as its context, where it has more than one line."""
    above, newline, asked = question.question.strip().rpartition("\n")
    return replace(question, question=asked.strip(), context=above.strip()) if newline and asked.strip() else question


def _kept(ids: Sequence[str], splits: Sequence[str], limits: dict[str, int]) -> set[str]:
    """The ids that a limit keeps, and all of the other splits that are looked at."""
    kept: set[str] = set()
    for split in SPLITS:
        ours = [name for name, of in zip(ids, splits, strict=True) if of == split]
        ours.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
        kept.update(ours[: limits.get(split, len(ours))])
    return kept
