"""The pages of datasets: the card, rows, a question, its statistics, and what changed between versions."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kp_data.hub.explorer import browse, charts
from kp_data.hub.explorer.card_html import CHANGES, card_html, changelog_html, remembered_html
from kp_data.hub.explorer.dataset import CARD, Dataset, NotFound, NotReady, Part, Version
from kp_data.hub.explorer.explorer import dataset_name, explorer_of, in_thread, path_value, reader_of
from kp_data.hub.explorer.facts import card_facts, snippets
from kp_data.hub.explorer.filters import FilterError
from kp_data.hub.explorer.render import as_page, page, redirect, url
from kp_data.hub.explorer.rowdiff import KINDS, PAGE, NotComparable, differences
from kp_data.hub.explorer.story import find_question, neighbours, next_conflict, tell
from kp_data.hub.words import shortened, word_diff

FILES: Final = 40
"""Files that a card lists."""

MARKED_CELL_CHARS: Final = 12_000
MARKED_CHARS: Final = 100_000
"""Characters of one pair of texts, and of all on a page, whose words are compared."""


async def card(request: Request) -> Response:
    """A dataset: its card, what there is to know of it, and how to load it."""
    dataset = await _dataset(request)
    explorer = explorer_of(request)
    versions = await in_thread(explorer.catalogue.versions, reader_of(request), dataset.name)
    return await _page(
        request,
        "card.html.j2",
        dataset,
        card=await in_thread(remembered_html, explorer.documents, dataset, CARD, card_html),
        facts=card_facts(dataset),
        snippets=snippets(dataset, versions, explorer.endpoint(request) if explorer.hub else None),
        versions=versions,
        files=dataset.paths[:FILES],
    )


async def rows(request: Request) -> Response:
    """Rows of a part: filtered, sorted, searched, a page at a time."""
    dataset, part = await _dataset_and_part(request)
    explorer, asked = explorer_of(request), browse.settled(part, browse.Request.read(request.query_params))
    if "" in request.query_params.values():
        # A form sends its empty fields, too; an address to share names what was asked and nothing else.
        return redirect(asked.url(dataset, part, page=asked.page))
    answer, error, waiting = None, None, False
    try:
        answer = await in_thread(browse.answer, explorer.rows, explorer.indexes, part, asked)
    except FilterError as refused:
        error = str(refused)
    except NotReady as soon:
        error, waiting = str(soon), True
    facets = await in_thread(browse.facets, explorer.rows, part, asked)
    return await _page(
        request,
        "rows.html.j2",
        dataset,
        status=422 if error and not waiting else 200,
        refresh=3 if waiting else None,
        part=part,
        asked=asked,
        answer=answer,
        error=error,
        waiting=waiting,
        facets=facets,
        shown=browse.columns_of(part, asked),
        state={kind: explorer.indexes.state(kind, part) for kind in ("fulltext", "semantic")},
        page_rows=browse.PAGE_ROWS,
    )


async def question(request: Request) -> Response:
    """A question's story."""
    dataset = await _dataset(request)
    explorer, question_id = explorer_of(request), path_value(request, "id")
    found = await in_thread(find_question, explorer.rows, dataset, question_id)
    story = await in_thread(tell, explorer.rows, dataset, found)
    around = await in_thread(neighbours, explorer.rows, found)
    conflict = await in_thread(next_conflict, explorer.rows, found)
    return await _page(
        request, "question.html.j2", dataset, story=story, around=around, conflict=conflict, part=found.part
    )


async def statistics(request: Request) -> Response:
    """What a part holds, in numbers and pictures."""
    dataset, part = await _dataset_and_part(request)
    sections = await in_thread(charts.sections, explorer_of(request).rows, dataset, part)
    return await _page(request, "statistics.html.j2", dataset, part=part, sections=sections)


async def versions(request: Request) -> Response:
    """Every version, newest first, with its changelog."""
    dataset = await _dataset(request)
    found = await in_thread(explorer_of(request).catalogue.versions, reader_of(request), dataset.name)
    documents = explorer_of(request).documents
    changelog = await in_thread(remembered_html, documents, dataset, CHANGES, changelog_html)
    return await _page(request, "versions.html.j2", dataset, versions=found, pairs=_pairs(found), changelog=changelog)


async def compare(request: Request) -> Response:
    """What changed between two versions, row by row."""
    old_name, dots, new_name = path_value(request, "span").partition("...")
    if not dots or not old_name or not new_name:
        raise NotFound("two versions are compared as OLD...NEW, such as v1.0.0...v1.1.0")
    old, new = [await _dataset(request, name) for name in (old_name, new_name)]
    configs = list(dict.fromkeys([*new.configs, *old.configs]))
    query = request.query_params
    config = query.get("config") if query.get("config") in configs else next(iter(configs), "")
    kind = next((each for each in KINDS if each == query.get("kind")), None)
    column = query.get("column") or None
    at, found, error = browse.page_number(query), None, None
    work = functools.partial(differences, explorer_of(request).rows, old, new, str(config))
    try:
        found = await in_thread(work, kind=kind, column=column, offset=(at - 1) * PAGE)
    except NotComparable as refused:
        error = str(refused)
    return await _page(
        request,
        "compare.html.j2",
        new,
        old=old,
        span=f"{old_name}...{new_name}",
        configs=configs,
        config=config,
        found=found,
        error=error,
        kind=kind,
        kinds=KINDS,
        column=column if found and column in found.changed_in else None,
        at=at,
        num_pages=max(1, -(-found.total(kind) // PAGE)) if found else 1,
        marked=_Marker(),
    )


async def _dataset(request: Request, revision: str | None = None) -> Dataset:
    revision = revision or request.query_params.get("revision") or None
    return await in_thread(explorer_of(request).catalogue.open, reader_of(request), dataset_name(request), revision)


async def _dataset_and_part(request: Request) -> tuple[Dataset, Part]:
    dataset = await _dataset(request)
    part = dataset.part(path_value(request, "config"), path_value(request, "split"))
    if part is None:
        raise NotFound("the dataset has no such config or split in this version")
    return dataset, part


async def _page(request: Request, template: str, dataset: Dataset, *, status: int = 200, **values: Any) -> Response:
    """A page of a dataset: its name and version are known to the template, and links keep the version."""
    revision = request.query_params.get("revision", "")

    def link(*segments: str, **query: Any) -> str:
        return url("datasets", *dataset.name.split("/"), *segments, **{"revision": revision, **query})

    # Templates mark the words of long texts and the like: no work for the event loop.
    return await in_thread(
        page,
        request,
        template,
        status=status,
        private=dataset.private,
        dataset=dataset,
        link=link,
        revision=revision,
        **{"refresh": None, **values},
    )


def _pairs(versions: Sequence[Version]) -> Mapping[str, str]:
    """Version to the one before it, among those that are versions."""
    tagged = [version.name for version in versions if version.name.startswith("v")]
    return dict(itertools.pairwise(tagged))


class _Marker:
    """Marks the differing words of two values, while a page's time for that lasts: comparing words is quadratic."""

    def __init__(self) -> None:
        self._left = MARKED_CHARS

    def __call__(self, before: Any, after: Any) -> list[tuple[str, str]]:
        """Pieces of `word_diff`, the middle of what did not change left out; very long texts as wholes."""
        old, new = (
            "" if value is None else value if isinstance(value, str) else str(value) for value in (before, after)
        )
        self._left -= len(old) + len(new)
        if len(old) + len(new) > MARKED_CELL_CHARS or self._left < 0:
            return [("removed", old), ("added", new)]
        return list(shortened(word_diff(old, new), context=120))


_DATASET: Final = "/datasets/{namespace}/{name}"

ROUTES: Final = [
    Route(_DATASET, as_page(card), methods=["GET"]),
    Route(_DATASET + "/rows/{config}/{split}", as_page(rows), methods=["GET"]),
    Route(_DATASET + "/questions/{id:path}", as_page(question), methods=["GET"]),
    Route(_DATASET + "/statistics/{config}/{split}", as_page(statistics), methods=["GET"]),
    Route(_DATASET + "/versions", as_page(versions), methods=["GET"]),
    Route(_DATASET + "/compare/{span}", as_page(compare), methods=["GET"]),
]
