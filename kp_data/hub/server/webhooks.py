"""Webhooks: telling others by HTTP that a repository has changed, so that a training can begin on a new version.

What is to be told is noted in the transaction of the change itself, and told afterwards by a thread of the server: a
hub that dies in between tells it when it is up again. A message may come twice, never not at all until its last try.

The address of a webhook is its owner's word, and the request comes from the hub's own machine. So the hub asks only
addresses of the public internet, unless its operator says otherwise (`HubSettings.webhooks`), follows no redirection,
and does not care what is answered.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import sqlalchemy as sa

from kp_data.hub.server.auth import Caller, orgs_of
from kp_data.hub.server.database import DELIVERIES, WATCHED, WEBHOOKS
from kp_data.hub.server.names import check_text
from kp_data.hub.server.refusals import Refusal, bad_request
from kp_data.hub.server.repositories import MAIN, Ref, Repo, list_refs

WATCHABLE: Final = ("user", "org", "model", "dataset", "space")
MAX_WEBHOOKS: Final = 100
_MAX_WATCHED: Final = 100
_MAX_CHARS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Webhook:
    """What somebody wants to be told of.

    Attributes:
        id: 24 hexadecimal digits.
        user: whose it is; it is told only of what they may see.
        url: that is sent a POST.
        watched: (type, name) of users, organisations and repositories.
        secret: goes with every message as `X-Webhook-Secret`; None: nothing does.
        endpoint: how its owner reaches the hub, for the addresses in messages.
        disabled: nothing is sent.
    """

    id: str
    user: str
    url: str
    watched: tuple[tuple[str, str], ...]
    secret: str | None
    endpoint: str
    disabled: bool


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message on its way.

    Attributes:
        id: of the message.
        url: where to.
        secret: see `Webhook`.
        body: JSON.
        attempts: so far, this one included.
    """

    id: str
    url: str
    secret: str | None
    body: str
    attempts: int


def read_watched(found: Any) -> tuple[tuple[str, str], ...]:
    """What a webhook is to watch, as clients write it.

    Raises:
        Refusal: 400.
    """
    if not isinstance(found, list) or not 0 < len(found) <= _MAX_WATCHED:
        raise bad_request(f"watched is a list of 1 to {_MAX_WATCHED}")
    pairs = [(item.get("type"), item.get("name")) if isinstance(item, dict) else (None, None) for item in found]
    if not all(kind in WATCHABLE and isinstance(name, str) and 0 < len(name) <= 200 for kind, name in pairs):
        raise bad_request(f"what is watched has a type of {', '.join(WATCHABLE)}, and a name")
    return tuple(dict.fromkeys((str(kind), check_text(str(name))) for kind, name in pairs))


def check_url(url: str) -> str:
    """An address that can be sent a message.

    Raises:
        Refusal: 400.
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and not parts.username and parts.port != 0
    except ValueError:
        known = False
    if not known or len(url) > _MAX_CHARS or not url.isascii() or not url.isprintable() or " " in url:
        raise bad_request("url is an address such as https://example.org/hook, without a user name")
    return url


def check_secret(secret: str) -> str:
    """A text that can be sent as a header.

    Raises:
        Refusal: 400.
    """
    if not secret.isascii() or not secret.isprintable() or len(secret) > _MAX_CHARS or secret != secret.strip():
        raise bad_request("a secret is printable ASCII")
    return secret


def save_webhook(connection: sa.Connection, hook: Webhook) -> None:
    """Keep a webhook, new or changed.

    Raises:
        Refusal: 400; its owner has too many.
    """
    mine = sa.select(sa.func.count()).select_from(WEBHOOKS).where(WEBHOOKS.c.user == hook.user)
    if connection.execute(mine.where(WEBHOOKS.c.id != hook.id)).scalar_one() >= MAX_WEBHOOKS:
        raise bad_request(f"at most {MAX_WEBHOOKS} webhooks a user")
    connection.execute(sa.delete(WATCHED).where(WATCHED.c.webhook == hook.id))
    row: dict[str, Any] = {"id": hook.id, "user": hook.user, "url": hook.url, "secret": hook.secret}
    row |= {"endpoint": hook.endpoint, "disabled": hook.disabled}
    changed = sa.update(WEBHOOKS).where(WEBHOOKS.c.id == hook.id).values(**row)
    if not connection.execute(changed).rowcount:
        connection.execute(sa.insert(WEBHOOKS), row)
    rows = [{"webhook": hook.id, "kind": kind, "name": name} for kind, name in hook.watched]
    connection.execute(sa.insert(WATCHED), rows)


def webhooks_of(connection: sa.Connection, user: str) -> list[Webhook]:
    """A user's webhooks, by id."""
    rows = connection.execute(sa.select(WEBHOOKS).where(WEBHOOKS.c.user == user).order_by(WEBHOOKS.c.id)).all()
    return [_webhook(connection, row) for row in rows]


def find_webhook(connection: sa.Connection, user: str, hook_id: str) -> Webhook:
    """One of a user's own webhooks.

    Raises:
        Refusal: 404.
    """
    mine = (WEBHOOKS.c.id == hook_id, WEBHOOKS.c.user == user)
    if (row := connection.execute(sa.select(WEBHOOKS).where(*mine)).first()) is None:
        raise Refusal(404, "no such webhook")
    return _webhook(connection, row)


def delete_webhook(connection: sa.Connection, hook: Webhook) -> None:
    """Forget a webhook and what it was still to be told."""
    connection.execute(sa.delete(WEBHOOKS).where(WEBHOOKS.c.id == hook.id))


def note_change(
    connection: sa.Connection,
    repo: Repo,
    action: str,
    scope: str = "repo.content",
    *,
    moved: Mapping[str, tuple[str | None, str | None]] | None = None,
    more: Mapping[str, Any] | None = None,
) -> bool:
    """Note a change for everybody who watches the repository and may see it; whether anybody does.

    Args:
        connection: within the transaction of the change; when the repository is deleted, before it is gone.
        repo: as it is now.
        action: create, delete, move or update.
        scope: repo, repo.config or repo.content.
        moved: reference, as git writes it, to (commit before, commit now).
        more: what else the message holds.
    """
    watching = (("user", repo.namespace), ("org", repo.namespace), (repo.name.type, str(repo.name)))
    match = sa.or_(*(sa.and_(WATCHED.c.kind == kind, WATCHED.c.name == name) for kind, name in watching))
    query = sa.select(WEBHOOKS).where(WEBHOOKS.c.id.in_(sa.select(WATCHED.c.webhook).where(match)))
    found = list(connection.execute(query.where(sa.not_(WEBHOOKS.c.disabled))).all())
    told = [row for row in found if not repo.private or _insider(connection, row.user, repo)]
    for row in told:
        body = _message(connection, repo, row.id, row.endpoint, {"action": action, "scope": scope})
        if moved:
            refs = ({"ref": name, "oldSha": old, "newSha": new} for name, (old, new) in moved.items())
            body["updatedRefs"] = list(refs)
        values = {"id": secrets.token_hex(12), "webhook": row.id, "body": json.dumps(body | dict(more or {}))}
        connection.execute(sa.insert(DELIVERIES), values | {"attempts": 0, "next_at": time.time()})
    return bool(told)


def take_deliveries(connection: sa.Connection, *, again_s: Sequence[float], most: int = 20) -> list[Delivery]:
    """Messages that are due; nobody else takes them before they would be due again.

    Args:
        connection: within a transaction.
        again_s: how long to wait after each attempt; a message whose last attempt failed is dropped.
        most: how many.
    """
    now = time.time()
    connection.execute(sa.delete(DELIVERIES).where(DELIVERIES.c.attempts >= len(again_s), DELIVERIES.c.next_at <= now))
    due = sa.select(DELIVERIES.c.id, DELIVERIES.c.body, DELIVERIES.c.attempts, WEBHOOKS.c.url, WEBHOOKS.c.secret)
    due = due.join(WEBHOOKS, WEBHOOKS.c.id == DELIVERIES.c.webhook).where(DELIVERIES.c.next_at <= now)
    due = due.order_by(DELIVERIES.c.next_at).limit(most).with_for_update(of=DELIVERIES, skip_locked=True)
    found = [Delivery(row.id, row.url, row.secret, row.body, row.attempts + 1) for row in connection.execute(due)]
    for item in found:
        later = {"attempts": item.attempts, "next_at": now + again_s[item.attempts - 1]}
        connection.execute(sa.update(DELIVERIES).where(DELIVERIES.c.id == item.id).values(**later))
    return found


def has_deliveries(connection: sa.Connection) -> bool:
    """Whether a message is due."""
    due = sa.select(DELIVERIES.c.id).where(DELIVERIES.c.next_at <= time.time()).limit(1)
    return connection.execute(due).first() is not None


def delivered(connection: sa.Connection, delivery: Delivery) -> None:
    """Forget a message that has arrived."""
    connection.execute(sa.delete(DELIVERIES).where(DELIVERIES.c.id == delivery.id))


def _insider(connection: sa.Connection, user: str, repo: Repo) -> bool:
    return Caller(user, "read", orgs_of(connection, user)).belongs_to(repo.namespace)


def _webhook(connection: sa.Connection, row: sa.Row[Any]) -> Webhook:
    pairs = connection.execute(sa.select(WATCHED.c.kind, WATCHED.c.name).where(WATCHED.c.webhook == row.id))
    watched = tuple((kind, name) for kind, name in pairs)
    return Webhook(row.id, row.user, row.url, watched, row.secret, row.endpoint, row.disabled)


def _message(
    connection: sa.Connection, repo: Repo, hook: str, endpoint: str, event: Mapping[str, str]
) -> dict[str, Any]:
    """Version 3 of the message that official clients read."""
    head = next((ref.commit for ref in list_refs(connection, repo) if _is_main(ref)), None)
    web, api = f"{endpoint}/{repo.name.url_path}", f"{endpoint}/api/{repo.name.type}s/{repo.name}"
    found = {"type": repo.name.type, "name": str(repo.name), "id": repo.id, "private": repo.private}
    found |= {"headSha": head, "owner": {"id": repo.namespace}, "url": {"web": web, "api": api}}
    return {"event": dict(event), "repo": found, "webhook": {"id": hook, "version": 3}}


def _is_main(ref: Ref) -> bool:
    return (ref.kind, ref.name) == ("branch", MAIN)
