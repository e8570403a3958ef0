"""The binary formats of Xet, against published hashes and against damage."""

from __future__ import annotations

import io
import random

import lz4.frame
import pytest
from by_hand import FilePart, leaves, packed, shard, xorb
from hypothesis import given
from hypothesis import strategies as st

from kp_data.hub.server.xet_format import (
    MAX_CHUNK_BYTES,
    BadFormat,
    Chunk,
    Term,
    build_shard,
    chunk_hash,
    file_hash,
    from_hex,
    merkle_root,
    pack_chunks,
    pack_terms,
    read_shard,
    read_xorb,
    to_hex,
    unpack,
    unpack_chunks,
    unpack_terms,
)

A = "cfc5d07f6f03c29bbf424132963fe08d19a37d5757aaf520bf08119f05cd56d6"
B = "c3e67584b5c4fc2a89837ec39e40f2c8a6bb0b2987ac94cd4b31e5fbdd210a72"
C = "0d2beb91b9196929a5ddec9f6e306924ddf4a24268e3e59fd8464738d525af37"
D = "adf8773496a9b7319b2e50dc98093f344053b17d8ad37100b9c07d9805988784"


@pytest.mark.parametrize(
    ("nodes", "root", "whole"),
    [
        ([(A, 100)], A, "8e16257caa3fe079d484d872a8975264b2ff683b0d6db9028cc7c0f968a45661"),
        (
            [(A, 100), (B, 200), (C, 300)],
            "71ec1275fca074724e2dd666921b3277c7cee603e4d025bcab2d4050015be2bc",
            "54e55dccc6653c612bdb5576c5d3cb34bb31bc4e100248abccf4c908b3ef7715",
        ),
        (
            [(A, 100)] * 4,
            "89f2ada89ff8c96763c6b25010e6dd76a4c05b1466207633ea559acf2093211b",
            "2cdba690d0e09563596e0cda626d43eb4c96ef1e994fe72d9b2f5a83cfcd36dd",
        ),
        (
            [(A, 100), (B, 200), (A, 100), (B, 200), (C, 300), (D, 400)],
            "52c826f99507aa05d0b45e9837fa1709e0485425cfbcb1e80db3905cf98b3ee9",
            "91d21684db364c8883ab8209fa5eb2e781cf07f37e1fa43e731c30839afe422f",
        ),
    ],
)
def test_tree_hashes_are_those_of_the_reference_implementation(
    nodes: list[tuple[str, int]], root: str, whole: str
) -> None:
    raw = [(from_hex(digest), size) for digest, size in nodes]
    assert (to_hex(merkle_root(raw)), to_hex(file_hash(raw))) == (root, whole)


@given(st.binary(min_size=32, max_size=32))
def test_hexadecimal_and_back(raw: bytes) -> None:
    assert from_hex(to_hex(raw)) == raw


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=12))
def test_a_xorb_gives_back_its_chunks_whatever_their_compression(chunks: list[bytes]) -> None:
    _, data = xorb(chunks)
    found = list(read_xorb(io.BytesIO(data), len(data)))
    assert [plain for _, plain in found] == chunks
    assert found[-1][0].end == len(data)
    assert [(chunk.hash, chunk.size) for chunk, _ in found] == leaves(chunks)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_xorb_or_refused(data: bytes) -> None:
    try:
        chunks = list(read_xorb(io.BytesIO(data), len(data)))
    except BadFormat:
        return
    assert sum(chunk.size for chunk, _ in chunks) <= 2 * len(data) * 256


@given(st.binary(max_size=400))
def test_any_bytes_are_a_shard_or_refused(data: bytes) -> None:
    whole = shard([FilePart("0" * 64, [b"x"], 0, 1)])[1]
    for candidate in (data, whole[:48] + data, whole[: len(data) % len(whole)]):
        try:
            list(read_shard(candidate))
        except BadFormat:
            continue


@given(st.integers(0, 400), st.integers(0, 255))
def test_one_changed_byte_never_passes_for_the_same_chunk(at: int, value: int) -> None:
    chunk = random.Random(1).randbytes(300)
    data = bytearray(packed(chunk, 1))
    at %= len(data)
    if data[at] == value:
        return
    data[at] = value
    try:
        found = [plain for _, plain in read_xorb(io.BytesIO(bytes(data)), len(data))]
    except BadFormat:
        return
    assert found == [chunk] or chunk_hash(found[0]) != chunk_hash(chunk)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = lz4.frame.compress(bytes(50_000_000))
    with pytest.raises(BadFormat, match="not as large"):
        unpack(bomb, 1, 1_000)
    head = bytes([0]) + len(bomb).to_bytes(3, "little") + bytes([1]) + (MAX_CHUNK_BYTES + 1).to_bytes(3, "little")
    with pytest.raises(BadFormat, match="larger than chunks may be"):
        list(read_xorb(io.BytesIO(head + bomb), len(head + bomb)))


def test_an_unknown_compression_is_refused() -> None:
    with pytest.raises(BadFormat, match="unknown compression 9"):
        unpack(b"abc", 9, 3)


def test_a_shard_that_promises_more_than_it_holds_is_refused() -> None:
    _, data = shard([FilePart("0" * 64, [b"x"], 0, 1)])
    huge = bytearray(data)
    huge[84:88] = (2**32 - 1).to_bytes(4, "little")
    with pytest.raises(BadFormat, match="ends within a file"):
        list(read_shard(bytes(huge)))


def test_what_the_hub_answers_about_chunks_is_a_shard_with_its_tables() -> None:
    chunks = [Chunk(chunk_hash(bytes([n])), 10 * (n + 1), n + 1) for n in range(5)]
    data = build_shard([(bytes(32), 50, chunks), (bytes([1] * 32), 20, chunks[:2])], lasts_s=100)
    assert list(read_shard(data)) == []
    footer = data[-200:]
    fields = [int.from_bytes(footer[at : at + 8], "little") for at in range(0, 72, 8)]
    version, files_at, xorbs_at, file_table, num_files, xorb_table, num_xorbs, chunk_table, num_chunks = fields
    assert (version, files_at, xorbs_at, num_files, num_xorbs, num_chunks) == (1, 48, 96, 0, 2, 7)
    # Two xorbs with their chunks and the end mark, 48 bytes each.
    assert file_table == xorb_table == 96 + 48 * (2 + 7 + 1)
    assert chunk_table == xorb_table + 12 * 2
    assert int.from_bytes(footer[-8:], "little") == len(data) - 200 == chunk_table + 16 * 7
    keys = [int.from_bytes(data[at : at + 8], "little") for at in range(chunk_table, len(data) - 200, 16)]
    assert keys == sorted(keys)


def test_chunks_and_terms_survive_being_kept() -> None:
    chunks = [Chunk(bytes([n] * 32), n, n + 1) for n in range(3)]
    terms = [Term(bytes([n] * 32), n, n + 1, 2**32 - 1) for n in range(3)]
    assert list(unpack_chunks(pack_chunks(chunks))) == chunks
    assert unpack_terms(pack_terms(terms)) == terms
