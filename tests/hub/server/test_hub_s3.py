"""Objects in S3, on a server on loopback that speaks its protocol, which comes with the development extras."""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from by_hand import Storage, fetched, xorb
from served_hub import Repo, Served, deleted, inline, large, serve_for_test

from kp_data.errors import HubError
from kp_data.hub.server import HubSettings, collect_garbage, issue_token, open_hub

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

DATA = b"0123456789" * 50_000
ACKNOWLEDGED = 2
"""Commits before a hub is killed."""
CHUNKS = [b"one " * 1_000, b"two " * 1_500]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """URL of a bucket; the environment says where it is, as for people who use S3."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    own = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    own |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    with pytest.MonkeyPatch.context() as patch, s3_server(port):
        for name, value in own.items():
            patch.setenv(name, value)
        httpx.put(f"{endpoint}/hub-objects").raise_for_status()
        yield "s3://hub-objects"
        # The file systems of tests that ended in an error close their connections when they are collected.
        gc.collect()


@contextmanager
def s3_server(port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=[False, True], ids=["through the hub", "sent on"])
def stored(request: pytest.FixtureRequest, bucket: str, tmp_path: Path) -> Iterator[Served]:
    url = f"{bucket}/{tmp_path.name}"
    with serve_for_test(HubSettings(tmp_path, port=0, objects=url, direct_downloads=request.param)) as found:
        yield found


def test_a_repository_lives_its_life_in_a_bucket(stored: Served) -> None:
    repo = stored.make()
    digest, chunked = Storage.of(repo).send(CHUNKS)
    size = sum(map(len, CHUNKS))
    lines = (large("l.bin", repo.send(DATA), len(DATA)), large("x.bin", chunked, size), inline("é.txt", b"small"))
    repo.commit(*lines).raise_for_status()
    with httpx.Client(base_url=stored.url, headers=repo.client.headers, follow_redirects=True) as client:
        reader = replace(repo, client=client)
        assert reader.read("l.bin").content == DATA
        assert reader.read("l.bin", Range="bytes=9-12").content == DATA[9:13]
        assert reader.read("x.bin").content == b"".join(CHUNKS)
        assert reader.read("é.txt").content == b"small"
    repo.commit(deleted("l.bin"), deleted("x.bin")).raise_for_status()
    repo.client.post(f"{repo.api}/super-squash/main", json={}).raise_for_status()
    freed = collect_garbage(stored.hub, grace_s=-1)
    assert (freed.files, freed.xorbs) == (2, 1)
    assert freed.bytes > len(DATA)
    assert len(list(stored.hub.objects.locations())) == 2
    assert digest


def test_readers_are_sent_to_an_address_that_is_signed_for_one_object(bucket: str, tmp_path: Path) -> None:
    settings = HubSettings(tmp_path, port=0, objects=f"{bucket}/signed", direct_downloads=True)
    with serve_for_test(settings) as served:
        repo = served.make(private=True)
        repo.commit(large("l.bin", repo.send(DATA), len(DATA))).raise_for_status()
        found = repo.read("l.bin")
        assert (found.status_code, found.headers["cache-control"]) == (302, "no-store")
        address = urlsplit(found.headers["location"])
        assert "Signature" in address.query
        assert "attachment" in httpx.get(found.headers["location"]).headers["content-disposition"]
        # What it takes to know a file is told by the hub itself, also of a private one to nobody else.
        head = repo.client.head(f"/datasets/{repo.name}/resolve/main/l.bin")
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(DATA)))
        assert served.client("bo").get(f"/datasets/{repo.name}/resolve/main/l.bin").status_code == 404
        storage = Storage.of(repo)
        digest, _ = storage.send(CHUNKS)
        layout = storage.layout(digest).json()
        (fetch,) = next(iter(layout["fetch_info"].values()))
        span = f"bytes={fetch['url_range']['start']}-{fetch['url_range']['end']}"
        sent_on = httpx.get(fetch["url"], headers={"Range": span})
        assert sent_on.status_code == 302
        assert "range" in sent_on.headers["location"].partition("SignedHeaders=")[2].partition("&")[0].lower()
        # Without the range the hub passes the bytes on itself.
        assert httpx.get(fetch["url"]).status_code == 206
        assert fetched({**layout, "fetch_info": {}, "terms": []}, {}) == b""
        assert xorb(CHUNKS)[0] in layout["fetch_info"]


def test_a_bucket_that_is_not_there_is_said_so_at_once(bucket: str, tmp_path: Path) -> None:
    with (
        pytest.raises(HubError, match="cannot keep objects there"),
        open_hub(HubSettings(tmp_path, objects="s3://no/x")),
    ):
        pass


def test_another_hubs_bucket_is_not_taken_for_ones_own(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/two-hubs"
    with open_hub(HubSettings(tmp_path / "one", objects=url)):
        pass
    with pytest.raises(HubError, match="of another hub"), open_hub(HubSettings(tmp_path / "two", objects=url)):
        pass


@pytest.mark.slow
def test_a_hub_killed_while_it_stores_in_a_bucket_loses_nothing_that_it_acknowledged(
    bucket: str, tmp_path: Path
) -> None:
    settings, kept = HubSettings(tmp_path / "hub", objects=f"{bucket}/killed"), dict[str, bytes]()
    with open_hub(settings) as hub:
        token, _ = issue_token(hub, "ada", write=True)
    serve = f"""
from pathlib import Path
from kp_data.hub.server import HubSettings, serve
settings = HubSettings(Path({str(settings.root)!r}), port=0, objects={settings.objects!r})
serve(settings, lambda url: print(url, flush=True))
"""
    for attempt in range(3):
        process = subprocess.Popen([sys.executable, "-c", serve], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with open_hub(settings) as hub, contextlib.closing(Served(hub, url, {"ada": token}).client()) as client:
            served = Served(hub, url, {"ada": token}, {"ada": client})
            repo = Repo(served, "ada/x", client) if attempt else Repo.create(served, "ada/x", "ada")
            killer = threading.Timer(0.05 + 0.1 * attempt, process.kill)
            with contextlib.suppress(httpx.HTTPError):
                for number in range(1_000):
                    path, data = f"{attempt}-{number}.bin", random.Random(1_000 * attempt + number).randbytes(50_000)
                    repo.commit(large(path, repo.send(data), len(data))).raise_for_status()
                    kept[path] = data
                    if number == ACKNOWLEDGED:
                        # From here on it may die at any point: so late, that there is something to lose.
                        killer.start()
            killer.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
    with serve_for_test(replace(settings, port=0)) as served:
        client = httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {token}"}, timeout=30.0)
        with client:
            repo = Repo(served, "ada/x", client)
            collect_garbage(served.hub, grace_s=-1)
            assert set(kept) <= set(repo.paths())
            assert all(repo.read(path).status_code == 200 for path in repo.paths())
            assert all(repo.read(path).content == data for path, data in kept.items())
            assert collect_garbage(served.hub, grace_s=-1).bytes == 0
    assert kept


@pytest.mark.slow
def test_when_the_bucket_is_gone_requests_fail_without_a_word_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    settings = HubSettings(tmp_path, port=0, objects="s3://gone/x")
    with contextlib.ExitStack() as stack:
        with s3_server(port):
            httpx.put(f"http://127.0.0.1:{port}/gone").raise_for_status()
            repo = stack.enter_context(serve_for_test(settings)).make()
        answered = repo.commit(inline("x", b"1"))
        assert answered.status_code == 507
        assert str(port) not in answered.text
        assert repo.paths() == []
    gc.collect()
