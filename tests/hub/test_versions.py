import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.errors import HubError
from kp_data.hub.versions import RowDiff, Version, changed_rows, content_hash, diff_rows, next_version

ROWS = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.one_of(st.none(), st.floats(), st.text(max_size=3)))


def table(rows: dict[str, object]) -> pa.Table:
    values = [None if value is None else str(value) for value in rows.values()]
    return pa.table({"id": pa.array(rows.keys(), pa.string()), "value": pa.array(values, pa.string())})


@pytest.mark.parametrize("text", ["1.0", "1.0.0.0", "01.0.0", "1.0.0-rc1", "latest", ""])
def test_what_is_no_version_is_refused(text):
    with pytest.raises(HubError, match="not of the form"):
        Version.parse(text)


def test_the_first_version_is_1_0_0_and_the_last_is_bumped_after_it():
    assert str(next_version(None, wanted=None, bump="major")) == "1.0.0"
    last = Version(1, 2, 3)
    assert [str(next_version(last, wanted=None, bump=part)) for part in ("patch", "minor", "major")] == [
        "1.2.4",
        "1.3.0",
        "2.0.0",
    ]
    with pytest.raises(HubError, match="cannot bump 'big'"):
        next_version(last, wanted=None, bump="big")


def test_rows_are_matched_by_id_wherever_they_stand():
    old, new = table({"a": 1, "b": 2, "c": 3}), table({"d": 4, "c": 3, "b": 9})
    assert diff_rows(old, new) == RowDiff(("d",), ("a",), ("b",), {"value": 1})


def test_a_new_empty_column_changes_no_row_and_nan_equals_nan():
    old = pa.table({"id": ["a"], "scores": [[float("nan"), 1.0]]})
    new = old.append_column("note", pa.nulls(1, pa.string()))
    assert diff_rows(old, new) == RowDiff(new_columns=("note",))
    assert diff_rows(None, new).added == ("a",)


@pytest.mark.parametrize(
    ("diff", "bump"),
    [
        (RowDiff(), "patch"),
        (RowDiff(added=("a",)), "minor"),
        (RowDiff(changed=("a",), changed_columns={"rationale": 1}), "minor"),
        (RowDiff(new_columns=("note",)), "minor"),
        (RowDiff(changed=("a",), changed_columns={"split": 1}), "major"),
        (RowDiff(added=("b",), removed=("a",)), "major"),
        (RowDiff(lost_columns=("note",)), "major"),
        (RowDiff(retyped_columns=("score",)), "major"),
    ],
)
def test_what_somebody_loses_is_major_what_is_added_is_minor_and_the_rest_is_a_patch(diff, bump):
    assert diff.bump == bump


def test_columns_that_come_go_or_change_their_type_are_named():
    old = pa.table({"id": ["a"], "x": [1], "gone": ["g"]})
    new = pa.table({"id": ["a"], "x": [1.0], "new": ["n"]})
    diff = diff_rows(old, new)
    assert (diff.new_columns, diff.lost_columns, diff.retyped_columns) == (("new",), ("gone",), ("x",))


def test_a_changed_row_shows_only_what_differs_wherever_it_stands():
    old = pa.table({"id": ["a", "b", "c"], "x": [1, 2, 3], "s": [[float("nan")]] * 3})
    new = pa.table({"id": ["c", "a"], "x": [3, 7], "s": [[float("nan")]] * 2, "note": [None, "n"]})
    rows = list(changed_rows(old, new, diff_rows(old, new)))
    assert [(row.id, row.columns) for row in rows] == [("a", {"x": (1, 7), "note": (None, "n")})]


@given(ROWS, ROWS)
def test_the_way_back_adds_what_the_way_there_removed(before, after):
    there, back = diff_rows(table(before), table(after)), diff_rows(table(after), table(before))
    assert (set(there.added), set(there.removed)) == (set(back.removed), set(back.added))
    assert set(there.changed) == set(back.changed)
    assert len(after) == len(before) + len(there.added) - len(there.removed)


@given(ROWS)
def test_equal_content_has_equal_hashes_however_it_is_chunked(rows):
    whole = table(rows)
    pieces = pa.concat_tables([whole.slice(row, 1) for row in range(whole.num_rows)] or [whole])
    assert content_hash(whole) == content_hash(pieces)
    assert not diff_rows(whole, pieces)


def test_the_hash_sees_order_and_values_but_not_measured_columns():
    one, other = table({"a": 1, "b": 2}), table({"b": 2, "a": 1})
    assert content_hash(one) != content_hash(other)
    assert content_hash(one) == content_hash(one.append_column("latency_s", pa.array([0.1, 0.2])))
