"""The pages of models: the card with what there is to know beside it, versions and commits, and files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kp_data.hub.explorer.card_html import card_html, remembered_code, remembered_html
from kp_data.hub.explorer.dataset import CARD, NotFound
from kp_data.hub.explorer.downloads import sent
from kp_data.hub.explorer.explorer import dataset_name, explorer_of, in_thread, path_value, reader_of
from kp_data.hub.explorer.models import MOST_COMMITS, HubModels, Model, model_facts, model_snippets
from kp_data.hub.explorer.render import as_page, page, url

FILES: Final = 100
"""Files that a page lists."""

Handler = Callable[[Request], Awaitable[Response]]


async def card(request: Request) -> Response:
    """A model: its card, what there is to know of it, and how to use it."""
    models, model = await _model(request)
    explorer, reader = explorer_of(request), reader_of(request)
    versions = await in_thread(models.versions, reader, model.name)
    learned_from = await in_thread(models.learned_from, reader, model)
    code = await in_thread(remembered_code, explorer.documents, model, "python")
    return await _page(
        request,
        "model_card.html.j2",
        model,
        card=await in_thread(remembered_html, explorer.documents, model, CARD, card_html),
        # Reading a card, be it for two lines of it, is no work for the event loop.
        facts=await in_thread(model_facts, model, learned_from),
        snippets=model_snippets(model, versions, code, explorer.endpoint(request)),
        versions=versions,
        files=model.files[:FILES],
    )


async def versions(request: Request) -> Response:
    """Versions and branches, and the commits of the one that is shown, newest first."""
    models, model = await _model(request)
    reader = reader_of(request)
    found = await in_thread(models.versions, reader, model.name)
    commits = await in_thread(models.commits, reader, model.name, model.commit)
    more = len(commits) > MOST_COMMITS
    return await _page(
        request, "model_versions.html.j2", model, versions=found, commits=commits[:MOST_COMMITS], more=more
    )


async def download(request: Request) -> Response:
    """A file of a model, to be saved and never shown."""
    path = path_value(request, "path")
    asked = dataset_name(request), path_value(request, "revision"), path
    file = await in_thread(_models(request).download, reader_of(request), *asked)
    return await sent(request, path, file)


def routes(otherwise: Handler) -> list[Route]:
    """The addresses of models, which have no prefix; `otherwise` answers those that no model has."""
    model = "/{namespace}/{name}"
    pages = {model: card, f"{model}/versions": versions, f"{model}/download/{{revision}}/{{path:path}}": download}
    return [Route(path, _or(as_page(handler), otherwise), methods=["GET"]) for path, handler in pages.items()]


def _or(handler: Handler, otherwise: Handler) -> Handler:
    """A handler for browsers; programs that ask for what is no model's are told so as anywhere else."""

    async def answered(request: Request) -> Response:
        answer = await handler(request)
        browses = "text/html" in request.headers.get("accept", "")
        return answer if browses or answer.status_code != 404 else await otherwise(request)

    return answered


def _models(request: Request) -> HubModels:
    models = explorer_of(request).models
    if models is None:
        raise NotFound("no page has this address")
    return models


async def _model(request: Request) -> tuple[HubModels, Model]:
    models, revision = _models(request), request.query_params.get("revision") or None
    return models, await in_thread(models.open, reader_of(request), dataset_name(request), revision)


async def _page(request: Request, template: str, model: Model, **values: Any) -> Response:
    """A page of a model: its name and version are known to the template, and links keep the version."""
    revision = request.query_params.get("revision", "")

    def link(*segments: str) -> str:
        return url(*model.address, *segments, revision=revision)

    def saved(path: str) -> str:
        return url(*model.address, "download", model.commit, *path.split("/"))

    return await in_thread(
        page,
        request,
        template,
        private=model.private,
        model=model,
        link=link,
        download=saved,
        revision=revision,
        **values,
    )
