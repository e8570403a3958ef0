"""The changelog: what it says, where it puts it, and that nothing of anybody else's is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.hub.changelog import Changes, Facts, add_entry, read_entries, write_entry
from kp_data.hub.versions import RowDiff, Version

ONE, TWO = Version(1, 0, 0), Version(1, 1, 0)


def test_an_entry_names_rows_columns_teachers_method_and_moved_metrics():
    rows = RowDiff(("c",), ("d",), ("a", "b"), {"rationale": 2, "score": 1}, new_columns=("note",))
    old = Facts("majority", ("ada", "bo"), {"gap_closed": 0.5, "conflict_rate": 0.25})
    new = Facts("verifier", ("bo", "cy"), {"gap_closed": 0.75, "conflict_rate": 0.25})
    entry = write_entry(TWO, Changes(ONE, rows, old, new, ("purified", "panel"), "Because."))
    assert entry == (
        "## 1.1.0, after 1.0.0\n\nBecause.\n\n"
        "* 1 row added: c\n* 1 row removed: d\n* 2 rows changed in rationale (2), score (1): a, b\n"
        "* Columns new: note\n* Teachers added: cy\n* Teachers removed: ada\n* Method: verifier, was majority\n"
        "* Other content in `panel/`.\n\n"
        "| metric | 1.0.0 | 1.1.0 |\n| --- | ---: | ---: |\n| gap\\_closed | 0.5 | 0.75 |\n"
    )


def test_many_ids_are_counted_and_not_all_written():
    entry = write_entry(TWO, Changes(ONE, RowDiff(added=tuple(f"q{number:04d}" for number in range(1_200)))))
    assert "1,200 rows added: q0000," in entry
    assert "q0009 and 1,190 more" in entry


def test_a_version_of_the_card_alone_says_so_and_facts_not_known_are_not_guessed():
    assert write_entry(TWO, Changes(ONE, RowDiff(), Facts(), Facts("majority", ("ada",), {"gap_closed": 0.5}))) == (
        "## 1.1.0, after 1.0.0\n\n* Only the card changed.\n"
    )
    assert write_entry(ONE, Changes(None, RowDiff(added=("a",)))) == "## 1.0.0\n\n* First version: 1 row.\n"


def test_the_same_version_written_again_takes_the_place_of_its_entry():
    text = add_entry(add_entry(None, ONE, "## 1.0.0\n\n* one\n"), TWO, "## 1.1.0\n\n* two\n")
    again = add_entry(text, TWO, "## 1.1.0\n\n* two, again\n")
    assert read_entries(again) == {"1.1.0": "* two, again", "1.0.0": "* one"}
    assert add_entry(again, TWO, "## 1.1.0\n\n* two\n") == text


def test_a_file_that_is_no_changelog_of_ours_gets_the_entry_at_its_end():
    assert add_entry("Mine.\n", ONE, "## 1.0.0\n\n* one\n") == "Mine.\n\n## 1.0.0\n\n* one\n"


@given(st.text(), st.text(max_size=20))
def test_hostile_ids_and_messages_make_no_entry_of_their_own(message, row_id):
    hostile = f"{message}\n## 9.9.9\n{row_id}"
    changes = Changes(ONE, RowDiff(added=(hostile,)), message=hostile)
    text = add_entry(add_entry(None, ONE, "## 1.0.0\n\n* one\n"), TWO, write_entry(TWO, changes))
    assert list(read_entries(text)) == ["1.1.0", "1.0.0"]
    assert read_entries(text)["1.0.0"] == "* one"


@pytest.mark.parametrize("value", [None, [], {"teachers": "x", "metrics": [1], "method": 3}, {"metrics": {"a": "b"}}])
def test_facts_of_a_manifest_that_somebody_broke_are_not_known(value):
    assert Facts.of(value) == Facts()
