"""The controller of one account, on a clock of its own."""

import heapq
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.generate.account import (
    BREAKER_FAILURES,
    BURST_S,
    CUT,
    DISBELIEF,
    FIRST_LIMIT,
    LONGEST_PAUSE_S,
    Account,
)
from kp_data.teachers.limits import LONGEST_RESET_S, Quota, RateLimits


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def account(**options: int) -> tuple[Account, Clock]:
    clock = Clock()
    return Account(**{"ceiling": 64, **options}, clock=clock), clock


def fill(account: Account) -> list[float]:
    started = []
    while account.has_room() and account.paused_s == 0:
        started.append(account.start(0))
    return started


def test_the_limit_rises_by_rounds_while_all_goes_well_and_stops_at_the_ceiling() -> None:
    one, _ = account()
    seen = []
    for _ in range(5):
        calls = fill(one)
        seen.append(len(calls))
        for _ in calls:
            one.succeed()
    assert seen[0] == FIRST_LIMIT
    assert seen[1] > 1.2 * seen[0]
    assert seen[-1] <= 64
    assert one.limit <= 64


def test_a_limit_that_is_not_used_does_not_rise() -> None:
    one, _ = account()
    for _ in range(50):
        one.start(0)
        one.succeed()
    assert one.limit == FIRST_LIMIT


def test_refusals_of_calls_from_before_a_cut_cut_only_once() -> None:
    one, clock = account()
    started = fill(one)
    clock.now += 0.1
    for when in started:
        one.refuse(when, None)
    assert one.limit == pytest.approx(FIRST_LIMIT * CUT)
    assert one.in_flight == 0


def test_at_the_floor_it_rests_as_the_server_asks_but_never_long() -> None:
    one, clock = account()
    for _ in range(20):
        clock.now += one.paused_s + 0.01
        when = one.start(0)
        clock.now += 0.01
        one.refuse(when, 89.0)
    assert one.limit == 1.0
    assert one.paused_s == pytest.approx(LONGEST_PAUSE_S)


def test_a_dead_server_is_tried_less_and_less_often_and_the_first_answer_ends_that() -> None:
    one, clock = account()
    for _ in range(BREAKER_FAILURES + 10):
        clock.now += one.paused_s
        one.start(0)
        one.fail()
    assert one.limit == 1.0
    assert one.paused_s == LONGEST_PAUSE_S
    clock.now += one.paused_s
    silent = one.silent_s
    one.start(0)
    one.succeed()
    assert silent > 15
    assert one.silent_s == 0
    assert one.limit == 2.0


def test_requests_a_minute_are_spaced() -> None:
    one, clock = account(rpm=60)
    begun, starts = clock.now, 0
    while clock.now < begun + 60:
        if one.paused_s:
            clock.now += one.paused_s
            continue
        one.start(0)
        one.succeed()
        starts += 1
    assert 60 <= starts <= 62


def test_tokens_a_minute_are_spaced() -> None:
    one, clock = account(tpm=6000)
    one.start(1000)
    one.start(1000) if one.paused_s == 0 else None
    # Ten seconds' worth of tokens went out; a second of burst is free.
    assert one.paused_s >= 8.9
    clock.now += one.paused_s
    assert one.paused_s == 0


def storm(seconds: float, *, refusing: tuple[float, float], capacity: int) -> list[int]:
    """Answers per second of a server with 50 ms of work a call that refuses 90 % for a while; a simulation."""
    one, clock = account(ceiling=256)
    draw, begun = random.Random(0), clock.now
    answered = [0] * math.ceil(seconds)
    ends: list[tuple[float, float]] = []
    while clock.now < begun + seconds:
        while one.has_room() and one.paused_s == 0:
            heapq.heappush(ends, (clock.now + 0.05, one.start(0)))
        rest = one.paused_s if one.has_room() else math.inf
        if ends and ends[0][0] <= clock.now + rest:
            clock.now, started = heapq.heappop(ends)
            stormy = refusing[0] <= clock.now - begun < refusing[1] and draw.random() < 0.9
            if stormy or one.in_flight > capacity:
                one.refuse(started, 89.0 if stormy else None)
            else:
                one.succeed()
                answered[min(int(clock.now - begun), len(answered) - 1)] += 1
        else:
            clock.now += rest
    return answered


def test_thirty_seconds_after_a_storm_the_rate_is_back() -> None:
    answered = storm(120, refusing=(30, 60), capacity=100)
    before = sum(answered[15:30]) / 15
    during = sum(answered[40:60]) / 20
    after = sum(answered[90:120]) / 30
    assert before > 1000
    assert during < 0.1 * before
    assert after > 0.9 * before


events = st.lists(st.sampled_from(["start", "succeed", "refuse", "fail", "wait"]), max_size=200)


@given(events, st.integers(1, 50))
def test_whatever_happens_the_limit_stays_between_one_and_the_ceiling_and_no_pause_is_endless(
    steps: list[str], ceiling: int
) -> None:
    one, clock = account(ceiling=ceiling)
    calls: list[float] = []
    for step in steps:
        if step == "start" and one.has_room() and one.paused_s == 0:
            calls.append(one.start(10))
        elif step == "succeed" and calls:
            calls.pop()
            one.succeed()
        elif step == "refuse" and calls:
            one.refuse(calls.pop(), 1000.0)
        elif step == "fail" and calls:
            calls.pop()
            one.fail()
        else:
            clock.now += 0.5
        assert 1 <= one.limit <= ceiling
        assert one.in_flight == len(calls) <= ceiling
        assert one.paused_s <= LONGEST_PAUSE_S
    clock.now += LONGEST_PAUSE_S
    assert one.paused_s == 0


def told(limit: int | None = None, remaining: int | None = None, reset_s: float | None = None) -> RateLimits:
    return RateLimits(requests=Quota(limit, remaining, reset_s))


def starts_in(one: Account, clock: Clock, seconds: float, said: RateLimits | None = None) -> list[float]:
    """When calls start that are answered at once, the server saying always the same."""
    until, starts = clock.now + seconds, []
    while clock.now + one.paused_s < until:
        clock.now += one.paused_s
        starts.append(one.start(100))
        one.succeed()
        if said is not None:
            one.learn(said)
        clock.now += 0.01
    clock.now = until
    return starts


def test_the_lower_of_the_configured_and_the_told_rate_holds_and_the_told_one_may_rise_again() -> None:
    one, clock = account(rpm=120)
    assert len(starts_in(one, clock, 60, told(limit=60))) == pytest.approx(60, abs=3)
    assert len(starts_in(one, clock, 60, told(limit=90))) == pytest.approx(90, abs=3)
    assert len(starts_in(one, clock, 60, told(limit=10_000))) == pytest.approx(120, abs=3)


def test_told_tokens_a_minute_space_calls_and_input_and_output_count_together() -> None:
    one, clock = account()
    said = RateLimits(input_tokens=Quota(limit=2_000), output_tokens=Quota(limit=1_000))
    # A hundred tokens a call, 3,000 a minute.
    assert len(starts_in(one, clock, 60, said)) == pytest.approx(30, abs=3)


def test_when_nothing_is_left_the_next_call_waits_until_there_is() -> None:
    one, clock = account()
    one.start(0)
    one.succeed()
    one.learn(told(limit=600, remaining=0, reset_s=7.0))
    assert one.reason == "rate"
    assert one.paused_s == pytest.approx(7.0)
    clock.now += 7.0
    assert one.paused_s == 0
    assert one.reason == ""


def test_late_answers_that_say_the_same_make_no_wait_longer() -> None:
    one, clock = account()
    for _ in range(4):
        one.start(0)
    for _ in range(4):
        one.succeed()
        one.learn(told(remaining=0, reset_s=12.0))
        clock.now += 2.0
    assert one.paused_s == pytest.approx(4.0)


def test_no_more_calls_start_than_are_left_beyond_those_in_flight() -> None:
    one, _ = account(ceiling=64)
    for _ in range(5):
        one.start(0)
    one.succeed()
    one.learn(told(remaining=6, reset_s=60.0))
    # Four are in flight, six are left: two more.
    assert len(fill(one)) == 2
    one.succeed()
    one.learn(told(remaining=9, reset_s=60.0))
    assert len(fill(one)) == min(4, int(one.limit) - 5)


def test_a_quota_that_is_whole_in_nine_days_is_tried_now_and_then() -> None:
    one, clock = account()
    one.start(0)
    one.refuse(one.clock(), None)
    one.learn(told(remaining=0, reset_s=LONGEST_RESET_S))
    tries = 0
    until = clock.now + 150
    while clock.now < until:
        assert one.paused_s <= LONGEST_PAUSE_S
        clock.now += one.paused_s
        one.refuse(one.start(0), None)
        one.learn(told(remaining=0, reset_s=LONGEST_RESET_S))
        assert one.paused_s > 0
        tries += 1
    assert 9 <= tries <= 11


def test_a_server_that_answers_although_nothing_is_left_is_soon_not_believed_until_it_refuses() -> None:
    one, clock = account()
    lie = told(remaining=0, reset_s=LONGEST_RESET_S)
    slow = starts_in(one, clock, (DISBELIEF + 1) * LONGEST_PAUSE_S, lie)
    assert len(starts_in(one, clock, 10, lie)) > 100
    assert len(slow) > DISBELIEF
    one.refuse(one.start(0), None)
    one.learn(lie)
    assert one.paused_s > 0


def test_absurdly_low_told_rates_do_not_freeze_an_account() -> None:
    one, clock = account()
    one.start(10**9)
    one.succeed()
    one.learn(RateLimits(requests=Quota(limit=1), tokens=Quota(limit=1, remaining=0, reset_s=LONGEST_RESET_S)))
    for _ in range(10):
        assert one.paused_s <= LONGEST_PAUSE_S
        clock.now += one.paused_s
        assert one.paused_s == 0
        one.start(10**9)
        one.fail()


def test_of_several_models_of_one_account_the_lowest_limit_holds_while_it_is_fresh() -> None:
    one, clock = account()
    one.learn(RateLimits(Quota(limit=60), scope="large"))
    one.learn(RateLimits(Quota(limit=600), scope="small"))
    assert one.told_rpm == 60
    clock.now += 121
    one.learn(RateLimits(Quota(limit=600), scope="small"))
    assert one.told_rpm == 600


def test_the_reason_tells_an_overload_from_errors_and_from_a_rate() -> None:
    one, clock = account(rpm=60)
    assert one.reason == ""
    fill(one)
    assert one.reason == "rate"
    one.refuse(one.start(0), None)
    assert one.reason == "overloaded"
    clock.now += 6
    assert one.reason == ""
    for _ in range(BREAKER_FAILURES):
        one.start(0)
        one.fail()
    assert one.reason == "errors"
    one.start(0)
    one.succeed()
    assert one.reason != "errors"


class Bucket:
    """A server whose quota comes back little by little, as OpenAI's does."""

    def __init__(self, clock: Clock, rpm: int) -> None:
        self.clock, self.rpm, self.left, self.at = clock, rpm, float(rpm), clock.now

    def arrive(self) -> tuple[bool, RateLimits]:
        self.left = min(self.rpm, self.left + (self.clock.now - self.at) * self.rpm / 60)
        self.at = self.clock.now
        accepted = self.left >= 1
        self.left -= accepted
        reset_s = (self.rpm - self.left) * 60 / self.rpm
        return accepted, RateLimits(Quota(self.rpm, int(self.left), reset_s))


class Window:
    """A server that counts calls anew every minute."""

    def __init__(self, clock: Clock, rpm: int) -> None:
        self.clock, self.rpm, self.left, self.until = clock, rpm, rpm, clock.now + 60

    def arrive(self) -> tuple[bool, RateLimits]:
        while self.clock.now >= self.until:
            self.left, self.until = self.rpm, self.until + 60
        accepted = self.left > 0
        self.left -= accepted
        return accepted, RateLimits(Quota(self.rpm, self.left, self.until - self.clock.now))


def run_against(server: Bucket | Window, one: Account, *, latency_s: float, minutes: int) -> tuple[int, int]:
    """How many calls a server answers and refuses, each answer telling how things stood when the call arrived."""
    clock, begun, answered, refused = server.clock, server.clock.now, 0, 0
    ends: list[tuple[float, int, float, bool, RateLimits]] = []
    while clock.now < begun + 60 * minutes:
        while one.has_room() and one.paused_s == 0:
            started = one.start(100)
            accepted, limits = server.arrive()
            took_s = latency_s if accepted else 0.05
            heapq.heappush(ends, (clock.now + took_s, len(ends) + answered + refused, started, accepted, limits))
        rest = one.paused_s if one.has_room() else math.inf
        if not ends or clock.now + rest < ends[0][0]:
            clock.now += rest
            continue
        clock.now, _, started, accepted, limits = heapq.heappop(ends)
        answered, refused = answered + accepted, refused + (not accepted)
        one.succeed() if accepted else one.refuse(started, None)
        one.learn(limits)
    return answered, refused


@pytest.mark.parametrize("kind", [Bucket, Window])
@pytest.mark.parametrize(("rpm", "latency_s", "minutes"), [(60, 0.5, 10), (500, 5.0, 15), (50, 90.0, 45)])
def test_told_limits_are_used_up_and_hardly_ever_exceeded(
    kind: type[Bucket] | type[Window], rpm: int, latency_s: float, minutes: int
) -> None:
    clock = Clock()
    one = Account(ceiling=512, clock=clock)
    answered, refused = run_against(kind(clock, rpm), one, latency_s=latency_s, minutes=minutes)
    # What is missing is the way up: how many calls the server takes at once is found out round by round.
    assert answered >= 0.7 * rpm * minutes
    assert refused <= 0.02 * answered


some_quota = st.builds(
    Quota,
    st.none() | st.integers(1, 10_000),
    st.none() | st.integers(0, 100),
    st.none() | st.floats(0, LONGEST_RESET_S),
)
some_limits = st.builds(RateLimits, some_quota, some_quota, scope=st.sampled_from(["a", "b"]))
told_events = st.lists(
    st.one_of(st.sampled_from(["start", "start", "succeed", "refuse", "fail", "wait"]), some_limits), max_size=200
)


@given(told_events, st.integers(1, 50), st.none() | st.integers(1, 6_000))
def test_whatever_servers_say_the_configured_rate_is_kept_and_no_pause_is_endless(
    steps: list[str | RateLimits], ceiling: int, rpm: int | None
) -> None:
    clock = Clock()
    one = Account(ceiling=ceiling, rpm=rpm, clock=clock)
    calls: list[float] = []
    started: list[float] = []
    spacing_s = 60 / rpm if rpm else 0.0
    for step in steps:
        if isinstance(step, RateLimits):
            one.learn(step)
        elif step == "start" and one.has_room() and one.paused_s == 0:
            calls.append(one.start(10))
            started.append(clock.now)
        elif step == "succeed" and calls:
            calls.pop()
            one.succeed()
        elif step == "refuse" and calls:
            one.refuse(calls.pop(), 1000.0)
        elif step == "fail" and calls:
            calls.pop()
            one.fail()
        else:
            clock.now += 0.5
        assert one.in_flight == len(calls) <= ceiling
        assert 0 <= one.paused_s <= max(LONGEST_PAUSE_S, spacing_s)
    for first, begun in enumerate(started):
        for last in range(first, len(started)):
            within_s = started[last] - begun
            assert not rpm or last - first + 1 <= rpm * (within_s + BURST_S) / 60 + 1 + 1e-9
    for _ in calls:
        one.succeed()
    clock.now += max(LONGEST_PAUSE_S, spacing_s)
    assert one.paused_s == 0
    assert one.has_room()
