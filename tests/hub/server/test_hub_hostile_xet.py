"""Xorbs and shards that are small and ask for a lot: what they cost is bounded, and damage of any kind is refused."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable

import lz4.frame
import pytest
from by_hand import BOOKEND, TAG, FilePart, Storage, leaves, shard, xorb
from hypothesis import given, settings
from hypothesis import strategies as st
from served_hub import Served

from kp_data.hub.server.xet_format import (
    MAX_CHUNK_BYTES,
    BadFormat,
    MerkleTree,
    chunk_hash,
    merkle_root,
    pack_chunks,
    range_hash,
    read_shard,
    read_xorb,
    to_hex,
    unpack_chunks,
)

CHUNKS = [b"some text that is compressed " * 40, bytes(range(256)) * 9, b"z" * 3_000]
XORB = xorb(CHUNKS)
SHARD = shard([FilePart(XORB[0], CHUNKS, 0, 3), FilePart(XORB[0], CHUNKS, 1, 2)])[1]


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that Python had to hold at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(XORB[1]) - 1), st.integers(1, 255)), min_size=1, max_size=4), st.integers()
)
def test_a_damaged_xorb_is_refused_or_has_another_hash(flips: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(XORB[1])
    for at, mask in flips:
        data[at] ^= mask
    data = data[: abs(cut) % (len(data) + 1)] if cut % 3 == 0 else data
    try:
        found = list(read_xorb(io.BytesIO(bytes(data)), len(data)))
    except BadFormat:
        return
    assert all(chunk.size == len(plain) <= MAX_CHUNK_BYTES for chunk, plain in found)
    if [plain for _, plain in found] != CHUNKS:
        assert to_hex(merkle_root([(chunk.hash, chunk.size) for chunk, _ in found])) != XORB[0]


@settings(deadline=None)
@given(st.integers(0, len(SHARD) - 1), st.integers(1, 255), st.integers(0, len(SHARD)))
def test_a_damaged_shard_is_read_or_refused_and_never_larger_than_itself(at: int, mask: int, cut: int) -> None:
    data = bytearray(SHARD)
    data[at] ^= mask
    for candidate in (bytes(data), SHARD[:cut]):
        try:
            files = list(read_shard(candidate))
        except BadFormat:
            continue
        assert sum(len(file.terms) + len(file.range_hashes) for file in files) <= len(candidate) // 48


@pytest.mark.parametrize("num", [2**32 - 1, 2**31, 2**20])
def test_a_number_of_terms_that_the_shard_cannot_hold_costs_nothing(num: int) -> None:
    head = bytes(32) + (0xC0000000).to_bytes(4, "little") + num.to_bytes(4, "little") + bytes(8)
    data = TAG + (2).to_bytes(8, "little") + bytes(8) + head + BOOKEND

    def read() -> None:
        with pytest.raises(BadFormat, match="ends within a file"):
            list(read_shard(data))

    assert peak_of(read) < 200_000


def test_a_bomb_of_chunks_is_unpacked_one_by_one() -> None:
    body = lz4.frame.compress(bytes(MAX_CHUNK_BYTES))
    head = bytes([0]) + len(body).to_bytes(3, "little") + bytes([1]) + MAX_CHUNK_BYTES.to_bytes(3, "little")
    data = (head + body) * 400

    def read() -> None:
        assert sum(chunk.size for chunk, _ in read_xorb(io.BytesIO(data), len(data))) == 400 * MAX_CHUNK_BYTES

    assert peak_of(read) < 20 * MAX_CHUNK_BYTES


def test_hashing_a_long_file_holds_a_few_nodes() -> None:
    tree, leaf = MerkleTree(), (chunk_hash(b"x"), 1)

    def build() -> None:
        for _ in range(20_000):
            tree.add(leaf)
        tree.root()

    assert peak_of(build) < 100_000


@given(st.lists(st.binary(max_size=4), max_size=120))
def test_the_hash_over_chunks_given_one_by_one_is_that_over_all(chunks: list[bytes]) -> None:
    """By the definition: level by level, cut where a hash ends a node."""
    level = leaves(chunks)

    def width(nodes: list[tuple[bytes, int]]) -> int:
        ends = (n + 1 for n in range(2, len(nodes)) if int.from_bytes(nodes[n][0][24:], "little") % 4 == 0)
        return next(ends, len(nodes))

    while len(level) > 1:
        above = []
        while level:
            num = width(level[:9])
            above.append((merkle_root(level[:num]) if num > 1 else wrapped(level[0]), sum(s for _, s in level[:num])))
            level = level[num:]
        level = above
    assert merkle_root(leaves(chunks)) == (level[0][0] if level else bytes(32))


def wrapped(child: tuple[bytes, int]) -> bytes:
    """A node with one child, as the last of a level may be."""
    from blake3 import blake3

    from kp_data.hub.server import xet_format

    return blake3(f"{to_hex(child[0])} : {child[1]}\n".encode(), key=xet_format._NODE_KEY).digest()


def test_chunks_are_kept_in_forty_bytes_each_and_read_like_a_list() -> None:
    from kp_data.hub.server.xet_format import Chunk

    chunks = [Chunk(bytes([n] * 32), n, n + 1) for n in range(9)]
    table = unpack_chunks(pack_chunks(chunks))
    assert (len(table), list(table), table[3], table[-1]) == (9, chunks, chunks[3], chunks[8])
    assert list(table[2:5]) == chunks[2:5]
    assert list(table[7:99]) == chunks[7:]
    with pytest.raises(IndexError):
        table[9]


def described(term: bytes, proof: bytes, num: int) -> bytes:
    """A shard with one file of so many equal terms."""
    head = bytes(32) + (0xC0000000).to_bytes(4, "little") + num.to_bytes(4, "little") + bytes(8)
    return TAG + (2).to_bytes(8, "little") + bytes(8) + head + term * num + proof * num + bytes(48) + BOOKEND


def test_a_shard_that_names_one_xorb_over_and_over_is_refused_before_the_work_is_done(served: Served) -> None:
    storage = Storage.of(served.make())
    chunks = [bytes([n]) for n in range(200)] * 5
    name, data = xorb(chunks)
    storage.put_xorb(name, data).raise_for_status()
    term = shard([FilePart(name, chunks, 0, len(chunks))])[1][96:144]
    proof = range_hash(chunk_hash(chunk) for chunk in chunks) + bytes(16)
    found = storage.put_shard(described(term, proof, 100))
    assert (found.status_code, "smaller than the protocol cuts" in found.json()["error"]) == (400, True)
    size, most = 2**32 - 1, served.hub.settings.limits.object_bytes
    huge = term[:36] + size.to_bytes(4, "little") + term[40:]
    assert storage.put_shard(described(huge, proof, most // size + 1)).status_code == 413
