"""Which cells a run wants, what each of them would send, and under which key its answer is kept."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kp_data.config import Teacher
from kp_data.errors import DataError
from kp_data.schema import Mode, Question
from kp_data.teachers.prompts import PROMPT_VERSION, Message, build_messages, pick_examples
from kp_data.teachers.transport import Endpoint, parameters_of


@dataclass(frozen=True, slots=True)
class Cell:
    """One question to one teacher, in one mode, one sample.

    `request` is what the store keeps beside the answer: everything in the key, the messages as their hash, and the id
    of the question.
    """

    question: Question
    teacher: str
    mode: Mode
    sample: int
    key: str
    request: str
    messages: list[Message]
    parameters: dict[str, Any]

    @property
    def expected_tokens(self) -> int:
        """About how many tokens the call will take: four characters a token, and half of what it may write."""
        read = sum(len(message["content"]) for message in self.messages) // 4
        return read + int(self.parameters["max_tokens"]) // 2


@dataclass(frozen=True, slots=True)
class _Frame:
    """What all cells of one teacher, mode and sample share: as it goes into keys, as it is shown, and as it is sent."""

    canonical: str
    shown: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The matrix of cells of a run. Cells are made when they are looked at, so a plan is small whatever its size.

    Attributes:
        questions: in the order of the panel; may be rows that are made when they are looked at.
        teachers: in the order of the panel.
        endpoints: where each teacher is asked, by name.
        modes: what is asked.
        samples: answers a cell.
        examples: in-context examples a prompt.
        seed: of the draw of examples.
        pool: solved questions that examples are drawn from. It is the panel's own from its first run on: a pool that
            grew with the questions would change every prompt.
        example_rationales: rationale of a question of the pool by its id, where its source gave one.
        routed: name of the one teacher that each question is asked of, in the order of the questions; None: all are.
    """

    questions: Sequence[Question]
    teachers: tuple[Teacher, ...]
    endpoints: dict[str, Endpoint]
    modes: tuple[Mode, ...]
    samples: int = 1
    examples: int = 0
    seed: int = 0
    pool: Sequence[Question] = ()
    example_rationales: dict[str, str] | None = None
    routed: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if "teacher_forced" in self.modes and not self.num_solved:
            raise DataError("teacher-forced answers need gold answers, and no question here has one; ask --mode blind")
        if self.examples and len(self.pool) <= self.examples:
            raise DataError(
                f"{self.examples} in-context examples need more than {self.examples} solved questions in split train; "
                f"the source has {len(self.pool)}"
            )

    def cells(self, teacher: Teacher) -> Iterator[Cell]:
        """The cells of one teacher, question by question. Without a gold answer a question is asked blind only."""
        frames = {(mode, sample): self._frame(teacher, mode, sample) for mode in self.modes for sample in self._samples}
        for question, only in zip(self.questions, self.routed or itertools.repeat(None), strict=False):
            if only is not None and only != teacher.name:
                continue
            for mode in self.modes:
                if mode == "teacher_forced" and question.answer is None:
                    continue
                messages = self._messages(question, mode)
                digest = hashlib.sha256(json.dumps(messages, ensure_ascii=False).encode()).hexdigest()
                for sample in self._samples:
                    frame = frames[mode, sample]
                    # Joined by hand: all but the question is the same for thousands of cells. Its id is not in the
                    # key: it says later what a cell was about, and changes no answer.
                    key = hashlib.sha256(f"{frame.canonical}{digest}".encode()).hexdigest()
                    request = f'{frame.shown}, "messages_sha256": "{digest}", "question": {json.dumps(question.id)}}}'
                    yield Cell(question, teacher.name, mode, sample, key, request, messages, frame.parameters)

    def count(self, teacher: Teacher) -> int:
        """How many cells a teacher has."""
        asked, solved = self._sizes.get(None if self.routed is None else teacher.name, (0, 0))
        return self.samples * sum(solved if mode == "teacher_forced" else asked for mode in self.modes)

    @property
    def num_solved(self) -> int:
        """Questions with a gold answer: those that can be asked teacher-forced."""
        return sum(solved for _, solved in self._sizes.values())

    @cached_property
    def _sizes(self) -> dict[str | None, tuple[int, int]]:
        """Teacher, or None for all of them, to how many questions are asked of it, and how many of those are solved."""
        sizes: dict[str | None, tuple[int, int]] = {}
        for question, only in zip(self.questions, self.routed or itertools.repeat(None), strict=False):
            asked, solved = sizes.get(only, (0, 0))
            sizes[only] = (asked + 1, solved + (question.answer is not None))
        return sizes

    def _messages(self, question: Question, mode: Mode) -> list[Message]:
        examples = pick_examples(self.pool, question, k=self.examples, seed=self.seed)
        return build_messages(question, mode=mode, examples=examples, rationales=self.example_rationales)

    @property
    def _samples(self) -> range:
        return range(self.samples)

    def _frame(self, teacher: Teacher, mode: Mode, sample: int) -> _Frame:
        parameters = parameters_of(teacher, sample=sample)
        request = {
            "endpoint": self.endpoints[teacher.name].identity,
            "mode": mode,
            "parameters": parameters,
            "prompt_version": PROMPT_VERSION,
            "sample": sample,
        }
        canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return _Frame(canonical, json.dumps(request, sort_keys=True).removesuffix("}"), parameters)
