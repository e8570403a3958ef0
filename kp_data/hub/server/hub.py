"""A hub's parts, opened together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from kp_data.errors import HubError
from kp_data.hub.server.database import ABOUT, OBJECTS, XORBS, Database, about, put
from kp_data.hub.server.objects import ObjectStore, Spool, open_objects, without_password
from kp_data.hub.server.settings import HubSettings
from kp_data.hub.server.signing import Signer, find_secret

_DATABASE: Final = "hub.sqlite"


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
def open_hub(settings: HubSettings, *, create: bool = True, with_objects: bool = True) -> Iterator[Hub]:
    """Open a hub's folder, and create what is missing.

    Args:
        settings: how the hub is run.
        create: make a new hub where there is none; else that is an error, for a mistyped folder would look empty.
        with_objects: False: only the metadata is of interest, and nobody needs to say where the objects are.

    Raises:
        HubError: the folder, the database or the object store cannot be used, or do not belong together.
    """
    root = settings.root
    if not create and settings.database is None and not (root / _DATABASE).exists():
        raise HubError("no hub has been served from this folder; check --root", place=root)
    try:
        # Nobody else's business; a folder that was there keeps the rights it has.
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        spool = Spool(root / "incoming")
        objects = open_objects(settings.objects, root)
    except OSError as error:
        raise HubError(f"cannot be used as the hub's folder ({error.strerror or error})", place=root) from error
    # Built from parts: a question mark in a folder's name would start the query of a URL.
    database = Database(settings.database or sa.URL.create("sqlite", database=str(root / _DATABASE)))
    try:
        if with_objects:
            _bind(database, objects, without_password(settings.objects or str(root / "objects")))
        yield Hub(settings, database, objects, spool, Signer(find_secret(root)))
    finally:
        database.close()


def _bind(database: Database, objects: ObjectStore, place: str) -> None:
    """Let a database and an object store belong to each other, or make sure that they do.

    A garbage collection with one hub's database on another hub's objects would take every one of them for a stray.
    """
    own, bound, is_empty = database.read(_belonging)
    try:
        found = objects.mark()
        if found is None and is_empty and bound is None and next(objects.locations(), None) is not None:
            raise HubError("holds objects that this hub's metadata knows nothing of; give an empty place", place=place)
        if found is None and (bound is None or is_empty):
            objects.set_mark(own or "")
            found = own
    except OSError as error:
        raise HubError(f"cannot keep objects there ({error.strerror or error})", place=place) from error
    if found is None:
        raise HubError("does not hold this hub's objects; give the --objects that it was served with", place=place)
    if found != own:
        raise HubError(
            "holds the objects of another hub; give the --database that belongs to them, or other --objects",
            place=place,
        )
    if bound is None:
        database.write(lambda connection: put(connection, ABOUT, {"name": "bound", "value": "yes"}))


def _belonging(connection: sa.Connection) -> tuple[str | None, str | None, bool]:
    """The hub's id, whether it has had objects anywhere, and whether it has none now."""
    held = (connection.execute(sa.select(table.c.seen_at).limit(1)).first() for table in (OBJECTS, XORBS))
    return about(connection, "id"), about(connection, "bound"), not any(held)
