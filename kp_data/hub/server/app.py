"""The hub as an ASGI application.

Threat model. Every byte that comes in was written by somebody else, and every reader may be an enemy of every writer.

* Paths, names and revisions are checked against narrow rules (`names`), and looked up in the metadata, never on disk:
  objects lie under names of the hub's own making. Nothing a client sends becomes part of a file's name.
* Knowing a hash opens nothing: an object is readable through a repository that somebody sent its bytes to (`contents`),
  and nobody learns whether others hold it.
* Tokens are kept as hashes; addresses that carry no token are signed for one object, size, repository and purpose, and
  expire (`signing`). What one may not see looks as if it were not there.
* Sizes are bounded before anything is read or unpacked: bodies, lines of commits, chunks of xorbs, what a shard says of
  files (`settings.Limits`). Quotas are counted where nobody else can count at the same moment; what is refused is not
  kept. Silent clients are cut off. Hashes are computed, never believed.
* Stored text cannot break out of a header; stored files are served so that no browser runs them (`web.SAFE_HEADERS`).
* YAML is read without aliases and foreign tags, up to a length (`card_data`). Nothing is unpickled or evaluated, no
  stored file is opened as anything but bytes.
* The hub itself asks no address but those of webhooks, and of these only such as lie in the public internet, unless its
  operator allows more (`courier`).
* A database and an object store know that they belong together: garbage collection never mistakes another hub's objects
  for strays (`hub`).
* An error of the hub's own is answered with 500 and without a word about its inside.

TLS, limits on how often and how slowly one address may ask, and limits on idle connections are the work of a proxy in
front. Whoever may write can cost the hub work (hashing what they send) and is trusted that far. An address signed for
somebody stays good until it expires (an hour), also when they lose their rights meanwhile.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from kp_data.hub.server.database import MetadataBusy, MetadataError
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.refusals import Refusal
from kp_data.hub.server.routes import files, large_objects, lfs, repos, webhooks, xet
from kp_data.hub.server.web import answer

_LOG = logging.getLogger(__name__)


class _RawPath:
    """Let routes see the path as it was sent: an encoded slash does not part two segments."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raw = scope.get("raw_path") or scope["path"].encode()
            scope = dict(scope, path=raw.split(b"?")[0].decode("ascii", "replace"))
        await self._app(scope, receive, send)


def make_app(hub: Hub, pages: ASGIApp | None = None) -> ASGIApp:
    """The application that serves a hub; `pages` answers what is no address of the protocol."""
    routes = [
        Route("/health", health, methods=["GET"]),
        *webhooks.ROUTES,
        *repos.ROUTES,
        *large_objects.ROUTES,
        *xet.ROUTES,
        *lfs.ROUTES,
        *files.ROUTES,
        Route("/{rest:path}", pages or unknown, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
    ]
    handlers = {Refusal: _refused, MetadataError: _no_metadata, OSError: _no_disk, Exception: _failed}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.hub = hub
    app.state.told = OrderedDict()
    app.state.downloads, app.state.counted_at = Counter(), 0.0
    return _RawPath(app)


async def health(request: Request) -> Response:
    """That the hub is up."""
    return answer({"status": "ok"})


async def unknown(request: Request) -> Response:
    """No such address; logged, for a client may have learnt a new one."""
    _LOG.info("unknown address: %s %s", request.method, ascii(request.scope["path"])[:200])
    raise Refusal(404, "Sorry, this hub does not know this address")


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return answer({"error": refusal.message}, status=refusal.status, headers=refusal.headers)


async def _no_metadata(request: Request, error: Exception) -> Response:
    _LOG.error("metadata: %s", type(error).__name__, exc_info=error)
    if isinstance(error, MetadataBusy):
        return answer({"error": "the hub is busy, try again"}, status=503, headers={"Retry-After": "1"})
    return answer({"error": "the hub cannot keep or read this now"}, status=507)


async def _no_disk(request: Request, error: Exception) -> Response:
    _LOG.error("storage: %s", type(error).__name__, exc_info=error)
    return answer({"error": "the hub cannot store or read this now"}, status=507)


async def _failed(request: Request, error: Exception) -> Response:
    return answer({"error": "the hub failed; its operator finds the reason in its log"}, status=500)
