"""Clients written for huggingface.co's dataset viewer: the official one asks the host `datasets-server.<hub>`."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from typing import Any

import datasets
import httpx
import pyarrow.parquet as pq
import pytest
from datasets.utils import _dataset_viewer as viewer
from purified_folder import write_purified

from kp_data.hub import push
from kp_data.hub.server import HubSettings, issue_token, running


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A hub's address by name, with the private `ada/secret` and `ada/open`; Ada's token."""
    folder = tmp_path_factory.mktemp("clients")
    with running(HubSettings(folder / "hub", port=0)) as (hub, url):
        token, _ = issue_token(hub, "ada", write=True)
        made = write_purified(folder / "pure")
        push(made, "ada/open", token=token, endpoint=url)
        push(made, "ada/secret", token=token, endpoint=url, private=True)
        yield url.replace("127.0.0.1", "localhost"), token


@pytest.fixture
def official(hub: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The hub as the official client's endpoint; names below localhost lead here, as most resolvers have it."""
    resolve = socket.getaddrinfo

    def local(host: Any, *rest: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        return resolve("127.0.0.1" if name.endswith("localhost") else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", local)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub[0])
    return hub


def commit_of(url: str, name: str, token: str) -> str:
    headers = {"authorization": f"Bearer {token}"}
    commit: str = httpx.get(f"{url}/api/datasets/{name}", headers=headers, timeout=30).json()["sha"]
    return commit


@pytest.mark.parametrize("name", ["ada/open", "ada/secret"])
def test_the_official_client_finds_the_parquet_files_of_a_commit(official: tuple[str, str], name: str) -> None:
    url, token = official
    files = viewer.get_exported_parquet_files(name, commit_of(url, name, token), token)
    assert {(file["config"], file["split"]) for file in files if file["config"] == "purified"} == {
        ("purified", split) for split in ("train", "validation", "test", "ood")
    }
    # The client sends its token to addresses of the endpoint alone, so files must lie there.
    assert all(file["url"].startswith(f"{url}/datasets/{name}/resolve/") for file in files)
    headers = {"authorization": f"Bearer {token}"}
    data = httpx.get(files[0]["url"], headers=headers, follow_redirects=True, timeout=30).content
    assert pq.read_table(io.BytesIO(data)).num_rows == 4


def test_the_official_client_reads_what_a_dataset_holds(official: tuple[str, str]) -> None:
    url, token = official
    infos = viewer.get_exported_dataset_infos("ada/open", commit_of(url, "ada/open", token), None)
    info = datasets.DatasetInfo.from_dict(infos["purified"])
    assert info.features is not None
    assert info.features["choices"] == datasets.List(datasets.Value("string"))
    assert info.splits is not None
    assert {name: split.num_examples for name, split in info.splits.items()}["train"] == 4


def test_the_official_client_is_refused_as_it_expects(official: tuple[str, str]) -> None:
    with pytest.raises(viewer.DatasetViewerError):
        viewer.get_exported_parquet_files("ada/secret", "0" * 40, False)
    _, token = official
    with pytest.raises(viewer.DatasetViewerError):
        viewer.get_exported_parquet_files("ada/open", "0" * 40, token)
