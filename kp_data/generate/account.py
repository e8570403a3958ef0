"""How fast one account may be asked: adaptive concurrency, request and token rates, and a circuit breaker.

An account is an endpoint with its key; teachers behind the same one share it, whatever they are called. The limit of
calls in flight rises while calls succeed and falls when the server says it is overloaded (additive increase,
multiplicative decrease; the slow start is TCP's, RFC 5681). Pure arithmetic on a clock: no sleeping, no network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

FIRST_LIMIT: Final = 8.0
CUT: Final = 0.7
LONGEST_PAUSE_S: Final = 15.0
"""How long an account rests at most when its server refuses everything: long enough to be no burden, short enough to
notice within seconds that a storm is over. The refused call itself waits as long as the server asked."""
BREAKER_FAILURES: Final = 12
BREAKER_FIRST_PAUSE_S: Final = 1.0


@dataclass
class Account:
    """The state of one account.

    Attributes:
        ceiling: calls in flight at most.
        rpm: requests a minute at most, None: no limit.
        tpm: tokens a minute at most, None: no limit.
        clock: seconds, never going back.
        limit: calls in flight that are allowed now.
        in_flight: calls that have started and not ended.
    """

    ceiling: int
    rpm: int | None = None
    tpm: int | None = None
    clock: Callable[[], float] = time.monotonic
    limit: float = field(init=False)
    in_flight: int = field(default=0, init=False)
    _slow_start: bool = field(default=True, init=False)
    _open_at: float = field(default=-math.inf, init=False)
    _cut_at: float = field(default=-math.inf, init=False)
    _request_at: float = field(default=-math.inf, init=False)
    _tokens_at: float = field(default=-math.inf, init=False)
    _failures: int = field(default=0, init=False)
    _pause_s: float = field(default=BREAKER_FIRST_PAUSE_S, init=False)
    _alive_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.limit = min(FIRST_LIMIT, self.ceiling)
        self._alive_at = self.clock()

    @property
    def paused_s(self) -> float:
        """Seconds until the next call may start by time alone, 0 when it may start now."""
        return max(0.0, max(self._open_at, self._request_at, self._tokens_at) - self.clock())

    @property
    def silent_s(self) -> float:
        """Seconds since the account last gave an answer."""
        return self.clock() - self._alive_at

    def has_room(self) -> bool:
        """Whether the limit allows one more call in flight."""
        return self.in_flight < math.floor(self.limit)

    def start(self, tokens: int) -> float:
        """A call starts; gives its time, which `succeed`, `refuse` and `fail` need.

        Args:
            tokens: that the call will take, as far as can be told before.
        """
        now = self.clock()
        self.in_flight += 1
        if self.rpm:
            # Up to a second's worth may go at once; after that calls are spaced.
            self._request_at = max(self._request_at, now - 1.0) + 60.0 / self.rpm
        if self.tpm:
            self._tokens_at = max(self._tokens_at, now - 1.0) + 60.0 * tokens / self.tpm
        return now

    def succeed(self) -> None:
        """A call was answered."""
        was_used = 2 * self.in_flight >= math.floor(self.limit)
        self._ended()
        self._failures, self._pause_s = 0, BREAKER_FIRST_PAUSE_S
        # A limit that is not used says nothing about what the server can take.
        if was_used:
            self.limit = min(self.ceiling, self.limit + (1.0 if self._slow_start else 1.0 / self.limit))

    def refuse(self, started: float, retry_after_s: float | None) -> None:
        """The server said that it is overloaded: fewer calls at once, and none for a while when there is one left.

        Args:
                started: what `start` gave; calls that started before the last cut tell nothing new.
            retry_after_s: how long the server asked to wait, in seconds.
        """
        at_floor = self.limit <= 1.0
        self._ended()
        now = self.clock()
        if started >= self._cut_at:
            self.limit, self._cut_at = max(1.0, self.limit * CUT), now
            # From the floor the way up is fast again: the storm may have passed.
            self._slow_start = at_floor
        if at_floor:
            self._open_at = max(self._open_at, now + min(retry_after_s or BREAKER_FIRST_PAUSE_S, LONGEST_PAUSE_S))

    def fail(self) -> None:
        """A call brought nothing (timeout, broken connection, server error): after many in a row, only a few tries."""
        self.in_flight -= 1
        self._failures += 1
        if self._failures >= BREAKER_FAILURES:
            self.limit, self._slow_start = 1.0, True
            self._open_at = max(self._open_at, self.clock() + self._pause_s)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def answer_without_use(self) -> None:
        """The server answered, but the call was at fault (a bad request): that says nothing about its load."""
        self._ended()

    def _ended(self) -> None:
        self.in_flight -= 1
        self._alive_at = self.clock()
