"""The datasets of a hub as the explorer reads them: what the hub would not show, it does not show either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from purified_folder import write_purified

from kp_data.errors import DataError
from kp_data.hub import push
from kp_data.hub.explorer.dataset import ANYBODY, AccessDenied, Listing, NotFound, Reader
from kp_data.hub.explorer.hosted import HubCatalogue
from kp_data.hub.explorer.rows import Rows
from kp_data.hub.explorer.story import find_question
from kp_data.hub.server import Hub, HubSettings, issue_token, running


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, str, str]]:
    """A hub with `ada/open` in two versions and the private `ada/secret`; Ada's token, and Bo's."""
    folder = tmp_path_factory.mktemp("published")
    with running(HubSettings(folder / "hub", port=0)) as (hub, url):
        ada, bo = (issue_token(hub, name, write=True)[0] for name in ("ada", "bo"))
        push(write_purified(folder / "one"), "ada/open", token=ada, endpoint=url)
        push(write_purified(folder / "two", 12, rationale="now of {}."), "ada/open", token=ada, endpoint=url)
        push(write_purified(folder / "one"), "ada/secret", token=ada, endpoint=url, private=True)
        yield hub, ada, bo


@pytest.fixture
def catalogue(published: tuple[Hub, str, str], tmp_path: Path) -> HubCatalogue:
    return HubCatalogue(published[0], tmp_path / "explorer")


def test_the_list_holds_what_the_reader_may_see(catalogue: HubCatalogue, published: tuple[Hub, str, str]) -> None:
    _, ada, bo = published
    assert [listed.name for listed in catalogue.find(Reader(ada)).listed] == ["ada/secret", "ada/open"]
    assert [listed.name for listed in catalogue.find(Reader(bo)).listed] == ["ada/open"]
    assert [(listed.name, listed.version) for listed in catalogue.find(ANYBODY).listed] == [("ada/open", "v1.0.1")]


def test_the_list_is_searched_by_name_and_card(catalogue: HubCatalogue) -> None:
    listed = catalogue.find(ANYBODY, search="knowledge-DISTILLATION open").listed
    assert [each.name for each in listed] == ["ada/open"]
    assert catalogue.find(ANYBODY, search="nothing-of-the-kind") == Listing((), 0)


def test_every_version_keeps_its_rows(catalogue: HubCatalogue, published: tuple[Hub, str, str]) -> None:
    rows = Rows(folders=[catalogue.folder])
    now, then = (catalogue.open(ANYBODY, "ada/open", revision) for revision in (None, "v1.0.0"))
    assert [sum(part.num_rows for part in each.of_config("purified")) for each in (now, then)] == [12, 10]
    assert find_question(rows, now, "q001").row["rationale"] == "now of 1."
    assert find_question(rows, then, "q001").row["rationale"] == "ada thinks of item 1."
    assert [version.name for version in catalogue.versions(ANYBODY, "ada/open")] == ["v1.0.1", "v1.0.0", "main"]


@pytest.mark.parametrize("reader", [None, "bo"])
def test_a_private_dataset_looks_as_if_it_were_not_there(
    catalogue: HubCatalogue, published: tuple[Hub, str, str], reader: str | None
) -> None:
    who = Reader(published[2] if reader else None)
    for name in ("ada/secret", "ada/missing"):
        with pytest.raises(NotFound, match="Repository not found"):
            catalogue.open(who, name)
        with pytest.raises(NotFound, match="Repository not found"):
            catalogue.versions(who, name)


def test_its_owner_reads_it_and_is_told_that_it_is_private(
    catalogue: HubCatalogue, published: tuple[Hub, str, str]
) -> None:
    assert catalogue.open(Reader(published[1]), "ada/secret").private


def test_having_been_opened_by_one_reader_opens_nothing_to_another(
    catalogue: HubCatalogue, published: tuple[Hub, str, str]
) -> None:
    catalogue.open(Reader(published[1]), "ada/secret")
    with pytest.raises(NotFound):
        catalogue.open(Reader(published[2]), "ada/secret")


def test_a_gated_dataset_is_listed_without_its_card_and_refused(tmp_path: Path) -> None:
    with running(HubSettings(tmp_path / "hub", port=0)) as (hub, url):
        ada, bo = (issue_token(hub, name, write=True)[0] for name in ("ada", "bo"))
        push(write_purified(tmp_path / "one"), "ada/gated", token=ada, endpoint=url)
        httpx.put(
            f"{url}/api/datasets/ada/gated/settings",
            json={"gated": "manual"},
            headers={"Authorization": f"Bearer {ada}"},
        ).raise_for_status()
        catalogue = HubCatalogue(hub, tmp_path / "explorer")
        assert [dict(listed.metadata) for listed in catalogue.find(Reader(bo)).listed] == [{}]
        with pytest.raises(AccessDenied, match="must be asked for"):
            catalogue.open(Reader(bo), "ada/gated")


@pytest.mark.parametrize("name", ["ada", "../etc", "ada/..", "a/b/c", "", "ada/open\x00"])
def test_a_name_that_cannot_be_is_not_found(catalogue: HubCatalogue, name: str) -> None:
    with pytest.raises(NotFound):
        catalogue.open(ANYBODY, name)


def test_tables_make_room_for_others_and_come_back_when_asked_for(
    published: tuple[Hub, str, str], tmp_path: Path
) -> None:
    small = HubCatalogue(published[0], tmp_path / "explorer", cache_bytes=1)
    rows = Rows(folders=[small.folder])
    assert find_question(rows, small.open(ANYBODY, "ada/open"), "q001").row["rationale"] == "now of 1."
    held = set(small.folder.iterdir())
    assert (
        find_question(rows, small.open(ANYBODY, "ada/open", "v1.0.0"), "q001").row["rationale"]
        == "ada thinks of item 1."
    )
    assert not held <= set(small.folder.iterdir())
    assert find_question(rows, small.open(ANYBODY, "ada/open"), "q001").row["rationale"] == "now of 1."


def test_a_table_whose_stored_bytes_have_changed_is_not_shown(tmp_path: Path) -> None:
    with running(HubSettings(tmp_path / "hub", port=0)) as (hub, url):
        ada, _ = issue_token(hub, "ada", write=True)
        push(write_purified(tmp_path / "one"), "ada/open", token=ada, endpoint=url)
        for file in (tmp_path / "hub" / "objects").rglob("*"):
            if file.is_file():
                data = bytearray(file.read_bytes())
                data[len(data) // 2] ^= 1
                file.chmod(0o600)
                file.write_bytes(data)
        with pytest.raises(DataError, match=r"have changed|cannot be read"):
            HubCatalogue(hub, tmp_path / "explorer").open(Reader(ada), "ada/open")
