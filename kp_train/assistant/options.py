"""What a run with a teaching assistant can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kp_data.errors import ConfigError
from kp_train.assistant.sampling import TEMPERATURE
from kp_train.assistant.signals import Thresholds
from kp_train.assistant.strategies import strategy_named

VERIFIER: Final = "verifier"
SURFACE: Final = "surface"
GOLD: Final = "gold"
NO_ASSISTANT: Final = "none"
ASSISTANTS: Final = {
    VERIFIER: "a cross-encoder trained on the warm-up questions, which need gold answers",
    SURFACE: "a regression on how rationales look, in a second; trained on the warm-up, as a verifier is",
    GOLD: "the gold answers themselves: keeps what is verified; every question needs one",
    NO_ASSISTANT: "nobody: every answer is trusted",
    "DIR": "a verifier that was saved before, or a checkpoint that is asked for yes or no",
    "NAME=MODEL[@API_BASE]": "any model that can be asked, as --teacher writes it; its calls are counted apart",
}


@dataclass(frozen=True, slots=True)
class AssistantOptions:
    """How few calls are spent, and what is learned from them.

    Attributes:
        call_budget: teacher calls at most, of all stages and runs; a call is one question to one teacher.
        assistant: one of `ASSISTANTS`.
        ask_first: name of one of `kp_train.assistant.STRATEGIES`.
        rounds: stages after the warm-up.
        warm_up: share of the budget that is spent on questions drawn at random before any signal is there.
        samples: K, answers that the student is sampled for.
        temperature: of sampling.
        thresholds: from when on an answer is kept.
        recall: choose the two thresholds of the assistant so that this share of right answers is kept; None: take
            those given.
        router: folder of a fitted router that chooses whom to ask; None: one is fitted on the warm-up questions where
            there are several teachers and gold answers.
        epochs, max_tokens: of training the verifier.
    """

    call_budget: int
    assistant: str = VERIFIER
    ask_first: str = "self-consistency"
    rounds: int = 1
    warm_up: float = 0.3
    samples: int = 8
    temperature: float = TEMPERATURE
    thresholds: Thresholds = field(default_factory=Thresholds)
    recall: float | None = None
    router: Path | None = None
    epochs: int = 4
    max_tokens: int = 128

    @property
    def warm_up_calls(self) -> int:
        """Calls of the warm-up."""
        return max(1, round(self.warm_up * self.call_budget))

    def check(self) -> None:
        """Refuse values that cannot be.

        Raises: ConfigError, names the option.
        """
        strategy_named(self.ask_first)
        self._check_assistant()
        self.thresholds.check()
        for name, least in (("call_budget", 1), ("rounds", 0), ("samples", 1), ("epochs", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{getattr(self, name)} is below {least}", place=f"--{name.replace('_', '-')}")
        if not 0 < self.warm_up <= 1:
            raise ConfigError(f"{self.warm_up} is no share of the calls above 0 up to 1", place="--warm-up")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ConfigError(f"{self.temperature} is not above 0", place="temperature")
        if self.recall is not None and not 0 < self.recall <= 1:
            raise ConfigError(f"{self.recall} is not above 0 up to 1", place="--keep-recall")
        if self.rounds == 0 and self.warm_up < 1:
            raise ConfigError("0 rounds after the warm-up leave calls unspent; give --warm-up 1 too", place="--rounds")

    def _check_assistant(self) -> None:
        known = (VERIFIER, SURFACE, GOLD, NO_ASSISTANT)
        if self.assistant in known or is_model(self.assistant) or Path(self.assistant).is_dir():
            return
        raise ConfigError(
            f"{self.assistant!r} is none of {', '.join(known)}, a folder, and NAME=MODEL", place="--assistant"
        )


def is_model(assistant: str) -> bool:
    """Whether an assistant is named as `--teacher` names a model."""
    return "=" in assistant or assistant.startswith("practice/")
