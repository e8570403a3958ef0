"""Practice judges: programs that say whether an answer is right; `practice/judge-20` is wrong about 20 % of them.

They read a prompt that gives a question of the practice world and a line "Proposed answer: …", and reply yes or no. A
judge that is wrong is less sure on the average, as its log-probabilities tell, but not always.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from kp_data.practice.beliefs import argue_rightly
from kp_data.practice.reading import last_prompt, read_prompt
from kp_data.practice.teachers import Reply

RATES: Final = tuple(range(0, 55, 5))
"""Percent of the answers; there is a judge for each."""
NOTHING_TO_JUDGE: Final = "There is no answer here that I could judge."
SURE: Final = (-0.35, -0.02)
UNSURE: Final = (-0.6, -0.1)
"""Log-probability of a reply that is right, and of one that is wrong: anywhere between, in nats."""

_PROPOSED: Final = re.compile(r"^Proposed answer: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class PracticeJudge:
    """A program that judges; its model id is `practice/NAME`.

    Attributes:
        name: as in a model id.
        rate: share of the answers that it is wrong about, in [0, 1].
    """

    name: str
    rate: float

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        sample: int = 0,
        max_tokens: int | None = None,
    ) -> Reply:
        """The reply to chat messages; temperature, seed, sample and the length allowed change nothing.

        Args:
            messages: `{"role": …, "content": …}` each.
            temperature, seed, sample, max_tokens: as a practice teacher takes them.
        """
        prompt = last_prompt(messages)
        reading, proposed = read_prompt(prompt), _PROPOSED.findall(prompt)
        if reading is None or not proposed:
            return Reply(NOTHING_TO_JUDGE, "stop", ((NOTHING_TO_JUDGE, -1.0),))
        draw = random.Random(hashlib.blake2b(prompt.encode(), digest_size=8).digest())
        is_right = proposed[-1].strip().lower() == argue_rightly(reading.case).outcome
        errs = draw.random() < self.rate
        word = "Yes" if is_right is not errs else "No"
        return Reply(word, "stop", ((word, draw.uniform(*(UNSURE if errs else SURE))),))


JUDGES: Final[Mapping[str, PracticeJudge]] = MappingProxyType(
    {f"judge-{percent}": PracticeJudge(f"judge-{percent}", percent / 100) for percent in RATES}
)
"""Practice judges by name."""
