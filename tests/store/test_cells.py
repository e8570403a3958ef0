"""The cell store: what is written stays, and a damaged store is said to be one."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from kp_data.errors import StoreError
from kp_data.store import Store, StoredCell, cell_key

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CELL = StoredCell(key="k", request="{}", attempts=1, created_at=NOW, reply="so", cost_usd=0.25, prompt_tokens=7)


def test_cells_are_read_back_as_written_also_by_another_process(tmp_path: Path) -> None:
    store = Store.of_folder(tmp_path)
    store.put([CELL, replace(CELL, key="f", reply=None, error="timeout", message="late")])
    store.close()
    again = Store.of_folder(tmp_path)
    found = again.get(["k", "f", "none"])
    assert set(found) == {"k", "f"}
    assert replace(found["k"], created_at=NOW) == CELL
    assert again.states(["k", "f", "none"]) == {"k": None, "f": "timeout"}
    again.close()


def test_a_later_outcome_takes_the_place_of_a_failure(tmp_path: Path) -> None:
    store = Store.of_folder(tmp_path)
    store.put([replace(CELL, reply=None, error="timeout")])
    store.put([CELL])
    assert store.get(["k"])["k"].reply == "so"
    store.close()


def test_thousands_of_keys_are_looked_up_at_once(tmp_path: Path) -> None:
    store = Store.of_folder(tmp_path)
    store.put(replace(CELL, key=f"k{n}") for n in range(1500))
    assert len(store.get([f"k{n}" for n in range(2000)])) == 1500
    store.close()


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cells.sqlite").write_text("not a database " * 100)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store.of_folder(tmp_path)


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    store = Store.of_folder(tmp_path)
    store.close()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'cells.sqlite'}")
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE about SET value = '99' WHERE name = 'version'"))
    engine.dispose()
    with pytest.raises(StoreError, match="version 99"):
        Store.of_folder(tmp_path)


def test_a_bad_url_never_shows_its_password() -> None:
    with pytest.raises(StoreError) as caught:
        Store("nosuchdialect://me:hunter2secret@host/db")
    assert "hunter2secret" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_a_key_depends_on_the_content_and_not_on_its_order(request_: dict[str, object]) -> None:
    shuffled = dict(reversed(request_.items()))
    assert cell_key(request_) == cell_key(shuffled)
    assert cell_key({**request_, "one more": 1}) != cell_key(request_) or "one more" in request_
