"""Repositories over HTTP: who am I, making, listing, settings, references, history."""

from __future__ import annotations

from itertools import islice
from typing import Any
from urllib.parse import parse_qsl

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kp_data.hub.server.auth import decide_access, identify, list_requests, request_access
from kp_data.hub.server.card_data import read_card
from kp_data.hub.server.commits import compare, first_commit, history, squash
from kp_data.hub.server.contents import require_quota, take_in
from kp_data.hub.server.describe import describe_commit, describe_files, describe_repo, iso
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.large_files import GIT_ATTRIBUTES
from kp_data.hub.server.names import RepoName, check_namespace, check_repo, is_commit, parse_repo
from kp_data.hub.server.refusals import Refusal, bad_request
from kp_data.hub.server.repositories import (
    MAIN,
    Ref,
    Repo,
    branch_ref,
    change_settings,
    create_ref,
    create_repo,
    delete_ref,
    delete_repo,
    find_repo,
    list_refs,
    list_repos,
    move_repo,
    resolve,
)
from kp_data.hub.server.web import (
    answer,
    body_json,
    caller_of,
    endpoint_of,
    hub_of,
    is_true,
    number_of,
    page_link,
    query_of,
    reading,
    repo_of,
    text_of,
    unquoted,
    writing,
)
from kp_data.hub.server.webhooks import note_change

_COMMITS_A_PAGE = 100


async def whoami(request: Request) -> Response:
    """Whose token it is."""
    caller = await reading(request, lambda connection: caller_of(connection, request))
    if caller.user is None:
        raise Refusal(401, "Invalid username or password.")
    orgs = [{"type": "org", "name": org, "fullname": org, "roleInOrg": role} for org, role in caller.orgs]
    token = {"displayName": caller.user, "role": caller.role}
    found = {"type": "user", "id": caller.user, "name": caller.user, "fullname": caller.user, "email": None}
    return answer(found | {"orgs": orgs, "isPro": False, "auth": {"type": "access_token", "accessToken": token}})


async def create(request: Request) -> Response:
    """A new repository; where there is one, the answer still says where."""
    body = await body_json(request)
    visibility = text_of(body, "visibility", "private" if body.get("private") is True else "public")
    if visibility not in ("public", "private"):
        raise bad_request("visibility is public or private")
    authorization = request.headers.get("authorization")
    hub = hub_of(request)
    caller = await reading(request, lambda connection: identify(connection, authorization))
    name = _named(body, text_of(body, "organization", caller.user or ""))
    url = f"{endpoint_of(request)}/{name.url_path}"
    attributes = await run_in_threadpool(_attributes, hub)

    def work(connection: sa.Connection) -> str | None:
        repo = create_repo(connection, caller, name, private=visibility == "private")
        made = first_commit(connection, caller, repo, {".gitattributes": attributes}, hub)
        note_change(connection, repo, "create", "repo")
        return next(iter(made.leftovers), None)

    try:
        leftover = await writing(request, work)
    except Refusal as refusal:
        await run_in_threadpool(hub.objects.delete, attributes.location)
        if refusal.status != 409:
            raise
        return answer({"error": refusal.message, "url": url}, status=409, headers=refusal.headers)
    if leftover:
        await run_in_threadpool(hub.objects.delete, leftover)
    return answer({"url": url, "name": str(name)})


async def delete(request: Request) -> Response:
    """Delete a repository with its history."""
    body = await body_json(request)

    def work(connection: sa.Connection) -> None:
        caller = caller_of(connection, request)
        name = _named(body, text_of(body, "organization", caller.user or ""))
        repo = find_repo(connection, caller, name, "write")
        note_change(connection, repo, "delete", "repo")
        delete_repo(connection, repo)

    await writing(request, work)
    return answer({})


async def move(request: Request) -> Response:
    """Give a repository another name."""
    body = await body_json(request)
    repo_type = text_of(body, "type", "model")
    source, target = (parse_repo(text_of(body, side), repo_type) for side in ("fromRepo", "toRepo"))

    def work(connection: sa.Connection) -> None:
        caller = caller_of(connection, request)
        repo = find_repo(connection, caller, source, "write")
        to = {"movedTo": {"name": str(target), "owner": {"id": target.namespace}}}
        note_change(connection, repo, "move", "repo", more=to)
        move_repo(connection, caller, repo, target)
        quota = hub_of(request).settings.limits.quota_bytes
        if quota is not None and source.namespace != target.namespace:
            # It counts there already.
            require_quota(connection, quota, target.namespace, 0)

    await writing(request, work)
    return answer({})


async def settings(request: Request) -> Response:
    """Who may see and read it."""
    body = await body_json(request)
    visibility, private, gated = body.get("visibility"), body.get("private"), body.get("gated")
    if visibility not in (None, "public", "private") or private not in (None, True, False):
        raise bad_request("visibility is public or private")
    private = visibility == "private" if visibility is not None else private
    gate = None if gated is None else ("" if gated is False else str(gated))

    def work(connection: sa.Connection) -> None:
        caller, repo = repo_of(connection, request, "write")
        change_settings(connection, repo, private=private, gated=gate)
        note_change(connection, find_repo(connection, caller, repo.name, "look"), "update", "repo.config")

    await writing(request, work)
    return answer({})


async def info(request: Request) -> Response:
    """A repository as of a revision."""
    query, hub = query_of(request), hub_of(request)
    revision = unquoted(request, "revision") if "revision" in request.path_params else MAIN

    def work(connection: sa.Connection) -> dict[str, Any]:
        _, repo = repo_of(connection, request, "look")
        commit = resolve(connection, repo, revision)
        found = describe_repo(connection, hub, repo, commit)
        return found | describe_files(connection, repo, commit, blobs=is_true(query.get("blobs")))

    return answer(await reading(request, work))


async def list_all(request: Request) -> Response:
    """The repositories that the caller may see."""
    query, hub, pairs = query_of(request), hub_of(request), parse_qsl(request.url.query)
    limit, skip = number_of(query.get("limit"), 100, most=1_000), number_of(query.get("cursor"), 0, most=10**9)
    repo_type = request.path_params["types"].removesuffix("s")

    def work(connection: sa.Connection) -> list[dict[str, Any]]:
        caller = caller_of(connection, request)
        author, search = query.get("author"), query.get("search")
        order, tags = query.get("sort", "lastModified"), [tag for name, tag in pairs if name == "filter" and tag]
        repos = list_repos(connection, caller, repo_type, author=author, search=search, order=order)
        # Only a filter by tags needs a description of what comes before the page.
        skipped, ahead = (0, skip) if tags else (skip, 0)
        told = (describe_repo(connection, hub, repo, _main(connection, repo)) for repo in islice(repos, skipped, None))
        wanted = (found for found in told if set(tags) <= set(found["tags"]))
        return list(islice(wanted, ahead, ahead + limit + 1))

    found = await reading(request, work)
    link = page_link(request, str(skip + limit)) if len(found) > limit and "limit" not in query else {}
    return answer(found[:limit], headers=link)


async def refs(request: Request) -> Response:
    """Branches and tags."""

    def work(connection: sa.Connection) -> list[Ref]:
        _, repo = repo_of(connection, request, "look")
        return list_refs(connection, repo)

    found: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": []}
    for ref in await reading(request, work):
        kind = "branches" if ref.kind == "branch" else "tags"
        found[kind].append({"name": ref.name, "ref": ref.full, "targetCommit": ref.commit})
    if is_true(query_of(request).get("include_prs")):
        found["pullRequests"] = []
    return answer(found)


async def create_tag(request: Request) -> Response:
    """A tag at a revision."""
    body = await body_json(request)
    name, message = text_of(body, "tag"), text_of(body, "message", "")
    return await _create_ref(request, "tag", name, unquoted(request, "revision"), message)


async def create_branch(request: Request) -> Response:
    """A branch, beginning at a revision."""
    body = await body_json(request)
    start = text_of(body, "startingPoint", MAIN)
    return await _create_ref(request, "branch", unquoted(request, "revision"), start, "")


async def _create_ref(request: Request, kind: Any, name: str, revision: str, message: str) -> Response:
    def work(connection: sa.Connection) -> None:
        _, repo = repo_of(connection, request, "write")
        ref = Ref(kind, name, resolve(connection, repo, revision), message[:10_000])
        create_ref(connection, repo, ref)
        note_change(connection, repo, "update", moved={ref.full: (None, ref.commit)})

    await writing(request, work)
    return answer({})


async def delete_tag(request: Request) -> Response:
    """Remove a tag."""
    return await _delete_ref(request, "tag")


async def delete_branch(request: Request) -> Response:
    """Remove a branch."""
    return await _delete_ref(request, "branch")


async def _delete_ref(request: Request, kind: Any) -> Response:
    def work(connection: sa.Connection) -> None:
        _, repo = repo_of(connection, request, "write")
        gone = delete_ref(connection, repo, kind, unquoted(request, "revision"))
        note_change(connection, repo, "update", moved={gone.full: (gone.commit, None)})

    await writing(request, work)
    return answer({})


async def commits(request: Request) -> Response:
    """The history of a revision, newest first."""
    cursor = query_of(request).get("cursor")

    def work(connection: sa.Connection) -> list[dict[str, Any]]:
        _, repo = repo_of(connection, request, "look")
        start = resolve(connection, repo, cursor if cursor and is_commit(cursor) else unquoted(request, "revision"))
        return [describe_commit(found) for found in islice(history(connection, repo, start), _COMMITS_A_PAGE + 1)]

    found = await reading(request, work)
    link = page_link(request, found[-1]["id"]) if len(found) > _COMMITS_A_PAGE else {}
    return answer(found[:_COMMITS_A_PAGE], headers=link)


async def compare_two(request: Request) -> Response:
    """Which files differ between two revisions, given as `before..after`."""
    before, dots, after = unquoted(request, "span").replace("...", "..").partition("..")
    if not dots or not before or not after:
        raise bad_request("name two revisions, as before..after")

    def work(connection: sa.Connection) -> dict[str, Any]:
        _, repo = repo_of(connection, request, "look")
        old, new = resolve(connection, repo, before), resolve(connection, repo, after)
        return {"before": old, "after": new, **compare(connection, repo, old, new)}

    return answer(await reading(request, work))


async def super_squash(request: Request) -> Response:
    """Let a branch begin anew with what it holds."""
    message = text_of(await body_json(request), "message", "")

    def work(connection: sa.Connection) -> str:
        caller, repo = repo_of(connection, request, "write")
        ref = branch_ref(unquoted(request, "revision"))
        made = squash(connection, caller, repo, ref.name, message)
        note_change(connection, repo, "update", moved={ref.full: (made.before, made.oid)})
        return made.oid

    return answer({"commitOid": await writing(request, work)})


async def auth_check(request: Request) -> Response:
    """Whether the caller may read."""
    await reading(request, lambda connection: repo_of(connection, request, "read"))
    return answer({})


async def auth_check_write(request: Request) -> Response:
    """Whether the caller may write."""
    await reading(request, lambda connection: repo_of(connection, request, "write"))
    return answer({})


async def ask_access(request: Request) -> Response:
    """Ask for a gated repository."""

    def work(connection: sa.Connection) -> str:
        caller, repo = repo_of(connection, request, "look")
        return request_access(connection, caller, repo)

    return answer({"status": await writing(request, work)})


async def access_requests(request: Request) -> Response:
    """Who has asked for a gated repository."""

    def work(connection: sa.Connection) -> list[tuple[str, float]]:
        _, repo = repo_of(connection, request, "write")
        return list_requests(connection, repo, request.path_params["status"])

    status = request.path_params["status"]
    found = await reading(request, work)
    return answer([{"user": {"user": user}, "status": status, "timestamp": iso(at)} for user, at in found])


async def handle_access(request: Request) -> Response:
    """Accept, reject or grant."""
    body = await body_json(request)
    user = check_namespace(text_of(body, "user"))
    is_grant = request.url.path.endswith("/grant")
    status = "accepted" if is_grant else text_of(body, "status")

    def work(connection: sa.Connection) -> None:
        _, repo = repo_of(connection, request, "write")
        decide_access(connection, repo, user, status)

    await writing(request, work)
    return answer({})


async def validate_yaml(request: Request) -> Response:
    """Whether a README's metadata can be read."""
    body = await body_json(request)
    try:
        await run_in_threadpool(read_card, text_of(body, "content"))
    except ValueError as error:
        return answer({"errors": [{"message": str(error)[:2_000]}], "warnings": []}, status=400)
    return answer({"errors": [], "warnings": []})


def _attributes(hub: Hub) -> Any:
    with hub.spool.file() as path:
        path.write_bytes(GIT_ATTRIBUTES)
        return take_in(hub, path)


def _named(body: dict[str, Any], namespace: str) -> RepoName:
    name, repo_type = text_of(body, "name"), text_of(body, "type", "model")
    if "/" in name:
        return parse_repo(name, repo_type)
    if not namespace:
        raise Refusal(401, "a token is needed to write")
    return check_repo(repo_type, namespace, name)


def _main(connection: sa.Connection, repo: Repo) -> str | None:
    try:
        return resolve(connection, repo, MAIN)
    except Refusal:
        return None


_API = "/api/{types:types}/{namespace}/{name}"
ROUTES = [
    Route("/api/whoami-v2", whoami, methods=["GET"]),
    Route("/api/repos/create", create, methods=["POST"]),
    Route("/api/repos/delete", delete, methods=["DELETE"]),
    Route("/api/repos/move", move, methods=["POST"]),
    Route("/api/validate-yaml", validate_yaml, methods=["POST"]),
    Route("/api/{types:types}", list_all, methods=["GET"]),
    Route(_API, info, methods=["GET"]),
    Route(_API + "/revision/{revision}", info, methods=["GET"]),
    Route(_API + "/settings", settings, methods=["PUT"]),
    Route(_API + "/refs", refs, methods=["GET"]),
    Route(_API + "/tag/{revision}", create_tag, methods=["POST"]),
    Route(_API + "/tag/{revision}", delete_tag, methods=["DELETE"]),
    Route(_API + "/branch/{revision}", create_branch, methods=["POST"]),
    Route(_API + "/branch/{revision}", delete_branch, methods=["DELETE"]),
    Route(_API + "/commits/{revision}", commits, methods=["GET"]),
    Route(_API + "/compare/{span}", compare_two, methods=["GET"]),
    Route(_API + "/super-squash/{revision}", super_squash, methods=["POST"]),
    Route(_API + "/auth-check", auth_check, methods=["GET"]),
    Route(_API + "/auth-check/write", auth_check_write, methods=["GET"]),
    Route(_API + "/ask-access", ask_access, methods=["POST"]),
    Route(_API + "/user-access-request/handle", handle_access, methods=["POST"]),
    Route(_API + "/user-access-request/grant", handle_access, methods=["POST"]),
    Route(_API + "/user-access-request/{status}", access_requests, methods=["GET"]),
]
