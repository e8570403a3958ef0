"""A hub's parts, opened together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from kp_data.errors import HubError
from kp_data.hub.server.database import Database
from kp_data.hub.server.objects import ObjectStore, Spool, open_objects
from kp_data.hub.server.settings import HubSettings
from kp_data.hub.server.signing import Signer, find_secret


@dataclass(frozen=True)
class Hub:
    """What every request works on.

    Attributes:
        settings: how it is run.
        database: everything but bytes.
        objects: the bytes.
        spool: bytes on their way in.
        signer: of addresses and short-lived tokens.
    """

    settings: HubSettings
    database: Database
    objects: ObjectStore
    spool: Spool
    signer: Signer


@contextmanager
def open_hub(settings: HubSettings) -> Iterator[Hub]:
    """Open a hub's folder, and create what is missing.

    Raises:
        HubError: the folder, the database or the object store cannot be used.
    """
    root = settings.root
    try:
        # Nobody else's business; a folder that was there keeps the rights it has.
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        spool = Spool(root / "incoming")
        objects = open_objects(settings.objects, root)
    except OSError as error:
        raise HubError(f"cannot be used as the hub's folder ({error.strerror})", place=root) from error
    # Built from parts: a question mark in a folder's name would start the query of a URL.
    url = settings.database or sa.URL.create("sqlite", database=str(root / "hub.sqlite"))
    database = Database(url)
    try:
        yield Hub(settings, database, objects, spool, Signer(find_secret(root)))
    finally:
        database.close()
