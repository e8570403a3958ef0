"""Large files as objects over HTTP: listing them, deleting them for good, lending them; and what is not offered."""

from __future__ import annotations

from itertools import islice
from typing import Any

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kp_data.hub.server.describe import iso
from kp_data.hub.server.large_objects import LargeObject, delete_large_objects, large_objects, lend
from kp_data.hub.server.names import check_digest, parse_repo
from kp_data.hub.server.refusals import bad_request, forbidden
from kp_data.hub.server.repositories import find_repo
from kp_data.hub.server.web import (
    answer,
    body_json,
    hub_of,
    number_of,
    page_link,
    query_of,
    reading,
    repo_of,
    text_of,
    writing,
)
from kp_data.hub.server.webhooks import note_change

_MAX_OBJECTS = 1_000


async def list_objects(request: Request) -> Response:
    """What takes up room in a repository, largest first."""
    skip, page = number_of(query_of(request).get("cursor"), 0, most=10**9), hub_of(request).settings.limits.page

    def work(connection: sa.Connection) -> list[LargeObject]:
        _, repo = repo_of(connection, request, "write")
        return list(islice(large_objects(connection, repo), skip, skip + page + 1))

    found = await reading(request, work)
    link = page_link(request, str(skip + page)) if len(found) > page else {}
    return answer([_described(item) for item in found[:page]], headers=link)


async def delete_objects(request: Request) -> Response:
    """Delete objects for good, and write the history anew without them."""
    deletions = (await body_json(request)).get("deletions")
    if not isinstance(deletions, dict) or not isinstance(deletions.get("rewriteHistory", True), bool):
        raise bad_request("deletions holds sha and rewriteHistory")
    digests = {check_digest(digest) for digest in _some(deletions.get("sha"))}

    def work(connection: sa.Connection) -> None:
        _, repo = repo_of(connection, request, "write")
        again = deletions.get("rewriteHistory", True)
        if moved := delete_large_objects(connection, repo, digests, rewrite_history=again):
            note_change(connection, repo, "update", moved=moved)

    await writing(request, work)
    return answer({})


async def lend_objects(request: Request) -> Response:
    """Let another repository hold objects of this one; nothing is sent."""
    body = await body_json(request)
    target, digests = body.get("target"), [_digest_of(item) for item in _some(body.get("files"))]
    if not isinstance(target, dict):
        raise bad_request("target holds a type and a name")
    name = parse_repo(text_of(target, "name"), text_of(target, "type", "model"))
    hub = hub_of(request)

    def work(connection: sa.Connection) -> list[str]:
        caller, source = repo_of(connection, request, "read")
        into = find_repo(connection, caller, name, "write")
        return [digest for digest in digests if not lend(connection, hub, source, into, digest)]

    missing = await writing(request, work)
    return answer({"failed": [{"sha256": digest, "error": "no such object"} for digest in missing]})


async def no_discussions(request: Request) -> Response:
    """There are none, and none can be begun."""
    await reading(request, lambda connection: repo_of(connection, request, "look"))
    if request.method == "GET" and "number" not in request.path_params:
        return answer({"discussions": [], "count": 0, "start": 0, "numClosedDiscussions": 0})
    raise forbidden("this hub has no discussions and no pull requests; commit to a branch instead")


def _some(found: Any) -> list[Any]:
    if not isinstance(found, list) or len(found) > _MAX_OBJECTS:
        raise bad_request(f"name up to {_MAX_OBJECTS} objects")
    return found


def _digest_of(item: Any) -> str:
    if not isinstance(item, dict):
        raise bad_request("a file has a sha256")
    return check_digest(item.get("sha256"))


def _described(item: LargeObject) -> dict[str, Any]:
    return {
        "fileOid": item.sha256,
        "oid": item.sha256,
        "filename": item.path,
        "ref": item.ref,
        "size": item.size,
        "pushedAt": iso(item.used_at),
    }


_API = "/api/{types:types}/{namespace}/{name}"
ROUTES = [
    Route(_API + "/lfs-files", list_objects, methods=["GET"]),
    Route(_API + "/lfs-files/batch", delete_objects, methods=["POST"]),
    Route(_API + "/lfs-files/duplicate", lend_objects, methods=["POST"]),
    Route(_API + "/discussions", no_discussions, methods=["GET", "POST"]),
    Route(_API + "/discussions/{number:path}", no_discussions, methods=["GET", "POST"]),
]
