"""How hard teachers are asked, and where each of them stands while they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Reason = Literal["", "overloaded", "errors", "rate"]
"""Why an account asks less than it might: the server said it is overloaded, calls fail one after another, or its rate
of requests or tokens is used up; empty: it does not."""


class AccountView(Protocol):
    """What the live view reads of an account; several teachers may share one."""

    @property
    def limit(self) -> float:
        """Calls in flight that are allowed now."""

    @property
    def in_flight(self) -> int:
        """Calls in flight, of all teachers behind the account."""

    @property
    def paused_s(self) -> float:
        """Seconds until the next call may start, 0 when it may start now."""

    @property
    def reason(self) -> Reason:
        """Why it is paused or slowed down."""


@dataclass(frozen=True, slots=True)
class AccountReading:
    """An `AccountView` of a moment that has passed, for who cannot look at the account itself."""

    limit: float
    in_flight: int
    paused_s: float
    reason: Reason

    @classmethod
    def of(cls, account: AccountView | None) -> AccountReading | None:
        """How an account stands now."""
        if account is None:
            return None
        return cls(account.limit, account.in_flight, account.paused_s, account.reason)

    @classmethod
    def sum_of(cls, views: Sequence[AccountView]) -> AccountReading | None:
        """Several workers' parts of one account as a whole: it rests only while all of them do."""
        if not views:
            return None
        reasons = Counter(view.reason for view in views if view.reason)
        return cls(
            limit=sum(view.limit for view in views),
            in_flight=sum(view.in_flight for view in views),
            paused_s=min(view.paused_s for view in views),
            reason=reasons.most_common(1)[0][0] if reasons else "",
        )


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
    ignored: Counter[str] = field(default_factory=Counter)
    """Parameters that were sent and, as replies show, not followed, to the number of such replies."""
    messages: dict[str, str] = field(default_factory=dict)
    """Class of failure to the last message of one."""
    stopped: str | None = None
    """Why this teacher is asked no further, None while it is."""
    retry_at: float | None = None
    """When the first of those that wait may be tried again, on the monotonic clock; None when none waits."""
    retry_why: str = ""
    """Class of the failure that the last one of those that wait had."""
    at_provider: int = 0
    """Cells in batch jobs that a provider is working on."""
    elsewhere: int = 0
    """Cells that another run is asking now."""
    unfunded: int = 0
    """Of those in flight, calls that wait for money: what is left of the budget is held by others."""
    account: AccountView | None = field(default=None, repr=False, compare=False)
    """Whose limits hold for this teacher, None before the run has begun."""

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
        share: the part of every limit of an account that holds here, where several workers share the accounts.
        turn: this worker's place among them, from 0.
    """

    concurrency: int
    retries: int
    timeout_s: float
    patience_s: float = 600.0
    share: float = 1.0
    turn: int = 0
