"""Sessions and forms: forged, expired and revoked ones, and those that other sites send."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from purified_folder import write_purified

from kp_data.hub import push
from kp_data.hub.explorer import explorer
from kp_data.hub.explorer.explorer import COOKIE, Sessions
from kp_data.hub.server import Hub, HubSettings, issue_token, running
from kp_data.hub.server.auth import revoke_token

SECRET = bytes(range(32))
KNOWN = Sessions(SECRET, {"good": "a1b2"}.get)


def test_a_session_names_the_token_and_does_not_hold_it() -> None:
    cookie = KNOWN.begin("good")
    assert cookie is not None
    assert "good" not in cookie
    assert KNOWN.read(cookie) == "a1b2"
    assert KNOWN.begin("bad") is None


def test_a_session_of_another_hub_is_none() -> None:
    assert Sessions(bytes(32), {"good": "a1b2"}.get).read(str(KNOWN.begin("good"))) is None


def test_a_session_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = str(KNOWN.begin("good"))
    later = time.time() + explorer.SESSION_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert KNOWN.read(cookie) is None


@settings(deadline=None)
@given(st.text() | st.from_regex(r"[0-9a-f]{4}\.\d{1,40}\.[0-9a-f]{64}", fullmatch=True))
def test_no_forged_cookie_whatever_is_a_session(cookie: str) -> None:
    assert KNOWN.read(cookie) is None


@settings(deadline=None)
@given(st.integers(0, 200), st.characters(exclude_categories=["Cs"]))
def test_one_changed_character_spoils_a_session(place: int, other: str) -> None:
    cookie = str(KNOWN.begin("good"))
    place %= len(cookie)
    forged = cookie[:place] + other + cookie[place + 1 :]
    assert forged == cookie or KNOWN.read(forged) is None


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, str, str]]:
    """A hub with the private `ada/secret`, its address, and Ada's token."""
    folder = tmp_path_factory.mktemp("signin")
    with running(HubSettings(folder / "hub", port=0)) as (hub, url):
        ada, _ = issue_token(hub, "ada", write=True)
        push(write_purified(folder / "pure"), "ada/secret", token=ada, endpoint=url, private=True)
        yield hub, url, ada


def sign_in(client: httpx.Client, token: str, **headers: str) -> httpx.Response:
    return client.post("/login", data={"token": token, "back": "/datasets/ada/secret"}, headers=headers)


def test_signing_in_shows_what_the_token_may_read_and_revoking_hides_it(hub: tuple[Hub, str, str]) -> None:
    token, info = issue_token(hub[0], "ada")
    with httpx.Client(base_url=hub[1], timeout=30) as client:
        answer = sign_in(client, token)
        assert (answer.status_code, answer.headers["location"]) == (303, "/datasets/ada/secret")
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert token not in answer.headers["set-cookie"]
        assert client.get("/datasets/ada/secret").status_code == 200
        hub[0].database.write(lambda connection: revoke_token(connection, info.id))
        assert client.get("/datasets/ada/secret").status_code == 404


def test_a_session_may_read_and_not_write(hub: tuple[Hub, str, str]) -> None:
    with httpx.Client(base_url=hub[1], timeout=30) as client:
        sign_in(client, hub[2])
        assert client.cookies.get(COOKIE)
        body = {"name": "new", "organization": "ada", "type": "dataset"}
        assert client.post("/api/repos/create", json=body).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("address", ["/login", "/logout", "/theme"])
def test_a_form_that_another_site_sends_is_refused(
    hub: tuple[Hub, str, str], address: str, headers: dict[str, str]
) -> None:
    answer = httpx.post(hub[1] + address, data={"token": hub[2], "theme": "dark"}, headers=headers, timeout=30)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("back", ["https://evil.example", "//evil.example", "/\\evil.example", "", "\t//evil.example"])
def test_nobody_is_sent_to_another_site_after_signing_in(hub: tuple[Hub, str, str], back: str) -> None:
    answer = httpx.post(f"{hub[1]}/login", data={"token": hub[2], "back": back}, timeout=30)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"


def test_a_huge_form_is_refused(hub: tuple[Hub, str, str]) -> None:
    assert httpx.post(f"{hub[1]}/login", data={"token": "x" * 10_000}, timeout=30).status_code == 413


def test_nothing_private_may_be_kept_by_others(hub: tuple[Hub, str, str]) -> None:
    headers = {"authorization": f"Bearer {hub[2]}"}
    part = {"dataset": "ada/secret", "config": "purified", "split": "train"}
    for address, query in (
        ("/", {}),
        ("/datasets/ada/secret", {}),
        ("/datasets/ada/secret/rows/purified/train", {}),
        ("/datasets/ada/secret/statistics/purified/train", {}),
        ("/rows", part),
        ("/statistics", part),
        ("/croissant", part),
    ):
        allowed = httpx.get(hub[1] + address, params=query, headers=headers, timeout=30)
        assert allowed.status_code == 200, address
        assert allowed.headers["cache-control"] == "private, no-store", address
        refused = httpx.get(hub[1] + address, params=query, timeout=30)
        assert refused.headers["cache-control"] == "private, no-store", address
        assert "secret" not in refused.text or refused.status_code == 404, address
