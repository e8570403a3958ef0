"""Running a hub: in this process until it is told to stop, or in a thread of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Final

import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from kp_data.errors import HubError
from kp_data.hub.server.app import make_app, unknown
from kp_data.hub.server.courier import courier
from kp_data.hub.server.hub import Hub, open_hub
from kp_data.hub.server.settings import HubSettings
from kp_data.hub.server.signing import find_secret
from kp_data.hub.server.web import endpoint_of

_GRACE_S: Final = 10


def serve(settings: HubSettings, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until interrupted; requests under way may end.

    Args:
        settings: how.
        on_ready: is given the hub's URL once it listens.

    Raises:
        HubError: the folder or the address cannot be used.
    """
    with _ready(settings) as (_, server, bound):
        if on_ready is not None:
            on_ready(settings.public_url or address_of(bound))
        server.run(sockets=[bound])


@contextmanager
def running(settings: HubSettings) -> Iterator[tuple[Hub, str]]:
    """A hub in a thread of this process, with its URL."""
    with _ready(settings) as (hub, server, bound):
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            yield hub, settings.public_url or address_of(bound)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def _ready(settings: HubSettings) -> Iterator[tuple[Hub, uvicorn.Server, socket.socket]]:
    """A hub with all that works for it, a server that does not run yet, and the socket it will listen on."""
    with (
        open_hub(settings) as hub,
        listening(settings.host, settings.port) as bound,
        courier(hub),
        closing(_Pages(hub)) as pages,
    ):
        yield hub, _server(hub, pages if settings.explorer else None), bound


class _Pages:
    """The explorer's application, made when the first page is asked for: a hub nobody browses does without it."""

    def __init__(self, hub: Hub) -> None:
        self._hub, self._stack, self._lock = hub, ExitStack(), threading.Lock()
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None:
            await run_in_threadpool(self._make)
        assert self._app is not None
        await self._app(scope, receive, send)

    def close(self) -> None:
        """Stop what builds indexes."""
        self._stack.close()

    def _make(self) -> None:
        from kp_data.hub.explorer.app import hub_explorer, make_hub_app

        with self._lock:
            if self._app is None:
                secret = find_secret(self._hub.settings.root)
                explorer = self._stack.enter_context(hub_explorer(self._hub, secret, endpoint_of))
                self._app = make_hub_app(explorer, self._hub, unknown)


def _server(hub: Hub, pages: ASGIApp | None) -> uvicorn.Server:
    config = uvicorn.Config(
        make_app(hub, pages),
        log_level="warning",
        access_log=False,
        # The parser that its limits and the tests are for, whatever else is installed.
        http="h11",
        server_header=False,
        # Only a proxy named in `public_url` may say how it was reached.
        proxy_headers=False,
        lifespan="off",
        ws="none",
        limit_concurrency=2_000,
        h11_max_incomplete_event_size=64 * 1024,
        timeout_graceful_shutdown=_GRACE_S,
    )
    return uvicorn.Server(config)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens; port 0 takes any free one.

    Raises:
        HubError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP: asyncio sends small pieces at once only on sockets that are, and waits 40 ms on others for the
    # reader to acknowledge the headers before it sends the body.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(2_048)
    except OSError as error:
        bound.close()
        reason = f"cannot listen ({error.strerror}); choose another --port"
        raise HubError(reason, place=f"{host}:{port}") from error
    with bound:
        yield bound


def address_of(bound: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
