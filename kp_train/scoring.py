"""How a student's likelihoods become a score of each choice.

Q questions, C choices of a question.

    sum     log p(choice | question)                                  what the student finds likeliest
    token   the same divided by the choice's tokens                   long choices are not put off
    char    the same divided by the choice's characters (UTF-8 bytes)  the same, whatever the tokenizer
    pmi     log p(choice | question, choices) - log p(choice | choices)  how much likelier the question makes it

`sum` is the default: it is what students are trained on. An encoder scores choices directly, so it has `sum` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Literal

from kp_data.errors import ConfigError, MethodError
from kp_data.schema import Question
from kp_train.students import Student

Scoring = Literal[
    "option-likelihood",
    "option-likelihood-per-token",
    "option-likelihood-per-character",
    "option-likelihood-pmi",
]
SCORES: Final[Mapping[str, Scoring]] = MappingProxyType(
    {
        "sum": "option-likelihood",
        "token": "option-likelihood-per-token",
        "char": "option-likelihood-per-character",
        "pmi": "option-likelihood-pmi",
    }
)
"""Name on the command line to the name in results."""


def scoring_named(name: str) -> Scoring:
    """What `--score NAME` means.

    Raises:
        ConfigError: there is no such score; lists those there are.
    """
    if name not in SCORES:
        raise ConfigError(f"{name!r} is none of {', '.join(SCORES)}", place="--score")
    return SCORES[name]


def choice_scores(
    student: Student, questions: Sequence[Question], method: Scoring = "option-likelihood"
) -> list[list[float]]:
    """A score of each choice of each question, higher is better, in nats.

    Raises:
        MethodError: the student scores choices directly, and another score than `sum` is asked for.

    Source: `char` and the lengths as in lm-evaluation-harness (acc_norm); `pmi` after Holtzman et al.
    (arXiv:2104.08315), whose premise is a few words; here it is the input without the question, for a student reads
    the choices too and what they alone suggest is what should be taken off.
    """
    if method == "option-likelihood":
        return student.choice_log_probs(questions)
    if not student.writes_text:
        raise MethodError("this student scores choices directly and has no other score than sum; leave --score out")
    if method == "option-likelihood-per-token":
        return student.choice_log_probs(questions, per_token=True)
    sums = student.choice_log_probs(questions)
    if method == "option-likelihood-per-character":
        return [
            [score / max(1, len(choice.encode())) for choice, score in zip(question.choices, row, strict=True)]
            for question, row in zip(questions, sums, strict=True)
        ]
    premises = student.choice_log_probs([replace(question, question="", context=None) for question in questions])
    return [
        [score - premise for score, premise in zip(row, other, strict=True)]
        for row, other in zip(sums, premises, strict=True)
    ]
