"""Rationales of the training rows, found by question and choice, for a student that reads them beside the two.

A rationale is known by its question, the answer and itself together. A training question never meets its own rationale,
nor that of a question that asks the same in almost the same words: it would read the answer, and learn to look it up
instead of to think. It is known as a training question by its text, whatever split it is met in later. Any other
question may meet every rationale, all of which are of training rows.

Axes: K passages, C choices of a question, N passages a choice, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa

from kp_data.errors import DataError, MethodError
from kp_data.schema import Question
from kp_data.tables import read_table, write_parquet
from kp_train.students.retrieval_embedding import NAME, sentence_embedder
from kp_train.views import Labels, Row, answer_of

Array = np.ndarray[Any, Any]
Embed = Callable[[Sequence[str]], Array]
"""Texts to (N, D) float32 unit vectors."""

Reading = Literal["vectors", "text"]
READINGS: Final[tuple[Reading, ...]] = ("vectors", "text")
"""How a student reads what was found."""

PASSAGES_FILE: Final = "retrieval.parquet"
VECTORS_FILE: Final = "retrieval.safetensors"
SAME_QUESTION: Final = 0.93
"""Cosine of two questions from which on they ask the same: above it, training questions of OpenBookQA differ by a word
or a turn of phrase; below it, by what they ask."""
COLUMNS: Final = pa.schema([(name, pa.string()) for name in ("question_id", "question", "passage")])


@dataclass(frozen=True, eq=False)
class RationaleStore:
    """Rationales and where they stand.

    Attributes:
        question_ids: (K,) the question each passage is of.
        questions: (K,) its text.
        passages: (K,) rationales.
        passage_KD: (K, D) float16 unit vectors of question, answer and rationale together.
        question_KD: (K, D) float16 unit vectors of the questions alone.
    """

    question_ids: tuple[str, ...]
    questions: tuple[str, ...]
    passages: tuple[str, ...]
    passage_KD: Array
    question_KD: Array

    @classmethod
    def build(cls, rows: Sequence[Row], embed: Embed, *, labels: Labels = "gold") -> RationaleStore:
        """A store of the rows' rationales: the purified one where any row has one, else every teacher's.

        Args:
            rows: training rows.
            embed: how questions and rationales are embedded.
            labels: which answer of a row stands between its question and its rationale.

        Raises:
            MethodError: no row has any.
        """
        purified = any(row.purified for row in rows)
        kept = [
            (row.question, answer_of(row, labels) or "", text)
            for row in rows
            for text in ([row.purified] if purified else row.rationales.values())
            if text
        ]
        if not kept:
            raise MethodError(
                "--retrieve finds rationales of training questions, and the dataset holds none; give a purified "
                "folder, or a panel folder"
            )
        passages = embed([" ".join((question.question, answer, text)) for question, answer, text in kept])
        questions = embed([question.question for question, _, _ in kept])
        return cls(
            tuple(question.id for question, _, _ in kept),
            tuple(question.question for question, _, _ in kept),
            tuple(text for _, _, text in kept),
            # Rounded at once: a student that is loaded again must find what it has learned with.
            passages.astype(np.float16),
            questions.astype(np.float16),
        )

    def asking(self, question_D: Array) -> tuple[int, ...]:
        """Numbers of the passages whose question asks the same as one of this vector."""
        return tuple(np.flatnonzero(self._vector_KD @ question_D >= SAME_QUESTION).tolist())

    @cached_property
    def _vector_KD(self) -> Array:
        """Vectors of the questions, in the format in which they are compared a thousand times."""
        return self.question_KD.astype(np.float32)

    def save(self, folder: Path) -> None:
        """Two files beside the student: a table and the vectors."""
        from safetensors.numpy import save_file

        columns = (self.question_ids, self.questions, self.passages)
        arrays = [pa.array(column, pa.string()) for column in columns]
        write_parquet(pa.Table.from_arrays(arrays, schema=COLUMNS), folder / PASSAGES_FILE)
        save_file({"passages": self.passage_KD, "questions": self.question_KD}, folder / VECTORS_FILE)

    @classmethod
    def load(cls, folder: Path) -> RationaleStore:
        """What `save` wrote.

        Raises:
            DataError: a file is missing or broken, or the two do not belong together.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        table = read_table(folder / PASSAGES_FILE)
        try:
            vectors = load_file(folder / VECTORS_FILE)
            columns = [tuple(map(str, table[name].to_pylist())) for name in COLUMNS.names]
            store = cls(columns[0], columns[1], columns[2], vectors["passages"], vectors["questions"])
        except (OSError, KeyError, SafetensorError) as error:
            raise DataError(
                f"cannot be read ({error}); copy the whole folder again, or fit the student again",
                place=folder / VECTORS_FILE,
            ) from error
        if not store.passage_KD.shape == store.question_KD.shape == (len(table), store.passage_KD.shape[-1]):
            raise DataError("does not belong to the passages beside it; copy the whole folder again", place=folder)
        return store


class Retriever:
    """Finds, for each choice of a question, the rationales nearest to question and choice, or says which it may not."""

    def __init__(
        self, store: RationaleStore, *, count: int, reading: Reading = "vectors", embed: Embed | None = None
    ) -> None:
        """A retriever.

        Args:
            store: what there is to find.
            count: N, rationales a choice.
            reading: as vectors, which the student looks up itself (`kp_train.students.recall`), or as text.
            embed: how questions are embedded; None: as `sentence_embedder` does, which embedded the store.
        """
        self.store, self.count, self.reading = store, count, reading
        self._given = embed
        vectors = store.question_KD.astype(np.float32)
        self._learned = dict(zip(store.questions, vectors, strict=True))
        self._apart: dict[str, tuple[int, ...]] = {}

    def leave_out(self, questions: Sequence[Question]) -> None:
        """Treat these as training questions too: those from which something is learned, but that have no rationale."""
        texts = list(dict.fromkeys(text for question in questions if (text := question.question) not in self._learned))
        self._learned.update(zip(texts, self._embed(texts), strict=True))

    def prepare(self, questions: Sequence[Question]) -> None:
        """Embed what these questions will ask for, together: many at once cost a fraction of one by one."""
        if self.reading == "text":
            self._embed([text for question in questions for text in _queries(question)])

    def apart(self, question: Question) -> tuple[int, ...]:
        """Numbers of the passages that a question must not meet."""
        text = question.question
        if text not in self._apart:
            vector_D = self._learned.get(text)
            self._apart[text] = () if vector_D is None else self.store.asking(vector_D)
        return self._apart[text]

    def passages(self, question: Question) -> list[list[str]]:
        """For each choice, the texts to read beside it, up to N, the nearest first; none where vectors are read."""
        import faiss

        apart = np.array(self.apart(question), dtype=np.int64)
        count = min(self.count, len(self.store.passages) - len(apart))
        if self.reading == "vectors" or not count:
            return [[] for _ in question.choices]
        others = faiss.IDSelectorNot(faiss.IDSelectorBatch(apart))
        chosen = faiss.SearchParameters(sel=others)  # type: ignore[call-arg]
        query_CD = np.ascontiguousarray(self._embed(_queries(question)))
        _, found_CN = self._index.search(query_CD, count, params=chosen)
        return [[self.store.passages[row] for row in found_N] for found_N in found_CN]

    def described(self) -> dict[str, Any]:
        """What student.json says of it."""
        return {
            "passages": self.count,
            "reading": self.reading,
            "embedder": NAME,
            "store": PASSAGES_FILE,
            "vectors": VECTORS_FILE,
        }

    def _embed(self, texts: Sequence[str]) -> Array:
        return (self._given or sentence_embedder())(texts)

    @cached_property
    def _index(self) -> Any:
        import faiss

        index = faiss.IndexFlatIP(self.store.passage_KD.shape[1])
        index.add(self.store.passage_KD.astype(np.float32))
        return index


def load_retriever(folder: Path, described: Mapping[str, Any]) -> Retriever:
    """The retriever of a saved student.

    Args:
        folder: of the student.
        described: what its student.json says of retrieval.

    Raises:
        DataError: a file is missing or broken, or another embedder made the vectors.
    """
    count, reading, embedder = (described.get(name) for name in ("passages", "reading", "embedder"))
    if embedder != NAME or not isinstance(count, int) or count < 1 or reading not in READINGS:
        raise DataError(
            f"student.json asks for {count!r} passages read as {reading!r} and found by {embedder!r}; this version "
            f"reads at least one as {' or '.join(READINGS)}, found by {NAME}; fit the student again",
            place=folder,
        )
    return Retriever(RationaleStore.load(folder), count=count, reading="text" if reading == "text" else "vectors")


def _queries(question: Question) -> list[str]:
    """The question with each choice."""
    return [f"{question.question} {choice}" for choice in question.choices]
