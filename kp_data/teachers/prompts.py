"""What a teacher is asked, blind or teacher-forced, with or without in-context examples.

One user message and no system role, because not every endpoint has one. Changing any wording here changes what is
asked, so it must come with a new PROMPT_VERSION: the version is part of a cell's key.
Source: the block layout and the teacher-forced prompt follow TinyLLM (arXiv:2402.04616); the blind prompt is our own.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Final

from kp_data.schema import Mode, Question

PROMPT_VERSION: Final = 1

Message = dict[str, str]

QUESTION_HEAD: Final = "Question: "
CHOICES_HEAD: Final = "Answer choices:"
GOLD_HEAD: Final = "Correct answer: "

BLIND_CHOICE: Final = (
    'Think step by step. End with one line that says "The answer is (X)", X being the letter of your choice.'
)
BLIND_OPEN: Final = 'Think step by step. End with one line that says "The answer is", followed by your answer.'
FORCED: Final = "Explain step by step why this answer is correct, in a few sentences. End with the line: {line}"


def choice_letter(index: int) -> str:
    """The letter of a choice: A to Z, then numbers from 27.

    >>> choice_letter(0), choice_letter(25), choice_letter(26)
    ('A', 'Z', '27')
    """
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def render_question(question: Question) -> str:
    """A question as a block of text; the same block in every prompt, so that a server can find it again.

    >>> print(render_question(Question(id="1", question="Is ice cold?", choices=("yes", "no"))))
    Question: Is ice cold?
    Answer choices:
    (A) yes
    (B) no
    """
    lines = [f"Context: {question.context}"] if question.context else []
    lines.append(QUESTION_HEAD + question.question)
    if question.choices:
        lines.append(CHOICES_HEAD)
        lines += [f"({choice_letter(index)}) {choice}" for index, choice in enumerate(question.choices)]
    return "\n".join(lines)


def render_answer(question: Question) -> str:
    """The line that states the gold answer."""
    if question.choices and question.answer_index is not None:
        return f"The answer is ({choice_letter(question.answer_index)})."
    return f"The answer is {question.answer}."


def build_messages(
    question: Question, *, mode: Mode, examples: Sequence[Question] = (), rationales: Mapping[str, str] | None = None
) -> list[Message]:
    """The chat messages that ask one question.

    Args:
        question: what is asked; its gold answer enters the prompt in mode `teacher_forced` only.
        mode: `blind` or `teacher_forced`.
        examples: solved questions to show first, with their gold answers.
        rationales: rationale of an example by question id, where there is one.

    Raises:
        ValueError: mode `teacher_forced` and the question has no gold answer.
    """
    if mode == "teacher_forced" and question.answer is None:
        raise ValueError(f"question {question.id}: teacher-forced needs a gold answer")
    blocks = [_example(example, mode, (rationales or {}).get(example.id)) for example in examples]
    blocks.append("\n".join([*_head(question, mode), "", _instruction(question, mode)]))
    return [{"role": "user", "content": "\n\n".join(blocks)}]


def pick_examples(pool: Sequence[Question], question: Question, *, k: int, seed: int = 0) -> list[Question]:
    """k solved questions for a prompt, drawn at random, the same for the same question and seed.

    The question itself, and any question with the same text, is never among them.

    Args:
        pool: questions to draw from; those without a gold answer are passed over.
        question: the one that will be asked.
        k: how many; fewer come back when the pool is smaller.
        seed: of the draw.
    """
    if k == 0:
        return []
    digest = hashlib.sha256(f"{seed}:{question.id}".encode()).digest()
    draw = random.Random(digest)
    picked: list[Question] = []
    # Drawing positions one by one keeps the cost at k, not at the size of the pool.
    tried: set[int] = set()
    while len(picked) < k and len(tried) < len(pool):
        position = draw.randrange(len(pool))
        if position in tried:
            continue
        tried.add(position)
        candidate = pool[position]
        if candidate.answer is not None and candidate.id != question.id and candidate.question != question.question:
            picked.append(candidate)
    return picked


def last_question_block(text: str) -> str:
    """The block of `render_question` that stands last in a prompt (context excluded), "" where there is none."""
    start = text.rfind(QUESTION_HEAD)
    return text[start:].split("\n\n", 1)[0].split("\n" + GOLD_HEAD, 1)[0] if start >= 0 else ""


def _head(question: Question, mode: Mode) -> list[str]:
    lines = [render_question(question)]
    if mode == "teacher_forced":
        if question.choices and question.answer_index is not None:
            lines.append(f"{GOLD_HEAD}({choice_letter(question.answer_index)}) {question.answer}")
        else:
            lines.append(f"{GOLD_HEAD}{question.answer}")
    return lines


def _example(example: Question, mode: Mode, rationale: str | None) -> str:
    lines = _head(example, mode)
    if rationale:
        lines.append(f"Rationale: {rationale}")
    return "\n".join([*lines, render_answer(example)])


def _instruction(question: Question, mode: Mode) -> str:
    if mode == "teacher_forced":
        return FORCED.format(line=render_answer(question))
    return BLIND_CHOICE if question.choices else BLIND_OPEN
