"""Files for whoever reads its pages: the session that opened the page opens the file.

The hub's own addresses of files belong to programs, which send a token with each request; a browser has its session.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kp_data.hub.explorer.dataset import Download
from kp_data.hub.explorer.explorer import dataset_name, explorer_of, in_thread, path_value, reader_of
from kp_data.hub.explorer.render import HEADERS, as_page, caching
from kp_data.hub.server.refusals import header_safe
from kp_data.hub.server.web import SAFE_HEADERS, elsewhere, send


async def download(request: Request) -> Response:
    """A file, or a range of it, to be saved and never shown: it may be a page of somebody's."""
    path = path_value(request, "path")
    asked = dataset_name(request), path_value(request, "revision"), path
    file = await in_thread(explorer_of(request).catalogue.download, reader_of(request), *asked)
    return await sent(request, path, file)


async def sent(request: Request, path: str, file: Download) -> Response:
    """The answer that holds a file, or the range of it that a request asks for."""
    headers = _headers(path, file)
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers={**SAFE_HEADERS, **headers})
    name = path.rpartition("/")[2]
    if (
        explorer_of(request).hub
        and (there := await elsewhere(request, file.location, headers, name=header_safe(name))) is not None
    ):
        return there
    return await in_thread(send, request, file.blocks, file.size, headers)


def _headers(path: str, file: Download) -> dict[str, str]:
    name = path.rpartition("/")[2]
    return {
        **HEADERS,
        **caching(private=file.private),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        "Content-Security-Policy": SAFE_HEADERS["Content-Security-Policy"],
        "Content-Type": "application/octet-stream",
        "ETag": f'"{file.etag}"',
    }


_FILE: Final = "/datasets/{namespace}/{name}/%s/{revision}/{path:path}"

ROUTES: Final = [
    Route(_FILE % "download", as_page(download), methods=["GET"]),
    # Of a hub, its protocol answers here, before any page is asked; a folder's explorer is all there is.
    Route(_FILE % "resolve", as_page(download), methods=["GET"]),
]
