"""Several answers of a student to each question: writers write them, scorers of choices draw them.

Axes: K samples, C choices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from kp_data.schema import Question
from kp_data.teachers.parsing import parse_answer
from kp_train.answering import read_written
from kp_train.assistant.signals import Vote, vote
from kp_train.students import Student
from kp_train.views import LABEL, LABEL_PREFIX, Target, View, rationale_prefix

Array = np.ndarray[Any, Any]

TEMPERATURE: Final = 0.7
AT_ONCE: Final = 64
"""Questions whose samples are written together."""
ANSWER_TOKENS: Final = 32
SOLUTION_TOKENS: Final = 160
"""How long an answer, and an answer with its rationale, may become."""


def student_votes(
    student: Student,
    questions: Sequence[Question],
    *,
    samples: int,
    temperature: float = TEMPERATURE,
    view: View = "separate",
    seed: int = 0,
) -> list[Vote]:
    """What a student says to each question, K times.

    A student that writes under the view `separate` writes the answer alone, because what it writes about a question
    apart from its answer may argue for another one; under the other views each sample is a rationale with its answer. A
    student that scores choices draws from its distribution over them, question by question with a seed of its own.

    Args:
        student: any.
        questions: choice questions, or open-ended ones for a student that writes.
        samples: K, 1 or more.
        temperature: of sampling, above 0.
        view: how the student has learned rationales.
        seed: of the draws.
    """
    if not questions:
        return []
    if not student.writes_text:
        scores = student.choice_log_probs(questions)
        return [
            _drawn(question, np.asarray(score_C) / temperature, samples, seed)
            for question, score_C in zip(questions, scores, strict=True)
        ]
    prefix = LABEL_PREFIX if view == "separate" else rationale_prefix(view)
    length = ANSWER_TOKENS if view == "separate" else SOLUTION_TOKENS
    texts = _written(student, questions, prefix, samples, temperature, length, seed)
    return [_read(question, written, view) for question, written in zip(questions, texts, strict=True)]


def _drawn(question: Question, logit_C: Array, samples: int, seed: int) -> Vote:
    share_C = np.exp(logit_C - logit_C.max())
    digest = hashlib.sha256(f"{seed}:{question.id}".encode()).digest()
    draw = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    chosen = draw.choice(len(share_C), size=samples, p=share_C / share_C.sum())
    return vote([question.choices[index] for index in chosen], choices=question.choices)


def _read(question: Question, written: Sequence[str], view: View) -> Vote:
    answers, rationales = [], []
    for text in written:
        if question.choices:
            index = read_written(question, text).predicted
            answers.append(None if index is None else question.choices[index])
        else:
            answers.append((parse_answer(text).answer or text.strip()) or None)
        rationales.append(None if view == "separate" else parse_answer(text, question.choices).rationale or None)
    return vote(answers, rationales=rationales, choices=question.choices)


def _written(
    student: Student,
    questions: Sequence[Question],
    prefix: str,
    samples: int,
    temperature: float,
    length: int,
    seed: int,
) -> list[list[str]]:
    """K texts a question; questions of like length are written together."""
    prompts = [student.encode(question, Target(LABEL, prefix, "-"), task=0).inputs[0] for question in questions]
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), questions[row].id))
    texts: list[list[str]] = [[] for _ in questions]
    for start in range(0, len(order), AT_ONCE):
        rows = order[start : start + AT_ONCE]
        written = _write(student, [prompts[row] for row in rows], samples, temperature, length, seed + start)
        for number, row in enumerate(rows):
            texts[row] = written[number * samples : (number + 1) * samples]
    return texts


def _write(
    student: Any, prompts: Sequence[tuple[int, ...]], samples: int, temperature: float, length: int, seed: int
) -> list[str]:
    import torch

    from kp_train.quiet import quiet_transformers

    model, tokenizer = student.model, student.tokenizer
    causal, width = student.kind == "causal", max(map(len, prompts))
    # What fills a row up is masked, so any token will do where a tokenizer names none.
    filler = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0
    rows, mask = [], []
    for prompt in prompts:
        empty = width - len(prompt)
        rows.append([filler] * empty + list(prompt) if causal else list(prompt) + [filler] * empty)
        mask.append([0] * empty + [1] * len(prompt) if causal else [1] * len(prompt) + [0] * empty)
    model.eval()
    with torch.no_grad(), quiet_transformers(), torch.random.fork_rng():
        torch.manual_seed(seed)
        tokens = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=length,
            do_sample=True,
            num_beams=1,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            num_return_sequences=samples,
        )
    texts = tokenizer.batch_decode(tokens[:, width:] if causal else tokens, skip_special_tokens=True)
    return [str(text).strip() for text in texts]
