"""Xorbs and shards written by hand, as a client would write them: for tests of the hub that reads them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import lz4.frame
from served_hub import Repo

from kp_data.hub.server.xet_format import chunk_hash, file_hash, from_hex, merkle_root, range_hash, to_hex

TAG = b"HFRepoMetaData\0" + bytes([85, 105, 103, 69, 106, 123, 129, 87, 131, 165, 189, 217, 92, 205, 209, 74, 169])
BOOKEND = b"\xff" * 32 + bytes(16)


def packed(data: bytes, scheme: int = 0) -> bytes:
    """A chunk as it stands in a xorb."""
    body = data if scheme != 2 else b"".join(data[lane::4] for lane in range(4))
    body = body if scheme == 0 else lz4.frame.compress(body)
    return bytes([0]) + len(body).to_bytes(3, "little") + bytes([scheme]) + len(data).to_bytes(3, "little") + body


def leaves(chunks: Sequence[bytes]) -> list[tuple[bytes, int]]:
    return [(chunk_hash(chunk), len(chunk)) for chunk in chunks]


def xorb(chunks: Sequence[bytes]) -> tuple[str, bytes]:
    """(hash, serialised) with every kind of compression in turn."""
    data = b"".join(packed(chunk, number % 3) for number, chunk in enumerate(chunks))
    return to_hex(merkle_root(leaves(chunks))), data


@dataclass(frozen=True)
class FilePart:
    """Chunks `start` up to but without `end` of a xorb."""

    xorb: str
    chunks: Sequence[bytes]
    start: int
    end: int

    @property
    def data(self) -> list[bytes]:
        return list(self.chunks[self.start : self.end])


def shard(parts: Sequence[FilePart], *, sha256: str | None = None, proof: bytes | None = None) -> tuple[str, bytes]:
    """(the file's hash, a shard that describes it)."""
    chunks = [chunk for part in parts for chunk in part.data]
    digest = file_hash(leaves(chunks))
    sha256 = sha256 or hashlib.sha256(b"".join(chunks)).hexdigest()
    info = digest + struct.pack("<IIII", 0xC0000000, len(parts), 0, 0)
    for part in parts:
        info += from_hex(part.xorb) + struct.pack("<IIII", 0, sum(map(len, part.data)), part.start, part.end)
    for part in parts:
        info += (proof or range_hash(chunk_hash(chunk) for chunk in part.data)) + bytes(16)
    info += from_hex(sha256) + bytes(16)
    return to_hex(digest), TAG + struct.pack("<QQ", 2, 0) + info + BOOKEND + BOOKEND


@dataclass(frozen=True)
class Storage:
    """The Xet storage of one repository."""

    url: str
    token: str

    @classmethod
    def of(cls, repo: Repo, scope: str = "write") -> Storage:
        found = repo.client.get(f"{repo.api}/xet-{scope}-token/main").raise_for_status().json()
        return cls(found["casUrl"], found["accessToken"])

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def put_xorb(self, digest: str, data: bytes) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/xorbs/default/{digest}", content=data, headers=self.headers)

    def put_shard(self, data: bytes) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/shards", content=data, headers=self.headers)

    def layout(self, digest: str, **headers: str) -> httpx.Response:
        return httpx.get(f"{self.url}/v1/reconstructions/{digest}", headers=self.headers | headers)

    def known(self, chunk: bytes) -> httpx.Response:
        digest = to_hex(chunk_hash(chunk))
        return httpx.get(f"{self.url}/v1/chunks/default-merkledb/{digest}", headers=self.headers)

    def send(self, chunks: Sequence[bytes]) -> tuple[str, str]:
        """Send a file that is one xorb; (its hash, its SHA-256)."""
        name, data = xorb(chunks)
        self.put_xorb(name, data).raise_for_status()
        digest, described = shard([FilePart(name, chunks, 0, len(chunks))])
        self.put_shard(described).raise_for_status()
        return digest, hashlib.sha256(b"".join(chunks)).hexdigest()


def fetched(layout: dict[str, Any], chunks_of: dict[str, Sequence[bytes]]) -> bytes:
    """What a client makes of a layout: every range is downloaded, compared with what the xorb holds, and joined."""
    data = b""
    for term in layout["terms"]:
        span = (term["range"]["start"], term["range"]["end"])
        fetch = next(
            item
            for item in layout["fetch_info"][term["hash"]]
            if item["range"]["start"] <= span[0] and span[1] <= item["range"]["end"]
        )
        ends = fetch["url_range"]
        found = httpx.get(fetch["url"], headers={"Range": f"bytes={ends['start']}-{ends['end']}"})
        assert found.status_code == 206
        chunks = chunks_of[term["hash"]]
        held = chunks[fetch["range"]["start"] : fetch["range"]["end"]]
        expected = b"".join(packed(chunk, (fetch["range"]["start"] + n) % 3) for n, chunk in enumerate(held))
        assert found.content == expected
        plain = b"".join(chunks[span[0] : span[1]])
        assert len(plain) == term["unpacked_length"]
        data += plain
    return data[layout["offset_into_first_range"] :]
