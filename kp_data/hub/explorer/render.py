"""Answers of the explorer: pages from templates, errors in the same design, and the headers that all of them carry.

Everything shown is somebody else's text. Templates escape it, cards are rendered without HTML and sanitised, and the
policy lets a browser load the one stylesheet and nothing else: no script runs, whoever wrote it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache, wraps
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

import kp_data
from kp_data.errors import DataError, KpError
from kp_data.hub.explorer.dataset import AccessDenied, NotFound, NotReady
from kp_data.hub.explorer.explorer import explorer_of, reader_of
from kp_data.hub.explorer.filters import FilterError
from kp_data.hub.explorer.rows import TooSlow
from kp_data.hub.server.database import MetadataBusy
from kp_data.hub.server.refusals import Refusal
from kp_data.report.html import report_style, report_templates

Handler = Callable[[Request], Awaitable[Response]]

POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
THEMES: Final = ("light", "dark")
THEME_COOKIE: Final = "kp_theme"

_ROOT: Final[ContextVar[str]] = ContextVar("path below which the pages of this request are found", default="")
_BACK_CHARS: Final = 3_000
_FOREVER: Final = "public, max-age=31536000, immutable"
_LOG: Final = logging.getLogger(__name__)


def page(request: Request, template: str, *, status: int = 200, private: bool = False, **values: Any) -> Response:
    """A page.

    Args:
        request: that it answers.
        template: in `templates/`.
        status: of HTTP.
        private: it shows what not everybody may see, so nobody else may keep it.
        values: what the template shows.
    """
    theme = request.cookies.get(THEME_COOKIE)
    shared = {
        "hub": explorer_of(request).hub,
        "signed_in": reader_of(request).session is not None,
        "theme": theme if theme in THEMES else None,
        "here": _here(request),
        "version": kp_data.__version__,
    }
    html = _environment().get_template(template).render(**shared, **values)
    return HTMLResponse(html, status, headers={**HEADERS, **caching(private=private)})


def json_answer(
    content: Any, *, status: int = 200, private: bool = False, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer with the same headers."""
    return JSONResponse(content, status, {**HEADERS, **caching(private=private), **(headers or {})})


def as_page(handler: Handler) -> Handler:
    """A handler whose errors become pages."""

    @wraps(handler)
    async def answered(request: Request) -> Response:
        # Threads that work for the request see it, too; answers for programs name whole addresses instead.
        before = _ROOT.set(explorer_of(request).root)
        try:
            return await handler(request)
        except (KpError, Refusal) as error:
            status, title = _kind(error)
            return page(
                request, "error.html.j2", status=status, private=True, title=title, message=str(error), code=status
            )
        finally:
            # A connection hands its context on to the next request.
            _ROOT.reset(before)

    return answered


def as_api(handler: Handler) -> Handler:
    """A handler whose errors become JSON, as the dataset viewer words them."""

    @wraps(handler)
    async def answered(request: Request) -> Response:
        try:
            return await handler(request)
        except (KpError, Refusal) as error:
            status, _ = _kind(error)
            headers = {"X-Error-Code": _CODES.get(status, "UnexpectedError")}
            if status == 503:
                headers["Retry-After"] = "2"
            return json_answer({"error": str(error)}, status=status, private=True, headers=headers)

    return answered


def url(*segments: str, **query: Any) -> str:
    """An address of this server, every segment encoded whole; values that are None or empty are left out.

    In pages it begins with the path below which a proxy shows the hub, if there is one.

    >>> url("datasets", "ada", "set", "questions", "a/b", revision="v1")
    '/datasets/ada/set/questions/a%2Fb?revision=v1'
    """
    path = f"{_ROOT.get()}/" + "/".join(quote(segment, safe="") for segment in segments)
    kept = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(kept, doseq=True)}" if kept else path


def redirect(to: str) -> Response:
    """To another page of this server, after a form was sent."""
    safe = to if to.startswith("/") and not to.startswith(("//", "/\\")) else url()
    return RedirectResponse(safe, 303, {**HEADERS, **caching(private=True)})


async def static_file(request: Request) -> Response:
    """The stylesheet or the icon, under a name that changes with its bytes."""
    name = str(request.path_params["name"])
    for file, kind in (("style.css", "text/css"), ("icon.svg", "image/svg+xml")):
        if name == static_name(file):
            return Response(_static(file), headers={**HEADERS, "Cache-Control": _FOREVER}, media_type=kind)
    return json_answer({"error": "no such file"}, status=404)


@cache
def static_name(file: str) -> str:
    """The name under which a file of ours is served."""
    stem, _, suffix = file.partition(".")
    return f"{stem}-{hashlib.sha256(_static(file)).hexdigest()[:12]}.{suffix}"


STATIC_ROUTES: Final = [Route("/static/{name}", static_file, methods=["GET"])]

_CODES: Final = {
    401: "ExternalUnauthenticatedError",
    403: "ExternalAuthenticatedError",
    404: "DatasetNotFoundError",
    422: "InvalidParameterError",
    503: "ResponseNotReadyError",
}


def _kind(error: KpError | Refusal) -> tuple[int, str]:
    """HTTP status and the title of the page."""
    if isinstance(error, Refusal):
        return error.status, "This did not work"
    if isinstance(error, NotFound):
        return 404, "There is nothing here"
    if isinstance(error, AccessDenied):
        return 403, "You may not read this"
    if isinstance(error, FilterError):
        return 422, "This cannot be asked"
    if isinstance(error, TooSlow):
        return 503, "This takes too long"
    if isinstance(error, NotReady):
        return 503, "Not ready yet"
    _LOG.warning("unreadable: %s", error)
    if isinstance(error, MetadataBusy):
        return 503, "Not ready yet"
    # What somebody has published may be no table at all: that is no failure of this server.
    return 422 if isinstance(error, DataError) else 500, "This cannot be read"


def caching(*, private: bool) -> dict[str, str]:
    """Headers that keep an answer from whoever may not read it; one of a private dataset is kept by nobody."""
    control = "private, no-store" if private else "private, no-cache"
    return {"Cache-Control": control, "Vary": "Cookie, Authorization"}


def _here(request: Request) -> str:
    """The address of this page, to come back to; without its query where that is very long."""
    path, query = _ROOT.get() + request.url.path, request.url.query
    return f"{path}?{query}" if query and len(query) <= _BACK_CHARS else path


def _static(file: str) -> bytes:
    own = (_folder() / "static" / file).read_bytes()
    # Reports and pages share one design: its sheet comes first, the few rules that only pages need after it.
    return report_style().encode() + own if file == "style.css" else own


def _folder() -> Path:
    return Path(__file__).parent


def clip(text: str, chars: int) -> str:
    """The beginning of a text, with an ellipsis where something is left out.

    >>> clip("one two three", 8)
    'one two …'
    """
    return text if len(text) <= chars else text[:chars].rstrip() + " …"


def sentence(text: str) -> str:
    """A message as a sentence of its own.

    >>> sentence("the filter cannot be read; write conditions")
    'The filter cannot be read; write conditions.'
    """
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%-d %B %Y}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_folder() / "templates", report_templates()]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"clip": clip, "sentence": sentence, "day": _day, "moment": _moment, "numbered": enumerate}
    environment.globals |= {"url": url, "static": lambda file: url("static", static_name(file))}
    return environment
