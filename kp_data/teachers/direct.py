"""The direct path: chat completions of any OpenAI-dialect endpoint over aiohttp."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from kp_data.config import Teacher
from kp_data.errors import TeacherError
from kp_data.teachers.transport import Call, CallFailed, Endpoint, Reply, redact

_CHECK_TIMEOUT_S: Final = 10.0
_MAX_BODY_BYTES: Final = 32 * 1024 * 1024
_MAX_MESSAGE: Final = 300


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
        self._proxy = _proxy_of(endpoint.api_base)
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
                f"{self._endpoint.api_base} cannot be reached ({_reason(error)}); is the server running?", place=place
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
        body = {"model": self._endpoint.model, "messages": call.messages, **call.parameters}
        try:
            timeout = aiohttp.ClientTimeout(total=call.timeout_s)
            async with self._session.post(
                self._url, data=json.dumps(body), timeout=timeout, proxy=self._proxy
            ) as response:
                content = await _read_bounded(response)
                if response.status != 200:
                    raise failure_of_status(response.status, _message_of(content), response.headers)
        except TimeoutError as error:
            raise CallFailed("timeout", f"no answer within {call.timeout_s:g} s", retryable=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise CallFailed("bad_response", _reason(error), retryable=True) from error
        return self._reply(content)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
        # aiohttp closes TLS transports one loop turn later.
        await asyncio.sleep(0)

    def _reply(self, content: bytes) -> Reply:
        try:
            body = json.loads(content)
            choice = body["choices"][0]
            message = choice["message"]
            text = message.get("content") or ""
            usage = dict(body.get("usage") or {})
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise CallFailed("bad_response", f"not a chat completion: {content[:80]!r}", retryable=True) from error
        if not isinstance(text, str):
            raise CallFailed("bad_response", "message content is not text", retryable=True)
        return Reply.of(
            self._teacher,
            text=text,
            usage=usage,
            reasoning=message.get("reasoning_content") or message.get("reasoning"),
            finish_reason=choice.get("finish_reason"),
            model=body.get("model"),
            logprob=mean_logprob(choice.get("logprobs")),
        )


def failure_of_status(status: int, message: str, headers: Mapping[str, str]) -> CallFailed:
    """The failure that an HTTP status stands for.

    Args:
        status: other than 200.
        message: what the server said.
        headers: of the response, for Retry-After.
    """
    said = f"HTTP {status}: {message}"[:_MAX_MESSAGE]
    if status == 429:
        return CallFailed("rate_limited", said, retryable=True, overloaded=True, retry_after_s=retry_after(headers))
    if status in (503, 529):
        return CallFailed("bad_response", said, retryable=True, overloaded=True, retry_after_s=retry_after(headers))
    if status in (401, 403):
        return CallFailed("auth", said, retryable=False, fatal=True)
    if status == 404:
        return CallFailed("bad_response", said, retryable=False, fatal=True)
    if status in (408, 504):
        return CallFailed("timeout", said, retryable=True, retry_after_s=retry_after(headers))
    if status in (409, 425) or status >= 500:
        return CallFailed("bad_response", said, retryable=True, retry_after_s=retry_after(headers))
    return CallFailed("bad_response", said, retryable=False)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the header Retry-After, in seconds or as a date; None without one.

    >>> retry_after({"Retry-After": "1.5"})
    1.5
    """
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def mean_logprob(logprobs: Any) -> float | None:
    """Mean log-probability of the tokens of a reply, in nats; None where the endpoint gave none."""
    try:
        values = [float(token["logprob"]) for token in logprobs["content"]]
    except (TypeError, LookupError, ValueError):
        return None
    return sum(values) / len(values) if values else None


def _proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a URL. Looked up once: aiohttp's own look-up takes a thread a call."""
    parts = urlsplit(url)
    host = parts.hostname
    # A proxy cannot reach this machine's own servers.
    if host is None or host == "localhost" or host == "::1" or host.startswith("127.") or proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
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


def _message_of(content: bytes) -> str:
    try:
        error = json.loads(content)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError):
        return content[:200].decode("utf-8", "replace").strip() or "no message"


def _reason(error: BaseException) -> str:
    return redact(str(error) or type(error).__name__)[:_MAX_MESSAGE]
