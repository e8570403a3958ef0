"""What all routes share: who is asking, bodies with bounds, answers, and ranges.

Paths are matched as they were sent: official clients write the branch `feat/x` as `feat%2Fx`, one segment of the path,
which frameworks would have split. `unquoted` decodes a segment once it is known to be one.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, quote, unquote

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from kp_data.hub.server.auth import Caller, Right, identify
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.names import RepoName, check_repo, check_text
from kp_data.hub.server.refusals import Refusal, bad_request
from kp_data.hub.server.repositories import Repo, find_repo

T = TypeVar("T")
Blocks = Callable[[int, int], Iterator[bytes]]
"""Gives so many bytes from so far on: (start, length)."""

SAFE_HEADERS: Final = {
    # Stored pages run nowhere: not in the hub's origin, not in a frame, not as another type.
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
# Else the server would go on reading, and throwing away, whatever a client goes on sending.
_HANG_UP: Final = {"Connection": "close"}
_LINGER_BYTES: Final = 2**20
_LINGER_S: Final = 1.0
_SENT_ON_S: Final = 600.0
_TYPE_OF_PREFIX: Final = {"models": "model", "datasets": "dataset", "spaces": "space"}


class _Types(Convertor[str]):
    """`{types:types}` in a route."""

    regex = "models|datasets|spaces"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _Switch(Convertor[str]):
    """`{action:switch}` in a route."""

    regex = "enable|disable"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _Offset(Convertor[str]):
    """`{first:offset}` in a route: digits, and few enough of them to be a number of bytes."""

    regex = "[0-9]{1,18}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("types", _Types())
register_url_convertor("offset", _Offset())
register_url_convertor("switch", _Switch())


def hub_of(request: Request) -> Hub:
    """The hub that serves a request."""
    hub: Hub = request.app.state.hub
    return hub


def endpoint_of(request: Request) -> str:
    """Where the client finds the hub, without a slash at its end."""
    public = hub_of(request).settings.public_url
    if public is not None:
        return public
    host = request.headers.get("host", "")
    if not re.fullmatch(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?", host):
        raise bad_request("the Host header is missing or no host")
    return f"{request.url.scheme}://{host}"


def unquoted(request: Request, name: str) -> str:
    """A parameter of the path, decoded.

    Raises:
        Refusal: 400; not UTF-8, or with NUL, which PostgreSQL knows in no text.
    """
    try:
        return check_text(unquote(request.path_params[name], errors="strict"))
    except UnicodeDecodeError as error:
        raise bad_request("the address is not UTF-8") from error


def repo_name(request: Request) -> RepoName:
    """The repository that the path names; models need no prefix in some paths."""
    repo_type = _TYPE_OF_PREFIX[request.path_params.get("types", "models")]
    return check_repo(repo_type, unquoted(request, "namespace"), unquoted(request, "name"))


def caller_of(connection: sa.Connection, request: Request) -> Caller:
    """Who is asking."""
    return identify(connection, request.headers.get("authorization"))


def repo_of(connection: sa.Connection, request: Request, right: Right) -> tuple[Caller, Repo]:
    """Who is asking, and the repository that the path names, if they may use it so."""
    caller = caller_of(connection, request)
    return caller, find_repo(connection, caller, repo_name(request), right)


async def reading(request: Request, work: Callable[[sa.Connection], T]) -> T:
    """What `work` finds in the metadata; off the event loop."""
    return await run_in_threadpool(hub_of(request).database.read, work)


async def writing(request: Request, work: Callable[[sa.Connection], T]) -> T:
    """One transaction; off the event loop."""
    return await run_in_threadpool(hub_of(request).database.write, work)


def query_of(request: Request) -> dict[str, str]:
    """The query; of a name that stands twice, the last."""
    return {name: check_text(value) for name, value in parse_qsl(request.url.query, keep_blank_values=True)}


def is_true(text: str | None) -> bool:
    """Whether a query's flag is set; older clients write True."""
    return (text or "").lower() in ("true", "1")


def refuse_pull_request(request: Request) -> None:
    """Say so before anything is sent.

    Raises:
        Refusal: 400; a pull request was asked for.
    """
    if is_true(query_of(request).get("create_pr")):
        raise bad_request("this hub has no pull requests; commit to a branch instead")


def number_of(text: str | None, default: int, *, most: int) -> int:
    """A number in a query; what is none counts as the default."""
    return min(int(text), most) if text and text.isascii() and text.isdigit() and len(text) < 12 else default


async def body_blocks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """A request's body, block by block.

    Raises:
        Refusal: 413 when it is larger than `limit` bytes; 408 when the client falls silent; 400 when it hangs up.
    """
    declared = request.headers.get("content-length", "0")
    blocks, size = request.stream().__aiter__(), 0
    idle_s = hub_of(request).settings.limits.idle_s
    if declared.isascii() and declared.isdigit() and int(declared) > limit:
        raise await _too_large(blocks, limit)
    while (block := await _next_block(blocks, idle_s)) is not None:
        size += len(block)
        if size > limit:
            raise await _too_large(blocks, limit)
        yield block


async def _next_block(blocks: AsyncIterator[bytes], idle_s: float) -> bytes | None:
    try:
        async with asyncio.timeout(idle_s):
            return await anext(blocks, None)
    except TimeoutError:
        raise Refusal(408, "nothing came for too long", headers=_HANG_UP) from None
    except ClientDisconnect:
        raise bad_request("the body was cut off") from None


async def _too_large(blocks: AsyncIterator[bytes], limit: int) -> Refusal:
    """The refusal. A client that has nearly sent all may finish, for else it would not read why it was refused."""
    refusal, size = Refusal(413, f"at most {limit} bytes may be sent here"), 0
    while size < _LINGER_BYTES:
        try:
            block = await _next_block(blocks, _LINGER_S)
        except Refusal:
            break
        if block is None:
            return refusal
        size += len(block)
    return Refusal(413, refusal.message, headers=_HANG_UP)


async def body_bytes(request: Request, limit: int | None = None) -> bytes:
    """A small body, whole."""
    limit = hub_of(request).settings.limits.json_bytes if limit is None else limit
    return b"".join([block async for block in body_blocks(request, limit)])


async def body_json(request: Request) -> dict[str, Any]:
    """A body that is one JSON object.

    Raises:
        Refusal: 400.
    """
    try:
        found = json.loads(await body_bytes(request) or b"{}")
    except (ValueError, RecursionError) as error:
        raise bad_request("the body is not JSON") from error
    if not isinstance(found, dict):
        raise bad_request("the body is not a JSON object")
    return found


def text_of(body: dict[str, Any], name: str, default: str | None = None) -> str:
    """A text in a JSON body.

    Raises:
        Refusal: 400; missing or something else.
    """
    found = body.get(name)
    found = default if found is None else found
    if not isinstance(found, str):
        raise bad_request(f"{name!r} must be a text")
    return check_text(found)


async def body_to_file(request: Request, path: Path, limit: int) -> int:
    """Write a body to a file; its size."""
    size = 0
    with path.open("wb") as file:
        async for block in body_blocks(request, limit):
            await run_in_threadpool(file.write, block)
            size += len(block)
    return size


def page_link(request: Request, cursor: str) -> dict[str, str]:
    """The header by which clients find the next page."""
    query = [(name, value) for name, value in parse_qsl(request.url.query) if name != "cursor"]
    text = "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in [*query, ("cursor", cursor)])
    return {"Link": f'<{endpoint_of(request)}{request.scope["path"]}?{text}>; rel="next"'}


def answer(content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> JSONResponse:
    """JSON."""
    return JSONResponse(content, status, {"Cache-Control": "no-store"} | (headers or {}))


def send(request: Request, blocks: Blocks, size: int, headers: dict[str, str]) -> Response:
    """Bytes, or the one range of them that was asked for.

    Raises:
        Refusal: 416.
    """
    headers = {"Accept-Ranges": "bytes"} | SAFE_HEADERS | headers
    start, end, status = 0, size, 200
    if (span := read_span(request.headers.get("range"), size)) is not None:
        start, end, status = *span, 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(blocks(start, end - start), status, headers)


async def elsewhere(
    request: Request, location: str | None, headers: dict[str, str], *, name: str, span: tuple[int, int] | None = None
) -> Response | None:
    """Send a reader on to where the object lies, if the operator wants it so and the object store can sign.

    Args:
        request: a download, already allowed.
        location: of the object; None: it is not stored whole.
        headers: what goes with the answer beside the address.
        name: that a browser saves it under.
        span: first and last byte, for an address that opens no more than these.
    """
    hub = hub_of(request)
    if not hub.settings.direct_downloads or location is None or request.method != "GET":
        return None
    lasts_s = min(hub.settings.limits.link_s, _SENT_ON_S)
    address = await run_in_threadpool(hub.objects.address, location, lasts_s=lasts_s, name=name, span=span)
    if address is None:
        return None
    return Response(status_code=302, headers=headers | {"Location": address, "Cache-Control": "no-store"})


def read_span(header: str | None, size: int) -> tuple[int, int] | None:
    """The bytes from so far up to but without so far that a Range header asks for; None: all.

    Several ranges at once, and what is no range of bytes, are answered with all, as RFC 9110 allows.

    Raises:
        Refusal: 416; no byte of it is there.

    >>> read_span("bytes=-3", 10), read_span("bytes=8-99", 10), read_span("bytes=0-1,4-5", 10)
    ((7, 10), (8, 10), None)
    """
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header or "", re.ASCII)
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    if start >= end:
        raise Refusal(416, "no byte lies in this range", headers={"Content-Range": f"bytes */{size}"})
    return start, end
