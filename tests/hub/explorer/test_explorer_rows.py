"""Rows straight from Parquet: numbered, bounded, and locked in."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kp_data.errors import DataError
from kp_data.hub.explorer.dataset import Part
from kp_data.hub.explorer.filters import FilterError, parse_filter, parse_order
from kp_data.hub.explorer.rows import MAX_LENGTH, Rows, TooSlow

NUM = 250


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Part:
    """Two files: numbers 0 to 149 and 150 to 249; `even`, a score that falls, and a text with a quote."""
    folder = tmp_path_factory.mktemp("it's here")
    files = []
    for number, (low, high) in enumerate(((0, 150), (150, NUM))):
        table = pa.table(
            {
                "number": pa.array(range(low, high), pa.int64()),
                "even": [index % 2 == 0 for index in range(low, high)],
                "score": [float("nan") if index == 7 else -float(index) for index in range(low, high)],
                "word": [f"o'{index % 5}" for index in range(low, high)],
                "at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * (high - low), pa.timestamp("us", "UTC")),
                "raw": [b"\x00\xff"] * (high - low),
                "list": [[1.0, None]] * (high - low),
            }
        )
        files.append(folder / f"part-{number}.parquet")
        pq.write_table(table, files[-1], row_group_size=40)
    return Part("default", "train", tuple(files))


@pytest.fixture(scope="module")
def rows(part: Part) -> Rows:
    return Rows(files=part.files)


def test_a_page_runs_over_the_border_of_two_files(rows: Rows, part: Part) -> None:
    page = rows.page(part, offset=148, length=4)
    assert [(number, row["number"]) for number, row in page.rows] == [(148, 148), (149, 149), (150, 150), (151, 151)]
    assert page.num_rows == NUM


@settings(max_examples=30, deadline=None)
@given(offset=st.integers(0, 400), length=st.integers(-5, 400))
def test_pages_are_slices_of_all_rows(rows: Rows, part: Part, offset: int, length: int) -> None:
    page = rows.page(part, offset=offset, length=length)
    wanted = list(range(NUM))[offset : offset + max(0, min(length, MAX_LENGTH))]
    assert [row["number"] for _, row in page.rows] == wanted


def test_a_filter_keeps_numbers_and_counts_all_that_fit(rows: Rows, part: Part) -> None:
    page = rows.page(part, condition=parse_filter("even AND word = 'o''3'", part.kinds), offset=1, length=2)
    assert [number for number, _ in page.rows] == [18, 28]
    assert page.num_rows == NUM // 10


def test_rows_are_sorted_and_ties_keep_the_order_of_rows(rows: Rows, part: Part) -> None:
    page = rows.page(part, order=parse_order("word DESC", part.kinds), length=3)
    assert [number for number, _ in page.rows] == [4, 9, 14]


def test_values_are_such_as_json_knows(rows: Rows, part: Part) -> None:
    ((_, row),) = rows.page(part, offset=7, length=1).rows
    assert row["score"] is None
    assert row["at"] == "2026-01-01T00:00:00+00:00"
    assert row["raw"] == "AP8="
    assert row["list"] == [1.0, None]


def test_rows_by_number_come_in_the_order_asked_for(rows: Rows, part: Part) -> None:
    page = rows.at(part, [200, 3, 999, 151], ["number"])
    assert page.rows == ((200, {"number": 200}), (3, {"number": 3}), (151, {"number": 151}))


def test_frequent_values_are_counted(rows: Rows, part: Part) -> None:
    assert rows.values(part, "word", most=5) == tuple((f"o'{number}", 50) for number in range(5))
    assert rows.values(part, "word", most=4) is None


def test_comparing_a_number_with_a_word_is_the_readers_error(rows: Rows, part: Part) -> None:
    with pytest.raises(FilterError, match="another kind"):
        rows.page(part, condition=parse_filter("number > 'many'", part.kinds))


def test_a_file_outside_the_given_places_stays_closed(part: Part, tmp_path: Path) -> None:
    outsider = Rows(folders=[tmp_path])
    with pytest.raises(DataError, match="cannot be read"):
        outsider.page(part)


def test_a_neighbouring_folder_whose_name_begins_alike_stays_closed(part: Part, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "database").mkdir()
    other = tmp_path / "database" / "x.parquet"
    other.write_bytes(part.files[0].read_bytes())
    with pytest.raises(DataError, match="cannot be read"):
        Rows(folders=[tmp_path / "data"]).page(Part("c", "s", (other,)))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM glob('/*')",
        "COPY (SELECT 1) TO '/tmp/kp-out.csv'",
        "ATTACH '/tmp/kp-other.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '64GB'",
        "SELECT * FROM read_csv('https://example.invalid/x.csv')",
    ],
)
def test_the_database_itself_is_locked_in(rows: Rows, sql: str) -> None:
    with rows._database.cursor() as cursor, pytest.raises(duckdb.Error):
        cursor.execute(sql)


def test_a_query_that_takes_too_long_is_stopped(part: Part) -> None:
    hasty = Rows(files=part.files, limit_s=0.2)
    with pytest.raises(TooSlow, match=r"longer than 0\.6 s"):
        hasty.select(part, "0", tail="UNION ALL SELECT sum(a.i * b.i) FROM range(10000000) a(i), range(1000000) b(i)")


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"broken\.parquet: this file cannot be read"):
        Rows(files=[broken]).page(Part("c", "s", (broken,)))


def test_rows_beside_wide_columns_are_read_without_holding_these_columns(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).random(20_000 * 512, np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors), 512)
    file = tmp_path / "wide.parquet"
    pq.write_table(pa.table({"id": [str(row) for row in range(20_000)], "embedding": column}), file)
    wide = Part("c", "s", (file,))
    ((number, row),) = Rows(folders=[tmp_path], memory="24MB").page(wide, offset=19_999, length=1).rows
    assert (number, row["id"], len(row["embedding"])) == (19_999, "19999", 512)


@pytest.mark.parametrize("pattern", ["%a" * 30 + "%b", "%a_" * 30 + "%b_", "%_a" * 30 + "b"])
def test_a_pattern_made_to_be_slow_is_answered_in_time(tmp_path: Path, pattern: str) -> None:
    file = tmp_path / "long.parquet"
    pq.write_table(pa.table({"text": ["a" * 20_000] * 50}), file)
    part = Part("c", "s", (file,))
    for word in ("LIKE", "ILIKE"):
        condition = parse_filter(f"text {word} '{pattern}'", part.kinds)
        assert Rows(folders=[tmp_path]).page(part, condition=condition).num_rows == 0


def test_a_table_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    file, rows = tmp_path / "t.parquet", Rows(folders=[tmp_path])
    for number, text in enumerate(("before", "after", "after that")):
        pq.write_table(pa.table({"id": [text] * (number + 1)}), file)
        page = rows.page(Part("c", "s", (file,)), condition=parse_filter("id <> 'x'", {"id": "text"}))
        assert ([row["id"] for _, row in page.rows], page.num_rows) == ([text] * (number + 1), number + 1)
