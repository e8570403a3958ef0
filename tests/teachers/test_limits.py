"""Rate limits as servers tell them, and what of it is believed; refused parameters; all by real servers on loopback."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from kp_data.config import Teacher
from kp_data.teachers.direct import failure_of_status
from kp_data.teachers.limits import (
    LONGEST_RESET_S,
    LONGEST_RETRY_S,
    Quota,
    RateLimits,
    read_limits,
    retry_after,
    seconds_of,
)
from kp_data.teachers.parameters import name_of_limit, refused_parameter, remedy_for
from kp_data.teachers.transport import Call, CallFailed, Reply, make_carrier, parameters_of, resolve_endpoint

OPENAI = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-tokens": "6m0s",
}
NOON = datetime(2031, 5, 1, 12, tzinfo=UTC)


def test_headers_of_the_openai_dialect() -> None:
    expected = RateLimits(Quota(60, 59, 1.0), Quota(150_000, 149_984, 360.0), scope="m")
    assert read_limits(OPENAI, scope="m") == expected
    assert read_limits({name.title(): value for name, value in OPENAI.items()}, scope="m") == expected
    # litellm hands headers on under a name of its own.
    assert read_limits({f"llm_provider-{name}": value for name, value in OPENAI.items()}, scope="m") == expected


def test_headers_of_the_anthropic_dialect_become_durations_by_the_servers_clock() -> None:
    headers = {
        "Date": format_datetime(NOON),
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2031-05-01T12:00:30Z",
        "anthropic-ratelimit-input-tokens-limit": "40000",
        "anthropic-ratelimit-output-tokens-remaining": "8000",
    }
    assert read_limits(headers) == RateLimits(
        requests=Quota(50, 0, 30.0), input_tokens=Quota(limit=40_000), output_tokens=Quota(remaining=8_000)
    )


def test_a_date_without_the_servers_clock_is_measured_by_ours() -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=20)).isoformat()
    limits = read_limits({"anthropic-ratelimit-requests-reset": soon})
    assert limits is not None
    assert limits.requests is not None
    assert 10 < (limits.requests.reset_s or 0) <= 20


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6ms", 0.006),
        ("1m2.5s", 62.5),
        ("1h2m3s", 3723.0),
        ("2d", 172_800.0),
        ("0s", 0.0),
        ("12", 12.0),
        ("0.25", 0.25),
        (" 3S ", 3.0),
        ("", None),
        ("s", None),
        ("-1s", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("1s2m", None),
        ("soon", None),
        ("1" * 100, None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == (None if seconds is None else pytest.approx(seconds))


def test_garbage_is_unknown_and_absurd_resets_are_cut() -> None:
    garbage = {
        "x-ratelimit-limit-requests": "-5",
        "x-ratelimit-remaining-requests": "NaN",
        "x-ratelimit-reset-requests": "<script>",
        "x-ratelimit-limit-tokens": "0",
        "x-ratelimit-remaining-tokens": "1e400",
        "x-ratelimit-reset-tokens": "9999-99-99",
    }
    assert read_limits(garbage) is None
    assert read_limits({}) is None
    assert read_limits({"Date": format_datetime(NOON), "Content-Type": "text/plain"}) is None
    nine_days = read_limits({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9d"})
    assert nine_days == RateLimits(Quota(remaining=0, reset_s=LONGEST_RESET_S))


names = st.sampled_from([*OPENAI, "anthropic-ratelimit-requests-reset", "anthropic-ratelimit-tokens-limit", "Date"])
values = st.one_of(st.text(max_size=80), st.from_regex(r"[-0-9.dhmsTZ:e+]{1,30}", fullmatch=True))


@given(st.dictionaries(names, values))
def test_whatever_headers_say_numbers_are_finite_and_not_negative(headers: dict[str, str]) -> None:
    limits = read_limits(headers)
    for quota in (limits.requests, limits.tokens) if limits is not None else ():
        for number in (quota.limit, quota.remaining, quota.reset_s) if quota is not None else ():
            assert number is None or (math.isfinite(number) and number >= 0)
        assert quota is None or quota.reset_s is None or quota.reset_s <= LONGEST_RESET_S


def test_retry_after_as_seconds_milliseconds_and_date() -> None:
    assert retry_after({}) is None
    assert retry_after({"Retry-After": "89"}) == 89.0
    assert retry_after({"retry-after": "89"}) == 89.0
    assert retry_after({"retry-after-ms": "1500", "Retry-After": "2"}) == 1.5
    assert retry_after({"retry-after-ms": "soon", "Retry-After": "2"}) == 2.0
    in_a_minute = format_datetime(NOON + timedelta(seconds=60))
    assert retry_after({"Retry-After": in_a_minute, "Date": format_datetime(NOON)}) == 60.0
    past = format_datetime(NOON - timedelta(seconds=60))
    assert retry_after({"Retry-After": past, "Date": format_datetime(NOON)}) == 0.0


@pytest.mark.parametrize("value", ["nan", "inf", "-3", "tomorrow", "", "Thu, 99 Foo 2031"])
def test_a_retry_after_that_is_none_is_unknown(value: str) -> None:
    assert retry_after({"Retry-After": value}) is None


def test_no_call_waits_for_days_because_a_header_says_so() -> None:
    assert retry_after({"Retry-After": "777600"}) == LONGEST_RETRY_S
    assert retry_after({"retry-after-ms": "1e18"}) == LONGEST_RETRY_S


SENT = {"max_tokens": 1024, "temperature": 0.0, "seed": 1, "logprobs": True}


@pytest.mark.parametrize(
    ("message", "parameter"),
    [
        ("Unsupported parameter: 'logprobs' is not supported with this model.", "logprobs"),
        (
            "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) …",
            "temperature",
        ),
        ("property 'seed' is unsupported", "seed"),
        (
            '{"detail":[{"type":"extra_forbidden","loc":["body","seed"],"msg":"Extra inputs are not permitted"}]}',
            "seed",
        ),
        ("Unrecognized request argument supplied: logprobs", "logprobs"),
        ("This model does not support the parameter logprobs", "logprobs"),
        ("`temperature` is deprecated for this model.", "temperature"),
        ("Unsupported parameter: 'max_tokens' … Use 'max_completion_tokens' instead.", "max_tokens"),
        ("max_tokens is too large: 1024. This model supports at most 512 completion tokens.", "max_tokens"),
        ("This model's maximum context length is 1000 tokens. However, you requested 1500 tokens", "max_tokens"),
        # Too long a prompt is the fault of one cell.
        ("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens", None),
        ("Your seeds and temperatures look fine, the messages do not", None),
        ("The model is not supported", None),
        ("top_p is not supported", None),
        ("", None),
    ],
)
def test_the_parameter_that_a_message_refuses(message: str, parameter: str | None) -> None:
    assert refused_parameter(message, SENT) == parameter


def test_a_refused_parameter_stops_the_teacher_and_says_what_to_do() -> None:
    failure = failure_of_status(400, "'temperature' is not supported", {}, sent=SENT, teacher="gpt")
    assert failure.fatal
    assert not failure.retryable
    assert failure.parameter == "temperature"
    assert "`temperature: null` for teacher gpt" in str(failure)
    assert not failure_of_status(400, "bad question", {}, sent=SENT, teacher="gpt").fatal
    assert "one sample" in remedy_for("seed", "gpt")


@pytest.mark.parametrize(("status", "message"), [(402, "Insufficient Balance"), (429, "quota (insufficient_quota)")])
def test_an_account_without_credit_is_not_asked_again_and_again(status: int, message: str) -> None:
    failure = failure_of_status(status, message, {})
    assert failure.fatal
    assert "credit" in str(failure)


Handler = Callable[[web.Request], Awaitable[web.Response]]


def ask(handler: Handler, *, calls: int = 1, **options: Any) -> list[Reply | CallFailed]:
    """What comes of calls, one after another, to a server that answers by the handler."""

    async def main() -> list[Reply | CallFailed]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        teacher = Teacher(name="one", model="m", api_base=f"http://127.0.0.1:{port}/v1", **options)
        carrier = make_carrier(teacher, resolve_endpoint(teacher, "direct"))
        came: list[Reply | CallFailed] = []
        try:
            for _ in range(calls):
                try:
                    call = Call([{"role": "user", "content": "?"}], parameters_of(teacher, sample=0), 10.0)
                    came.append(await carrier.ask(call))
                except CallFailed as failure:
                    came.append(failure)
        finally:
            await carrier.close()
            await runner.cleanup()
        return came

    return asyncio.run(main())


def completion(**headers: str) -> web.Response:
    body = {"choices": [{"message": {"content": "The answer is (A)."}, "finish_reason": "stop"}]}
    return web.json_response(body, headers=headers)


def test_replies_and_refusals_of_a_server_bring_its_limits() -> None:
    async def handler(request: web.Request) -> web.Response:
        busy = (await request.json())["seed"] == 1
        headers = {**OPENAI, "retry-after-ms": "20"}
        return web.json_response({"error": "slow down"}, status=429, headers=headers) if busy else completion(**OPENAI)

    (reply,) = ask(handler, seed=2)
    assert isinstance(reply, Reply)
    assert reply.limits == read_limits(OPENAI, scope="m")
    (failure,) = ask(handler, seed=1)
    assert isinstance(failure, CallFailed)
    assert failure.overloaded
    assert failure.retry_after_s == 0.02
    assert failure.limits == read_limits(OPENAI, scope="m")


def test_openai_itself_gets_the_later_name_of_max_tokens_and_nobody_else_by_address() -> None:
    assert name_of_limit("https://api.openai.com/v1") == "max_completion_tokens"
    assert name_of_limit("https://api.openai.com.example.org/v1") == "max_tokens"
    assert name_of_limit("http://localhost:8000/v1") == "max_tokens"


def test_a_server_that_wants_the_later_name_of_max_tokens_gets_it_from_then_on() -> None:
    seen = []

    async def handler(request: web.Request) -> web.Response:
        body = await request.json()
        seen.append(sorted(name for name in body if name.startswith("max_")))
        if "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
            return web.json_response({"error": {"message": message}}, status=400)
        return completion()

    assert all(isinstance(came, Reply) for came in ask(handler, calls=2))
    assert seen == [["max_tokens"], ["max_completion_tokens"], ["max_completion_tokens"]]


def test_a_server_that_refuses_both_names_is_not_asked_for_ever() -> None:
    async def handler(_request: web.Request) -> web.Response:
        message = "max_tokens is not supported, max_completion_tokens is not supported"
        return web.json_response({"error": {"message": message}}, status=400)

    came = ask(handler, calls=2)
    assert all(isinstance(failure, CallFailed) and failure.fatal for failure in came)


def test_logprobs_that_a_server_leaves_out_are_told() -> None:
    async def handler(_request: web.Request) -> web.Response:
        return completion()

    (reply,) = ask(handler, logprobs=True)
    assert isinstance(reply, Reply)
    assert reply.ignored == ("logprobs",)


def test_logprobs_that_are_no_numbers_are_unknown() -> None:
    async def handler(_request: web.Request) -> web.Response:
        choice = {"message": {"content": "a"}, "logprobs": {"content": [{"logprob": "-Infinity"}]}}
        return web.json_response({"choices": [choice]})

    (reply,) = ask(handler, logprobs=True)
    assert isinstance(reply, Reply)
    assert reply.logprob is None
