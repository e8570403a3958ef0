"""How hard teachers are asked, and where each of them stands while they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Where one teacher stands; what the live view and the summary show."""

    teacher: str
    total: int
    reused: int = 0
    answered: int = 0
    in_flight: int = 0
    retrying: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    cost_unknown: int = 0
    messages: dict[str, str] = field(default_factory=dict)
    """Class of failure to the last message of one."""
    stopped: str | None = None
    """Why this teacher is asked no further, None while it is."""

    @property
    def done(self) -> int:
        """Cells with a durable outcome."""
        return self.reused + self.answered + self.failed.total()

    @property
    def left(self) -> int:
        """Cells without an outcome."""
        return self.total - self.done


@dataclass(frozen=True, slots=True)
class Limits:
    """How hard teachers are asked.

    Attributes:
        concurrency: calls in flight at most, per account; the controller finds the level below it.
        retries: tries after the first.
        timeout_s: of a call, in seconds.
        patience_s: seconds without any answer after which the teachers of an account are asked no further.
    """

    concurrency: int
    retries: int
    timeout_s: float
    patience_s: float = 600.0
