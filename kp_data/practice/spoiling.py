"""Answers that go wrong after the model has done its work: cut short, empty, endless, mislabelled."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Final

from aiohttp import web

from kp_data.practice.completion import Ask, Completion, completion_body
from kp_data.practice.faults import BROKEN, EMPTY, HTML, HUGE, MISLABELLED, OTHER_MODEL, TRUNCATED
from kp_data.practice.teachers import Reply

_PAGE: Final = b"<!doctype html><html><head><title>Sign in</title></head><body>Sign in to go on.</body></html>"
_FILLER: Final = "frost " * 1_700_000


def spoiled(fault: str, completion: Completion) -> Completion:
    """What the model says when a fault concerns its words; any other fault leaves them as they are.

    Args:
        fault: see `faults.parse_faults`.
        completion: as it would be.
    """
    if fault == EMPTY:
        return replace(
            completion, replies=tuple(Reply("", "stop", ()) for _ in completion.replies), completion_tokens=0
        )
    if fault == TRUNCATED:
        return _with(completion, tuple(_half(reply) for reply in completion.replies))
    if fault == HUGE:
        return _with(completion, tuple(replace(reply, text=_FILLER + reply.text) for reply in completion.replies))
    return completion


def response_of(fault: str, ask: Ask, completion: Completion) -> web.Response:
    """The HTTP answer that carries a completion, with the fault if it concerns the way."""
    body = completion_body(ask, completion)
    if fault == OTHER_MODEL:
        body["model"] = f"{ask.model}-of-another-kind"
    content = json.dumps(body, ensure_ascii=False).encode()
    if fault == BROKEN:
        return web.Response(body=content[: len(content) // 2], content_type="application/json")
    if fault == HTML:
        return web.Response(body=_PAGE, content_type="text/html")
    return web.Response(body=content, content_type="text/html" if fault == MISLABELLED else "application/json")


async def send_half(request: web.Request, whole: web.Response) -> web.StreamResponse:
    """Announce a body, send half of it, and hang up."""
    body = whole.body
    assert isinstance(body, bytes)
    half = web.StreamResponse(headers={"Content-Type": whole.content_type, "Content-Length": str(len(body))})
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.abort()
    return half


def _with(completion: Completion, replies: tuple[Reply, ...]) -> Completion:
    return replace(completion, replies=replies, completion_tokens=sum(len(reply.logprobs) for reply in replies))


def _half(reply: Reply) -> Reply:
    kept = reply.logprobs[: len(reply.logprobs) // 2]
    return Reply("".join(token for token, _ in kept) or reply.text[: len(reply.text) // 2], "length", kept)
