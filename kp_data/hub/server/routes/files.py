"""Files over HTTP: listings, what to send how, commits, and reading."""

from __future__ import annotations

import base64
import binascii
import time
from collections import Counter
from collections.abc import AsyncIterator
from itertools import islice
from typing import Any
from urllib.parse import parse_qs

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kp_data.hub.server.card_merge import rebase
from kp_data.hub.server.commits import Draft, Made, last_changes, make_commit, read_commit, read_line
from kp_data.hub.server.contents import Content, Stored, find_content, take_in
from kp_data.hub.server.database import REPOS
from kp_data.hub.server.describe import CARD, describe_entry, xet_hashes
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.large_files import is_large
from kp_data.hub.server.names import check_path
from kp_data.hub.server.refusals import Refusal, bad_request, entry_not_found, header_safe
from kp_data.hub.server.repositories import Repo, branch_ref, resolve
from kp_data.hub.server.trees import Entry, File, Folder, Trees
from kp_data.hub.server.web import (
    answer,
    body_blocks,
    body_bytes,
    body_json,
    elsewhere,
    endpoint_of,
    hub_of,
    is_true,
    page_link,
    query_of,
    reading,
    refuse_pull_request,
    repo_name,
    repo_of,
    send,
    unquoted,
    writing,
)
from kp_data.hub.server.webhooks import note_change

_SAMPLE_CHARS = 4_096
_EXPANDED_A_PAGE = 50
_MERGES = 8
_COUNT_EVERY_S = 5.0


async def tree(request: Request) -> Response:
    """What a folder holds."""
    query, limits = query_of(request), hub_of(request).settings.limits
    path = unquoted(request, "path").strip("/") if "path" in request.path_params else ""
    expand, recursive = is_true(query.get("expand")), is_true(query.get("recursive"))
    limit = _EXPANDED_A_PAGE if expand else limits.page

    def work(connection: sa.Connection) -> tuple[list[dict[str, Any]], str | None]:
        _, repo = repo_of(connection, request, "look")
        commit = resolve(connection, repo, unquoted(request, "revision"))
        trees, root = Trees(connection, repo.id), read_commit(connection, repo, commit).tree
        folder = trees.find(root, check_path(path) if path else "")
        if not isinstance(folder, Folder):
            raise entry_not_found(path, commit)
        walk = trees.walk(folder.oid, path, recursive=recursive, after=query.get("cursor", path))
        page = list(islice(walk, limit + 1))
        more = page[limit - 1][0] if len(page) > limit else None
        return _describe(connection, repo, commit, page[:limit], expand=expand), more

    found, cursor = await reading(request, work)
    return answer(found, headers=page_link(request, cursor) if cursor else {})


async def paths_info(request: Request) -> Response:
    """What stands at certain paths; those that are not there are left out."""
    form = parse_qs((await body_bytes(request)).decode(errors="replace"))
    paths = [path.strip("/") for path in form.get("paths", [])][: hub_of(request).settings.limits.page]
    expand = is_true(form.get("expand", [""])[0])

    def work(connection: sa.Connection) -> list[dict[str, Any]]:
        _, repo = repo_of(connection, request, "look")
        commit = resolve(connection, repo, unquoted(request, "revision"))
        trees, root = Trees(connection, repo.id), read_commit(connection, repo, commit).tree
        found = [(path, trees.find(root, path)) for path in paths]
        return _describe(connection, repo, commit, [(p, e) for p, e in found if e is not None], expand=expand)

    return answer(await reading(request, work))


async def preupload(request: Request) -> Response:
    """How each file is to be sent, and what stands in its place now."""
    refuse_pull_request(request)
    body = await body_json(request)
    files = body.get("files")
    if not isinstance(files, list) or len(files) > 1_000:
        raise bad_request("files is a list of up to 1,000")
    asked = [_asked(item) for item in files]

    def work(connection: sa.Connection) -> dict[str, Entry | None]:
        _, repo = repo_of(connection, request, "write")
        commit = resolve(connection, repo, unquoted(request, "revision"))
        trees, root = Trees(connection, repo.id), read_commit(connection, repo, commit).tree
        return {path: trees.find(root, path) for path, _, _ in asked}

    found = await reading(request, work)
    return answer({"files": [_mode(path, size, sample, found[path]) for path, size, sample in asked]})


async def commit(request: Request) -> Response:
    """A commit: one line of JSON a file. All bytes are stored before the branch moves."""
    refuse_pull_request(request)
    hub = hub_of(request)
    # Before anything is stored for somebody who may not write.
    await reading(request, lambda connection: repo_of(connection, request, "write"))
    draft, stored = Draft(), list[Stored]()
    try:
        async for line in _lines(request):
            if (inline := read_line(draft, line)) is not None:
                path, text = inline
                stored.append(await run_in_threadpool(_store, hub, _decoded(text)))
                draft.inline[path] = stored[-1]
            if len(draft) > hub.settings.limits.operations:
                raise Refusal(413, f"a commit may touch {hub.settings.limits.operations} files")

        made = await _made(request, draft, stored)
    except BaseException:
        # Nothing speaks of these bytes; a crash here leaves them to garbage collection.
        await run_in_threadpool(_discard, hub, [item.location for item in stored])
        raise
    await run_in_threadpool(_discard, hub, made.leftovers)
    url = f"{endpoint_of(request)}/{repo_name(request).url_path}/commit/{made.oid}"
    return answer({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


async def read_file(request: Request) -> Response:
    """A file's bytes, or a range of them."""
    hub, revision, path = hub_of(request), unquoted(request, "revision"), unquoted(request, "path")

    def work(connection: sa.Connection) -> tuple[Repo, str, File, Content]:
        _, repo = repo_of(connection, request, "read")
        at = resolve(connection, repo, revision)
        entry = Trees(connection, repo.id).find(read_commit(connection, repo, at).tree, path)
        if not isinstance(entry, File):
            raise entry_not_found(path, at)
        return repo, at, entry, find_content(connection, hub, entry.sha256)

    repo, at, entry, content = await reading(request, work)
    headers = _file_headers(request, repo, at, path, entry, content)
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    if request.headers.get("x-hf-download-counter") == "1" and request.method == "GET":
        await _count(request, repo)
    at_home = content.location if entry.large else None
    if (there := await elsewhere(request, at_home, headers, name=_file_name(path))) is not None:
        return there
    return await run_in_threadpool(send, request, content.blocks, content.size, headers)


async def _made(request: Request, draft: Draft, stored: list[Stored]) -> Made:
    """Move the branch; where the operator allows it, also when it has moved on, if the two do not contradict."""
    hub, branch = hub_of(request), unquoted(request, "revision")

    def work(connection: sa.Connection) -> Made:
        caller, repo = repo_of(connection, request, "write")
        made = make_commit(connection, hub, caller, repo, branch, draft)
        if made.oid != made.before:
            name = branch_ref(branch)
            note_change(connection, repo, "update", moved={name.full: (made.before, made.oid)})
        return made

    def newer(connection: sa.Connection) -> tuple[str, str | None]:
        _, repo = repo_of(connection, request, "write")
        return rebase(connection, hub, repo, branch, draft)

    asked, card = draft.parent, draft.inline.get(CARD)
    for _ in range(_MERGES if hub.settings.merge_cards else 0):
        try:
            return await writing(request, work)
        except Refusal as refusal:
            if refusal.status != 412:
                raise
        # From what was sent, not from what the last attempt made of it.
        draft.parent = asked
        if card is not None:
            draft.inline[CARD] = card
        head, text = await reading(request, newer)
        draft.parent = head
        if text is not None:
            stored.append(await run_in_threadpool(_store, hub, text.encode()))
            draft.inline[CARD] = stored[-1]
    return await writing(request, work)


def _file_headers(
    request: Request, repo: Repo, commit: str, path: str, entry: File, content: Content
) -> dict[str, str]:
    found = {
        "X-Repo-Commit": commit,
        "ETag": f'"{entry.etag}"',
        "Content-Type": "application/octet-stream" if entry.large else "text/plain; charset=utf-8",
        "Content-Disposition": f'inline; filename="{_file_name(path)}"',
        "Cache-Control": "private, no-cache" if repo.private or repo.gated else "no-cache",
    }
    if entry.large:
        found |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    if entry.large and content.xet:
        token = f"{endpoint_of(request)}/api/{repo.name.type}s/{repo.name}/xet-read-token/{commit}"
        found |= {"X-Xet-Hash": content.xet, "Link": f'<{token}>; rel="xet-auth"'}
    return found


def _file_name(path: str) -> str:
    return header_safe(path.rpartition("/")[2]).replace('"', "'").replace("\\", "_")


def _describe(
    connection: sa.Connection, repo: Repo, commit: str, entries: list[tuple[str, Entry]], *, expand: bool
) -> list[dict[str, Any]]:
    xet = xet_hashes(connection, [entry for _, entry in entries])
    last = last_changes(connection, repo, commit, [path for path, _ in entries]) if expand else {}
    return [
        describe_entry(path, entry, xet.get(entry.sha256) if isinstance(entry, File) else None, last.get(path))
        for path, entry in entries
    ]


def _asked(item: Any) -> tuple[str, int, bytes]:
    try:
        path, size, sample = item["path"], item["size"], item.get("sample") or ""
        return check_path(path), int(size), base64.b64decode(sample[:_SAMPLE_CHARS])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise bad_request("a file has a path, a size and a sample in base64") from error


def _mode(path: str, size: int, sample: bytes, there: Entry | None) -> dict[str, Any]:
    mode = "lfs" if is_large(path, size, sample) else "regular"
    found: dict[str, Any] = {"path": path, "uploadMode": mode, "shouldIgnore": False}
    # Clients leave out files whose id they have themselves, computed as their mode demands.
    if isinstance(there, File) and there.large == (mode == "lfs"):
        found["oid"] = there.etag
    return found


async def _lines(request: Request) -> AsyncIterator[bytes]:
    """The lines of a body; no more than one is held."""
    limits = hub_of(request).settings.limits
    most = limits.inline_bytes * 4 // 3 + 8_192
    held: list[bytes] = []
    size = 0
    async for block in body_blocks(request, limits.commit_bytes):
        *whole, rest = block.split(b"\n")
        for line in whole:
            full, held, size = b"".join([*held, line]), [], 0
            if full.strip():
                yield full
        held.append(rest)
        size += len(rest)
        if size > most:
            raise Refusal(413, f"a file within a commit may have {limits.inline_bytes} bytes; send it by LFS or Xet")
    if (full := b"".join(held)).strip():
        yield full


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request("a file's content is not base64") from error


def _store(hub: Hub, data: bytes) -> Stored:
    with hub.spool.file() as path:
        path.write_bytes(data)
        return take_in(hub, path)


def _discard(hub: Hub, locations: list[str] | tuple[str, ...]) -> None:
    for location in locations:
        hub.objects.delete(location)


async def _count(request: Request, repo: Repo) -> None:
    """Count a download; written every few seconds, for a transaction a download would make readers wait."""
    counts: Counter[str] = request.app.state.downloads
    counts[repo.id] += 1
    if (now := time.monotonic()) - request.app.state.counted_at < _COUNT_EVERY_S:
        return
    request.app.state.counted_at, fresh = now, dict(counts)
    counts.clear()

    def work(connection: sa.Connection) -> None:
        for repo_id, number in fresh.items():
            mine = sa.update(REPOS).where(REPOS.c.id == repo_id)
            connection.execute(mine.values(downloads=REPOS.c.downloads + number))

    await writing(request, work)


_API = "/api/{types:types}/{namespace}/{name}"
ROUTES = [
    Route(_API + "/tree/{revision}", tree, methods=["GET"]),
    Route(_API + "/tree/{revision}/{path:path}", tree, methods=["GET"]),
    Route(_API + "/paths-info/{revision}", paths_info, methods=["POST"]),
    Route(_API + "/preupload/{revision}", preupload, methods=["POST"]),
    Route(_API + "/commit/{revision}", commit, methods=["POST"]),
    Route("/{types:types}/{namespace}/{name}/resolve/{revision}/{path:path}", read_file, methods=["GET"]),
    Route("/{namespace}/{name}/resolve/{revision}/{path:path}", read_file, methods=["GET"]),
]
