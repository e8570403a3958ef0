"""What a request of the explorer works on, and the three things every handler needs from it."""

from __future__ import annotations

import functools
import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar
from urllib.parse import unquote

import anyio.to_thread
from anyio.lowlevel import RunVar
from starlette.requests import Request

from kp_data.hub.explorer.dataset import ANYBODY, Catalogue, NotFound, Reader
from kp_data.hub.explorer.remembered import Remembered
from kp_data.hub.explorer.rows import Rows

if TYPE_CHECKING:
    from kp_data.hub.explorer.indexing import Indexes
    from kp_data.hub.explorer.models import HubModels

P = ParamSpec("P")
T = TypeVar("T")

COOKIE: Final = "kp_session"
SESSION_S: Final = 30 * 24 * 3600
THREADS: Final = 16
"""Requests that are worked on at once; more wait, and whoever pushes or pulls does not wait with them."""

KEPT_DOCUMENTS: Final = 64
"""A card may be half a megabyte."""

_threads: Final[RunVar[anyio.CapacityLimiter]] = RunVar("threads of the explorer")


class Sessions:
    """Signs cookies that say which token somebody signed in with: its id, never the token.

    Args:
        secret: at least 32 random bytes.
        check: the id of a token that is good, None for one that is not.
    """

    def __init__(self, secret: bytes, check: Callable[[str], str | None]) -> None:
        # A key of its own: what is signed here must be of no use elsewhere.
        self._key = hmac.digest(secret, b"explorer session", "sha256")
        self._check = check

    def begin(self, token: str) -> str | None:
        """A cookie's value for whoever holds this token; None: the token is not good."""
        token_id = self._check(token)
        if token_id is None:
            return None
        body = f"{token_id}.{int(time.time()) + SESSION_S}"
        return f"{body}.{self._mac(body)}"

    def read(self, cookie: str) -> str | None:
        """The id of the token; None: forged, damaged or expired. Whether it is still good is the hub's to say."""
        body, _, mac = cookie.rpartition(".")
        if not hmac.compare_digest(self._mac(body).encode(), mac.encode("utf-8", "replace")):
            return None
        token_id, _, expires = body.partition(".")
        return token_id if int(expires) >= time.time() else None

    def _mac(self, body: str) -> str:
        return hmac.new(self._key, body.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Explorer:
    """Everything the explorer reads from.

    Attributes:
        catalogue: the datasets.
        rows: reads their tables.
        indexes: searches them.
        sessions: None: there is nobody to sign in, for one folder is shown to whoever runs the command.
        endpoint: the address at which a request found this server, without a slash at its end.
        models: None: one folder is shown, which has none.
        root: path below which a proxy shows the hub, without a slash at its end; empty: nothing stands before a page.
        documents: cards and changelogs as HTML, those last read.
    """

    catalogue: Catalogue
    rows: Rows
    indexes: Indexes
    sessions: Sessions | None
    endpoint: Callable[[Request], str]
    models: HubModels | None = None
    root: str = ""
    documents: Remembered = field(default_factory=lambda: Remembered(KEPT_DOCUMENTS))

    @property
    def hub(self) -> bool:
        """Whether a hub is shown, and not one folder."""
        return self.sessions is not None


def explorer_of(request: Request) -> Explorer:
    """What serves a request."""
    explorer: Explorer = request.app.state.explorer
    return explorer


def reader_of(request: Request) -> Reader:
    """Who sent a request: by its token, else by the cookie of its session."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return Reader(token=token.strip())
    sessions, cookie = explorer_of(request).sessions, request.cookies.get(COOKIE)
    session = sessions.read(cookie) if sessions is not None and cookie else None
    return Reader(session=session) if session else ANYBODY


async def in_thread(work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Do what reads disk or database off the event loop, in threads that the rest of a hub does not wait for."""
    try:
        limiter = _threads.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(THREADS)
        _threads.set(limiter)
    return await anyio.to_thread.run_sync(functools.partial(work, *args, **options), limiter=limiter)


def path_value(request: Request, name: str) -> str:
    """A parameter of the path, decoded; paths are matched as they were sent.

    Raises:
        NotFound: it is not UTF-8, so nothing has this name.
    """
    try:
        return unquote(str(request.path_params[name]), errors="strict")
    except UnicodeDecodeError as error:
        raise NotFound("nothing has this address") from error


def dataset_name(request: Request) -> str:
    """`namespace/name` of a path."""
    return f"{path_value(request, 'namespace')}/{path_value(request, 'name')}"
