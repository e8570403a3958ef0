"""The dataset viewer's API over our rows: the same addresses, parameters and shapes as huggingface.co's.

Differs: there is nothing to wait for but search, because Parquet is read where it lies; `revision` may name any
version, not only the newest state; what it is, is said in `X-Revision`.
Source: https://huggingface.co/docs/dataset-viewer (its OpenAPI description).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kp_data.hub.explorer.croissant import croissant
from kp_data.hub.explorer.dataset import Dataset, NotFound, Part
from kp_data.hub.explorer.explorer import dataset_name, explorer_of, in_thread, reader_of
from kp_data.hub.explorer.features import feature_of, features_of
from kp_data.hub.explorer.filters import FilterError, parse_filter, parse_order
from kp_data.hub.explorer.render import Handler, as_api, json_answer, url
from kp_data.hub.explorer.rows import MAX_LENGTH, Page
from kp_data.hub.explorer.statistics import column_statistics

FIRST_ROWS: Final = 100
MAX_CELL_CHARS: Final = 10_000
"""A longer cell is cut in the first rows, and named there; other calls give it whole."""

_MAX_OFFSET: Final = 2**40


async def is_valid(request: Request) -> Response:
    """What works for a dataset."""
    dataset = await _dataset(request)
    works = bool(dataset.parts)
    names = ("preview", "viewer", "search", "filter", "statistics")
    return _answer(dataset, dict.fromkeys(names, works))


async def splits(request: Request) -> Response:
    """Every config and split."""
    dataset = await _dataset(request)
    return _answer(dataset, {"splits": [_named(dataset, part) for part in _parts(request, dataset)], **_DONE})


async def first_rows(request: Request) -> Response:
    """The first rows of a split, long cells cut."""
    dataset, part = await _dataset_and_part(request)
    page = await in_thread(explorer_of(request).rows.page, part, length=FIRST_ROWS)
    rows = [_cut(number, row) for number, row in page.rows]
    truncated = len(page.rows) < page.num_rows
    features = features_of(part.schema)
    return _answer(dataset, {**_named(dataset, part), "features": features, "rows": rows, "truncated": truncated})


async def rows(request: Request) -> Response:
    """A slice of a split."""
    dataset, part = await _dataset_and_part(request)
    offset, length = _slice(request)
    read = explorer_of(request).rows.page
    return await in_thread(lambda: _page(dataset, part, read(part, offset=offset, length=length)))


async def filter_rows(request: Request) -> Response:
    """Rows under a condition, in an order."""
    dataset, part = await _dataset_and_part(request)
    offset, length = _slice(request)
    query = request.query_params
    condition = parse_filter(query.get("where", ""), part.kinds)
    order = parse_order(query.get("orderby", ""), part.kinds)
    read = explorer_of(request).rows.page

    def found() -> Page:
        return read(part, condition=condition, order=order, offset=offset, length=length)

    return await in_thread(lambda: _page(dataset, part, found()))


async def search(request: Request) -> Response:
    """Rows that hold some words."""
    dataset, part = await _dataset_and_part(request)
    offset, length = _slice(request)
    words = _required(request, "query")
    explorer = explorer_of(request)

    def found() -> Page:
        numbers, total = explorer.indexes.search(part, words, offset=offset, length=length)
        return Page(explorer.rows.at(part, numbers).rows, total)

    return await in_thread(lambda: _page(dataset, part, found()))


async def statistics(request: Request) -> Response:
    """Statistics of every column of a split."""
    dataset, part = await _dataset_and_part(request)
    found = await in_thread(column_statistics, explorer_of(request).rows, part)
    return _answer(dataset, {"num_examples": part.num_rows, "statistics": found, "partial": False})


async def parquet(request: Request) -> Response:
    """The Parquet files themselves: no copy is made of them, so these are the committed ones."""
    dataset = await _dataset(request)
    found = [
        {
            **_named(dataset, part),
            "url": _endpoint(request) + _file_url(dataset, path),
            "filename": path.rpartition("/")[2],
            "size": file.stat().st_size,
        }
        for part in _parts(request, dataset)
        for path, file in zip(part.paths, part.files, strict=True)
    ]
    return _answer(dataset, {"parquet_files": found, **_DONE, "partial": False})


async def size(request: Request) -> Response:
    """Rows and bytes of a dataset, its configs and its splits."""
    dataset = await _dataset(request)
    parts = _parts(request, dataset)

    def sizes(chosen: Sequence[Part], **named: str) -> dict[str, Any]:
        num_bytes = sum(part.num_bytes for part in chosen)
        columns = {"num_columns": len(chosen[0].kinds)} if "config" in named else {}
        original = {} if "split" in named else {"num_bytes_original_files": num_bytes}
        return {
            "dataset": dataset.name,
            **named,
            **original,
            "num_bytes_parquet_files": num_bytes,
            "num_bytes_memory": sum(part.num_bytes_plain for part in chosen),
            "num_rows": sum(part.num_rows for part in chosen),
            **columns,
            "estimated_num_rows": None,
        }

    by_config = {name: [part for part in parts if part.config == name] for name in dataset.configs}
    found: dict[str, Any] = {
        "configs": [sizes(chosen, config=name) for name, chosen in by_config.items() if chosen],
        "splits": [sizes([part], config=part.config, split=part.split) for part in parts],
    }
    key = "config" if request.query_params.get("config") else "dataset"
    whole = found.pop("configs")[0] if key == "config" else sizes(parts)
    return _answer(dataset, {"size": {key: whole, **found}, **_DONE, "partial": False})


async def info(request: Request) -> Response:
    """What `datasets` knows of a dataset before it loads it."""
    dataset = await _dataset(request)
    parts = _parts(request, dataset)
    by_config = {name: [part for part in parts if part.config == name] for name in dataset.configs}
    configs = {name: _info(dataset, name, chosen) for name, chosen in by_config.items() if chosen}
    wanted = request.query_params.get("config")
    return _answer(dataset, {"dataset_info": configs[wanted] if wanted else configs, **_DONE, "partial": False})


async def get_croissant(request: Request) -> Response:
    """The dataset in MLCommons' Croissant vocabulary."""
    dataset = await _dataset(request)
    versions = await in_thread(explorer_of(request).catalogue.versions, reader_of(request), dataset.name)
    published = next((version.created_at for version in versions if version.commit == dataset.commit), None)
    made = await in_thread(croissant, dataset, _endpoint(request), published=published)
    return _answer(dataset, made)


def _endpoint(request: Request) -> str:
    """Where files are to be had: official clients ask a host of its own, and send their token to the hub's alone."""
    return explorer_of(request).endpoint(request).replace("://datasets-server.", "://", 1)


async def _dataset(request: Request) -> Dataset:
    """The dataset that the path or the query names."""
    name = dataset_name(request) if "namespace" in request.path_params else _required(request, "dataset")
    revision = request.query_params.get("revision") or None
    return await in_thread(explorer_of(request).catalogue.open, reader_of(request), name, revision)


async def _dataset_and_part(request: Request) -> tuple[Dataset, Part]:
    config, split = _required(request, "config"), _required(request, "split")
    dataset = await _dataset(request)
    part = dataset.part(config, split)
    if part is None:
        raise NotFound(f"there is no split {split!r} of config {config!r}; /splits lists what there is")
    return dataset, part


def _parts(request: Request, dataset: Dataset) -> list[Part]:
    """The parts that the query asks for; all without `config` and `split`."""
    config, split = (request.query_params.get(name) or None for name in ("config", "split"))
    chosen = [part for part in dataset.parts if config in (None, part.config) and split in (None, part.split)]
    if (config or split) and not chosen:
        raise NotFound("there is no such config or split; /splits lists what there is")
    return chosen


def _required(request: Request, name: str) -> str:
    value = request.query_params.get(name, "").strip()
    if not value:
        raise FilterError(f"Parameter '{name}' is required")
    return value


def _slice(request: Request) -> tuple[int, int]:
    offset = _number(request, "offset", 0, _MAX_OFFSET)
    return offset, _number(request, "length", MAX_LENGTH, MAX_LENGTH)


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 15) or int(text) > most:
        raise FilterError(f"Parameter '{name}' must be a whole number from 0 to {most}")
    return int(text)


def _page(dataset: Dataset, part: Part, page: Page) -> Response:
    rows = [{"row_idx": number, "row": row, "truncated_cells": []} for number, row in page.rows]
    return _answer(
        dataset,
        {
            "features": features_of(part.schema),
            "rows": rows,
            "num_rows_total": page.num_rows,
            "num_rows_per_page": MAX_LENGTH,
            "partial": False,
        },
    )


def _cut(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in row.items()}
    long = [name for name, text in texts.items() if len(text) > MAX_CELL_CHARS]
    kept = {name: texts[name][:MAX_CELL_CHARS] if name in long else value for name, value in row.items()}
    return {"row_idx": number, "row": kept, "truncated_cells": long}


def _info(dataset: Dataset, config: str, parts: Sequence[Part]) -> dict[str, Any]:
    named = dataset.name.rpartition("/")[2]
    return {
        "description": "",
        "citation": "",
        "homepage": "",
        "license": str(dataset.metadata.get("license", "")),
        "features": {field.name: feature_of(field.type) for field in parts[0].schema},
        "builder_name": "parquet",
        "dataset_name": named,
        "config_name": config,
        "version": {"version_str": "0.0.0", "major": 0, "minor": 0, "patch": 0},
        "splits": {
            part.split: {
                "name": part.split,
                "num_bytes": part.num_bytes_plain,
                "num_examples": part.num_rows,
                "dataset_name": named,
            }
            for part in parts
        },
        "download_size": sum(part.num_bytes for part in parts),
        "dataset_size": sum(part.num_bytes_plain for part in parts),
    }


def _named(dataset: Dataset, part: Part) -> dict[str, str]:
    return {"dataset": dataset.name, "config": part.config, "split": part.split}


def _file_url(dataset: Dataset, path: str) -> str:
    return url("datasets", *dataset.name.split("/"), "resolve", dataset.commit, *path.split("/"))


def _answer(dataset: Dataset, content: Any) -> Response:
    return json_answer(content, private=dataset.private, headers={"X-Revision": dataset.commit})


_DONE: Final[Mapping[str, Any]] = {"pending": [], "failed": []}

_HANDLERS: Final[Mapping[str, Callable[[Request], Any]]] = {
    "is-valid": is_valid,
    "splits": splits,
    "first-rows": first_rows,
    "rows": rows,
    "filter": filter_rows,
    "search": search,
    "statistics": statistics,
    "parquet": parquet,
    "size": size,
    "info": info,
    "croissant": get_croissant,
    "croissant-crumbs": get_croissant,
}


def _routes() -> list[Route]:
    wrapped: dict[str, Handler] = {name: as_api(handler) for name, handler in _HANDLERS.items()}
    # At the root as the official address has it, and below /viewer for whoever puts a proxy in front.
    found = [
        Route(f"{at}/{name}", handler, methods=["GET"]) for at in ("", "/viewer") for name, handler in wrapped.items()
    ]
    return [*found, Route("/api/datasets/{namespace}/{name}/croissant", wrapped["croissant"], methods=["GET"])]


ROUTES: Final = _routes()
