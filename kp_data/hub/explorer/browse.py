"""What a reader asked of the rows of a part, as it stands in the address: parsed, answered, and written back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from starlette.datastructures import QueryParams

from kp_data.hub.explorer.dataset import Dataset, Part
from kp_data.hub.explorer.filters import ALL, Condition, FilterError, Order, both, equals, parse_filter, parse_order
from kp_data.hub.explorer.indexing import Indexes
from kp_data.hub.explorer.render import url
from kp_data.hub.explorer.rows import Page, Rows, plain

PAGE_ROWS: Final = 30
FACETS: Final = ("split", "subject", "teacher", "method", "mode", "conflict", "correct", "error")
"""Columns that a reader picks a value of from a list, where they have few."""

MAX_FACET_VALUES: Final = 60
FOUND: Final = 1_000
"""Hits of a search, best first, that a filter is applied to."""

NEAREST: Final = 300
"""Rows that a search by meaning shows where nothing filters them: each costs a read from anywhere on the disk."""

_SHOWN: Final[Mapping[str, Sequence[str]]] = {
    "purified": ("question", "rationale", "subject", "teacher", "score", "conflict"),
    "questions": ("question", "choices", "answer", "subject", "split"),
    "panel": ("question_id", "teacher", "rationale", "answer", "correct", "error"),
}
_NAMES: Final = ("id", "question_id")
_MANY: Final = 8
_PREFIX: Final = "is."
_MISSING: Final = "(none)"


@dataclass(frozen=True, slots=True)
class Facet:
    """A column and its values.

    Attributes:
        column: name.
        values: (value as text, how many rows).
        chosen: the one that rows are restricted to; empty: none.
    """

    column: str
    values: tuple[tuple[str, int], ...]
    chosen: str


@dataclass(frozen=True)
class Request:
    """What a reader asked for.

    Attributes:
        where: a condition in the viewer's language.
        orderby: a column and a direction.
        search: words that must occur.
        like: rows that mean something similar to this text.
        facets: column to the value it must have.
        show: columns to show; empty: those that say most.
        page: from 1.
        revision: version; empty: the newest state.
    """

    where: str = ""
    orderby: str = ""
    search: str = ""
    like: str = ""
    facets: Mapping[str, str] = field(default_factory=dict)
    show: tuple[str, ...] = ()
    page: int = 1
    revision: str = ""

    @classmethod
    def read(cls, query: QueryParams) -> Request:
        """From an address; what makes no sense there counts as not said."""
        facets = {
            name.removeprefix(_PREFIX): value
            for name, value in query.multi_items()
            if name.startswith(_PREFIX) and value
        }
        texts = {name: query.get(name, "").strip() for name in ("where", "orderby", "search", "like", "revision")}
        show = tuple(filter(None, query.getlist("show")))
        return cls(**texts, facets=facets, show=show, page=page_number(query))

    def url(self, dataset: Dataset, part: Part, **changes: Any) -> str:
        """The address of this request with some changes; another page is said, everything else begins at the first."""
        asked = replace(self, **{"page": 1, **changes})
        query: dict[str, Any] = {f"{_PREFIX}{column}": value for column, value in asked.facets.items()}
        query |= {name: getattr(asked, name) for name in ("where", "orderby", "search", "like", "revision")}
        query |= {"show": asked.show or None, "page": asked.page if asked.page > 1 else None}
        return url("datasets", *dataset.name.split("/"), "rows", part.config, part.split, **query)

    @property
    def narrowed(self) -> bool:
        """Whether not all rows are asked for."""
        return bool(self.where or self.search or self.like or self.facets)


@dataclass(frozen=True)
class Answer:
    """The rows of a page.

    Attributes:
        page: the rows and their total.
        columns: those shown.
        order: in which; None: that of the rows, or of the search.
        looked_at: how many of a search's hits were looked at, the best ones; None: all.
        likeness: row number to its cosine, for a search by meaning.
    """

    page: Page
    columns: tuple[str, ...]
    order: Order | None
    looked_at: int | None = None
    likeness: Mapping[int, float] = field(default_factory=dict)

    @property
    def num_pages(self) -> int:
        """How many pages there are."""
        return max(1, -(-self.page.num_rows // PAGE_ROWS))


def answer(rows: Rows, indexes: Indexes, part: Part, asked: Request) -> Answer:
    """The rows that were asked for.

    Raises:
        FilterError: the filter, the order or a column cannot be.
        NotReady: an index is being built.
        TooSlow, DataError: as `Rows.page`.
    """
    condition, order = _condition(part, asked), parse_order(asked.orderby, part.kinds)
    columns = columns_of(part, asked)
    # Beside what is shown, what names a row: rows are never read whole, for some columns are wide.
    read = [*columns, *(name for name in _NAMES if name in part.kinds and name not in columns)]
    offset = (asked.page - 1) * PAGE_ROWS
    if asked.search or asked.like:
        return _found(rows, indexes, part, asked, condition, order, read)
    page = rows.page(part, condition=condition, order=order, columns=read, offset=offset, length=PAGE_ROWS)
    return Answer(page, columns, order)


def page_number(query: QueryParams, name: str = "page") -> int:
    """The page that an address asks for, from 1; what is no such number counts as the first."""
    text = query.get(name, "1")
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 10 else 1


def columns_of(part: Part, asked: Request) -> tuple[str, ...]:
    """The columns to show: those asked for, else those that say most."""
    known = [name for name in asked.show if name in part.kinds]
    usual = [name for name in _SHOWN.get(part.config, ()) if name in part.kinds]
    return tuple(known or usual or list(part.kinds)[:_MANY])


def settled(part: Part, asked: Request) -> Request:
    """The request without what says nothing: the usual columns, ticked as they were."""
    usual = columns_of(part, replace(asked, show=()))
    return replace(asked, show=()) if set(asked.show) == set(usual) else asked


def facets(rows: Rows, part: Part, asked: Request) -> list[Facet]:
    """The columns to pick values of. Raises as `Rows.page`."""
    found = []
    for column in FACETS:
        if column in part.kinds and (values := _values(rows, part, column)) and len(values) > 1:
            found.append(Facet(column, values, asked.facets.get(column, "")))
    return found


def _condition(part: Part, asked: Request) -> Condition:
    conditions = [parse_filter(asked.where, part.kinds)]
    for column, text in asked.facets.items():
        conditions.append(equals(column, _value(part, column, text), part.kinds))
    return both(conditions)


def _value(part: Part, column: str, text: str) -> str | bool | float | None:
    """What a facet's text stands for."""
    kind = part.kinds.get(column)
    if text == _MISSING:
        return None
    if kind == "bool":
        return text.lower() in ("true", "yes", "1")
    if kind == "number":
        try:
            return float(text)
        except ValueError:
            raise FilterError(f"column {column!r} holds numbers, and {text[:30]!r} is none") from None
    return text


def _found(
    rows: Rows,
    indexes: Indexes,
    part: Part,
    asked: Request,
    condition: Condition,
    order: Order | None,
    read: Sequence[str],
) -> Answer:
    """The rows of a search: by rank, unless another order is asked for."""
    offset, whole = (asked.page - 1) * PAGE_ROWS, condition == ALL and order is None
    likeness: dict[int, float] = {}
    if asked.like:
        most = NEAREST if whole and not asked.search else FOUND
        likeness = dict(indexes.similar(part, asked.like, k=most))
        numbers, total = list(likeness), part.num_rows
        if asked.search:
            hits = set(indexes.search(part, asked.search, length=FOUND)[0])
            numbers = [number for number in numbers if number in hits]
    elif whole:
        numbers, total = indexes.search(part, asked.search, offset=offset, length=PAGE_ROWS)
        return Answer(Page(_read(rows, indexes, part, numbers, read), total), columns_of(part, asked), None)
    else:
        most = FOUND
        numbers, total = indexes.search(part, asked.search, length=most)
    kept = numbers if whole else rows.among(part, numbers, condition, order)
    shown = _read(rows, indexes, part, kept[offset : offset + PAGE_ROWS], read)
    looked_at = most if total > most else None
    return Answer(Page(shown, len(kept)), columns_of(part, asked), order, looked_at, likeness)


def _read(
    rows: Rows, indexes: Indexes, part: Part, numbers: Sequence[int], columns: Sequence[str]
) -> tuple[tuple[int, Mapping[str, Any]], ...]:
    """Rows that lie anywhere: from where they are at hand, else from the tables."""
    prepared = indexes.rows(part, numbers, columns)
    if prepared is None:
        return rows.at(part, numbers, columns).rows
    return tuple((number, {name: plain(value) for name, value in row.items()}) for number, row in prepared)


def _values(rows: Rows, part: Part, column: str) -> tuple[tuple[str, int], ...]:
    """Values and counts; empty where there are too many to pick from."""
    found = rows.values(part, column, most=MAX_FACET_VALUES)
    return tuple((_word(value), number) for value, number in found or ())


def _word(value: Any) -> str:
    if value is None:
        return _MISSING
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
