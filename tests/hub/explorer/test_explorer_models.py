"""Pages of models: what `kp-train push` sends people to, and what the hub would not show is not shown either."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from published_model import CARD, FILES, PYTHON, publish_model
from purified_folder import write_purified

from kp_data.hub import push
from kp_data.hub.explorer import card_html, first_page, model_pages, models
from kp_data.hub.remote import Remote
from kp_data.hub.server import Hub, HubSettings, issue_token, running

# The official client uploads in a way that its own HTTP library has come to advise against.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@dataclass(frozen=True)
class Served:
    """A hub with datasets and models of Ada's. Bo has a token of his own."""

    hub: Hub
    url: str
    ada: str
    bo: str

    def get(self, path: str, token: str | None = None, **headers: str) -> httpx.Response:
        sent = {"Accept": "text/html", **headers}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        return httpx.get(self.url + path, headers=sent, timeout=30)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models")
    with running(HubSettings(folder / "hub", port=0)) as (hub, url):
        ada, bo = (issue_token(hub, name, write=True)[0] for name in ("ada", "bo"))
        push(write_purified(folder / "one"), "ada/things", token=ada, endpoint=url)
        push(write_purified(folder / "one"), "ada/secret", token=ada, endpoint=url, private=True)
        publish_model("ada/student", url, ada, version="0.1.0")
        later = {"README.md": CARD.replace("It answers", "It answers better").encode()}
        publish_model("ada/student", url, ada, files=later, version="0.2.0", message="Better")
        publish_model("ada/closed", url, ada, private=True)
        publish_model("ada/bare", url, ada, files={"weights.bin": b"\0" * 2048})
        yield Served(hub, url, ada, bo)


def test_the_address_that_push_prints_is_a_page(served: Served) -> None:
    address = Remote.at("ada/student", endpoint=served.url, kind="model").url
    answer = served.get(address.removeprefix(served.url))
    assert answer.status_code == 200
    assert "<h1>ada/student</h1>" in answer.text
    assert "It answers better" in answer.text


def test_the_card_can_do_no_harm(served: Served) -> None:
    text = served.get("/ada/student").text
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert 'href="javascript' not in text
    assert "script-src" not in served.get("/ada/student").headers["content-security-policy"]


def test_links_of_the_card_lead_to_files_of_this_version(served: Served) -> None:
    commit = Remote.at("ada/student", endpoint=served.url, kind="model").head()
    assert f'href="/ada/student/download/{commit}/run.json"' in served.get("/ada/student").text


def test_what_there_is_to_know_stands_beside_the_card(served: Served) -> None:
    text = unescape(served.get("/ada/student").text)
    for words in (
        "lab/t5-small",
        "apache-2.0",
        "1,234,567",
        "81.2 %",
        "ada/things, test",
        "purified",
        "text-generation",
    ):
        assert words in text, words
    for path, size in (("model.safetensors", "1.3 MB"), ("config.json", "2 B")):
        assert path in text
        assert size in text
    assert f"export HF_ENDPOINT={served.url}" in text
    assert "kp-train predict ada/student@0.2.0 questions.jsonl" in text
    assert "hf download ada/student --revision v0.2.0" in text
    assert text.count(PYTHON) == 2


def test_the_dataset_it_learned_from_is_a_link_when_the_reader_may_see_it(served: Served) -> None:
    anybody, owner = served.get("/ada/student").text, served.get("/ada/student", served.ada).text
    assert '<a href="/datasets/ada/things?revision=v1.0.0">ada/things v1.0.0</a>' in anybody
    assert "/datasets/far/away" not in owner
    assert "/datasets/ada/secret" not in anybody
    assert '<a href="/datasets/ada/secret">ada/secret</a>' in owner


def test_every_file_that_a_page_lists_is_saved_and_never_shown(served: Served) -> None:
    text = served.get("/ada/student").text
    links = {piece.partition('"')[0] for piece in text.split('href="') if "/download/" in piece.partition('"')[0]}
    assert {link.rpartition("/")[2] for link in links} == {*FILES, ".gitattributes"}
    for link in links:
        answer = served.get(link)
        assert answer.status_code == 200
        assert answer.headers["content-disposition"].startswith("attachment;")
        assert answer.content == FILES.get(link.rpartition("/")[2], answer.content) or link.endswith("README.md")


def test_an_earlier_version_shows_its_own_card(served: Served) -> None:
    text = served.get("/ada/student?revision=v0.1.0").text
    assert "It answers;" in text
    assert "kp-train predict ada/student@0.1.0 questions.jsonl" in unescape(text)
    assert served.get("/ada/student?revision=v9.9.9").status_code == 404


def test_versions_and_commits_are_listed_newest_first(served: Served) -> None:
    text = served.get("/ada/student/versions").text
    versions, _, commits = text.partition("<h2>Commits</h2>")
    for part, words in (
        (versions, ("v0.2.0</a>", "v0.1.0</a>", "main</a>")),
        (commits, (">Better</a>", ">Student: tiny-t5, purified</a>", ">initial commit</a>")),
    ):
        places = [part.index(word) for word in words]
        assert places == sorted(places)
    first = Remote.at("ada/student", endpoint=served.url, kind="model").tags()
    for commit in first.values():
        assert f"/ada/student?revision={commit}" in text


@pytest.mark.parametrize("path", ["", "/versions", "/download/main/model.safetensors"])
def test_a_private_model_looks_as_if_it_were_not_there(served: Served, path: str) -> None:
    missing = served.get(f"/ada/missing{path}")
    for token in (None, served.bo):
        found = served.get(f"/ada/closed{path}", token)
        assert found.status_code == missing.status_code == 404
        # What differs is the address of the page itself.
        assert found.text.replace("closed", "missing") == served.get(f"/ada/missing{path}", token).text
    mine = served.get(f"/ada/closed{path}", served.ada)
    assert mine.status_code == 200
    assert mine.headers["cache-control"] == "private, no-store"


def test_a_gated_model_says_that_it_must_be_asked_for(served: Served) -> None:
    publish_model("ada/gated", served.url, served.ada)
    httpx.put(
        f"{served.url}/api/models/ada/gated/settings",
        json={"gated": "manual"},
        headers={"Authorization": f"Bearer {served.ada}"},
    ).raise_for_status()
    answer = served.get("/ada/gated", served.bo)
    assert answer.status_code == 403
    assert "must be asked for" in answer.text
    assert served.get("/ada/gated/download/main/model.safetensors", served.bo).status_code == 403
    listed = served.get("/", served.bo).text
    assert "ada/gated" in listed
    assert served.get("/ada/gated", served.ada).status_code == 200


def test_a_model_that_others_made_has_a_page_that_claims_nothing(served: Served) -> None:
    text = served.get("/ada/bare").text
    assert "This model has no card." in text
    assert "weights.bin" in text
    assert "2.0 kB" in text
    assert "kp-train predict" not in text
    assert "hf download ada/bare" in text


def test_the_first_page_lists_models_beside_datasets_and_finds_both(served: Served) -> None:
    text = served.get("/").text
    assert 'href="/datasets/ada/things"' in text
    assert 'href="/ada/student"' in text
    assert "ada/closed" not in text
    assert 'href="/ada/closed"' in served.get("/", served.ada).text
    found = served.get("/?search=tinyllm+student").text
    assert 'href="/ada/student"' in found
    assert "/datasets/ada/things" not in found
    assert "ada/bare" not in found


def test_datasets_and_models_are_turned_apart_from_each_other(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_page, "LISTED", 1)
    text = unescape(served.get("/?page=2&models=2", served.ada).text)
    for address in ("/?models=2", "/?page=2", "/?page=2&models=3"):
        assert f'href="{address}"' in text
    assert text.count('aria-label="Pages of ') == 2


@pytest.mark.parametrize("address", ["/ada/nothing", "/api/nothing", "/a--b/c", "/ada/%ff", "/ada/x%2Fy"])
def test_addresses_that_nobody_has_are_pages_for_browsers_and_json_for_programs(served: Served, address: str) -> None:
    page = served.get(address)
    assert page.status_code in (400, 404)
    assert page.headers["content-type"].startswith("text/html")
    told = served.get(address, Accept="*/*")
    assert told.status_code in (400, 404)
    assert "error" in told.json()


def test_no_card_is_read_on_the_event_loop_nor_twice_for_its_code(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_model("ada/slow", served.url, served.ada)
    on_loop: list[bool] = []

    def noted(work: Callable[..., Any]) -> Callable[..., Any]:
        def done(*given: Any) -> Any:
            on_loop.append(_has_loop())
            return work(*given)

        return done

    monkeypatch.setattr(card_html, "code_of", noted(card_html.code_of))
    monkeypatch.setattr(model_pages, "model_facts", noted(models.model_facts))
    for _ in range(2):
        assert PYTHON in unescape(served.get("/ada/slow").text)
    assert on_loop == [False] * 3


def test_what_is_long_in_a_card_makes_no_page_long(served: Served) -> None:
    long, many = "long" * 2_000, "[{type: accuracy, value: true}" + ", {type: accuracy, value: 0.5}" * 100 + "]"
    index = f"model-index: [{{results: [{{metrics: {many}}}]}}]"
    front = f"license: {long}\nbase_model: {long}\n{index}\ndatasets: [{long}]"
    publish_model("ada/long", served.url, served.ada, files={"README.md": f"---\n{front}\n---\nHi".encode()})
    text = served.get("/ada/long").text
    assert len(text) < 12_000
    assert text.count("50.0 %") == 20
    assert "licence longlong" in served.get("/?search=long").text
    assert len(served.get("/?search=long").text) < 10_000


def test_behind_a_proxy_that_shows_the_hub_below_a_path_every_address_begins_with_it(tmp_path: Path) -> None:
    with running(HubSettings(tmp_path / "hub", port=0)) as (hub, url):
        ada = issue_token(hub, "ada", write=True)[0]
        push(write_purified(tmp_path / "one"), "ada/things", token=ada, endpoint=url)
        publish_model("ada/student", url, ada, version="0.1.0")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    proxied = HubSettings(tmp_path / "hub", port=port, public_url="https://hub.example.org/kp")
    with running(proxied), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        html = {"Accept": "text/html"}
        seen: set[str] = set()
        left = {"/", "/nothing", "/ada/student", "/datasets/ada/things", "/datasets/ada/nothing"}
        while left - seen:
            page = (left - seen).pop()
            seen.add(page)
            answer = client.get(page, headers=html)
            assert answer.status_code == (404 if page.endswith("nothing") else 200), page
            if not answer.headers["content-type"].startswith("text/html"):
                continue
            links = re.findall(r'(?:href|src|action)="([^"]*)"', unescape(answer.text))
            ours = [link for link in links if not link.startswith(("#", "https://hub.example.org/kp", "data:"))]
            assert [link for link in ours if not link.startswith("/kp/")] == [], page
            # What the proxy passes on; forms and filters have tests of their own.
            if page in ("/", "/ada/student", "/datasets/ada/things"):
                left |= {link.removeprefix("/kp") for link in ours if not link.endswith(("/logout", "/theme"))}
        assert len(seen) > 15
        themed = client.post("/theme", data={"theme": "dark", "back": "/kp/ada/student"})
        assert themed.headers["location"] == "/kp/ada/student"
        assert client.post("/theme", data={"back": "//elsewhere.example"}).headers["location"] == "/kp/"
        assert 'name="back" value="/kp/ada/student"' in client.get("/ada/student").text
        told = client.get("/croissant", params={"dataset": "ada/things"}).json()
        assert told["url"] == "https://hub.example.org/kp/datasets/ada/things"


def _has_loop() -> bool:
    try:
        return asyncio.get_running_loop() is not None
    except RuntimeError:
        return False


def test_records_of_any_shape_make_a_page(served: Served) -> None:
    odd = {
        "README.md": b"---\ndatasets: {a: [1]}\nmodel-index: [{results: 7}, null]\nlicense: [1, {}]\n---\nHi",
        "run.json": b'{"identity": [], "dataset": 4, "parameters": "many"}',
    }
    publish_model("ada/odd", served.url, served.ada, files=odd)
    assert served.get("/ada/odd").status_code == 200
    publish_model("ada/odder", served.url, served.ada, files={"README.md": b"# T", "run.json": b"["})
    assert served.get("/ada/odder").status_code == 200
