"""Batch jobs in the Anthropic dialect: one call with all requests, one stream of results.

The dialect has no place for a job's own id, so a job that may have been handed over is recognised by the ids of its
requests, which its results repeat.

Source: Anthropic's Message Batches API (`/v1/messages/batches`), version 2023-06-01.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from kp_data.config import Teacher
from kp_data.errors import TeacherError
from kp_data.teachers.batches.cost import at_batch_price
from kp_data.teachers.batches.protocol import (
    CLOCK_SLACK_S,
    End,
    Look,
    Row,
    Shape,
    SubmissionUnclear,
    Trace,
    Wanted,
)
from kp_data.teachers.batches.wire import Wire, WireFailed, id_of
from kp_data.teachers.direct import failure_of_status
from kp_data.teachers.prompts import Message
from kp_data.teachers.transport import CallFailed, Endpoint, Reply

_VERSION: Final = "2023-06-01"
_BATCHES: Final = "/messages/batches"
_TAKEN: Final = ("max_tokens", "temperature", "top_p")
_FINISHES: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
}
"""The dialect's reasons to stop, as the OpenAI dialect names them."""
_STATUS: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_PAGE: Final = "100"
_MOST_PAGES: Final = 1000


class AnthropicBatches:
    """See `BatchClient`."""

    shape = Shape(b'{"requests":[', b",\n", b"]}", most_requests=100_000, most_bytes=256 * 10**6)

    def __init__(self, teacher: Teacher, endpoint: Endpoint) -> None:
        assert endpoint.api_base is not None
        _check_takes(teacher)
        self._teacher, self._model = teacher, endpoint.model
        headers = {"anthropic-version": _VERSION}
        if endpoint.api_key is not None:
            headers["x-api-key"] = endpoint.api_key
        self._wire = Wire(endpoint.api_base, headers)

    def request(self, custom_id: str, messages: list[Message], parameters: Mapping[str, Any]) -> bytes:
        """See `BatchClient.request`. The seed that tells samples apart is left out: without one, each is drawn anew."""
        system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
        params: dict[str, Any] = {
            "model": self._model,
            "messages": [message for message in messages if message["role"] != "system"],
            **{name: parameters[name] for name in _TAKEN if name in parameters},
        }
        if system:
            params["system"] = system
        return json.dumps({"custom_id": custom_id, "params": params}, ensure_ascii=False).encode()

    async def check(self) -> None:
        """See `BatchClient.check`."""
        await self._wire.check(self._teacher.name, _BATCHES)

    async def submit(self, job: str, requests: Path) -> str:
        """See `BatchClient.submit`."""
        try:
            return id_of(await self._wire.send_json(_BATCHES, requests))
        except WireFailed as failure:
            if failure.was_refused:
                raise
            raise SubmissionUnclear(str(failure)) from failure

    async def find(self, wanted: Wanted) -> str | Trace:
        """See `BatchClient.find`: any job of that size and time which is no other job of ours may be it."""
        trace = Trace.ABSENT
        async for batch in self._listed(wanted.created_at - CLOCK_SLACK_S):
            provider_id = id_of(batch)
            if provider_id in wanted.known or sum(_counts(batch).values()) != wanted.requests:
                continue
            if batch.get("processing_status") != "ended":
                trace = Trace.UNCLEAR
            elif await self._first_id(provider_id) == wanted.job:
                return provider_id
        return trace

    async def look(self, provider_id: str) -> Look:
        """See `BatchClient.look`."""
        batch = await self._wire.call_of_job(provider_id, "GET", f"{_BATCHES}/{provider_id}")
        counts = _counts(batch)
        total, processing = sum(counts.values()), counts["processing"]
        end = _end(counts, total) if batch.get("processing_status") == "ended" else None
        message = "the provider no longer keeps its results" if batch.get("archived_at") else None
        # Results are read from this provider's own address, whatever address it names: the key goes nowhere else.
        there = end is not None and bool(batch.get("results_url"))
        results = (f"{_BATCHES}/{provider_id}/results",) if there else ()
        return Look(provider_id, end, total - processing, total, message, results)

    async def rows(self, look: Look) -> AsyncGenerator[Row, None]:
        """See `BatchClient.rows`."""
        for path in look.results:
            async with aclosing(self._wire.lines_of_job(look.provider_id, path)) as lines:
                async for line in lines:
                    if (row := read_row(self._teacher, line)) is not None:
                        yield row

    async def cancel(self, provider_id: str) -> None:
        """See `BatchClient.cancel`."""
        await self._wire.call_of_job(provider_id, "POST", f"{_BATCHES}/{provider_id}/cancel")

    async def close(self) -> None:
        """See `BatchClient.close`."""
        await self._wire.close()

    async def _listed(self, since: float) -> AsyncGenerator[dict[str, Any], None]:
        """The batches made since a time, newest first."""
        after: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            page = await self._wire.call("GET", _BATCHES, params={"limit": _PAGE, **after})
            listed = [item for item in page.get("data") or () if isinstance(item, dict)]
            for item in listed:
                if _seconds(item.get("created_at")) < since:
                    return
                yield item
            if not page.get("has_more") or not listed:
                return
            after = {"after_id": str(page.get("last_id") or listed[-1].get("id"))}

    async def _first_id(self, provider_id: str) -> str | None:
        """The job that the first result of a batch names; None where it has none to show."""
        try:
            async with aclosing(self._wire.lines(f"{_BATCHES}/{provider_id}/results")) as lines:
                async for line in lines:
                    row = read_row(self._teacher, line)
                    return row.custom_id.partition("-")[0] if row is not None else None
        except WireFailed as failure:
            # Results that are kept no longer, or never were.
            if failure.status != 404:
                raise
        return None


def read_row(teacher: Teacher, line: bytes) -> Row | None:
    """One line of results; None where it names no request.

    Args:
        teacher: for its price.
        line: untrusted.
    """
    try:
        row = json.loads(line)
        custom_id, result = row["custom_id"], row["result"]
        kind = result["type"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if not isinstance(custom_id, str):
        return None
    if kind in ("expired", "canceled"):
        return Row(custom_id, None)
    if kind == "errored":
        return Row(custom_id, _failure(result.get("error")))
    try:
        return Row(custom_id, at_batch_price(teacher, reply_of_message(teacher, result.get("message"))))
    except CallFailed as failure:
        return Row(custom_id, failure)


def reply_of_message(teacher: Teacher, message: Any) -> Reply:
    """The reply in a message of this dialect.

    Args:
        teacher: for its price.
        message: parsed; untrusted.

    Raises:
        CallFailed: it is none.
    """
    try:
        parts = [part for part in message["content"] if isinstance(part, dict)]
        usage, stopped = dict(message.get("usage") or {}), message.get("stop_reason")
        text = "".join(part["text"] for part in parts if part.get("type") == "text")
        reasoning = "\n".join(part["thinking"] for part in parts if part.get("type") == "thinking")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CallFailed("bad_response", f"not a message: {str(message)[:80]}", retryable=True) from error
    return Reply.of(
        teacher,
        text=text,
        usage={"prompt_tokens": _tokens_read(usage), "completion_tokens": usage.get("output_tokens")},
        reasoning=reasoning,
        finish_reason=_FINISHES.get(stopped, stopped) if isinstance(stopped, str) else None,
        model=message.get("model"),
    )


def _tokens_read(usage: Mapping[str, Any]) -> int | None:
    """Tokens of the prompt: those that a cache gave or took are counted apart."""
    read = usage.get("input_tokens")
    cached = (usage.get(name) for name in ("cache_creation_input_tokens", "cache_read_input_tokens"))
    return read + sum(tokens for tokens in cached if isinstance(tokens, int)) if isinstance(read, int) else None


def _failure(error: Any) -> CallFailed:
    # The error stands in an envelope of the same name.
    inner = error.get("error", error) if isinstance(error, dict) else error
    kind, said = (inner.get("type"), inner.get("message")) if isinstance(inner, dict) else (None, inner)
    return failure_of_status(_STATUS.get(str(kind), 500), f"{kind}: {said}", {})


def _check_takes(teacher: Teacher) -> None:
    """What the dialect lacks is said, not dropped in silence."""
    lacking = {"seed": teacher.seed is not None, "logprobs": teacher.logprobs}
    lacking["temperature above 1"] = teacher.temperature is not None and teacher.temperature > 1
    if named := [name for name, asked in lacking.items() if asked]:
        raise TeacherError(
            f"{teacher.model} does not take {' or '.join(named)}; leave it out", place=f"teacher {teacher.name}"
        )


def _end(counts: Mapping[str, int], total: int) -> End:
    """How a batch ended, by what became of its requests."""
    if counts["expired"]:
        return "expired"
    if counts["canceled"]:
        return "cancelled"
    return "failed" if total and counts["errored"] == total else "completed"


def _counts(batch: Mapping[str, Any]) -> dict[str, int]:
    counts = batch.get("request_counts")
    counts = counts if isinstance(counts, dict) else {}
    names = ("processing", "succeeded", "errored", "canceled", "expired")
    return {name: counts[name] if isinstance(counts.get(name), int) else 0 for name in names}


def _seconds(value: Any) -> float:
    """A time in seconds since 1970; one that cannot be read is now, so that it is looked at."""
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError):
        return float("inf")
