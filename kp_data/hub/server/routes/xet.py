"""Xet storage over HTTP: tokens, xorbs, shards, layouts, known chunks.

A token is good for one repository and for reading or writing, for a while; the storage address names the repository
too, so that clients keep apart what they remember of each. Xorbs are downloaded by addresses that are signed for one
range of one xorb.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from typing import Final

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from kp_data.hub.server.names import check_digest
from kp_data.hub.server.objects import read_range
from kp_data.hub.server.refusals import Refusal, forbidden
from kp_data.hub.server.repositories import Repo, repo_by_id, resolve
from kp_data.hub.server.web import (
    SAFE_HEADERS,
    answer,
    body_bytes,
    body_to_file,
    elsewhere,
    endpoint_of,
    hub_of,
    query_of,
    read_span,
    reading,
    refuse_pull_request,
    repo_of,
    unquoted,
    writing,
)
from kp_data.hub.server.xet import find_xorb, known_chunks, layout, take_shard, take_xorb, use_xorbs

_PURPOSE: Final = "xet"
_REMEMBERED_TOKENS: Final = 1_000
_REMEMBERED_XORBS: Final = 200_000


async def read_token(request: Request) -> Response:
    """A token to download with."""
    return await _token(request, "read")


async def write_token(request: Request) -> Response:
    """A token to upload with."""
    return await _token(request, "write")


async def _token(request: Request, scope: str) -> Response:
    refuse_pull_request(request)

    def work(connection: sa.Connection) -> Repo:
        _, repo = repo_of(connection, request, "write" if scope == "write" else "read")
        if scope == "read":
            resolve(connection, repo, unquoted(request, "revision"))
        return repo

    repo, hub = await reading(request, work), hub_of(request)
    expires = int(time.time() + hub.settings.limits.link_s)
    # The random part tells apart two clients that ask within one second: see `_told`.
    claims = {"repo": repo.id, "scope": scope, "client": secrets.token_hex(8)}
    token = hub.signer.token(_PURPOSE, claims, expires=expires)
    cas = f"{endpoint_of(request)}/xet/{repo.id}-{repo.epoch}"
    headers = {"X-Xet-Cas-Url": cas, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires)}
    return answer({"casUrl": cas, "accessToken": token, "exp": expires}, headers=headers)


async def post_xorb(request: Request) -> Response:
    """A xorb, serialised."""
    repo, hub = await _allowed(request, "write"), hub_of(request)
    digest = check_digest(request.path_params["hash"])
    with hub.spool.file() as path:
        await body_to_file(request, path, hub.settings.limits.xorb_bytes)
        is_new = await run_in_threadpool(take_xorb, hub, repo, digest, path)
    return answer({"was_inserted": is_new})


async def post_shard(request: Request) -> Response:
    """A shard: the files it describes are uploaded when this is answered."""
    repo, hub = await _allowed(request, "write"), hub_of(request)
    data = await body_bytes(request, hub.settings.limits.shard_bytes)
    await run_in_threadpool(take_shard, hub, repo, data)
    return answer({"result": 1})


async def get_layout(request: Request) -> Response:
    """How a file is put together, with an address for each part."""
    repo, hub, endpoint = await _allowed(request, "read"), hub_of(request), endpoint_of(request)
    digest = check_digest(request.path_params["hash"])
    # An open end is cut to the file's size, which is not known here.
    start, end = read_span(request.headers.get("range"), 2**62) or (0, None)
    found = await reading(request, lambda connection: layout(connection, repo, digest, start=start, end=end))
    for xorb, fetches in found["fetch_info"].items():
        for fetch in fetches:
            first, last = fetch.pop("packed")
            claims = {"xorb": xorb, "first": str(first), "last": str(last)}
            query = hub.signer.query("xorb", claims, lasts_s=hub.settings.limits.link_s)
            fetch["url"] = f"{endpoint}/xorbs/{xorb}/{first}-{last}?{query}"
            fetch["url_range"] = {"start": first, "end": last}
    return JSONResponse(found, headers={"Cache-Control": "no-store"})


async def get_xorb(request: Request) -> Response:
    """A range of a xorb, by a signed address."""
    digest, first, last = (str(request.path_params[name]) for name in ("hash", "first", "last"))
    hub = hub_of(request)
    hub.signer.check("xorb", {"xorb": digest, "first": first, "last": last}, query_of(request))
    location = await reading(request, lambda connection: find_xorb(connection, digest))
    # Clients name the range again as a header, counted from the beginning of the xorb.
    start, end = read_span(request.headers.get("range"), int(last) + 1) or (int(first), int(last) + 1)
    if start < int(first):
        raise forbidden("this address was signed for another range")
    if request.headers.get("range") == f"bytes={start}-{end - 1}":
        # The range is signed along, so the address must be asked for exactly this one.
        there = await elsewhere(request, location, {}, name=digest, span=(start, end - 1))
        if there is not None:
            return there
    headers = {"Content-Range": f"bytes {start}-{end - 1}/*", "Content-Length": str(end - start)}
    headers["Cache-Control"] = "private"
    file = await run_in_threadpool(hub.objects.open, location)
    return StreamingResponse(
        read_range(file, start, end - start), 206, SAFE_HEADERS | headers, media_type="application/octet-stream"
    )


async def get_chunk(request: Request) -> Response:
    """A shard of xorbs that the client has not been told of and had better know."""
    # Only who sends needs to know; readers have no business with what no file holds any more.
    repo, digest = await _allowed(request, "write"), check_digest(request.path_params["hash"])
    told = _told(request, request.headers["authorization"])
    found = await reading(request, lambda connection: known_chunks(connection, repo, digest, told))
    shard, xorbs = found or (b"", [])
    # The client will not send what it knows to be here: nobody may take it away now.
    if not shard or not await writing(request, lambda connection: use_xorbs(connection, repo, xorbs)):
        raise Refusal(404, "this chunk is not known")
    told.update(xorbs)
    return Response(shard, media_type="application/octet-stream", headers={"Cache-Control": "no-store"})


def _told(request: Request, token: str) -> set[str]:
    """The xorbs that the holder of a token has been told of; the oldest are forgotten, which only costs time."""
    remembered: OrderedDict[str, set[str]] = request.app.state.told
    while len(remembered) > _REMEMBERED_TOKENS or sum(map(len, remembered.values())) > _REMEMBERED_XORBS:
        remembered.popitem(last=False)
    return remembered.setdefault(token, set())


async def not_offered(request: Request) -> Response:
    """Newer ways to do the same; clients then take the older one."""
    raise Refusal(404, "not offered here")


async def _allowed(request: Request, scope: str) -> Repo:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    claims = hub_of(request).signer.read(_PURPOSE, token.strip() if scheme.lower() == "bearer" else "")
    named = request.path_params["storage"].partition("-")[0]
    if claims["repo"] != named or (scope == "write" and claims["scope"] != "write"):
        raise forbidden("this token is for another repository, or may only read")
    return await reading(request, lambda connection: repo_by_id(connection, claims["repo"]))


_API = "/api/{types:types}/{namespace}/{name}"
_CAS = "/xet/{storage}"
ROUTES = [
    Route(_API + "/xet-read-token/{revision}", read_token, methods=["GET"]),
    Route(_API + "/xet-write-token/{revision}", write_token, methods=["GET"]),
    Route(_CAS + "/v1/xorbs/{prefix}/{hash}", post_xorb, methods=["POST"]),
    Route(_CAS + "/v1/shards", post_shard, methods=["POST"]),
    Route(_CAS + "/v1/reconstructions/{hash}", get_layout, methods=["GET"]),
    Route(_CAS + "/v1/chunks/{prefix}/{hash}", get_chunk, methods=["GET"]),
    Route(_CAS + "/{rest:path}", not_offered, methods=["GET", "POST", "HEAD"]),
    Route("/xorbs/{hash}/{first:offset}-{last:offset}", get_xorb, methods=["GET"]),
]
