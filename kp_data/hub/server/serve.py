"""Running a hub: in this process until it is told to stop, or in a thread of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn

from kp_data.errors import HubError
from kp_data.hub.server.app import make_app
from kp_data.hub.server.hub import Hub, open_hub
from kp_data.hub.server.settings import HubSettings

_GRACE_S: Final = 10


def serve(settings: HubSettings, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until interrupted; requests under way may end.

    Args:
        settings: how.
        on_ready: is given the hub's URL once it listens.

    Raises:
        HubError: the folder or the address cannot be used.
    """
    with open_hub(settings) as hub, _listening(settings) as bound:
        if on_ready is not None:
            on_ready(settings.public_url or _url(bound))
        _server(hub).run(sockets=[bound])


@contextmanager
def running(settings: HubSettings) -> Iterator[tuple[Hub, str]]:
    """A hub in a thread of this process, with its URL."""
    with open_hub(settings) as hub, _listening(settings) as bound:
        server = _server(hub)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            yield hub, settings.public_url or _url(bound)
        finally:
            server.should_exit = True
            thread.join()


def _server(hub: Hub) -> uvicorn.Server:
    config = uvicorn.Config(
        make_app(hub),
        log_level="warning",
        access_log=False,
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
def _listening(settings: HubSettings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((settings.host, settings.port))
        bound.listen(2_048)
    except OSError as error:
        bound.close()
        place = f"{settings.host}:{settings.port}"
        raise HubError(f"cannot listen ({error.strerror}); choose another --port or --host", place=place) from error
    with bound:
        yield bound


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
