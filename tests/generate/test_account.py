"""The controller of one account, on a clock of its own."""

import heapq
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.generate.account import BREAKER_FAILURES, CUT, FIRST_LIMIT, LONGEST_PAUSE_S, Account


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
