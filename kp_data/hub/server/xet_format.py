"""The binary formats of Xet storage: chunks, xorbs and shards, and their hashes.

A chunk is up to 128 KiB of a file, cut by content. A xorb is a run of chunks, each compressed on its own. A shard says
of which chunk ranges of which xorbs a file consists, and lists the chunks of new xorbs. All integers are little-endian.

All bytes that come in were written by somebody else: sizes are bounded before anything is unpacked, and every hash is
computed here, never believed.

Source: the Xet protocol specification, version 0.1.0 (huggingface/xet-core, `spec/`): "Hashing", "Xorb", "Shard". The
layout of lookup tables in a shard is that of `mdb_shard` in the same repository. Verified against hf-xet 1.8.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, overload

from blake3 import blake3

HASH_BYTES: Final = 32
MAX_CHUNK_BYTES: Final = 128 * 1024
MAX_CHUNKS: Final = 8 * 1024
DEDUP_MODULUS: Final = 1024
"""Clients ask whether a chunk is known for the first of a file and for hashes that this divides."""

_DATA_KEY: Final = bytes.fromhex("6697f5775b9550de3135cbaca597181c9de421109beb2b58b4d0b04b93adf229")
_NODE_KEY: Final = bytes.fromhex("017ec5c7a5472996fd946666b48a02e65ddd536f37c76dd2f86352e64a53713f")
_RANGE_KEY: Final = bytes.fromhex("7f1857d6ce56ed66127ff913e7a5c3f3a4cd26d5b5db49e64124987f28fb94c3")
_ZERO_KEY: Final = bytes(HASH_BYTES)

_NONE, _LZ4, _GROUPED_LZ4 = 0, 1, 2
_FOOTER_IDENT: Final = b"XETBLOB"
_BRANCHING: Final = 4

_SHARD_TAG: Final = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
_SHARD_VERSION: Final = 2
_SHARD_FOOTER_BYTES: Final = 200
_BOOKEND: Final = b"\xff" * HASH_BYTES
_WITH_RANGE_HASHES: Final = 1 << 31
_WITH_SHA256: Final = 1 << 30
_RECORD: Final = struct.Struct("<32sIIII")
_CHUNK: Final = struct.Struct("<32sII")


class BadFormat(ValueError):
    """Bytes that are not what they say they are."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk within a xorb.

    Attributes:
        hash: of the unpacked bytes.
        end: where its packed bytes end in the serialised xorb; they begin where those of the chunk before end.
        size: of the unpacked bytes.
    """

    hash: bytes
    end: int
    size: int


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a file: chunks `start` up to but without `end` of a xorb, `size` bytes unpacked."""

    xorb: bytes
    start: int
    end: int
    size: int


@dataclass(frozen=True, slots=True)
class ShardFile:
    """What a shard says of a file.

    Attributes:
        hash: of the file, in Xet's sense.
        terms: what it consists of, in order.
        range_hashes: one a term, over the hashes of its chunks; empty: none were sent.
        sha256: hexadecimal; None: not sent.
    """

    hash: bytes
    terms: tuple[Term, ...]
    range_hashes: tuple[bytes, ...]
    sha256: str | None


def to_hex(raw: bytes) -> str:
    """A hash as Xet writes it: four 64-bit numbers.

    >>> to_hex(bytes(range(32)))[:20]
    '07060504030201000f0e'
    """
    return "".join(raw[at : at + 8][::-1].hex() for at in range(0, HASH_BYTES, 8))


def from_hex(text: str) -> bytes:
    """The inverse of `to_hex`; the same reversal.

    >>> from_hex(to_hex(bytes(range(32)))) == bytes(range(32))
    True
    """
    return bytes.fromhex(to_hex(bytes.fromhex(text)))


def chunk_hash(data: bytes) -> bytes:
    """Hash of a chunk's unpacked bytes."""
    return blake3(data, key=_DATA_KEY).digest()


def range_hash(hashes: Iterable[bytes]) -> bytes:
    """Hash by which a client proves that it knows the chunks of a term."""
    return blake3(b"".join(hashes), key=_RANGE_KEY).digest()


class MerkleTree:
    """Hash over chunk hashes and sizes, given one by one: a few nodes are held, however long the file.

    Nodes have two to nine children; a child after the second whose hash 4 divides is the last of its node.
    """

    def __init__(self) -> None:
        self._open: list[list[tuple[bytes, int]]] = []
        self._counts: list[int] = []

    def add(self, child: tuple[bytes, int], level: int = 0) -> None:
        """The next child, as (hash, size in bytes)."""
        if level == len(self._open):
            self._open.append([])
            self._counts.append(0)
        node = self._open[level]
        node.append(child)
        self._counts[level] += 1
        ends = len(node) > 2 and int.from_bytes(child[0][24:], "little") % _BRANCHING == 0
        if ends or len(node) == 2 * _BRANCHING + 1:
            self._close(level)

    def root(self) -> bytes:
        """The hash over all; nothing gives zeros. Nothing can be added afterwards."""
        level = 0
        while level < len(self._open):
            if self._counts[level] == 1:
                return self._open[level][0][0]
            if self._open[level]:
                self._close(level)
            level += 1
        return bytes(HASH_BYTES)

    def _close(self, level: int) -> None:
        children, self._open[level] = self._open[level], []
        self.add(_node(children), level + 1)


def merkle_root(leaves: Iterable[tuple[bytes, int]]) -> bytes:
    """Hash over chunk hashes and sizes: the hash of a xorb. Empty gives zeros."""
    tree = MerkleTree()
    for leaf in leaves:
        tree.add(leaf)
    return tree.root()


def file_hash(leaves: Iterable[tuple[bytes, int]]) -> bytes:
    """Hash of a file in Xet's sense, from its chunks; that of an empty one is zeros."""
    root = merkle_root(leaves)
    return blake3(root, key=_ZERO_KEY).digest() if root != bytes(HASH_BYTES) else root


def is_dedup_key(digest: bytes) -> bool:
    """Whether clients ask for this chunk wherever it stands in a file."""
    return int.from_bytes(digest[24:], "little") % DEDUP_MODULUS == 0


def read_xorb(file: BinaryIO, size: int) -> Iterator[tuple[Chunk, bytes]]:
    """The chunks of a serialised xorb, one by one, each with its unpacked bytes.

    Args:
        file: at its beginning.
        size: of the whole file, in bytes.

    Raises:
        BadFormat: damaged, or a chunk unpacks to more than it says.
    """
    at = 0
    while at < size and (head := file.read(8))[: len(_FOOTER_IDENT)] != _FOOTER_IDENT:
        packed, unpacked, scheme = _chunk_header(head)
        data = file.read(packed)
        if len(data) != packed:
            raise BadFormat("a xorb ends within a chunk")
        at += len(head) + packed
        plain = unpack(data, scheme, unpacked)
        yield Chunk(chunk_hash(plain), at, unpacked), plain


def unpack_chunk(data: bytes) -> bytes:
    """The bytes of one chunk as it stands in a xorb, its head included.

    Raises:
        BadFormat: damaged.
    """
    _, size, scheme = _chunk_header(data[:8])
    return unpack(data[8:], scheme, size)


def unpack(data: bytes, scheme: int, size: int) -> bytes:
    """A chunk's bytes; never more than `size` of them are made.

    Raises:
        BadFormat: unknown scheme, damaged, or not `size` bytes.
    """
    import lz4.frame  # type: ignore[import-untyped]

    if scheme == _NONE:
        plain = data
    elif scheme in (_LZ4, _GROUPED_LZ4):
        try:
            plain = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
        except (RuntimeError, EOFError, ValueError) as error:
            raise BadFormat("a chunk cannot be unpacked") from error
    else:
        raise BadFormat(f"unknown compression {scheme}")
    if len(plain) != size:
        raise BadFormat("a chunk is not as large as it says")
    return _ungroup(plain) if scheme == _GROUPED_LZ4 else plain


def pack_chunks(chunks: Sequence[Chunk]) -> bytes:
    """Chunks as the hub keeps them: 40 bytes each."""
    return b"".join(_CHUNK.pack(chunk.hash, chunk.end, chunk.size) for chunk in chunks)


class ChunkTable(Sequence[Chunk]):
    """Chunks as they are kept, unpacked one by one: a long file has millions of them."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data) // _CHUNK.size

    def __iter__(self) -> Iterator[Chunk]:
        return (Chunk(*fields) for fields in _CHUNK.iter_unpack(self._data))

    @overload
    def __getitem__(self, at: int) -> Chunk: ...
    @overload
    def __getitem__(self, at: slice) -> ChunkTable: ...
    def __getitem__(self, at: int | slice) -> Chunk | ChunkTable:
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            assert step == 1
            return ChunkTable(self._data[start * _CHUNK.size : stop * _CHUNK.size])
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        return Chunk(*_CHUNK.unpack_from(self._data, at % len(self) * _CHUNK.size))


def unpack_chunks(data: bytes) -> ChunkTable:
    """The inverse of `pack_chunks`."""
    return ChunkTable(data)


def pack_terms(terms: Sequence[Term]) -> bytes:
    """Terms as the hub keeps them: 48 bytes each."""
    return b"".join(_RECORD.pack(term.xorb, 0, term.size, term.start, term.end) for term in terms)


def unpack_terms(data: bytes) -> list[Term]:
    """The inverse of `pack_terms`."""
    # Most terms of a file share a xorb: one copy of its hash serves all.
    same: dict[bytes, bytes] = {}
    rows = _RECORD.iter_unpack(data)
    return [Term(same.setdefault(xorb, xorb), start, end, size) for xorb, _, size, start, end in rows]


def read_shard(data: bytes) -> Iterator[ShardFile]:
    """The files of a shard; what it says of xorbs is not needed, for the hub has read those itself.

    Raises:
        BadFormat: damaged; only found out when it is come to.
    """
    tag, version = data[: len(_SHARD_TAG)], data[HASH_BYTES : HASH_BYTES + 8]
    if tag != _SHARD_TAG or int.from_bytes(version, "little") != _SHARD_VERSION:
        raise BadFormat("not a shard of version 2")
    at = 48
    while (head := _record(data, at))[0] != _BOOKEND:
        digest, flags, num, _, _ = head
        with_ranges, with_sha256 = bool(flags & _WITH_RANGE_HASHES), bool(flags & _WITH_SHA256)
        terms_at = at + _RECORD.size
        ranges_at = terms_at + _RECORD.size * num
        after = ranges_at + _RECORD.size * (num * with_ranges + with_sha256)
        if after > len(data):
            raise BadFormat("a shard ends within a file")
        ranges = tuple(data[row : row + HASH_BYTES] for row in range(ranges_at, ranges_at + 48 * num * with_ranges, 48))
        sha256 = to_hex(data[after - 48 : after - 48 + HASH_BYTES]) if with_sha256 else None
        yield ShardFile(digest, tuple(unpack_terms(data[terms_at:ranges_at])), ranges, sha256)
        at = after


def build_shard(xorbs: Sequence[tuple[bytes, int, Sequence[Chunk]]], *, lasts_s: float) -> bytes:
    """A shard without files: the answer to a client that asks whether a chunk is known.

    Args:
        xorbs: (hash, serialised size, chunks) each.
        lasts_s: for how long the client may rely on it.
    """
    info, xorb_rows, chunk_rows, at = bytearray(), [], [], 0
    for digest, packed, chunks in xorbs:
        info += _RECORD.pack(digest, 0, len(chunks), sum(chunk.size for chunk in chunks), packed)
        xorb_rows.append((_short(digest), at))
        start = 0
        for number, chunk in enumerate(chunks):
            info += _RECORD.pack(chunk.hash, start, chunk.size, 0, 0)
            chunk_rows.append((_short(chunk.hash), at, number))
            start += chunk.size
        at += 1 + len(chunks)
    bookend = _BOOKEND + bytes(16)
    head = _SHARD_TAG + struct.pack("<QQ", _SHARD_VERSION, _SHARD_FOOTER_BYTES) + bookend
    xorb_table = b"".join(struct.pack("<QI", *row) for row in sorted(xorb_rows))
    chunk_table = b"".join(struct.pack("<QII", *row) for row in sorted(chunk_rows))
    xorbs_at, tables_at = len(head), len(head) + len(info) + len(bookend)
    chunks_at = tables_at + len(xorb_table)
    end = chunks_at + len(chunk_table)
    tables = (tables_at, 0, tables_at, len(xorb_rows), chunks_at, len(chunk_rows))
    now = int(time.time())
    sizes = (sum(packed for _, packed, _ in xorbs), 0, sum(c.size for _, _, chunks in xorbs for c in chunks), end)
    footer = struct.pack("<9Q32s2Q48s4Q", 1, 48, xorbs_at, *tables, _ZERO_KEY, now, int(now + lasts_s), b"", *sizes)
    return head + bytes(info) + bookend + xorb_table + chunk_table + footer


def _chunk_header(head: bytes) -> tuple[int, int, int]:
    """(packed size, unpacked size, compression)."""
    if len(head) != 8 or head[0] != 0:
        raise BadFormat("not the head of a chunk")
    packed, unpacked = int.from_bytes(head[1:4], "little"), int.from_bytes(head[5:8], "little")
    # Some slack: a frame has a header of its own, and data that does not compress may grow by it.
    if not 0 < unpacked <= MAX_CHUNK_BYTES or not 0 < packed <= MAX_CHUNK_BYTES + 1024:
        raise BadFormat("a chunk is larger than chunks may be")
    return packed, unpacked, head[4]


def _ungroup(grouped: bytes) -> bytes:
    """Undo the grouping of every fourth byte."""
    plain, at = bytearray(len(grouped)), 0
    for lane in range(4):
        width = (len(grouped) - lane + 3) // 4
        plain[lane::4] = grouped[at : at + width]
        at += width
    return bytes(plain)


def _node(children: Sequence[tuple[bytes, int]]) -> tuple[bytes, int]:
    text = "".join(f"{to_hex(digest)} : {size}\n" for digest, size in children)
    return blake3(text.encode(), key=_NODE_KEY).digest(), sum(size for _, size in children)


def _record(data: bytes, at: int) -> tuple[bytes, int, int, int, int]:
    if at + _RECORD.size > len(data):
        raise BadFormat("a shard ends without its end mark")
    return _RECORD.unpack_from(data, at)


def _short(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little")
