"""Showing one folder in the browser until interrupted."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from kp_data.hub.explorer.app import folder_explorer, make_folder_app
from kp_data.hub.server.serve import address_of, listening
from kp_data.purify.embedding_cache import cache_file

HOST: Final = "127.0.0.1"


def serve_folder(folder: Path, indexes_in: Path, *, port: int = 0, on_ready: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Args:
        folder: a panel, purified or release folder.
        indexes_in: where to keep what searching needs.
        port: 0 takes any free one.
        on_ready: is given the address once it listens.

    Raises:
        DataError: the folder holds no tables.
        HubError: the port is taken.
    """
    with folder_explorer(folder, indexes_in) as explorer, listening(HOST, port) as bound:
        on_ready(address_of(bound))
        _server(make_folder_app(explorer)).run(sockets=[bound])


@contextmanager
def folder_served(folder: Path, indexes_in: Path) -> Iterator[str]:
    """The same in a thread of this process; its address."""
    with folder_explorer(folder, indexes_in) as explorer, listening(HOST, 0) as bound:
        server = _server(make_folder_app(explorer))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            yield address_of(bound)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def index_folder() -> Iterator[Path]:
    """Where indexes of local folders are kept between runs; gone at the end where nothing is to be cached."""
    cache = cache_file()
    if cache is not None:
        yield cache.parent / "explorer"
        return
    with tempfile.TemporaryDirectory(prefix="kp-explorer-") as folder:
        yield Path(folder)


def _server(app: ASGIApp) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=2,
        )
    )
