"""Trees against a plain dictionary of paths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kp_data.hub.server.database import REPOS, Database
from kp_data.hub.server.refusals import Refusal
from kp_data.hub.server.trees import File, Folder, Trees, large_file

NAMES = st.sampled_from(["a", "b", "a.b", "é", "Z"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
CHANGES = st.lists(st.dictionaries(PATHS, st.integers(0, 3) | st.none(), max_size=6), max_size=4)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trees]:
    folder: Path = tmp_path_factory.mktemp("trees")
    database = Database(f"sqlite:///{folder}/hub.sqlite")
    row = {"id": "r", "type": "dataset", "namespace": "n", "name": "n", "private": False}
    database.write(lambda connection: connection.execute(sa.insert(REPOS), row | {"created_at": 0, "modified_at": 0}))
    with database.engine.connect() as connection:
        yield Trees(connection, "r")
        connection.rollback()
    database.close()


def file(number: int) -> File:
    return File(f"{number:064x}", number, f"{number:040x}", large=False)


def clashes(paths: set[str]) -> bool:
    return any(other.startswith(path + "/") for path in paths for other in paths)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES)
def test_changes_do_what_they_do_to_a_dictionary(trees: Trees, changes: list[dict[str, int | None]]) -> None:
    oid, model = trees.store({}), dict[str, int]()
    for change in changes:
        delete = {path: False for path, number in change.items() if number is None and path in model}
        add = {path: number for path, number in change.items() if number is not None}
        expected = {path: number for path, number in model.items() if path not in delete} | add
        if clashes(set(expected)):
            with pytest.raises(Refusal, match="at once"):
                trees.change(oid, delete, {path: file(number) for path, number in add.items()})
            continue
        oid, model = trees.change(oid, delete, {path: file(number) for path, number in add.items()}), expected
        assert {path: entry.size for path, entry in trees.files(oid)} == model
        # However it came about, the same content is the same tree.
        assert oid == trees.change(None, {}, {path: file(number) for path, number in model.items()})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(PATHS, max_size=12), st.booleans())
def test_going_on_after_any_path_gives_exactly_what_follows(trees: Trees, paths: set[str], recursive: bool) -> None:
    paths = {path for path in paths if not any(other.startswith(path + "/") for other in paths)}
    oid = trees.change(None, {}, {path: file(1) for path in paths})
    whole = [path for path, _ in trees.walk(oid, recursive=recursive)]
    assert len(whole) == len(set(whole))
    for number, path in enumerate(whole):
        assert [found for found, _ in trees.walk(oid, recursive=recursive, after=path)] == whole[number + 1 :]


def test_deleting_a_folder_takes_all_that_is_in_it_and_leaves_no_empty_folder(trees: Trees) -> None:
    oid = trees.change(None, {}, {"a/b/c": file(1), "a/b/d": file(2), "e": file(3)})
    oid = trees.change(oid, {"a/b": True}, {})
    assert [path for path, _ in trees.walk(oid)] == ["e"]


def test_a_path_leads_to_its_entry_or_to_nothing(trees: Trees) -> None:
    oid = trees.change(None, {}, {"a/b": file(1)})
    assert trees.find(oid, "a/b") == file(1)
    assert isinstance(trees.find(oid, "a"), Folder)
    assert trees.find(oid, "") == Folder(oid)
    assert trees.find(oid, "a/b/c") is trees.find(oid, "x") is None


def test_a_large_file_has_the_git_id_of_its_pointer() -> None:
    found = large_file("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0)
    # What `git hash-object` says of the pointer's text.
    assert found.git == "fc8e42b32efb9a9bf3ae0234a18a948e499490f8"
    assert found.etag == found.sha256
