"""The direct path: chat completions of any OpenAI-dialect endpoint over aiohttp."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from kp_data.config import Teacher
from kp_data.errors import TeacherError
from kp_data.teachers.limits import read_limits, retry_after
from kp_data.teachers.parameters import (
    MAX_COMPLETION_TOKENS,
    MAX_TOKENS,
    name_of_limit,
    refused_parameter,
    remedy_for,
)
from kp_data.teachers.transport import Call, CallFailed, Endpoint, Reply, redact

_CHECK_TIMEOUT_S: Final = 10.0
_MAX_BODY_BYTES: Final = 32 * 1024 * 1024
_MAX_MESSAGE: Final = 300
_NO_CREDIT: Final = "insufficient_quota"
"""OpenAI's code for an account without credit: it comes as status 429, but waiting does not help."""


class DirectCarrier:
    """Calls to one endpoint through one pool of connections."""

    def __init__(self, teacher: Teacher, endpoint: Endpoint) -> None:
        assert endpoint.api_base is not None
        self._teacher, self._endpoint = teacher, endpoint
        headers = {"Content-Type": "application/json"}
        if endpoint.api_key is not None:
            headers["Authorization"] = f"Bearer {endpoint.api_key}"
        self._url = f"{endpoint.api_base.rstrip('/')}/chat/completions"
        self._models_url = f"{endpoint.api_base.rstrip('/')}/models"
        self._proxy = proxy_of(endpoint.api_base)
        self._limit_name = name_of_limit(endpoint.api_base)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), headers=headers, raise_for_status=False
        )

    async def check(self) -> None:
        """See `Carrier.check`. Any HTTP answer counts as reachable; only a refused key or a missing model does not."""
        place = f"teacher {self._teacher.name}"
        try:
            timeout = aiohttp.ClientTimeout(total=_CHECK_TIMEOUT_S)
            async with self._session.get(self._models_url, timeout=timeout, proxy=self._proxy) as response:
                status, body = response.status, await response.content.read(_MAX_BODY_BYTES)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise TeacherError(
                f"{self._endpoint.api_base} cannot be reached ({reason_of(error)}); is the server running?", place=place
            ) from error
        if status in (401, 403):
            raise TeacherError(
                f"{self._endpoint.api_base} refused the key (HTTP {status}); name its variable in api_key_env",
                place=place,
            )
        models = _model_ids(body) if status == 200 else []
        if models and self._endpoint.model not in models:
            some = ", ".join(models[:8]) + (", …" if len(models) > 8 else "")
            raise TeacherError(
                f"{self._endpoint.api_base} has no model {self._endpoint.model!r}; it has {some}", place=place
            )

    async def ask(self, call: Call) -> Reply:
        """See `Carrier.ask`."""
        try:
            return await self._ask(call)
        except CallFailed as failure:
            asks_for_later_name = failure.parameter == MAX_TOKENS and MAX_COMPLETION_TOKENS in str(failure)
            if not asks_for_later_name or self._limit_name == MAX_COMPLETION_TOKENS:
                raise
        self._limit_name = MAX_COMPLETION_TOKENS
        return await self._ask(call)

    async def _ask(self, call: Call) -> Reply:
        body = {"model": self._endpoint.model, "messages": call.messages, **call.parameters}
        if MAX_TOKENS in body:
            body[self._limit_name] = body.pop(MAX_TOKENS)
        try:
            timeout = aiohttp.ClientTimeout(total=call.timeout_s)
            async with self._session.post(
                self._url, data=json.dumps(body), timeout=timeout, proxy=self._proxy
            ) as response:
                content = await read_bounded(response)
                headers = response.headers
                if response.status != 200:
                    raise failure_of_status(
                        response.status,
                        message_of(content),
                        headers,
                        sent=call.parameters,
                        teacher=self._teacher.name,
                        scope=self._endpoint.model,
                    )
        except TimeoutError as error:
            raise CallFailed("timeout", f"no answer within {call.timeout_s:g} s", retryable=True) from error
        except aiohttp.ClientConnectorError as error:
            raise CallFailed("bad_response", reason_of(error), retryable=True, may_be_billed=False) from error
        except (aiohttp.ClientError, OSError) as error:
            raise CallFailed("bad_response", reason_of(error), retryable=True) from error
        return replace(self._reply(content), limits=read_limits(headers, scope=self._endpoint.model))

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
        # aiohttp closes TLS transports one loop turn later.
        await asyncio.sleep(0)

    def _reply(self, content: bytes) -> Reply:
        try:
            body = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise CallFailed("bad_response", f"not a chat completion: {content[:80]!r}", retryable=True) from error
        return reply_of_completion(self._teacher, body)


def reply_of_completion(teacher: Teacher, body: Any) -> Reply:
    """The reply in a chat completion, whichever way it came.

    Args:
        teacher: for its price.
        body: the completion, parsed; untrusted.

    Raises:
        CallFailed: it is none.
    """
    try:
        choice = body["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        usage = dict(body.get("usage") or {})
        finish_reason, logprobs = choice.get("finish_reason"), choice.get("logprobs")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CallFailed("bad_response", f"not a chat completion: {str(body)[:80]}", retryable=True) from error
    if not isinstance(text, str):
        raise CallFailed("bad_response", "message content is not text", retryable=True)
    return Reply.of(
        teacher,
        text=text,
        usage=usage,
        reasoning=message.get("reasoning_content") or message.get("reasoning"),
        finish_reason=finish_reason,
        model=body.get("model"),
        logprob=mean_logprob(logprobs),
    )


def failure_of_status(
    status: int,
    message: str,
    headers: Mapping[str, str],
    *,
    sent: Mapping[str, Any] | None = None,
    teacher: str = "",
    scope: str = "",
) -> CallFailed:
    """The failure that an HTTP status stands for.

    Args:
        status: other than 200.
        message: what the server said.
        headers: of the response, for Retry-After and rate limits.
        sent: parameters of the call, to find the one that the server does not take.
        teacher: name, for what the user can do about it.
        scope: the model that was asked, whose rate limits the headers tell.
    """
    said = f"HTTP {status}: {message}"[:_MAX_MESSAGE]
    told: dict[str, Any] = {
        "retry_after_s": retry_after(headers),
        "limits": read_limits(headers, scope=scope),
        # A gateway's time is up before the model's: that one may go on, and be billed.
        "may_be_billed": status in (408, 504),
    }
    if status == 402 or _NO_CREDIT in message:
        remedy = "the provider wants credit; top up the account, then run again"
        return CallFailed("auth", f"{said.rstrip('.')}; {remedy}", retryable=False, fatal=True, **told)
    if status == 429:
        return CallFailed("rate_limited", said, retryable=True, overloaded=True, **told)
    if status in (503, 529):
        return CallFailed("bad_response", said, retryable=True, overloaded=True, **told)
    if status in (401, 403):
        return CallFailed("auth", said, retryable=False, fatal=True, **told)
    if status == 404:
        return CallFailed("bad_response", said, retryable=False, fatal=True, **told)
    if status in (408, 504):
        return CallFailed("timeout", said, retryable=True, **told)
    if status in (409, 425) or status >= 500:
        return CallFailed("bad_response", said, retryable=True, **told)
    if (parameter := refused_parameter(message, sent or {})) is not None:
        remedy = remedy_for(parameter, teacher)
        return CallFailed(
            "bad_response", f"{said.rstrip('.')}; {remedy}", retryable=False, fatal=True, parameter=parameter, **told
        )
    return CallFailed("bad_response", said, retryable=False, **told)


def mean_logprob(logprobs: Any) -> float | None:
    """Mean log-probability of the tokens of a reply, in nats; None where the endpoint gave none, or no numbers."""
    try:
        values = [float(token["logprob"]) for token in logprobs["content"]]
    except (TypeError, LookupError, ValueError):
        return None
    return sum(values) / len(values) if values and all(map(math.isfinite, values)) else None


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL. Looked up once: aiohttp's own look-up takes a thread a call."""
    parts = urlsplit(url)
    host = parts.hostname
    # A proxy cannot reach this machine's own servers.
    if host is None or host == "localhost" or host == "::1" or host.startswith("127.") or proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


async def read_bounded(response: aiohttp.ClientResponse) -> bytes:
    """The body; one that never ends must not fill the memory."""
    parts, size = [], 0
    async for part in response.content.iter_chunked(1 << 16):
        size += len(part)
        if size > _MAX_BODY_BYTES:
            raise CallFailed("bad_response", f"more than {_MAX_BODY_BYTES >> 20} MiB", retryable=False)
        parts.append(part)
    return b"".join(parts)


def _model_ids(body: bytes) -> list[str]:
    try:
        return [str(model["id"]) for model in json.loads(body)["data"]]
    except (ValueError, LookupError, TypeError):
        return []


def message_of(content: bytes) -> str:
    """What a server's error body says, with its code where that says more."""
    try:
        error = json.loads(content)["error"]
        said = str(error["message"] if isinstance(error, dict) else error)
        return f"{said} ({_NO_CREDIT})" if isinstance(error, dict) and error.get("code") == _NO_CREDIT else said
    except (ValueError, LookupError, TypeError, RecursionError):
        return content[:200].decode("utf-8", "replace").strip() or "no message"


def reason_of(error: BaseException) -> str:
    """What a connection error says, without any secret."""
    return redact(str(error) or type(error).__name__)[:_MAX_MESSAGE]
