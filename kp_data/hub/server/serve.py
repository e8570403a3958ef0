"""Running a hub: in this process until it is told to stop, or in a thread of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import uvicorn

from kp_data.errors import HubError
from kp_data.hub.server.app import make_app
from kp_data.hub.server.courier import courier
from kp_data.hub.server.hub import Hub, open_hub
from kp_data.hub.server.settings import HubSettings
from kp_data.hub.server.signing import find_secret
from kp_data.hub.server.web import endpoint_of

if TYPE_CHECKING:
    from kp_data.hub.explorer.explorer import Explorer

_GRACE_S: Final = 10


def serve(settings: HubSettings, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until interrupted; requests under way may end.

    Args:
        settings: how.
        on_ready: is given the hub's URL once it listens.

    Raises:
        HubError: the folder or the address cannot be used.
    """
    with (
        open_hub(settings) as hub,
        listening(settings.host, settings.port) as bound,
        courier(hub),
        _explorer(hub) as explorer,
    ):
        if on_ready is not None:
            on_ready(settings.public_url or address_of(bound))
        _server(hub, explorer).run(sockets=[bound])


@contextmanager
def running(settings: HubSettings) -> Iterator[tuple[Hub, str]]:
    """A hub in a thread of this process, with its URL."""
    with (
        open_hub(settings) as hub,
        listening(settings.host, settings.port) as bound,
        courier(hub),
        _explorer(hub) as explorer,
    ):
        server = _server(hub, explorer)
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
        _explorer(hub) as explorer,
    ):
        yield hub, _server(hub, explorer), bound


@contextmanager
def _explorer(hub: Hub) -> Iterator[Explorer | None]:
    """The pages of a hub, unless it is to have none."""
    if not hub.settings.explorer:
        yield None
        return
    from kp_data.hub.explorer.app import hub_explorer

    with hub_explorer(hub, find_secret(hub.settings.root), endpoint_of) as explorer:
        yield explorer


def _server(hub: Hub, explorer: Explorer | None) -> uvicorn.Server:
    config = uvicorn.Config(
        make_app(hub, explorer),
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
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(2_048)
    except OSError as error:
        bound.close()
        reason = f"cannot listen ({error.strerror}); choose another --port or --host"
        raise HubError(reason, place=f"{host}:{port}") from error
    with bound:
        yield bound


def address_of(bound: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
