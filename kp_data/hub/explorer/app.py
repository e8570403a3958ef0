"""The explorer put together: as part of a hub, or alone before one folder."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from kp_data.hub.explorer import downloads, first_page, model_pages, pages, signin, viewer_api
from kp_data.hub.explorer.dataset import NotFound
from kp_data.hub.explorer.explorer import Explorer, Sessions
from kp_data.hub.explorer.hosted import HubCatalogue
from kp_data.hub.explorer.indexing import Indexes
from kp_data.hub.explorer.local import FolderCatalogue
from kp_data.hub.explorer.models import HubModels
from kp_data.hub.explorer.render import STATIC_ROUTES, as_page, json_answer
from kp_data.hub.explorer.rows import Rows
from kp_data.hub.server.auth import session_of
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.refusals import Refusal

ROUTES: Final[list[BaseRoute]] = [
    *viewer_api.ROUTES,
    *signin.ROUTES,
    *STATIC_ROUTES,
    *downloads.ROUTES,
    *first_page.ROUTES,
    *pages.ROUTES,
]

_LOOPBACK: Final = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)


@contextmanager
def hub_explorer(hub: Hub, secret: bytes, endpoint: Callable[[Request], str]) -> Iterator[Explorer]:
    """The explorer of a hub.

    Args:
        hub: whose datasets are shown.
        secret: that the hub signs with.
        endpoint: at which address a request found the hub.

    Raises:
        DataError: its folder below the hub's cannot be written.
    """
    folder = hub.settings.root / "explorer"
    catalogue = HubCatalogue(hub, folder / "tables")
    sessions = Sessions(secret, lambda token: hub.database.read(lambda connection: session_of(connection, token)))
    with _opened(Rows(folders=[catalogue.folder]), folder / "indexes") as (rows, indexes):
        root = urlsplit(hub.settings.public_url or "").path
        yield Explorer(catalogue, rows, indexes, sessions, endpoint, HubModels(hub), root)


@contextmanager
def folder_explorer(folder: Path, indexes_in: Path) -> Iterator[Explorer]:
    """The explorer of one folder.

    Args:
        folder: a panel, purified or release folder.
        indexes_in: where to keep what searching needs.

    Raises:
        DataError: the folder holds no tables.
    """
    catalogue = FolderCatalogue(folder)
    with _opened(Rows(folders=[catalogue.folder]), indexes_in) as (rows, indexes):
        yield Explorer(catalogue, rows, indexes, None, lambda request: f"{request.url.scheme}://{request.url.netloc}")


def make_hub_app(explorer: Explorer, hub: Hub, otherwise: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    """The application that answers what is no address of the hub's protocol.

    Args:
        explorer: of the hub.
        hub: itself.
        otherwise: what programs are told that ask for an address nobody has; browsers get a page.
    """

    async def refused(request: Request, refusal: Exception) -> Response:
        assert isinstance(refusal, Refusal)
        return json_answer({"error": refusal.message}, status=refusal.status, headers=refusal.headers)

    async def answered(request: Request) -> Response:
        browses = request.method == "GET" and "text/html" in request.headers.get("accept", "")
        return await (as_page(unknown) if browses else otherwise)(request)

    rest = Route("/{rest:path}", answered, methods=["GET", "POST", "PUT", "DELETE", "PATCH"])
    # Models have no prefix, so that theirs are the addresses that nothing else has.
    routes = [*ROUTES, *model_pages.routes(answered), rest]
    app = Starlette(routes=routes, exception_handlers={Refusal: refused})
    app.state.explorer, app.state.hub = explorer, hub
    return app


def make_folder_app(explorer: Explorer) -> ASGIApp:
    """The application that shows one folder to whoever runs it, and to no page of another site."""
    app = Starlette(routes=[*ROUTES, Route("/{rest:path}", as_page(unknown))])
    app.state.explorer = explorer
    return _LoopbackOnly(RawPath(app))


async def unknown(request: Request) -> Response:
    """No such page."""
    raise NotFound("no page has this address")


class RawPath:
    """Let routes see the path as it was sent: an encoded slash does not part two segments."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raw = scope.get("raw_path") or scope["path"].encode()
            scope = dict(scope, path=raw.split(b"?")[0].decode("ascii", "replace"))
        await self._app(scope, receive, send)


class _LoopbackOnly:
    """Refuse requests that found us under a name: a site may let its own name point here, and read what we answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = dict(scope.get("headers", ())).get(b"host", b"").decode("latin-1")
        if scope["type"] == "http" and not _LOOPBACK.fullmatch(host):
            refused = PlainTextResponse("open this page as http://127.0.0.1, not under another name", 421)
            await refused(scope, receive, send)
            return
        await self._app(scope, receive, send)


@contextmanager
def _opened(rows: Rows, folder: Path) -> Iterator[tuple[Rows, Indexes]]:
    indexes = Indexes(folder)
    try:
        yield rows, indexes
    finally:
        indexes.close()
        rows.close()
