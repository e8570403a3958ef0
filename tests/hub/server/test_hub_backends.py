"""The same hub on PostgreSQL, and with its objects behind fsspec."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from by_hand import Storage
from served_hub import Served, deleted, inline, large, serve_for_test

from kp_data.errors import HubError
from kp_data.hub.server import HubSettings, collect_garbage, export_repo, open_hub
from kp_data.hub.server.database import Database
from kp_data.hub.server.objects import open_objects


@pytest.fixture(params=["folder", "fsspec", "postgres"])
def backed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    settings = HubSettings(tmp_path / "hub", port=0)
    if request.param == "fsspec":
        settings = HubSettings(tmp_path / "hub", port=0, objects=f"file://{tmp_path}/bucket")
    elif request.param == "postgres":
        settings = HubSettings(tmp_path / "hub", port=0, database=request.getfixturevalue("postgres"))
    with serve_for_test(settings) as found:
        yield found


def test_a_repository_lives_its_life_on_every_backend(backed: Served, tmp_path: Path) -> None:
    repo, data = backed.make(), b"0123456789" * 1_000
    _, chunked = Storage.of(repo).send([data[:3_000], data[3_000:5_000]])
    lines = (large("l.bin", repo.send(data), len(data)), large("x.bin", chunked, 5_000), inline("é.txt", b"small"))
    repo.commit(*lines).raise_for_status()
    repo.client.post(f"{repo.api}/tag/main", json={"tag": "v1"}).raise_for_status()
    assert repo.read("l.bin", Range="bytes=9990-").content == data[-10:]
    assert repo.read("x.bin", Range="bytes=2999-3001").content == data[2_999:3_002]
    repo.commit(*(deleted(path) for path in ("l.bin", "x.bin", "é.txt"))).raise_for_status()
    assert collect_garbage(backed.hub, grace_s=-1).files == 0
    assert export_repo(backed.hub, repo.name, tmp_path / "out", revision="v1").files == 4
    repo.client.delete(f"{repo.api}/tag/v1").raise_for_status()
    repo.client.post(f"{repo.api}/super-squash/main", json={"message": "x"}).raise_for_status()
    freed = collect_garbage(backed.hub, grace_s=-1)
    assert (freed.files, freed.xorbs, freed.commits) == (3, 1, 3)
    kept = [location for location, _ in backed.hub.objects.locations()]
    assert len(kept) == 1
    assert repo.read(".gitattributes").status_code == 200


def test_racing_commits_are_put_in_order_on_every_backend(backed: Served) -> None:
    repo = backed.make()
    parent = repo.head
    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda n: repo.commit(inline(f"a{n}", b"x"), parent=parent).status_code, range(4)))
        assert sorted(codes) == [200, 412, 412, 412]
        assert set(pool.map(lambda n: repo.commit(inline(f"b{n}", b"x")).status_code, range(8))) == {200}
    assert len(repo.paths()) == 9
    assert len(repo.client.get(f"{repo.api}/commits/main").json()) == 10


def test_collecting_garbage_while_others_write_takes_nothing_of_theirs(backed: Served) -> None:
    repo = backed.make()

    def write(number: int) -> None:
        data = b"%d" % (number % 3) * 5_000
        path = f"{number}.bin"
        repo.commit(large(path, repo.send(data), len(data))).raise_for_status()
        assert repo.read(path).content == data
        repo.commit(deleted(path)).raise_for_status()
        repo.client.post(f"{repo.api}/super-squash/main", json={}).raise_for_status()

    with ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(write, number) for number in range(6)]
        while not all(done.done() for done in writing):
            collect_garbage(backed.hub, grace_s=5.0)
        for done in writing:
            done.result()


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite:////nowhere/at/all/x.sqlite"])
def test_a_database_that_cannot_be_used_is_said_so(url: str) -> None:
    with pytest.raises(HubError, match="cannot be opened"):
        Database(url)


def test_a_place_for_objects_that_cannot_be_used_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="cannot keep objects there"):
        open_objects("nonsense://bucket", tmp_path)


def test_a_folder_that_cannot_be_used_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HubError, match="cannot be used"), open_hub(HubSettings(tmp_path / "file")):
        pass
