"""Where teachers stand, in words and numbers: rates, projections and states against values made by hand."""

import string
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.generate.standing import (
    News,
    RateWindow,
    Watch,
    cost_words,
    latest_eta_s,
    log_line,
    projected_usd,
    state_of,
    total_cost_words,
)
from kp_data.generate.tally import Reason, Tally
from kp_data.generate.words import clean, money


@dataclass
class Desk:
    """An account as the view sees it."""

    limit: float = 64
    in_flight: int = 0
    paused_s: float = 0.0
    reason: Reason = ""


def tally(name: str = "ada", total: int = 100, **fields: Any) -> Tally:
    return Tally(name, total, **{"account": Desk(), **fields})


def words(one: Tally, **at: Any) -> str:
    return state_of(one, 100.0, **at).words


def test_a_steady_rate_is_told_after_a_second_and_then_always() -> None:
    window = RateWindow()
    window.add(0.0, 0)
    assert window.per_s(0.5) is None
    for second in range(1, 101):
        window.add(float(second), 7 * second)
        assert window.per_s(float(second)) == pytest.approx(7.0)


def test_a_rate_follows_the_last_half_minute_and_forgets_what_was_before() -> None:
    window = RateWindow(span_s=30.0)
    for second in range(101):
        window.add(float(second), second)
    for second in range(1, 31):
        window.add(100.0 + second, 100 + 20 * second)
    assert window.per_s(130.0) == pytest.approx(20.0)


def test_a_slow_count_is_judged_by_its_last_five_steps() -> None:
    window = RateWindow(span_s=30.0)
    for step in range(11):
        window.add(60.0 * step, step)
    assert window.per_s(600.0) == pytest.approx(5 / 300)


def test_a_count_that_stands_still_falls_towards_zero_and_says_for_how_long() -> None:
    window = RateWindow(span_s=30.0)
    for second in range(61):
        window.add(float(second), 10 * second)
    at_once, later = window.per_s(60.0), window.per_s(660.0)
    assert at_once is not None
    assert later is not None
    assert later < at_once / 50
    assert window.quiet_s(660.0) == 600.0


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1000)), max_size=200))
def test_a_rate_is_never_negative_and_its_memory_is_bounded(steps: list[tuple[float, int]]) -> None:
    window, now, count = RateWindow(), 0.0, 0
    for wait_s, more in steps:
        now, count = now + wait_s, count + more
        window.add(now, count)
        rate = window.per_s(now)
        assert rate is None or rate > 0
    assert len(window._samples) <= 260


def test_a_million_looks_at_a_fast_count_keep_a_few_hundred_samples() -> None:
    window = RateWindow()
    for look in range(20_000):
        window.add(look / 100, look)
    assert len(window._samples) <= 260
    assert window.per_s(200.0) == pytest.approx(100.0, rel=0.02)


def test_a_teacher_that_asks_says_so() -> None:
    assert words(tally(in_flight=3)) == "asking"
    assert words(tally(in_flight=3, retrying=2)) == "asking, 2 to retry"
    assert words(tally(in_flight=3), quiet_s=40.2) == "asking, no answer for 41 s"


def test_a_teacher_whose_account_rests_says_for_how_long_and_why() -> None:
    rests = Desk(paused_s=11.3, reason="overloaded")
    assert words(tally(account=rests, in_flight=2)) == "waiting 12 s (server asked)"
    assert words(tally(account=Desk(paused_s=8.0, reason="errors"))) == "paused 8 s (server errors)"
    assert words(tally(account=rests, retrying=3, retry_at=101.0)) == "waiting 12 s (server asked), 3 to retry"
    assert words(tally(account=Desk(paused_s=3.0, reason="rate"))) == "waiting 3 s (rate limit)"
    # Calls that are spaced to keep to a rate are at work.
    assert words(tally(account=Desk(paused_s=3.0, reason="rate"), in_flight=1)) == "asking"


def test_a_teacher_that_is_slowed_down_says_what_slows_it() -> None:
    assert words(tally(account=Desk(reason="overloaded"), in_flight=2)) == "slowed: server busy"
    assert words(tally(account=Desk(reason="errors"), in_flight=2)) == "slowed: server errors"


def test_a_teacher_without_calls_says_what_it_waits_for() -> None:
    waits = tally(retrying=3, retry_at=104.0, retry_why="timeout")
    assert words(waits) == "3 to retry, next in 4 s (timeout)"
    assert words(tally(at_provider=4000)) == "batch at provider: 4,000 cells"
    assert words(tally(elsewhere=1)) == "1 cell with another run"
    assert words(tally(account=Desk(limit=8.7, in_flight=8))) == "waiting for a free place"
    assert words(tally(in_flight=2, unfunded=2)) == "2 calls waiting for money (budget)"
    assert words(tally(account=None)) == "starting"
    assert words(tally()) == "looking up cells"


def test_the_end_of_a_teacher_is_said_above_all_else() -> None:
    assert words(tally(answered=99, reused=1, in_flight=3)) == "done"
    assert words(tally(stopped="auth: key\nrefused \x1b[31mhere", in_flight=3)) == "stopped: auth: key refused here"
    assert words(tally(in_flight=3), ending=True) == "finishing 3 calls"
    assert words(tally(retrying=3), ending=True) == "left for the next run"


def test_the_projection_is_the_mean_cost_of_an_answer_times_what_is_left() -> None:
    # 20 answers of known price cost 0.40: two cents each; 70 cells are left.
    one = tally(answered=25, cost_unknown=5, failed=Counter(timeout=5), cost_usd=0.40)
    assert projected_usd(one) == pytest.approx(0.40 + 70 * 0.02)
    assert cost_words(one) == "$0.40 of ~$1.80 + unknown"


def test_a_price_that_is_not_known_is_said_and_never_counted_as_nothing() -> None:
    assert cost_words(tally(answered=5, cost_unknown=5)) == "price unknown"
    assert total_cost_words([tally(answered=5, cost_unknown=5), tally(answered=0)]) == "price unknown"
    assert total_cost_words([tally(answered=5, cost_unknown=5), tally(answered=100, cost_usd=2.0)]) == "$2.00 + unknown"


def test_the_whole_is_projected_once_every_teacher_has_shown_its_price() -> None:
    half = tally(answered=50, cost_usd=1.0)
    assert total_cost_words([half, tally(answered=0)]) == "$1.00"
    assert total_cost_words([half, tally(answered=10, cost_usd=0.5)]) == "$1.50 of ~$7.00"
    # A teacher that is asked no further costs no more.
    assert total_cost_words([half, tally(stopped="auth")]) == "$1.00 of ~$2.00"


def test_a_teacher_that_costs_nothing_shows_nothing_to_come() -> None:
    assert cost_words(tally(answered=50)) == "$0"
    assert cost_words(tally()) == "–"


def look_at(*tallies: Tally, since_s: float = 10.0) -> Any:
    """Two looks, the second with what the tallies say, the first with nothing answered."""
    watch = Watch(tallies, 0.0)
    answered = [one.answered for one in tallies]
    for one in tallies:
        one.answered = 0
    watch.look(0.0)
    for one, number in zip(tallies, answered, strict=True):
        one.answered = number
    standings = watch.look(since_s)
    return standings, watch.totals(standings, since_s)


def test_the_eta_is_what_is_left_over_the_rate_and_unknown_without_one() -> None:
    standings, totals = look_at(tally("ada", answered=20), tally("bruno", answered=40))
    assert [one.eta_s for one in standings] == [pytest.approx(40.0), pytest.approx(15.0)]
    assert totals.eta_s == pytest.approx(40.0)
    standings, totals = look_at(tally("ada", answered=20), tally("bruno"))
    assert standings[1].eta_s is None
    assert totals.eta_s is None


def test_a_stopped_teacher_does_not_keep_the_eta_unknown() -> None:
    standings, _ = look_at(tally("ada", answered=20), tally("bruno", stopped="auth"))
    assert latest_eta_s(standings) == pytest.approx(40.0)


def test_what_was_known_before_counts_as_done_but_not_as_speed() -> None:
    (standing,), _ = look_at(tally(reused=60, answered=20))
    assert standing.done == 80
    assert standing.rate == pytest.approx(2.0)


def test_a_log_line_has_all_of_the_run_and_names_only_teachers_in_trouble() -> None:
    waits = Desk(paused_s=12, reason="overloaded")
    failed = Counter(timeout=1, refused=3)
    one = tally("ada", answered=16, cost_usd=0.16, failed=failed, in_flight=2)
    line = log_line(*look_at(one, tally("bruno", account=waits), tally("chen", account=waits)))
    assert line == (
        "20/300 cells (6 %), 1.6/s, 4 failed (3 refused, 1 timeout), $0.16, eta unknown"
        "; bruno, chen: waiting 12 s (server asked)"
    )


def test_news_come_once_and_together() -> None:
    news = News()
    desk = Desk()
    ada, bruno = tally("ada", account=desk, in_flight=1), tally("bruno", account=desk, in_flight=1)
    watch = Watch([ada, bruno], 0.0)
    assert news.lines(watch.look(1.0), 1.0) == []
    desk.paused_s, desk.reason = 8.0, "errors"
    assert news.lines(watch.look(2.0), 2.0) == ["ada, bruno: paused 8 s (server errors)"]
    assert news.lines(watch.look(3.0), 3.0) == []
    desk.paused_s = 0.0
    assert news.lines(watch.look(4.0), 4.0) == []
    # Within the minute the same again is no news, a stop is.
    desk.paused_s, ada.stopped = 8.0, "auth: no key"
    assert news.lines(watch.look(5.0), 5.0) == ["ada: stopped: auth: no key"]


def test_a_teacher_that_was_done_before_is_no_news() -> None:
    news = News()
    assert news.lines(Watch([tally(reused=100)], 0.0).look(1.0), 1.0) == []


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\x1b[]\x07\x9b31m;"))))
def test_clean_text_is_one_line_that_cannot_drive_a_terminal(text: str) -> None:
    assert clean(text).isprintable()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("\x1b[2J\x1b[1;1Hwiped", "wiped"),
        ("\x1b]0;title\x07shown", "shown"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\r\nb\tc", "a b c"),
        ("\x9b31mred", "31mred"),
        ("gpt-4o \u202egnp", "gpt-4o gnp"),
        ("\ud800half", "half"),
    ],
)
def test_sequences_that_drive_a_terminal_are_taken_out(text: str, left: str) -> None:
    assert clean(text) == left


@given(st.text(string.ascii_letters + " -"))
def test_plain_words_stay_as_they_are(text: str) -> None:
    assert clean(text) == " ".join(text.split())


@given(st.floats(1e-9, 1e9))
def test_money_is_never_shown_as_nothing_and_is_right_to_a_tenth(usd: float) -> None:
    shown = float(money(usd).removeprefix("$").replace(",", ""))
    assert shown > 0 or usd < 1e-8
    assert shown == pytest.approx(usd, rel=0.1, abs=1e-8)
