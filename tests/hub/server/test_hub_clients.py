"""Our own publishing client on our own hub, in one process. The official clients have `tests/hub/conformance`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from served_hub import Served, serve_for_test

from kp_data.hub import diff, pull, push, versions
from kp_data.hub.server import HubSettings


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With limits as they are when people run it."""
    with serve_for_test(HubSettings(tmp_path_factory.mktemp("hub"), port=0)) as found:
        yield found


@pytest.fixture
def published(hub: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """The hub for clients in this process, which keep their cache apart and upload by LFS."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", hub.tokens["ada"])
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    return hub


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_our_own_push_publishes_versions_that_pull_and_diff_find(
    published: Served, make_purified: Callable[..., Path], tmp_path: Path
) -> None:
    first = push(make_purified("a", 10), "lab/science", private=True)
    assert (first.version, first.unchanged) == ("1.0.0", False)
    assert push(make_purified("a", 10), "lab/science").unchanged
    second = push(make_purified("b", 12), "lab/science", bump="minor")
    assert (second.version, second.rows_added) == ("1.1.0", 2)
    assert [found.version for found in versions("lab/science")] == ["1.1.0", "1.0.0"]
    assert len(diff("lab/science", "1.0.0", "1.1.0").added) == 2
    pull("lab/science@1.0.0", tmp_path / "pulled")
    assert len(list((tmp_path / "pulled/purified").glob("*.parquet"))) == 4
    assert published.client("bo").get("/api/datasets/lab/science").status_code == 404


def test_a_hub_behind_a_proxy_names_its_public_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = HubSettings(tmp_path / "hub", port=port, public_url="https://hub.example.org/kp")
    with serve_for_test(settings) as found:
        direct = replace(found, url=f"http://127.0.0.1:{port}", clients={})
        body = {"name": "x", "organization": "ada", "type": "dataset"}
        made = direct.client().post("/api/repos/create", json=body).json()
        token = direct.client().get("/api/datasets/ada/x/xet-read-token/main").json()
        direct.client().close()
    assert made["url"] == "https://hub.example.org/kp/datasets/ada/x"
    assert token["casUrl"].startswith("https://hub.example.org/kp/xet/")
