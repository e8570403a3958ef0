"""What several do at the same moment, on SQLite and on PostgreSQL: in order, within quotas, nothing lost to garbage."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
import sqlalchemy as sa
from by_hand import FilePart, Storage, shard, xorb
from served_hub import Repo, Served, deleted, inline, large, serve_for_test

from kp_data.hub.server import HubSettings, Limits, collect_garbage
from kp_data.hub.server.contents import used_bytes
from kp_data.hub.server.database import OBJECTS, REPO_OBJECTS, REPO_XORBS, XORBS

T = TypeVar("T")
QUOTA = 1_000_000


@pytest.fixture(params=["sqlite", "postgres"])
def contested(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    database = request.getfixturevalue("postgres") if request.param == "postgres" else None
    settings = HubSettings(tmp_path / "hub", port=0, database=database, limits=Limits(quota_bytes=QUOTA))
    with serve_for_test(settings) as found:
        yield found


def at_once(number: int, work: Callable[[int], T]) -> list[T]:
    """All begin at the same moment."""
    barrier = threading.Barrier(number)

    def begin(index: int) -> T:
        barrier.wait()
        return work(index)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(begin, range(number)))


def test_of_those_who_make_the_same_repository_tag_or_branch_one_succeeds(contested: Served) -> None:
    client = contested.client()

    def make(index: int) -> int:
        # Names that differ in case alone are the same.
        body = {"name": ("Same", "same", "SAME", "sAME")[index], "organization": "lab", "type": "dataset"}
        return client.post("/api/repos/create", json=body).status_code

    assert sorted(at_once(4, make)) == [200, 409, 409, 409]
    repo = contested.make()
    tags = at_once(4, lambda _: client.post(f"{repo.api}/tag/main", json={"tag": "v1"}).status_code)
    branches = at_once(4, lambda _: client.post(f"{repo.api}/branch/side", json={}).status_code)
    assert sorted(tags) == sorted(branches) == [200, 409, 409, 409]


def test_files_in_opposite_order_do_not_wait_for_each_other_for_ever(contested: Served) -> None:
    repos = [contested.make() for _ in range(4)]
    lines = [inline(f"{n}.txt", b"shared %d" % n) for n in range(30)]

    def write(index: int) -> int:
        return repos[index].commit(*(lines if index % 2 else lines[::-1])).status_code

    assert at_once(4, write) == [200] * 4


@pytest.mark.parametrize("way", ["lfs", "xet", "inline"])
def test_a_quota_holds_when_many_send_at_once(contested: Served, way: str) -> None:
    repos = [contested.make() for _ in range(2)]
    storages = [Storage.of(repo) for repo in repos]
    size = 300_000

    def send(index: int) -> int:
        data, repo = random.Random(index).randbytes(size), repos[index % 2]
        if way == "inline":
            return repo.commit(inline(f"{index}.txt", data)).status_code
        if way == "xet":
            return (
                storages[index % 2].put_xorb(*xorb([data[n : n + 50_000] for n in range(0, size, 50_000)])).status_code
            )
        (item,) = repo.batch(hashlib.sha256(data).hexdigest(), size)
        return httpx.put(item["actions"]["upload"]["href"], content=data).status_code if "actions" in item else 413

    codes = at_once(8, send)
    assert sorted(codes) == [200] * 3 + [413] * 5
    used = contested.hub.database.read(lambda connection: used_bytes(connection, "ada"))
    assert 3 * size <= used <= QUOTA
    # What was refused takes up no room either.
    assert (
        sum((contested.hub.settings.root / "objects" / place).stat().st_size for place, _ in places(contested)) < QUOTA
    )


def places(served: Served) -> list[tuple[str, float]]:
    return list(served.hub.objects.locations())


def test_a_quota_is_no_way_round_by_moving_or_by_parts_that_are_never_joined(tmp_path: Path) -> None:
    limits = Limits(quota_bytes=QUOTA, part_bytes=200_000)
    with serve_for_test(HubSettings(tmp_path / "hub", port=0, limits=limits)) as served:
        full, other = Repo.create(served, "lab/full", "ada"), served.make()
        for repo in (full, other):
            repo.commit(large("x.bin", repo.send(b"%s" % repo.name.encode() * 70_000), 70_000 * len(repo.name)))
        body = {"fromRepo": other.name, "toRepo": "lab/other", "type": "dataset"}
        assert served.client().post("/api/repos/move", json=body).status_code == 413
        third = served.make("bo")
        codes = []
        for number in range(3):
            (item,) = third.batch(hashlib.sha256(b"%d" % number).hexdigest(), 600_000)
            header = item["actions"]["upload"]["header"]
            codes += [httpx.put(header[str(part)], content=bytes(200_000)).status_code for part in (1, 2, 3)]
        # The namespace holds a small file already.
        assert codes == [200] * 4 + [413] * 5


def grow_old(served: Served, repo: Repo) -> None:
    """Let everything that a repository holds look as if it had been sent long ago."""
    repo_id = repo.client.get(repo.api).json()["_id"]

    def work(connection: sa.Connection) -> None:
        for table in (REPO_OBJECTS, REPO_XORBS):
            connection.execute(sa.update(table).where(table.c.repo == repo_id).values(used_at=0.0))
        for every in (OBJECTS, XORBS):
            connection.execute(sa.update(every).values(seen_at=0.0))

    served.hub.database.write(work)


@pytest.mark.slow
def test_garbage_collection_beside_pushes_takes_nothing_that_a_push_relies_on(contested: Served) -> None:
    """After each push all that it left looks old; what the next one speaks of must be there all the same."""
    repos = [contested.make() for _ in range(3)]
    common, done = b"sent by all, over and over" * 100, threading.Event()

    def collect() -> int:
        freed = 0
        while not done.is_set():
            freed += collect_garbage(contested.hub, grace_s=3_600.0).files
        return freed

    def push(index: int) -> None:
        repo, choose = repos[index], random.Random(index)
        for turn in range(6):
            own = b"%d %d" % (index, turn) * 50
            oid = repo.send(common)
            _, chunked = Storage.of(repo).send([own, common])
            lines = (large(f"{turn}.bin", oid, len(common)), large(f"{turn}.x", chunked, len(own + common)))
            made = repo.commit(*lines).raise_for_status().json()["commitOid"]
            if choose.random() < 0.3:
                repo.client.post(f"{repo.api}/tag/{made}", json={"tag": f"v{turn}"}).raise_for_status()
            if choose.random() < 0.7:
                repo.commit(deleted(f"{turn}.bin"), deleted(f"{turn}.x")).raise_for_status()
                repo.client.post(f"{repo.api}/super-squash/main", json={}).raise_for_status()
            grow_old(contested, repo)

    with ThreadPoolExecutor(1) as pool:
        collecting = pool.submit(collect)
        try:
            at_once(len(repos), push)
        finally:
            done.set()
        assert collecting.result() > 0
    collect_garbage(contested.hub, grace_s=-1)
    for repo in repos:
        refs = repo.client.get(f"{repo.api}/refs").json()
        for ref in [*refs["branches"], *refs["tags"]]:
            for path in repo.paths(ref["name"]):
                found = repo.read(path, ref["name"])
                assert (found.status_code, found.content.endswith(common)) == (200, True)


def test_a_xorb_that_a_client_was_told_of_stays_for_its_shard(contested: Served) -> None:
    repo, chunks = contested.make(), [b"known " * 50, b"from an earlier upload " * 20]
    name, data = xorb(chunks)
    Storage.of(repo).put_xorb(name, data).raise_for_status()
    grow_old(contested, repo)
    later = Storage.of(repo)
    assert later.known(chunks[0]).status_code == 200
    assert collect_garbage(contested.hub, grace_s=3_600.0).xorbs == 0
    later.put_shard(shard([FilePart(name, chunks, 0, 2)])[1]).raise_for_status()


def test_bytes_that_were_refused_leave_nothing_behind(tmp_path: Path) -> None:
    with serve_for_test(HubSettings(tmp_path / "hub", port=0, limits=Limits(quota_bytes=QUOTA))) as served:
        first, second = served.make(), served.make()
        data = [os.urandom(600_000) for _ in range(2)]
        addresses = [
            repo.batch(hashlib.sha256(some).hexdigest(), len(some))[0]["actions"]["upload"]["href"]
            for repo, some in zip((first, second), data, strict=True)
        ]
        before = len(places(served))
        codes = [httpx.put(url, content=some).status_code for url, some in zip(addresses, data, strict=True)]
        assert codes == [200, 413]
        assert len(places(served)) == before + 1
        assert list(served.hub.spool.root.iterdir()) == []
