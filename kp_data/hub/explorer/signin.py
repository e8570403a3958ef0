"""Signing in with a hub's token, choosing a theme, and leaving again.

The cookie holds the token's id under the hub's signature: it is good for reading pages only, ends with the token, and
tells whoever steals a log nothing. Tokens are 256 random bits, so that guessing needs no further brake.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kp_data.hub.explorer.explorer import COOKIE, SESSION_S, Sessions, explorer_of, in_thread
from kp_data.hub.explorer.render import THEME_COOKIE, THEMES, as_page, page, redirect, url
from kp_data.hub.server.refusals import Refusal, bad_request, forbidden

_MAX_FORM_BYTES: Final = 8_192


async def show_login(request: Request) -> Response:
    """The form."""
    _require_sessions(request)
    return page(request, "login.html.j2", private=True, error=None, back=request.query_params.get("back", url()))


async def login(request: Request) -> Response:
    """Begin a session."""
    form = await _form(request)
    sessions, token = _require_sessions(request), form.get("token", "").strip()
    cookie = await in_thread(sessions.begin, token) if token else None
    back = form.get("back", url())
    if cookie is None:
        error = "The hub does not know this token, or it has expired." if token else "Paste a token of this hub."
        return page(request, "login.html.j2", status=401, private=True, error=error, back=back)
    answer = redirect(back)
    secure = explorer_of(request).endpoint(request).startswith("https:")
    answer.set_cookie(COOKIE, cookie, max_age=SESSION_S, httponly=True, samesite="lax", secure=secure)
    return answer


async def logout(request: Request) -> Response:
    """End a session."""
    await _form(request)
    answer = redirect(url())
    answer.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return answer


async def choose_theme(request: Request) -> Response:
    """Light, dark, or as the system has it."""
    form = await _form(request)
    answer = redirect(form.get("back", url()))
    if form.get("theme") in THEMES:
        answer.set_cookie(THEME_COOKIE, form["theme"], max_age=365 * 24 * 3600, httponly=True, samesite="lax")
    else:
        answer.delete_cookie(THEME_COOKIE, httponly=True, samesite="lax")
    return answer


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form that one of our own pages sent.

    Raises:
        Refusal: 403; another site's page sent it. 413; it is too large.
    """
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    own = urlsplit(explorer_of(request).endpoint(request))
    foreign = origin is not None and urlsplit(origin)[:2] != own[:2]
    if foreign or site not in ("same-origin", "none"):
        raise forbidden("this form was sent by another site; open the page here and try again")
    body = b""
    async for block in request.stream():
        body += block
        if len(body) > _MAX_FORM_BYTES:
            raise Refusal(413, "this form is too large")
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise bad_request("this form has too many fields") from None
    return {name: values[-1] for name, values in fields.items()}


def _require_sessions(request: Request) -> Sessions:
    sessions = explorer_of(request).sessions
    if sessions is None:
        raise Refusal(404, "there is nobody to sign in here")
    return sessions


ROUTES: Final = [
    Route("/login", as_page(show_login), methods=["GET"]),
    Route("/login", as_page(login), methods=["POST"]),
    Route("/logout", as_page(logout), methods=["POST"]),
    Route("/theme", as_page(choose_theme), methods=["POST"]),
]
