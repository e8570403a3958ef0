"""Webhooks: told of every change, only to who may see it, and never into the hub's own network unasked."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from served_hub import Repo, Served, inline, serve_for_test

from kp_data.hub.server import HubSettings
from kp_data.hub.server.courier import Unreachable, check_reach
from kp_data.hub.server.database import DELIVERIES


class Inbox:
    """A server that takes in messages; the first ones may be refused."""

    def __init__(self, refuse: int = 0) -> None:
        self.found: queue.Queue[tuple[dict[str, Any], str | None]] = queue.Queue()
        left, inbox = [refuse], self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                inbox.found.put((body, self.headers["X-Webhook-Secret"]))
                left[0] -= 1
                self.send_response(500 if left[0] >= 0 else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def next(self) -> dict[str, Any]:
        return self.found.get(timeout=20)[0]


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    found = Inbox()
    yield found
    found.close()


@pytest.fixture
def telling(tmp_path: Path) -> Iterator[Served]:
    with serve_for_test(HubSettings(tmp_path / "hub", port=0, webhooks="any")) as found:
        yield found


def watch(served: Served, user: str, inbox: Inbox, *watched: tuple[str, str], **more: Any) -> dict[str, Any]:
    body = {"url": inbox.url, "watched": [{"type": kind, "name": name} for kind, name in watched], **more}
    found = served.client(user).post("/api/settings/webhooks", json=body)
    return dict(found.raise_for_status().json()["webhook"])


def waiting(served: Served) -> int:
    query = sa.select(sa.func.count()).select_from(DELIVERIES)
    return int(served.hub.database.read(lambda connection: connection.execute(query).scalar_one()))


def test_a_new_version_is_told_in_the_words_of_official_clients(telling: Served, inbox: Inbox) -> None:
    from huggingface_hub import WebhookPayload

    watch(telling, "ada", inbox, ("user", "ada"), secret="hush")
    repo = telling.make(private=True)
    created, secret = inbox.found.get(timeout=20)
    assert (created["event"], secret) == ({"action": "create", "scope": "repo"}, "hush")
    before = repo.head
    now = repo.write({"x.txt": b"1"})
    repo.client.post(f"{repo.api}/tag/main", json={"tag": "v1"}).raise_for_status()
    messages = sorted((inbox.next() for _ in range(2)), key=lambda message: message["updatedRefs"][0]["ref"])
    committed, tagged = (WebhookPayload.model_validate(message) for message in messages)
    assert committed.updatedRefs is not None
    assert committed.updatedRefs[0].model_dump() == {"ref": "refs/heads/main", "oldSha": before, "newSha": now}
    assert tagged.updatedRefs is not None
    assert (tagged.updatedRefs[0].ref, tagged.updatedRefs[0].newSha) == ("refs/tags/v1", now)
    assert (tagged.repo.name, tagged.repo.type, tagged.repo.private) == (repo.name, "dataset", True)
    # A commit that changes nothing is no news.
    repo.write({"x.txt": b"1"})
    repo.client.put(f"{repo.api}/settings", json={"private": False}).raise_for_status()
    assert inbox.next()["event"] == {"action": "update", "scope": "repo.config"}


def test_what_is_private_is_told_to_nobody_who_may_not_see_it(telling: Served, inbox: Inbox) -> None:
    watch(telling, "bo", inbox, ("user", "ada"), ("dataset", "ada/secret"))
    secret = Repo.create(telling, "ada/secret", "ada", private=True)
    secret.write({"x": b"1"})
    public = telling.make()
    assert inbox.next()["repo"]["name"] == public.name
    assert waiting(telling) <= 1
    assert inbox.found.empty()


def test_a_message_that_did_not_arrive_is_sent_again(
    telling: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("kp_data.hub.server.courier.AGAIN_S", (0.0, 0.0, 60.0))
    refusing = Inbox(refuse=2)
    try:
        watch(telling, "ada", refusing, ("user", "ada"))
        telling.make()
        assert refusing.next() == refusing.next() == refusing.next()
    finally:
        refusing.close()


def test_webhooks_are_made_changed_paused_and_deleted_by_their_owner_alone(telling: Served, inbox: Inbox) -> None:
    hook = watch(telling, "ada", inbox, ("user", "ada"))
    address, ada, bo = f"/api/settings/webhooks/{hook['id']}", telling.client(), telling.client("bo")
    assert [found["id"] for found in ada.get("/api/settings/webhooks").json()] == [hook["id"]]
    assert bo.get("/api/settings/webhooks").json() == []
    for refused in (bo.get(address), bo.post(address, json={}), bo.delete(address), bo.post(f"{address}/disable")):
        assert refused.status_code == 404
    assert telling.client("eve").post("/api/settings/webhooks", json={}).status_code == 400
    assert ada.post(f"{address}/disable").json()["webhook"]["disabled"] is True
    repo = telling.make()
    assert waiting(telling) == 0
    changed = ada.post(address, json={"watched": [{"type": "dataset", "name": repo.name}]}).json()["webhook"]
    assert (changed["url"], changed["watched"]) == (inbox.url, [{"type": "dataset", "name": repo.name}])
    ada.post(f"{address}/enable").raise_for_status()
    repo.commit(inline("x", b"1")).raise_for_status()
    assert inbox.next()["event"]["scope"] == "repo.content"
    ada.delete(address).raise_for_status()
    assert ada.get(address).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"url": "ftp://x/y"}, {"url": "http://user:pass@x/"}, {"url": "http://x y/"}, {"url": "http://é/"}),
        *({"watched": []}, {"watched": [{"type": "all", "name": "x"}]}, {"watched": ["x"]}, {"watched": None}),
        *({"secret": "a\nb"}, {"secret": "é"}, {"domains": ["everything"]}, {"url": "http://[::1"}),
    ],
)
def test_a_webhook_that_cannot_be_is_refused(served: Served, body: dict[str, Any]) -> None:
    good: dict[str, Any] = {"url": "https://example.org/", "watched": [{"type": "user", "name": "ada"}]}
    found = served.client().post("/api/settings/webhooks", json=(good | body) if body else {})
    assert found.status_code == 400


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
)
def test_the_hubs_own_network_is_not_asked(host: str) -> None:
    with pytest.raises(Unreachable):
        check_reach(f"http://{host}:8000/", "public")
    check_reach(f"http://{host}:8000/", "any")
    check_reach("https://8.8.8.8/", "public")


def test_a_name_that_leads_into_the_hubs_own_network_is_not_asked(
    own_hub: Served, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kp_data.hub.server.courier.AGAIN_S", (0.0, 0.0))
    hook = watch(own_hub, "ada", inbox, ("user", "ada"))
    for host in ("localhost", "127.0.0.1", "127.1"):
        url = inbox.url.replace("127.0.0.1", host)
        own_hub.client().post(f"/api/settings/webhooks/{hook['id']}", json={"url": url}).raise_for_status()
        own_hub.make()
        while waiting(own_hub):
            threading.Event().wait(0.05)
    assert inbox.found.empty()
