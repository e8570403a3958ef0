"""What stands in an address is what was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from kp_data.hub.explorer import browse
from kp_data.hub.explorer.browse import Request
from kp_data.hub.explorer.dataset import Dataset, Part
from kp_data.hub.explorer.rows import Rows

SET, PART = Dataset("ada/set", "main", "c0", ()), Part("purified", "a/b ?#%", ())
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(str.strip)
REQUESTS = st.builds(
    Request,
    where=WORDS,
    orderby=WORDS,
    search=WORDS,
    like=WORDS,
    revision=WORDS,
    facets=st.dictionaries(WORDS, WORDS.filter(bool), max_size=3),
    show=st.lists(WORDS.filter(bool), max_size=3).map(tuple),
    page=st.integers(1, 10**8),
)


@settings(deadline=None)
@given(REQUESTS)
def test_an_address_reads_back_as_the_request_it_was_made_of(asked: Request) -> None:
    address = urlsplit(asked.url(SET, PART, page=asked.page))
    assert Request.read(QueryParams(parse_qsl(address.query, keep_blank_values=True))) == asked
    assert [unquote(segment) for segment in address.path.split("/")[-2:]] == ["purified", PART.split]


@settings(deadline=None)
@given(REQUESTS)
def test_whatever_changes_begins_at_the_first_page(asked: Request) -> None:
    changed = Request.read(QueryParams(urlsplit(asked.url(SET, PART, orderby="id DESC")).query))
    assert (changed.page, changed.orderby) == (1, "id DESC")
    assert (changed.where, changed.facets) == (asked.where, asked.facets)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=6), st.text(max_size=12)))
def test_an_address_that_makes_no_sense_asks_for_the_first_page(query: dict[str, str]) -> None:
    assert Request.read(QueryParams(query)).page >= 1


def wide_part(folder: Path) -> Part:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(40, np.float32)), 4)
    table = pa.table(
        {
            "id": [f"q{row}" for row in range(10)],
            "question": [f"why {row}" for row in range(10)],
            "subject": pa.array(["law"] * 5 + [None] * 5),
            "embedding": vectors,
        }
    )
    pq.write_table(table, folder / "t.parquet")
    return Part("purified", "train", (folder / "t.parquet",))


def test_rows_are_read_with_the_columns_that_are_shown_and_their_names(tmp_path: Path) -> None:
    part = wide_part(tmp_path)
    found = browse.answer(Rows(folders=[tmp_path]), None, part, Request(where="subject = 'law'"))  # type: ignore[arg-type]
    assert found.columns == ("question", "subject")
    assert [sorted(row) for _, row in found.page.rows] == [["id", "question", "subject"]] * 5


def test_values_are_counted_and_missing_ones_can_be_picked(tmp_path: Path) -> None:
    part, rows = wide_part(tmp_path), Rows(folders=[tmp_path])
    (facet,) = browse.facets(rows, part, Request(facets={"subject": "(none)"}))
    assert (facet.values, facet.chosen) == ((("law", 5), ("(none)", 5)), "(none)")
    found = browse.answer(rows, None, part, Request(facets={"subject": "(none)"}))  # type: ignore[arg-type]
    assert [number for number, _ in found.page.rows] == [5, 6, 7, 8, 9]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["where", "search", "show", "page", "revision", "is.x", "is.", ""]), st.text(max_size=6)
        )
    )
)
def test_an_address_that_is_written_back_has_no_empty_field(query: list[tuple[str, str]]) -> None:
    written = Request.read(QueryParams(query)).url(SET, PART)
    assert "" not in QueryParams(urlsplit(written).query).values()
    assert Request.read(QueryParams(urlsplit(written).query)).url(SET, PART) == written


class _Nearest:
    """Every row is like every text, the first most."""

    def similar(self, part: Part, to: str, *, k: int) -> list[tuple[int, float]]:
        return [(row, 1.0 - row / 1_000) for row in range(min(k, part.num_rows))]

    def rows(self, part: Part, numbers: list[int], columns: list[str]) -> None:
        return None


def test_a_search_by_meaning_looks_further_where_a_condition_thins_it_out(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [f"q{row}" for row in range(400)], "n": range(400)}), tmp_path / "t.parquet")
    rows, part = Rows(folders=[tmp_path]), Part("purified", "train", (tmp_path / "t.parquet",))
    indexes: Any = _Nearest()
    plain = browse.answer(rows, indexes, part, Request(like="x"))
    assert (plain.page.num_rows, plain.looked_at, len(plain.page.rows)) == (browse.NEAREST, browse.NEAREST, 30)
    thinned = browse.answer(rows, indexes, part, Request(like="x", where="n >= 350"))
    assert (thinned.page.num_rows, thinned.looked_at, thinned.page.rows[0][0]) == (50, None, 350)
