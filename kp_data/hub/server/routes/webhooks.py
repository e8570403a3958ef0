"""Webhooks over HTTP: a user's own, made, changed, paused and deleted."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kp_data.hub.server.refusals import Refusal, bad_request, forbidden
from kp_data.hub.server.web import answer, body_json, caller_of, endpoint_of, hub_of, reading, text_of, writing
from kp_data.hub.server.webhooks import (
    Webhook,
    check_secret,
    check_url,
    delete_webhook,
    find_webhook,
    read_watched,
    save_webhook,
    webhooks_of,
)

_DOMAINS = ("repo", "discussion", "discussions")


async def list_webhooks(request: Request) -> Response:
    """The caller's webhooks."""
    found = await reading(request, lambda connection: webhooks_of(connection, _owner(connection, request)))
    return answer([_described(hook) for hook in found])


async def get_webhook(request: Request) -> Response:
    """One of them."""
    hook_id = request.path_params["id"]
    hook = await reading(request, lambda found: find_webhook(found, _owner(found, request), hook_id))
    return answer({"webhook": _described(hook)})


async def create_webhook(request: Request) -> Response:
    """A new webhook."""
    body = await body_json(request)
    if hub_of(request).settings.webhooks == "off":
        raise forbidden("this hub sends no webhooks")
    hook = Webhook(
        secrets.token_hex(12),
        "",
        check_url(text_of(body, "url")),
        read_watched(body.get("watched")),
        check_secret(text_of(body, "secret", "")) or None,
        endpoint_of(request),
        disabled=False,
    )
    _check_domains(body)

    def work(connection: sa.Connection) -> None:
        save_webhook(connection, replace(hook, user=_owner(connection, request, write=True)))

    await writing(request, work)
    return answer({"webhook": _described(hook)})


async def update_webhook(request: Request) -> Response:
    """Change what is named, keep the rest."""
    body = await body_json(request)
    new: dict[str, Any] = {}
    if body.get("url") is not None:
        new["url"] = check_url(text_of(body, "url"))
    # Official clients send an empty list when nothing was said.
    if body.get("watched"):
        new["watched"] = read_watched(body["watched"])
    if body.get("secret") is not None:
        new["secret"] = check_secret(text_of(body, "secret")) or None
    _check_domains(body)
    return await _change(request, **new)


async def switch_webhook(request: Request) -> Response:
    """Pause it, or let it go on."""
    return await _change(request, disabled=request.path_params["action"] == "disable")


async def remove_webhook(request: Request) -> Response:
    """Delete it."""

    def work(connection: sa.Connection) -> None:
        owner = _owner(connection, request, write=True)
        delete_webhook(connection, find_webhook(connection, owner, request.path_params["id"]))

    await writing(request, work)
    return answer({})


async def _change(request: Request, **new: Any) -> Response:
    def work(connection: sa.Connection) -> Webhook:
        owner = _owner(connection, request, write=True)
        hook = replace(find_webhook(connection, owner, request.path_params["id"]), **new)
        save_webhook(connection, hook)
        return hook

    return answer({"webhook": _described(await writing(request, work))})


def _owner(connection: sa.Connection, request: Request, *, write: bool = False) -> str:
    caller = caller_of(connection, request)
    if caller.user is None:
        raise Refusal(401, "a token is needed for webhooks")
    if write and caller.role != "write":
        raise forbidden("Forbidden: this token may only read")
    return caller.user


def _check_domains(body: dict[str, Any]) -> None:
    domains = body.get("domains")
    if domains is not None and not (isinstance(domains, list) and all(name in _DOMAINS for name in domains)):
        raise bad_request("domains is a list of repo and discussion")


def _described(hook: Webhook) -> dict[str, Any]:
    watched = [{"type": kind, "name": name} for kind, name in hook.watched]
    found = {"id": hook.id, "url": hook.url, "watched": watched, "secret": hook.secret, "disabled": hook.disabled}
    return found | {"domains": ["repo"], "job": None}


_API = "/api/settings/webhooks"
ROUTES = [
    Route(_API, list_webhooks, methods=["GET"]),
    Route(_API, create_webhook, methods=["POST"]),
    Route(_API + "/{id}", get_webhook, methods=["GET"]),
    Route(_API + "/{id}", update_webhook, methods=["POST"]),
    Route(_API + "/{id}", remove_webhook, methods=["DELETE"]),
    Route(_API + "/{id}/{action:switch}", switch_webhook, methods=["POST"]),
]
