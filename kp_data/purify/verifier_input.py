"""What a verifier reads: question, answer, the other choices and the end of the rationale, within a budget of tokens.

Axes: N rationales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from kp_data.panel import NONE, Panel
from kp_data.schema import Question

Array = np.ndarray[Any, Any]

LEAST_TOKENS: Final = 32
QUESTION_SHARE, ANSWER_SHARE, RIVALS_SHARE = 0.35, 0.15, 0.15
"""Most of the budget that each may take; what they leave is the rationale's."""
CHARACTERS_A_TOKEN: Final = 12
"""No tokenizer packs more of ordinary text into a token; text beyond it is cut before tokenising."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A rationale and what it concludes.

    Attributes:
        question: what was asked; its gold answer is never read.
        rationale: as the teacher gave it; "" for none.
        answer: text of what it concludes; "" where none was read.
    """

    question: Question
    rationale: str
    answer: str


def claims_of(panel: Panel, cells: Array) -> list[Claim]:
    """The claims of some cells of a panel.

    An open-ended answer stands in the rationale alone, because a panel keeps which answers are equal, not their texts.

    Args:
        panel: questions and rationales.
        cells: (N, 2) int, question row and teacher column.
    """
    return [_claim(panel, int(row), int(teacher)) for row, teacher in cells]


def _claim(panel: Panel, row: int, teacher: int) -> Claim:
    question, answer = panel.questions[row], int(panel.concluded_QT[row, teacher])
    text = question.choices[answer] if question.choices and answer != NONE else ""
    return Claim(question, panel.rationale_QT[row, teacher] or "", text)


@dataclass(frozen=True)
class ClaimReader:
    """Turns claims into tokens.

    Attributes:
        tokenizer: of the encoder.
        max_tokens: of a claim, special ones counted.
    """

    tokenizer: Any
    max_tokens: int

    def encode(self, claims: Sequence[Claim]) -> list[list[int]]:
        """Token ids of each claim: question, answer and rivals, rationale; each cut to its share.

        Of the question and of the rationale the end is kept: there stands what is asked, and what is concluded.
        """
        known: dict[str, list[int]] = {}
        return [self._encode(claim, known) for claim in claims]

    def _encode(self, claim: Claim, known: dict[str, list[int]]) -> list[int]:
        opening, between, closing = self._frame()
        budget = self.max_tokens - len(opening) - 2 * len(between) - len(closing)
        question = self._ids(_asked(claim.question), known)[-int(QUESTION_SHARE * budget) :]
        answer = self._ids(f"answer: {claim.answer or 'none'}", known)[: int(ANSWER_SHARE * budget)]
        rivals = self._ids(_rivals(claim), known)[: int(RIVALS_SHARE * budget)]
        left = budget - len(question) - len(answer) - len(rivals)
        rationale = self._ids(claim.rationale[-left * CHARACTERS_A_TOKEN :], known)[-left:]
        return [*opening, *question, *between, *answer, *rivals, *between, *rationale, *closing]

    def _ids(self, text: str, known: dict[str, list[int]]) -> list[int]:
        if text not in known:
            known[text] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return known[text]

    def _frame(self) -> tuple[list[int], list[int], list[int]]:
        """Special tokens that open, part and close; a tokenizer without one goes without."""
        tokenizer = self.tokenizer
        opening = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
        closing = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        return _listed(opening), _listed(closing), _listed(closing)


def _asked(question: Question) -> str:
    """Context and question, the end of them: long enough for any budget."""
    text = f"{question.context}\n{question.question}" if question.context else question.question
    return text[-8_000:]


def _rivals(claim: Claim) -> str:
    others = [choice for choice in claim.question.choices if choice != claim.answer]
    return f"not: {' ; '.join(others)}"[:4_000] if others else ""


def _listed(token: int | None) -> list[int]:
    return [] if token is None else [token]
