"""How a hub is run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from kp_data.errors import ConfigError

MIB: Final = 2**20
GIB: Final = 2**30

WebhookReach = Literal["public", "any", "off"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, or one namespace, may take.

    Attributes:
        json_bytes: body of a request that is read whole.
        commit_bytes: body of a commit, inline files included.
        inline_bytes: one file within a commit; larger ones go by LFS or Xet.
        object_bytes: one file.
        part_bytes: files above this are sent in parts of this size.
        xorb_bytes: a serialised xorb; the protocol allows 64 MiB of chunks, and their headers and footer come on top.
        shard_bytes: a shard.
        operations: files that one commit may touch.
        page: entries of a listing a page.
        quota_bytes: what the repositories of a namespace may refer to in all; None: no limit.
        idle_s: how long a client may send nothing in the middle of a body.
        link_s: how long a signed address is good for.
    """

    json_bytes: int = 8 * MIB
    commit_bytes: int = 256 * MIB
    inline_bytes: int = 16 * MIB
    object_bytes: int = 512 * GIB
    part_bytes: int = 512 * MIB
    xorb_bytes: int = 72 * MIB
    shard_bytes: int = 64 * MIB
    operations: int = 25_000
    page: int = 1_000
    quota_bytes: int | None = None
    idle_s: float = 60.0
    link_s: float = 3_600.0


@dataclass(frozen=True)
class HubSettings:
    """How a hub is run.

    Attributes:
        root: folder of the hub: metadata, objects, uploads under way, and the secret it signs with.
        host: address to listen on.
        port: 0 takes any free one.
        database: SQLAlchemy URL of the metadata; None: SQLite in `root`.
        objects: fsspec URL of a folder for the objects, such as `s3://bucket/hub`; None: a folder in `root`.
        public_url: where clients find the hub, if that is not where it listens (a proxy, TLS); no slash at its end.
        merge_cards: accept a commit onto a stale parent when README.md is all that both sides changed and its
            metadata can be merged. Differs from huggingface.co, where such a commit fails.
        direct_downloads: send readers of large files to the object store, by addresses that it has signed, where it can
            sign (S3 can); it must be reachable for them. Else all bytes pass through the hub.
        webhooks: which addresses the hub sends messages to: those of the public internet, any (also of its own network:
            for hubs whose users are trusted with that), or none at all.
        limits: see `Limits`.
        explorer: show datasets as pages, and answer as the dataset viewer does.
    """

    root: Path
    host: str = "127.0.0.1"
    port: int = 8000
    database: str | None = field(default=None, repr=False)
    objects: str | None = field(default=None, repr=False)
    public_url: str | None = None
    merge_cards: bool = False
    direct_downloads: bool = False
    webhooks: WebhookReach = "public"
    limits: Limits = field(default_factory=Limits)
    explorer: bool = True

    def __post_init__(self) -> None:
        if self.public_url is not None and not re.fullmatch(
            r"https?://[^\s/?#@]+(/[^\s?#]*[^\s?#/])?", self.public_url
        ):
            raise ConfigError(f"{self.public_url!r} is no URL such as https://hub.example.org (no slash at its end)")
        quota = self.limits.quota_bytes
        if quota is not None and quota < 0:
            raise ConfigError("a quota is a number of bytes, not below zero")
        if not 0 <= self.port < 65_536:
            raise ConfigError(f"{self.port} is no port")
