"""How fast one account may be asked: adaptive concurrency, request and token rates, and a circuit breaker.

An account is an endpoint with its key; teachers behind the same one share it, whatever they are called. The limit of
calls in flight rises while calls succeed and falls when the server says it is overloaded (additive increase,
multiplicative decrease; the slow start is TCP's, RFC 5681). What the server says about its rate limits is followed,
but not blindly: it never stops an account for longer than `LONGEST_PAUSE_S` without a try. Pure arithmetic on a clock
that never goes back: no sleeping, no network, no time of day.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from kp_data.generate.tally import Reason
from kp_data.teachers.limits import Quota, RateLimits

FIRST_LIMIT: Final = 8.0
CUT: Final = 0.7
LONGEST_PAUSE_S: Final = 15.0
"""How long an account rests at most when its server refuses everything: long enough to be no burden, short enough to
notice within seconds that a storm is over. The refused call itself waits as long as the server asked."""
BREAKER_FAILURES: Final = 12
BREAKER_FIRST_PAUSE_S: Final = 1.0
BURST_S: Final = 1.0
"""So many seconds' worth of a rate may go at once; after that calls are spaced."""
DISBELIEF: Final = 3
"""So many tries that were answered although nothing was left, and the server's count is not believed any more."""
_TOLD_HOLDS_S: Final = 120.0
_RECENT_S: Final = 5.0


@dataclass
class Stock:
    """What the server said is left of one quota, until it says more or the quota is whole again.

    Attributes:
        left: calls, or tokens, that may still go.
        whole_at: when all of the quota is there again.
        try_at: when a call may be tried although nothing is left.
    """

    left: float = math.inf
    whole_at: float = -math.inf
    try_at: float = -math.inf

    def pause_s(self, now: float, need: float) -> float:
        """Seconds until a call that needs so much may start."""
        if self.left >= need or now >= self.whole_at:
            return 0.0
        return max(0.0, self.try_at - now)

    def take(self, now: float, need: float) -> bool:
        """A call starts; gives whether it is a mere try, because the server said that too little is left."""
        if now >= self.whole_at:
            self.left = math.inf
        is_try = self.left < need
        if is_try:
            self.try_at = now + LONGEST_PAUSE_S
        self.left = max(0.0, self.left - need)
        return is_try

    def learn(self, now: float, quota: Quota | None, *, uncounted: float, need: float, share: float = 1.0) -> None:
        """The server said how much is left.

        Args:
            now: time.
            quota: what it said.
            uncounted: what calls have taken that it had not seen then.
            need: what a call takes.
            share: part of it that may be taken here.
        """
        if quota is None or quota.remaining is None:
            return
        waits = self.pause_s(now, need) > 0
        self.left = max(0.0, share * quota.remaining - uncounted)
        self.whole_at = now + (BREAKER_FIRST_PAUSE_S if quota.reset_s is None else quota.reset_s)
        try_at = min(self.whole_at, now + LONGEST_PAUSE_S)
        # A wait that has begun is not made longer by every late answer that says the same.
        self.try_at = min(self.try_at, try_at) if waits else try_at


@dataclass
class Account:
    """The state of one account.

    Attributes:
        ceiling: calls in flight at most, of all workers together.
        rpm: requests a minute at most by configuration, None: no limit.
        tpm: tokens a minute at most by configuration, None: no limit.
        share: the part of every limit that holds here, where several workers ask the same account; see `set_share`.
        first_s: seconds until the first call, so that workers take turns and do not all begin at once.
        clock: seconds, never going back.
        limit: calls in flight that are allowed now.
        in_flight: calls that have started and not ended.
        told_rpm, told_tpm: what the server itself last said.
    """

    ceiling: int
    rpm: int | None = None
    tpm: int | None = None
    share: float = 1.0
    first_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    limit: float = field(init=False)
    in_flight: int = field(default=0, init=False)
    told_rpm: int | None = field(default=None, init=False)
    told_tpm: int | None = field(default=None, init=False)
    _slow_start: bool = field(default=True, init=False)
    _open_at: float = field(default=-math.inf, init=False)
    _cut_at: float = field(default=-math.inf, init=False)
    _request_at: float = field(default=-math.inf, init=False)
    _tokens_at: float = field(default=-math.inf, init=False)
    _failures: int = field(default=0, init=False)
    _pause_s: float = field(default=BREAKER_FIRST_PAUSE_S, init=False)
    _unanswered_at: float | None = field(default=None, init=False)
    _told: dict[str, tuple[float, RateLimits]] = field(default_factory=dict, init=False)
    _requests: Stock = field(default_factory=Stock, init=False)
    _tokens: tuple[Stock, Stock, Stock] = field(default_factory=lambda: (Stock(), Stock(), Stock()), init=False)
    _need: int = field(default=0, init=False)
    _starts: deque[float] = field(default_factory=deque, init=False)
    _age_s: float = field(default=0.0, init=False)
    _is_trying: bool = field(default=False, init=False)
    _answered_tries: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.limit = min(max(1.0, FIRST_LIMIT * self.share), self.most)
        if self.first_s > 0:
            self._request_at = self.clock() + self.first_s

    @property
    def most(self) -> int:
        """Calls in flight at most, here."""
        # A little more than the product: 49 times a forty-ninth is less than one.
        return max(1, math.floor(self.ceiling * self.share + 1e-9))

    @property
    def paused_s(self) -> float:
        """Seconds until the next call may start by time alone, 0 when it may start now."""
        now = self.clock()
        return max(0.0, self._open_at - now, self._rate_pause_s(now))

    @property
    def reason(self) -> Reason:
        """Why it asks less than it might."""
        now = self.clock()
        if self._failures >= BREAKER_FAILURES:
            return "errors"
        if self._open_at > now or now - self._cut_at < _RECENT_S:
            return "overloaded"
        return "rate" if self._rate_pause_s(now) > 0 else ""

    @property
    def silent_s(self) -> float:
        """Seconds that calls have waited without any answer; 0 while none has been made since the last."""
        return 0.0 if self._unanswered_at is None else self.clock() - self._unanswered_at

    def set_share(self, share: float) -> None:
        """The part of every limit that holds here from now on: other workers have come or gone."""
        self.share = share
        self.limit = min(self.limit, self.most)

    def has_room(self) -> bool:
        """Whether the limit allows one more call in flight."""
        return self.in_flight < math.floor(self.limit)

    def start(self, tokens: int) -> float:
        """A call starts; gives its time, which `refuse` needs.

        Args:
            tokens: that the call will take, as far as can be told before.
        """
        now = self.clock()
        self.in_flight += 1
        self._starts.append(now)
        if self._unanswered_at is None:
            self._unanswered_at = now
        self._need = tokens
        self._request_at = _spaced(self._request_at, now, self._gap_s(1, self.rpm, self.told_rpm))
        self._tokens_at = _spaced(self._tokens_at, now, self._gap_s(tokens, self.tpm, self.told_tpm))
        if self._told:
            tries = [self._requests.take(now, 1), *(stock.take(now, tokens) for stock in self._tokens)]
            self._is_trying = self._is_trying or any(tries)
        return now

    def learn(self, limits: RateLimits) -> None:
        """The server said what its limits are. Call it after `succeed`, `refuse` or whatever ended the call.

        Its rates hold where they are lower than those of the configuration, and may rise again. Where it says that
        nothing is left, or less than the calls in flight take, the next call waits until more is there, or is tried
        after `LONGEST_PAUSE_S`. A server whose count says nothing is left although tries are answered is not believed
        until it refuses a call.

        Args:
            limits: as read from a response. Limits of several models of one account: the lowest holds.
        """
        now = self.clock()
        self._told[limits.scope] = (now, limits)
        fresh = [said for at, said in self._told.values() if now - at <= _TOLD_HOLDS_S]
        self.told_rpm = min((rate for said in fresh if (rate := _rate(said.requests))), default=None)
        self.told_tpm = min((rate for said in fresh if (rate := _token_rate(said))), default=None)
        if self._answered_tries >= DISBELIEF:
            self._requests, self._tokens = Stock(), (Stock(), Stock(), Stock())
            return
        uncounted = self._uncounted(limits.requests, 1)
        self._requests.learn(now, limits.requests, uncounted=uncounted, need=1, share=self.share)
        for stock, quota in zip(self._tokens, (limits.tokens, limits.input_tokens, limits.output_tokens), strict=True):
            uncounted = self._uncounted(quota, self._need)
            stock.learn(now, quota, uncounted=uncounted, need=self._need, share=self.share)
        if self._told_pause_s(now) == 0:
            self._answered_tries = 0

    def succeed(self) -> None:
        """A call was answered."""
        # The last one in flight is the try itself: those that had started before it have ended.
        self._answered_tries += self._is_trying and self.in_flight == 1
        self._is_trying = self._is_trying and self.in_flight > 1
        was_used = 2 * self.in_flight >= math.floor(self.limit)
        self._ended()
        self._failures, self._pause_s = 0, BREAKER_FIRST_PAUSE_S
        # A limit that is not used says nothing about what the server can take.
        if was_used:
            self.limit = min(self.most, self.limit + (1.0 if self._slow_start else 1.0 / self.limit))

    def refuse(self, started: float, retry_after_s: float | None) -> None:
        """The server said that it is overloaded: fewer calls at once, and none for a while when there is one left.

        Args:
            started: what `start` gave; calls that started before the last cut tell nothing new.
            retry_after_s: how long the server asked to wait, in seconds.
        """
        at_floor = self.limit <= 1.0
        self._is_trying, self._answered_tries = False, 0
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
        self._left()
        self._failures += 1
        if self._failures >= BREAKER_FAILURES:
            self.limit, self._slow_start = 1.0, True
            self._open_at = max(self._open_at, self.clock() + self._pause_s)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def answer_without_use(self) -> None:
        """The server answered, but the call was at fault (a bad request): that says nothing about its load."""
        self._ended()

    def _ended(self) -> None:
        self._left()
        self._unanswered_at = self.clock() if self.in_flight else None

    def _left(self) -> None:
        self.in_flight -= 1
        # Which call ended is not told: calls end about as they began.
        self._age_s = self.clock() - self._starts.popleft()

    def _gap_s(self, amount: float, configured: int | None, told: int | None) -> float:
        """Seconds after a call that keep two rates; the server's word alone makes no pause endless."""
        gap_s = 60.0 * amount / configured if configured else 0.0
        if told:
            gap_s = max(gap_s, min(60.0 * amount / told, LONGEST_PAUSE_S))
        return gap_s / self.share

    def _rate_pause_s(self, now: float) -> float:
        return max(self._request_at - now, self._tokens_at - now, self._told_pause_s(now))

    def _told_pause_s(self, now: float) -> float:
        if not self._told:
            return 0.0
        return max(self._requests.pause_s(now, 1), *(stock.pause_s(now, self._need) for stock in self._tokens))

    def _uncounted(self, quota: Quota | None, need: float) -> float:
        """What calls in flight have taken that the server had not counted when it answered, less what came back.

        Servers count a call when it arrives, so those in flight started after the one that was answered.
        """
        if quota is None or not quota.remaining:
            return 0.0
        came_back = 0.0
        if quota.limit and quota.reset_s:
            a_second = min(quota.limit / 60.0, max(0, quota.limit - quota.remaining) / quota.reset_s)
            came_back = a_second * self._age_s * self.share
        return max(0.0, self.in_flight * need - came_back)


def _spaced(at: float, now: float, gap_s: float) -> float:
    """When the next call may start, so that there is a gap between calls on the average; 0: no gap."""
    return max(at, now - BURST_S) + gap_s if gap_s else at


def _rate(quota: Quota | None) -> int | None:
    return quota.limit if quota is not None else None


def _token_rate(limits: RateLimits) -> int | None:
    """Tokens a minute, read and written: as told, else the two together."""
    if (both := _rate(limits.tokens)) is not None:
        return both
    read, wrote = _rate(limits.input_tokens), _rate(limits.output_tokens)
    return None if read is None or wrote is None else read + wrote
