"""HTTP for batch jobs: bounded bodies, results line by line, every failure in one shape."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import aiohttp

from kp_data.errors import TeacherError
from kp_data.teachers.batches.protocol import JobUnknown
from kp_data.teachers.direct import failure_of_status, message_of, proxy_of, read_bounded, reason_of
from kp_data.teachers.transport import CallFailed

_CALL: Final = aiohttp.ClientTimeout(total=120)
# A file of 200 MB over a slow line.
_UPLOAD: Final = aiohttp.ClientTimeout(total=3600, sock_connect=30)
_DOWNLOAD: Final = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=120)
_MOST_LINE_BYTES: Final = 32 * 2**20
_PAGE: Final = 1 << 16
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,255}")


class WireFailed(CallFailed):
    """A call that failed; `status` is None where no answer came at all."""

    def __init__(self, failure: CallFailed, status: int | None) -> None:
        super().__init__(failure.error, str(failure), retryable=failure.retryable)
        vars(self).update(vars(failure))
        self.status = status

    @property
    def was_refused(self) -> bool:
        """Whether the server surely did nothing: it answered, and blamed the request or its pace."""
        return self.status is not None and self.status < 500 and self.status not in (408, 409)


class Wire:
    """Calls to one provider."""

    def __init__(self, base: str, headers: Mapping[str, str]) -> None:
        self._base, self._proxy = base.rstrip("/"), proxy_of(base)
        self._session = aiohttp.ClientSession(headers=headers, raise_for_status=False)

    async def check(self, teacher: str, path: str) -> None:
        """Whether the list of jobs can be read, which says that there is a batch API and that the key is right.

        Raises:
            TeacherError: it cannot.
        """
        try:
            await self.call("GET", path, params={"limit": "1"})
        except WireFailed as failure:
            if failure.status in (404, 405, 501):
                remedy = "there is no batch API; leave `batch:` or --batch out, or mend the URL"
            elif failure.status in (401, 403):
                remedy = "it refused the key; name its variable in api_key_env"
            elif failure.status is None:
                remedy = "it cannot be reached; is the server running?"
            else:
                # Overloaded or broken for the moment: the run itself is patient.
                return
            raise TeacherError(f"{self._base}{path}: {remedy} ({failure})", place=f"teacher {teacher}") from failure

    async def call(self, method: str, path: str, *, body: Any = None, params: Mapping[str, str] | None = None) -> Any:
        """One call with a JSON answer, which is an object.

        Raises:
            WireFailed: an answer that is no success, or none.
        """
        data = None if body is None else json.dumps(body)
        return await self._send(method, path, data, params, _CALL, {"Content-Type": "application/json"})

    async def call_of_job(self, provider_id: str, method: str, path: str) -> Any:
        """See `call`, about one job.

        Raises:
            WireFailed: see `call`.
            JobUnknown: the provider has nothing there.
        """
        try:
            return await self.call(method, path)
        except WireFailed as failure:
            raise (JobUnknown(provider_id) if failure.status == 404 else failure) from failure

    async def send_json(self, path: str, body: Path) -> Any:
        """POST a file that holds JSON."""
        with body.open("rb") as opened:
            return await self._send("POST", path, opened, None, _UPLOAD, {"Content-Type": "application/json"})

    async def send_file(self, path: str, file: Path, name: str, fields: Mapping[str, str]) -> Any:
        """POST a file with form fields."""
        with file.open("rb") as opened:
            form = aiohttp.FormData(dict(fields))
            form.add_field("file", opened, filename=name, content_type="application/jsonl")
            return await self._send("POST", path, form, None, _UPLOAD, {})

    async def lines(self, path: str) -> AsyncGenerator[bytes, None]:
        """The lines of a body, one at a time; a line that is too long, or cut off, is passed over.

        Raises:
            WireFailed: an answer that is no success, or a body that broke off.
        """
        try:
            async with self._session.get(
                self._base + path, timeout=_DOWNLOAD, proxy=self._proxy, allow_redirects=False
            ) as response:
                await _check(response)
                async with aclosing(_split(response.content)) as lines:
                    async for line in lines:
                        yield line
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _broken(error) from error

    async def lines_of_job(self, provider_id: str, path: str) -> AsyncGenerator[bytes, None]:
        """See `lines`, of one job.

        Raises:
            WireFailed: see `lines`.
            JobUnknown: the provider has nothing there.
        """
        try:
            async with aclosing(self.lines(path)) as lines:
                async for line in lines:
                    yield line
        except WireFailed as failure:
            raise (JobUnknown(provider_id) if failure.status == 404 else failure) from failure

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
        # aiohttp closes TLS transports one loop turn later.
        await asyncio.sleep(0)

    async def _send(
        self,
        method: str,
        path: str,
        data: Any,
        params: Mapping[str, str] | None,
        timeout: aiohttp.ClientTimeout,
        headers: Mapping[str, str],
    ) -> Any:
        url = self._base + path
        try:
            async with self._session.request(
                method,
                url,
                data=data,
                params=params,
                timeout=timeout,
                headers=headers,
                proxy=self._proxy,
                allow_redirects=False,
            ) as response:
                await _check(response)
                content = await read_bounded(response)
        except WireFailed:
            raise
        except CallFailed as failure:
            raise WireFailed(failure, None) from failure
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _broken(error) from error
        return _object(content)


def id_of(answer: Mapping[str, Any]) -> str:
    """The id in an answer. It becomes part of a path, so it may hold only what ids hold.

    Raises:
        WireFailed: there is none; what the server did is not known then.
    """
    value = answer.get("id")
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise WireFailed(CallFailed("bad_response", "the provider gave no usable id", retryable=True), None)
    return value


def _object(content: bytes) -> Any:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        # As if no answer had come: what the server did is not known.
        raise WireFailed(CallFailed("bad_response", f"not a JSON object: {content[:80]!r}", retryable=True), None)
    return parsed


async def _check(response: aiohttp.ClientResponse) -> None:
    # A redirection is not followed: the key would go with it.
    if not 200 <= response.status < 300:
        said = message_of(await read_bounded(response))
        raise WireFailed(failure_of_status(response.status, said, response.headers), response.status)


def _broken(error: BaseException) -> WireFailed:
    return WireFailed(CallFailed("bad_response", reason_of(error), retryable=True), None)


async def _split(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Lines of a stream, of which one that is too long does not fill the memory."""
    rest, too_long = bytearray(), False
    async for part in content.iter_chunked(_PAGE):
        *ended, begun = part.split(b"\n")
        for line in ended:
            if not too_long and rest + line:
                yield bytes(rest + line)
            rest, too_long = bytearray(), False
        rest += begun
        if len(rest) > _MOST_LINE_BYTES:
            rest, too_long = bytearray(), True
    if rest and not too_long:
        yield bytes(rest)
