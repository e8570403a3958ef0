"""Large files by Git LFS: the batch call, signed uploads in one piece or in parts, and the check afterwards.

Uploads carry no token. Their addresses are signed for one object of one repository with one size.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kp_data.hub.server.contents import find_content, held_size, refer, register, require_room, take_in
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.names import check_digest
from kp_data.hub.server.objects import BLOCK_BYTES
from kp_data.hub.server.refusals import Refusal, bad_request
from kp_data.hub.server.repositories import Repo, repo_by_id
from kp_data.hub.server.web import (
    answer,
    body_json,
    body_to_file,
    elsewhere,
    endpoint_of,
    hub_of,
    query_of,
    reading,
    repo_of,
    send,
    writing,
)

_MAX_OBJECTS = 1_000


async def batch(request: Request) -> Response:
    """Which objects are to be sent, and where to; what the repository holds already is not sent again."""
    body = await body_json(request)
    operation, objects = body.get("operation"), body.get("objects")
    if operation not in ("upload", "download") or not isinstance(objects, list) or len(objects) > _MAX_OBJECTS:
        raise bad_request(f"a batch uploads or downloads up to {_MAX_OBJECTS} objects")
    wanted = [_wanted(item) for item in objects]
    in_parts = operation == "upload" and "multipart" in (body.get("transfers") or [])
    hub, endpoint = hub_of(request), endpoint_of(request)
    base = f"{endpoint}{request.scope['path'].removesuffix('objects/batch')}verify"

    def work(connection: sa.Connection) -> list[dict[str, Any]]:
        _, repo = repo_of(connection, request, "write" if operation == "upload" else "read")
        offer = _upload if operation == "upload" else _download
        return [offer(connection, hub, repo, oid, size, endpoint, base, in_parts) for oid, size in wanted]

    found = await (writing if operation == "upload" else reading)(request, work)
    # A batch speaks of one way of transfer: in parts only when some object needs it, and the others then do not mind.
    several = any("chunk_size" in item.get("actions", {}).get("upload", {}).get("header", {}) for item in found)
    return JSONResponse(
        {"transfer": "multipart" if several else "basic", "objects": found, "hash_algo": "sha256"},
        headers={"Cache-Control": "no-store"},
        media_type="application/vnd.git-lfs+json",
    )


async def put_object(request: Request) -> Response:
    """An object in one piece."""
    repo, oid, size = await _signed(request, "put")
    hub = hub_of(request)
    with hub.spool.file() as path:
        await body_to_file(request, path, size)
        await run_in_threadpool(_keep, hub, repo, oid, size, path)
    return answer({})


async def put_part(request: Request) -> Response:
    """A part of an object."""
    part = str(request.path_params["part"])
    repo, oid, _ = await _signed(request, "part", part=part)
    hub = hub_of(request)
    with hub.spool.file() as path:
        size = await body_to_file(request, path, hub.settings.limits.part_bytes)
        waiting = await run_in_threadpool(hub.spool.waiting, repo.id)
        # Parts that are never put together would have no limit.
        await reading(request, lambda connection: require_room(connection, hub, repo.id, None, waiting + size))
        await run_in_threadpool(path.replace, hub.spool.folder(repo.id, oid) / part)
    return Response(headers={"ETag": f'"{oid}-{part}"'})


async def complete(request: Request) -> Response:
    """All parts have been sent."""
    repo, oid, size = await _signed(request, "put")
    parts = (await body_json(request)).get("parts")
    hub = hub_of(request)
    num = math.ceil(size / hub.settings.limits.part_bytes)
    if not isinstance(parts, list) or len(parts) != num:
        raise bad_request(f"this object has {num} parts")
    await run_in_threadpool(_join, hub, repo, oid, size, num)
    return answer({})


async def verify(request: Request) -> Response:
    """Whether an object has arrived."""
    body = await body_json(request)
    oid, size = _wanted(body)

    def work(connection: sa.Connection) -> int | None:
        _, repo = repo_of(connection, request, "write")
        return held_size(connection, repo.id, oid)

    if await reading(request, work) != size:
        raise Refusal(404, "this object has not arrived")
    return answer({})


async def get_object(request: Request) -> Response:
    """An object by a signed address."""
    repo, oid, _ = await _signed(request, "get")
    hub = hub_of(request)

    def work(connection: sa.Connection) -> Any:
        if held_size(connection, repo.id, oid) is None:
            raise Refusal(404, "no such object")
        return find_content(connection, hub, oid)

    content = await reading(request, work)
    if there := await elsewhere(request, content.location, {}, name=oid):
        return there
    return await run_in_threadpool(
        send,
        request,
        content.blocks,
        content.size,
        {"Content-Type": "application/octet-stream", "ETag": f'"{oid}"', "Cache-Control": "private"},
    )


def _wanted(item: Any) -> tuple[str, int]:
    if not isinstance(item, dict) or type(item.get("size")) is not int or not 0 <= item["size"] < 2**62:
        raise bad_request("an object has an oid and a size")
    return check_digest(item.get("oid")), item["size"]


def _upload(
    connection: sa.Connection, hub: Hub, repo: Repo, oid: str, size: int, endpoint: str, verify_at: str, in_parts: bool
) -> dict[str, Any]:
    item: dict[str, Any] = {"oid": oid, "size": size}
    limits = hub.settings.limits
    if (held := held_size(connection, repo.id, oid)) is not None:
        # In use from now on: a garbage collection must not take what is not sent again.
        refer(connection, repo.id, oid, held)
        return item
    try:
        require_room(connection, hub, repo.id, oid, size)
    except Refusal as refusal:
        return item | {"error": {"code": refusal.status, "message": refusal.message}}
    if size > limits.object_bytes or (size > limits.part_bytes and not in_parts):
        most = limits.object_bytes if in_parts else limits.part_bytes
        return item | {"error": {"code": 413, "message": f"an object may have {most} bytes"}}
    upload: dict[str, Any] = {"href": _address(hub, endpoint, "put", repo.id, oid, size)}
    if size > limits.part_bytes:
        numbers = range(1, math.ceil(size / limits.part_bytes) + 1)
        parts = {str(number): _address(hub, endpoint, "part", repo.id, oid, size, str(number)) for number in numbers}
        upload["header"] = {"chunk_size": str(limits.part_bytes), **parts}
    return item | {"authenticated": True, "actions": {"upload": upload, "verify": {"href": verify_at}}}


def _download(
    connection: sa.Connection, hub: Hub, repo: Repo, oid: str, size: int, endpoint: str, _verify: str, _parts: bool
) -> dict[str, Any]:
    item: dict[str, Any] = {"oid": oid, "size": size}
    if held_size(connection, repo.id, oid) is None:
        return item | {"error": {"code": 404, "message": "no such object"}}
    href = _address(hub, endpoint, "get", repo.id, oid, size)
    return item | {"authenticated": True, "actions": {"download": {"href": href}}}


def _address(hub: Hub, endpoint: str, purpose: str, repo: str, oid: str, size: int, part: str = "") -> str:
    claims = _claims(repo, oid, str(size), part)
    query = hub.signer.query(purpose, claims, lasts_s=hub.settings.limits.link_s)
    path = f"/objects/{repo}/{oid}" + (f"/{part}" if part else "")
    return f"{endpoint}{path}?{urlencode({'size': size})}&{query}"


def _claims(repo: str, oid: str, size: str, part: str) -> dict[str, str]:
    return {"repo": repo, "oid": oid, "size": size, "part": part}


async def _signed(request: Request, purpose: str, part: str = "") -> tuple[Repo, str, int]:
    repo, oid, query = request.path_params["repo"], request.path_params["oid"], query_of(request)
    hub_of(request).signer.check(purpose, _claims(repo, oid, query.get("size", ""), part), query)
    found = await reading(request, lambda connection: repo_by_id(connection, repo))
    return found, oid, int(query["size"])


def _keep(hub: Hub, repo: Repo, oid: str, size: int, path: Path) -> None:
    if path.stat().st_size != size:
        raise bad_request(f"{path.stat().st_size} bytes came, {size} were announced")
    stored, leftover = take_in(hub, path, sha256=oid), None
    try:
        leftover = hub.database.write(lambda connection: register(connection, hub, repo.id, stored))
    except BaseException:
        # Else whoever has no room left could fill the disk with what is refused.
        leftover = stored.location
        raise
    finally:
        if leftover:
            hub.objects.delete(leftover)


def _join(hub: Hub, repo: Repo, oid: str, size: int, num: int) -> None:
    folder = hub.spool.folder(repo.id, oid)
    with hub.spool.file() as path:
        try:
            with path.open("wb") as whole:
                for number in range(1, num + 1):
                    with (folder / str(number)).open("rb") as part:
                        shutil.copyfileobj(part, whole, BLOCK_BYTES)
        except FileNotFoundError as error:
            raise bad_request("a part is missing; send it and complete again") from error
        try:
            _keep(hub, repo, oid, size, path)
        finally:
            # Right or wrong, these parts have served.
            shutil.rmtree(folder, ignore_errors=True)


_ANY = "/{namespace}/{name}.git/info/lfs"
ROUTES = [
    *(
        Route(f"{prefix}{_ANY}{rest}", handler, methods=["POST"])
        for prefix in ("/{types:types}", "")
        for rest, handler in (("/objects/batch", batch), ("/verify", verify))
    ),
    Route("/objects/{repo}/{oid}", put_object, methods=["PUT"]),
    Route("/objects/{repo}/{oid}", complete, methods=["POST"]),
    Route("/objects/{repo}/{oid}", get_object, methods=["GET"]),
    Route("/objects/{repo}/{oid}/{part:offset}", put_part, methods=["PUT"]),
]
