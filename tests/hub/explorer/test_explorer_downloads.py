"""Files fetched from the pages: by the session that shows the page, and by nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from purified_folder import write_purified

from kp_data.hub import push
from kp_data.hub.explorer.serve import folder_served
from kp_data.hub.server import Hub, HubSettings, issue_token, running
from kp_data.hub.server.auth import revoke_token

SECRET = "/datasets/ada/secret"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, str]]:
    """A hub with the private `ada/secret`, and its address."""
    folder = tmp_path_factory.mktemp("downloads")
    with running(HubSettings(folder / "hub", port=0)) as (hub, url):
        ada, _ = issue_token(hub, "ada", write=True)
        push(write_purified(folder / "pure"), "ada/secret", token=ada, endpoint=url, private=True)
        yield hub, url


@pytest.fixture
def browser(hub: tuple[Hub, str]) -> Iterator[httpx.Client]:
    """Somebody who signed in as Ada; no token goes with the requests."""
    token, _ = issue_token(hub[0], "ada")
    with httpx.Client(base_url=hub[1], timeout=30) as client:
        client.post("/login", data={"token": token})
        yield client


def links_of(page: str) -> list[str]:
    return [piece.partition('"')[0] for piece in page.split('href="') if "/download/" in piece.partition('"')[0]]


def test_every_file_that_a_card_lists_is_saved_by_the_session_that_shows_the_card(browser: httpx.Client) -> None:
    links = links_of(browser.get(SECRET).text)
    assert {link.rpartition("/")[2] for link in links} >= {"README.md", "report.json", "manifest.json"}
    for link in links:
        answer = browser.get(link)
        assert answer.status_code == 200, link
        assert answer.headers["content-disposition"].startswith("attachment;")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["cache-control"] == "private, no-store"
        assert "sandbox" in answer.headers["content-security-policy"]
        assert len(answer.content) == int(answer.headers["content-length"])
        if link.endswith(".parquet"):
            assert answer.content[:4] == answer.content[-4:] == b"PAR1"


def test_without_a_session_there_is_nothing(hub: tuple[Hub, str], browser: httpx.Client) -> None:
    bo, _ = issue_token(hub[0], "bo")
    for link in links_of(browser.get(SECRET).text):
        for headers in ({}, {"Authorization": f"Bearer {bo}"}, {"Cookie": "kp_session=forged.1.2"}):
            answer = httpx.get(hub[1] + link, headers=headers, timeout=30)
            assert answer.status_code == 404
            assert b"PAR1" not in answer.content
            assert answer.headers["cache-control"] == "private, no-store"


def test_a_revoked_token_takes_its_sessions_with_it(hub: tuple[Hub, str]) -> None:
    token, info = issue_token(hub[0], "ada")
    with httpx.Client(base_url=hub[1], timeout=30) as client:
        client.post("/login", data={"token": token})
        link = links_of(client.get(SECRET).text)[0]
        hub[0].database.write(lambda connection: revoke_token(connection, info.id))
        assert client.get(link).status_code == 404


def test_the_protocols_own_addresses_know_no_session(browser: httpx.Client) -> None:
    link = links_of(browser.get(SECRET).text)[0].replace("/download/", "/resolve/")
    assert browser.get(link).status_code == 401


def test_a_session_saves_files_and_changes_nothing(browser: httpx.Client) -> None:
    link = links_of(browser.get(SECRET).text)[0]
    assert [browser.request(method, link).status_code for method in ("POST", "PUT", "DELETE")] == [404] * 3


def test_what_was_broken_off_goes_on(browser: httpx.Client) -> None:
    link = next(link for link in links_of(browser.get(SECRET).text) if link.endswith(".parquet"))
    whole = browser.get(link)
    rest = browser.get(link, headers={"Range": "bytes=100-"})
    assert (rest.status_code, whole.content[:100] + rest.content) == (206, whole.content)
    assert browser.get(link, headers={"Range": f"bytes={len(whole.content)}-"}).status_code == 416
    assert browser.get(link, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    head = browser.head(link)
    assert (head.content, head.headers["content-length"]) == (b"", str(len(whole.content)))


@pytest.mark.parametrize(
    ("revision", "path"),
    [("main", "nothing.txt"), ("main", "purified"), ("v9.9.9", "README.md"), ("main", "../README.md"), ("main", "%00")],
)
def test_a_file_that_is_not_there_is_not_found(browser: httpx.Client, revision: str, path: str) -> None:
    assert browser.get(f"{SECRET}/download/{revision}/{path.replace('..', '%2e%2e')}").status_code == 404


def test_a_folder_gives_its_tables_and_documents_and_nothing_else(tmp_path: Path) -> None:
    folder = write_purified(tmp_path / "pure")
    (folder / "private.key").write_text("secret", encoding="utf-8")
    (folder / "Ünïcode.parquet").write_bytes(b"PAR1")
    with folder_served(folder, tmp_path / "indexes") as url, httpx.Client(base_url=url, timeout=30) as client:
        base = "/datasets/local/pure/download/main"
        assert client.get(f"{base}/purified.parquet").content == (folder / "purified.parquet").read_bytes()
        assert client.get(f"{base}/report.json").status_code == 200
        for path in ("private.key", "%C3%9Cn%C3%AFcode.parquet", "%2e%2e/pure/private.key", "%2Fetc%2Fpasswd"):
            assert client.get(f"{base}/{path}").status_code == 404, path
