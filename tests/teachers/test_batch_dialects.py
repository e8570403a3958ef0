"""The two dialects of batch APIs: what is sent, what is read, and that nothing a provider says can break the run."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.config import Price, Teacher
from kp_data.errors import ConfigError, TeacherError
from kp_data.teachers.batches import Row, batch_kind, make_batch_client, wire
from kp_data.teachers.batches import anthropic_dialect as anthropic
from kp_data.teachers.batches import openai_dialect as openai
from kp_data.teachers.transport import CallFailed, Endpoint, Reply, resolve_batch_endpoint, resolve_endpoint

GPT = Teacher(name="gpt", model="openai/gpt-x", price=Price(input=2.0, output=8.0))
CLAUDE = Teacher(name="claude", model="anthropic/claude-x", price=Price(input=2.0, output=8.0))
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hm?"}]
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100}
COMPLETION = {"model": "m", "choices": [{"message": {"content": "so"}, "finish_reason": "stop"}], "usage": USAGE}
MESSAGE: dict[str, Any] = {
    "model": "m",
    "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "s"}, {"type": "text", "text": "o"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 900, "cache_read_input_tokens": 100, "output_tokens": 100},
}
json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def openai_row(response: Any, error: Any = None) -> Any:
    line = json.dumps({"id": "r", "custom_id": "j-0", "response": response, "error": error})
    row = openai.read_row(GPT, line.encode())
    assert row is not None
    return row.outcome


def anthropic_row(result: Any) -> Any:
    row = anthropic.read_row(CLAUDE, json.dumps({"custom_id": "j-0", "result": result}).encode())
    assert row is not None
    return row.outcome


def test_both_dialects_give_the_same_reply_at_half_the_price() -> None:
    # By hand: (1000 × 2 + 100 × 8) / 1e6 / 2.
    one = openai_row({"status_code": 200, "body": COMPLETION})
    other = anthropic_row({"type": "succeeded", "message": MESSAGE})
    for said, reasoning in ((one, None), (other, "hm")):
        assert said.cost_usd == pytest.approx(0.0014)
        assert replace(said, cost_usd=None) == Reply("so", reasoning, "stop", "m", 1000, 100)


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [("max_tokens", "length"), ("refusal", "content_filter"), ("stop_sequence", "stop"), ("new", "new"), (None, None)],
)
def test_reasons_to_stop_are_named_as_in_single_calls(stop_reason: str | None, finish_reason: str | None) -> None:
    said = anthropic_row({"type": "succeeded", "message": {**MESSAGE, "stop_reason": stop_reason}})
    assert said.finish_reason == finish_reason


@pytest.mark.parametrize(
    ("status", "kind", "error", "retryable", "fatal"),
    [
        (429, "rate_limit_error", "rate_limited", True, False),
        (500, "api_error", "bad_response", True, False),
        (529, "overloaded_error", "bad_response", True, False),
        (400, "invalid_request_error", "bad_response", False, False),
        (401, "authentication_error", "auth", False, True),
        (403, "permission_error", "auth", False, True),
    ],
)
def test_errors_of_rows_are_the_failures_of_single_calls(
    status: int, kind: str, error: str, retryable: bool, fatal: bool
) -> None:
    one = openai_row({"status_code": status, "body": {"error": {"message": "why"}}})
    other = anthropic_row({"type": "errored", "error": {"type": "error", "error": {"type": kind, "message": "why"}}})
    for failure in (one, other):
        assert isinstance(failure, CallFailed)
        assert (failure.error, failure.retryable, failure.fatal) == (error, retryable, fatal)
        assert not failure.may_be_billed
        assert "why" in str(failure)


@pytest.mark.parametrize("kind", ["expired", "canceled"])
def test_what_was_never_run_is_no_failure(kind: str) -> None:
    assert anthropic_row({"type": kind}) is None
    assert openai_row(None, {"code": "batch_expired", "message": "late"}) is None
    assert openai_row(None, {"code": "batch_cancelled", "message": "stopped"}) is None
    assert isinstance(openai_row(None, {"code": "else"}), CallFailed)


@given(st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_line_breaks_a_reader(line: bytes) -> None:
    for read in (openai.read_row, anthropic.read_row):
        assert read(GPT, line) is None or isinstance(read(GPT, line), Row)


@given(json_values, json_values, json_values)
def test_no_value_in_a_row_breaks_a_reader(one: Any, other: Any, third: Any) -> None:
    for response in (one, {"status_code": 200, "body": one}, {"status_code": other, "body": {"error": one}}):
        openai.read_row(GPT, json.dumps({"custom_id": "j-0", "response": response, "error": third}).encode())
    for result in ({"type": other}, {"type": "succeeded", "message": one}, {"type": "errored", "error": one}):
        anthropic.read_row(CLAUDE, json.dumps({"custom_id": "j-0", "result": result}).encode())
    anthropic.read_row(CLAUDE, json.dumps({"custom_id": "j", "result": {**MESSAGE, "content": one}}).encode())


def test_a_request_of_anthropics_has_its_system_text_apart_and_nothing_it_does_not_take() -> None:
    async def request() -> Any:
        client = anthropic.AnthropicBatches(CLAUDE, Endpoint("direct", "claude-x", "", "http://localhost:1/v1"))
        try:
            # The seed only tells samples apart; this dialect draws each anew.
            return json.loads(client.request("j-7", ASKED, {"max_tokens": 5, "temperature": 0.0, "seed": 1}))
        finally:
            await client.close()

    assert asyncio.run(request()) == {
        "custom_id": "j-7",
        "params": {
            "model": "claude-x",
            "system": "Be brief.",
            "messages": [{"role": "user", "content": "Hm?"}],
            "max_tokens": 5,
            "temperature": 0.0,
        },
    }


@pytest.mark.parametrize(
    ("base", "name"), [("https://api.openai.com/v1", "max_completion_tokens"), ("http://localhost:1/v1", "max_tokens")]
)
def test_a_request_of_openais_is_the_single_call_in_an_envelope(base: str, name: str) -> None:
    async def request() -> Any:
        client = openai.OpenAIBatches(GPT, Endpoint("direct", "gpt-x", "", base))
        try:
            return json.loads(client.request("j-7", ASKED, {"max_tokens": 5, "seed": 1}))
        finally:
            await client.close()

    assert asyncio.run(request()) == {
        "custom_id": "j-7",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gpt-x", "messages": ASKED, name: 5, "seed": 1},
    }


@pytest.mark.parametrize("lacking", [{"seed": 1}, {"logprobs": True}, {"temperature": 1.5}])
def test_what_anthropic_does_not_take_is_said_at_once(lacking: dict[str, Any]) -> None:
    teacher = Teacher(name="claude", model="anthropic/claude-x", **lacking)
    with pytest.raises(TeacherError, match=f"does not take {next(iter(lacking))}"):
        anthropic.AnthropicBatches(teacher, Endpoint("direct", "claude-x", "", "http://localhost:1/v1"))


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"model": "openai/gpt-x"}, "openai"),
        ({"model": "anthropic/claude-x"}, "anthropic"),
        ({"model": "gemini/gemini-x"}, None),
        ({"model": "practice/ada"}, "openai"),
        ({"model": "openai/qwen", "api_base": "http://localhost:1/v1"}, None),
        ({"model": "qwen", "api_base": "http://localhost:1/v1", "batch": "openai"}, "openai"),
        ({"model": "groq/llama", "batch": "openai"}, "openai"),
    ],
)
def test_an_endpoint_has_a_batch_api_by_its_name_or_by_the_users_word(fields: dict[str, Any], kind: str | None) -> None:
    teacher = Teacher(name="t", **fields)
    assert batch_kind(teacher, resolve_endpoint(teacher, "auto", practice_base="http://localhost:1/v1")) == kind


def test_named_providers_are_found_with_their_own_key_and_the_same_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-openai-1")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key-of-anthropic-1")
    for teacher, kind, base, key in (
        (GPT, "openai", "https://api.openai.com/v1", "key-of-openai-1"),
        (CLAUDE, "anthropic", "https://api.anthropic.com/v1", "key-of-anthropic-1"),
    ):
        endpoint = resolve_batch_endpoint(teacher, kind)
        assert (endpoint.api_base, endpoint.api_key) == (base, key)
        assert endpoint.model == teacher.model.partition("/")[2]
        assert endpoint.identity == resolve_endpoint(teacher, "auto").identity


def test_a_missing_key_and_a_missing_address_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(TeacherError, match="ANTHROPIC_API_KEY is not set"):
        resolve_batch_endpoint(CLAUDE, "anthropic")
    teacher = Teacher(name="t", model="gemini/gemini-x", batch="anthropic")
    with pytest.raises(ConfigError, match="needs api_base"):
        make_batch_client(teacher, resolve_endpoint(teacher, "auto"))


class _Parts:
    """A stream in given parts."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    async def iter_chunked(self, size: int) -> Any:
        for part in self._parts:
            yield part


def split(parts: list[bytes]) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [line async for line in wire._split(_Parts(parts))]  # type: ignore[arg-type]

    return asyncio.run(collect())


@given(st.lists(st.binary(max_size=6), max_size=6), st.data())
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"\n".join(line.replace(b"\n", b"") for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert split(parts) == [line for line in whole.split(b"\n") if line]


def test_a_line_without_end_is_passed_over_and_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_MOST_LINE_BYTES", 10)
    assert split([b"one\n" + b"x" * 8, b"x" * 8, b"x" * 8, b"x\ntwo\n", b"y" * 11]) == [b"one", b"two"]


@pytest.mark.parametrize("answer", [{}, {"id": ""}, {"id": 3}, {"id": "../files"}, {"id": "a/b"}, {"id": "x" * 300}])
def test_an_id_that_could_lead_elsewhere_is_none(answer: dict[str, Any]) -> None:
    with pytest.raises(wire.WireFailed, match="no usable id"):
        wire.id_of(answer)
    assert wire.id_of({"id": "batch_67-Ab.c:1"}) == "batch_67-Ab.c:1"
