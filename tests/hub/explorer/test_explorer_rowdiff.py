"""Row-level differences: by key, by content, and the same whichever way one looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kp_data.errors import DataError
from kp_data.hub.explorer import rowdiff
from kp_data.hub.explorer.dataset import Dataset, Part
from kp_data.hub.explorer.rowdiff import Difference, differences
from kp_data.hub.explorer.rows import Rows
from kp_data.tables import write_parquet

Row = Mapping[str, Any]
ROW = {"id": "q1", "question": "why?", "rationale": "so", "score": 0.5, "choices": ["a", "b"], "split": "train"}


def dataset(folder: Path, rows: Sequence[Row], *, config: str = "purified", schema: pa.Schema | None = None) -> Dataset:
    """One part a split, as releases have it."""
    parts = []
    for split in dict.fromkeys(row.get("split", "train") for row in rows):
        file = folder / f"{config}-{split}.parquet"
        table = pa.Table.from_pylist([dict(row) for row in rows if row.get("split", "train") == split], schema)
        write_parquet(table, file)
        parts.append(Part(config, split, (file,)))
    return Dataset("ada/set", folder.name, folder.name, tuple(parts))


def compared(tmp_path: Path, old: Sequence[Row], new: Sequence[Row], **options: Any) -> Difference:
    left, right = dataset(tmp_path / "old", old), dataset(tmp_path / "new", new)
    return differences(Rows(folders=[tmp_path]), left, right, "purified", **options)


def test_added_removed_and_changed_rows_are_told_apart(tmp_path: Path) -> None:
    old = [ROW, ROW | {"id": "q2"}, ROW | {"id": "q3"}]
    new = [ROW, ROW | {"id": "q3", "rationale": "thus", "score": 0.75}, ROW | {"id": "q4"}]
    found = compared(tmp_path, old, new)
    assert dict(found.counts) == {"changed": 1, "added": 1, "removed": 1}
    assert [(change.key, change.kind, change.columns) for change in found.changes] == [
        ("q2", "removed", ()),
        ("q3", "changed", ("rationale", "score")),
        ("q4", "added", ()),
    ]
    changed = found.changes[1]
    assert changed.before is not None
    assert changed.after is not None
    assert (changed.before["rationale"], changed.after["rationale"]) == ("so", "thus")


def test_a_row_that_moves_to_another_split_is_changed_and_not_removed(tmp_path: Path) -> None:
    found = compared(tmp_path, [ROW, ROW | {"id": "q2"}], [ROW, ROW | {"id": "q2", "split": "test"}])
    assert [(change.kind, change.key, change.columns) for change in found.changes] == [("changed", "q2", ("split",))]


def test_changes_are_counted_by_column_and_restricted_to_one(tmp_path: Path) -> None:
    old = [ROW | {"id": f"q{number}"} for number in range(4)]
    new = [*({**row, "score": 0.1} for row in old[:3]), ROW | {"id": "q9"}]
    new[1] |= {"rationale": "thus"}
    found = compared(tmp_path, old, new, kind="changed", column="rationale")
    assert list(found.changed_in.items()) == [("rationale", 1), ("score", 3)]
    assert [(change.key, change.columns) for change in found.changes] == [("q1", ("rationale", "score"))]
    assert dict(found.counts) == {"changed": 1, "added": 1, "removed": 1}
    assert compared(tmp_path, old, new, column="nothing").counts == compared(tmp_path, old, new).counts


def test_columns_of_very_many_rows_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowdiff, "MAX_COUNTED_ROWS", 0)
    found = compared(tmp_path, [ROW], [ROW | {"score": 0.1}], column="score")
    assert (found.changed_in, found.counts["changed"]) == ({}, 1)


def test_the_order_of_rows_is_no_difference(tmp_path: Path) -> None:
    rows = [ROW | {"id": f"q{number}"} for number in range(5)]
    assert compared(tmp_path, rows, rows[::-1]).changes == ()


def test_a_new_column_is_named_and_changes_the_rows_that_have_a_value(tmp_path: Path) -> None:
    new = [ROW | {"note": "new"}, ROW | {"id": "q2", "note": None}]
    found = compared(tmp_path, [ROW, ROW | {"id": "q2"}], new)
    assert (found.columns_added, found.columns_removed) == (("note",), ())
    assert [(change.key, change.columns) for change in found.changes] == [("q1", ("note",))]


def test_a_config_that_only_one_version_has_is_all_added(tmp_path: Path) -> None:
    old, new = dataset(tmp_path / "old", [ROW]), dataset(tmp_path / "new", [ROW], config="other")
    found = differences(Rows(folders=[tmp_path]), old, new, "other")
    assert dict(found.counts) == {"changed": 0, "added": 1, "removed": 0}
    with pytest.raises(DataError, match="neither version"):
        differences(Rows(folders=[tmp_path]), old, new, "third")


def test_responses_are_named_by_question_teacher_mode_and_sample_and_times_do_not_count(tmp_path: Path) -> None:
    row = {"question_id": "q1", "teacher": "ada", "mode": "blind", "sample": 0, "rationale": "so", "latency_s": 1.0}
    old = dataset(tmp_path / "old", [row, row | {"sample": 1}], config="panel")
    new = dataset(tmp_path / "new", [row | {"latency_s": 9.0}, row | {"sample": 1, "rationale": "x"}], config="panel")
    found = differences(Rows(folders=[tmp_path]), old, new, "panel")
    assert [(change.key, change.columns) for change in found.changes] == [("q1 · ada · blind · 1", ("rationale",))]


def test_rows_without_a_key_cannot_be_compared(tmp_path: Path) -> None:
    made = dataset(tmp_path / "old", [{"text": "x"}])
    with pytest.raises(DataError, match="have no id"):
        differences(Rows(folders=[tmp_path]), made, made, "purified")


def test_pages_and_kinds_narrow_what_is_read_and_not_what_is_counted(tmp_path: Path) -> None:
    new = [ROW | {"id": f"q{number}", "rationale": "new"} for number in range(7)]
    found = compared(tmp_path, [ROW | {"id": "q0"}, ROW | {"id": "r"}], new, kind="added", offset=2, length=3)
    assert [change.key for change in found.changes] == ["q3", "q4", "q5"]
    assert dict(found.counts) == {"changed": 1, "added": 6, "removed": 1}


SCHEMA = pa.schema([("id", pa.string()), ("rationale", pa.string()), ("score", pa.float64()), ("split", pa.string())])
TABLES = st.dictionaries(
    st.text(alphabet="abc", min_size=1, max_size=2),
    st.tuples(st.none() | st.sampled_from(["", "x", "NULL", "y"]), st.none() | st.sampled_from([0.0, 1.0])),
    min_size=1,
    max_size=6,
)


def _rows(table: Mapping[str, tuple[Any, Any]]) -> list[Row]:
    return [{"id": key, "rationale": text, "score": score, "split": "train"} for key, (text, score) in table.items()]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=TABLES, new=TABLES)
def test_a_difference_is_that_of_dictionaries_and_mirrors_when_turned_around(
    tmp_path_factory: pytest.TempPathFactory, old: dict[str, Any], new: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("diff")
    left = dataset(folder / "old", _rows(old), schema=SCHEMA)
    right = dataset(folder / "new", _rows(new), schema=SCHEMA)
    rows = Rows(folders=[folder])
    there, back, same = (
        differences(rows, *pair, "purified", length=100) for pair in ((left, right), (right, left), (left, left))
    )
    rows.close()
    wanted = {key: "removed" if key not in new else "changed" if key in old else "added" for key in {**old, **new}}
    wanted = {key: kind for key, kind in wanted.items() if old.get(key) != new.get(key) or (key in old) != (key in new)}
    turned = {"added": "removed", "removed": "added", "changed": "changed"}
    assert {change.key: change.kind for change in there.changes} == wanted
    assert {change.key: turned[change.kind] for change in back.changes} == wanted
    assert [(change.before, change.after) for change in back.changes] == [
        (change.after, change.before) for change in there.changes
    ]
    assert same.changes == ()
