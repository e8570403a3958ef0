"""Xet storage over HTTP, with xorbs and shards written by hand."""

from __future__ import annotations

import hashlib
import random

import httpx
import pytest
from by_hand import FilePart, Storage, fetched, shard, xorb
from served_hub import Served, large

from kp_data.hub.server.xet_format import chunk_hash

RANDOM = random.Random(7)
CHUNKS = [RANDOM.randbytes(RANDOM.randint(200, 3_000)) for _ in range(9)]
WHOLE = b"".join(CHUNKS)


def test_a_file_sent_as_chunks_is_read_back_whole_and_by_ranges(served: Served) -> None:
    repo = served.make()
    digest, oid = Storage.of(repo).send(CHUNKS)
    repo.commit(large("x.parquet", oid, len(WHOLE))).raise_for_status()
    found = repo.read("x.parquet")
    assert (found.content, found.headers["x-xet-hash"]) == (WHOLE, digest)
    assert "xet-read-token" in found.links["xet-auth"]["url"]
    for start in range(0, len(WHOLE), 777):
        end = min(start + 2_500, len(WHOLE))
        assert repo.read("x.parquet", Range=f"bytes={start}-{end - 1}").content == WHOLE[start:end]
    assert repo.client.get(f"{repo.api}/tree/main").json()[1]["xetHash"] == digest


def test_a_file_of_parts_of_several_xorbs_is_put_together(served: Served) -> None:
    repo = served.make()
    storage = Storage.of(repo)
    (one, first), (two, second) = xorb(CHUNKS[:5]), xorb(CHUNKS[5:])
    storage.put_xorb(one, first)
    storage.put_xorb(two, second)
    parts = [FilePart(two, CHUNKS[5:], 1, 3), FilePart(one, CHUNKS[:5], 0, 2), FilePart(two, CHUNKS[5:], 1, 3)]
    digest, described = shard(parts)
    storage.put_shard(described).raise_for_status()
    data = b"".join(chunk for part in parts for chunk in part.data)
    repo.commit(large("x.bin", hashlib.sha256(data).hexdigest(), len(data))).raise_for_status()
    assert repo.read("x.bin").content == data
    of = {one: CHUNKS[:5], two: CHUNKS[5:]}
    assert fetched(storage.layout(digest).json(), of) == data
    for start, end in ((0, 1), (10, 4_000), (len(data) - 5, len(data))):
        got = fetched(storage.layout(digest, Range=f"bytes={start}-{end - 1}").json(), of)
        assert got[: end - start] == data[start:end]
    assert storage.layout(digest, Range=f"bytes={len(data)}-").status_code == 416


def test_another_machine_learns_once_what_is_stored_whatever_chunk_it_asks_for(served: Served) -> None:
    repo = served.make()
    Storage.of(repo).send(CHUNKS)
    for asked in (CHUNKS[0], CHUNKS[4], b"never seen"):
        machine = Storage.of(repo)
        found = machine.known(asked)
        assert found.status_code == 200
        assert all(chunk_hash(chunk) in found.content for chunk in CHUNKS)
        assert machine.known(asked).status_code == 404


def test_chunks_of_one_repository_are_not_known_in_another(served: Served) -> None:
    Storage.of(served.make()).send(CHUNKS)
    other = Storage.of(served.make())
    assert other.known(CHUNKS[0]).status_code == 404
    name, _ = xorb(CHUNKS)
    _, described = shard([FilePart(name, CHUNKS, 0, 9)])
    refused = other.put_shard(described)
    assert refused.status_code == 400
    assert "has not been uploaded to this repository" in refused.json()["error"]


def test_a_xorb_is_stored_once_whoever_sends_it(served: Served) -> None:
    chunks = [b"shared by two", b"and more"]
    name, data = xorb(chunks)
    first, second = Storage.of(served.make()), Storage.of(served.make("bo"))
    # Nobody learns whether others hold it; whoever sends it again learns that.
    said = [store.put_xorb(name, data).json()["was_inserted"] for store in (first, second, second)]
    assert said == [True, True, False]
    assert sum(name in location for location, _ in served.hub.objects.locations()) == 1
    digest, described = shard([FilePart(name, chunks, 0, 2)])
    for store in (first, second):
        store.put_shard(described).raise_for_status()
        assert fetched(store.layout(digest).json(), {name: chunks}) == b"shared by twoand more"


@pytest.mark.parametrize("fault", ["sha256", "proof", "file", "range", "size", "cut"])
def test_a_shard_with_a_wrong_claim_is_refused(served: Served, fault: str) -> None:
    storage = Storage.of(served.make())
    chunks = [b"first " + fault.encode(), b"second"]
    name, data = xorb(chunks)
    storage.put_xorb(name, data).raise_for_status()
    wrong = {"sha256": {"sha256": "0" * 64}, "proof": {"proof": bytes(32)}}.get(fault, {})
    digest, described = shard([FilePart(name, chunks, 0, 2)], **wrong)  # type: ignore[arg-type]
    bad = bytearray(described)
    if fault == "file":
        bad[48] ^= 1
    elif fault == "range":
        bad[140:144] = (3).to_bytes(4, "little")
    elif fault == "size":
        bad[132:136] = (3).to_bytes(4, "little")
    elif fault == "cut":
        bad = bad[:120]
    assert storage.put_shard(bytes(bad)).status_code == 400
    assert storage.layout(digest).status_code == 404


def test_a_xorb_under_a_wrong_name_or_with_a_changed_byte_is_refused(served: Served) -> None:
    storage = Storage.of(served.make())
    name, data = xorb([b"some data that is long enough to compress" * 9, b"more"])
    assert storage.put_xorb("0" * 64, data).status_code == 400
    assert storage.put_xorb(name, data[:-1] + b"?").status_code == 400
    assert storage.put_xorb(name, data[:-1]).status_code == 400
    assert storage.put_xorb(name, b"").status_code == 400
    assert storage.put_xorb(name, data).status_code == 200


def test_a_token_is_good_for_one_repository_and_one_scope(served: Served) -> None:
    repo = served.make()
    storage, reader, other = Storage.of(repo), Storage.of(repo, "read"), Storage.of(served.make())
    name, data = xorb([b"x"])
    assert reader.put_xorb(name, data).status_code == 403
    assert Storage(storage.url, other.token).put_xorb(name, data).status_code == 403
    for forged in ("x", "a.b", storage.token[:-1] + ("0" if storage.token[-1] != "0" else "1")):
        assert Storage(storage.url, forged).put_xorb(name, data).status_code == 401


def test_an_address_of_a_xorb_opens_its_range_and_no_more(served: Served) -> None:
    repo = served.make()
    storage = Storage.of(repo)
    digest, _ = storage.send(CHUNKS)
    found = storage.layout(digest, Range=f"bytes={len(CHUNKS[0])}-{len(CHUNKS[0])}").json()
    (fetch,) = next(iter(found["fetch_info"].values()))
    first, last = fetch["url_range"]["start"], fetch["url_range"]["end"]
    assert first > 0
    assert httpx.get(fetch["url"], headers={"Range": "bytes=0-10"}).status_code == 403
    assert len(httpx.get(fetch["url"], headers={"Range": f"bytes={first}-999999"}).content) == last + 1 - first
    assert httpx.get(fetch["url"].replace(f"{first}-{last}", f"0-{last}")).status_code == 403
    assert httpx.get(fetch["url"].replace("expires=", "expires=9")).status_code == 403


def test_newer_calls_are_declined_so_that_clients_take_the_older_ones(served: Served) -> None:
    storage = Storage.of(served.make())
    for path in ("/v2/shards", "/v1/xorb-grants/default/" + "0" * 64):
        assert httpx.post(storage.url + path, headers=storage.headers).status_code == 404
