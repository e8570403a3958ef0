"""A hub on loopback with a few people on it, and a bare HTTP client that speaks the protocol by hand."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from kp_data.hub.server import Hub, HubSettings, issue_token, join, running

_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Served:
    """A running hub. Ada may write to her namespace and to the organisation `lab`; Bo to his own; Eve only reads."""

    hub: Hub
    url: str
    tokens: Mapping[str, str]
    clients: dict[str | None, httpx.Client] = field(default_factory=dict)

    def client(self, user: str | None = "ada") -> httpx.Client:
        if user not in self.clients:
            headers = {"Authorization": f"Bearer {self.tokens[user]}"} if user else {}
            self.clients[user] = httpx.Client(base_url=self.url, headers=headers, timeout=30.0)
        return self.clients[user]

    def make(self, user: str = "ada", **options: Any) -> Repo:
        """A new, empty dataset of that user."""
        return Repo.create(self, f"{user}/set-{next(_NUMBERS)}", user, **options)


@dataclass(frozen=True)
class Repo:
    """A dataset on a hub, as its owner uses it."""

    served: Served
    name: str
    client: httpx.Client

    @classmethod
    def create(cls, served: Served, name: str, user: str, **options: Any) -> Repo:
        namespace, short = name.split("/")
        client = served.client(user)
        body = {"name": short, "organization": namespace, "type": "dataset", **options}
        client.post("/api/repos/create", json=body).raise_for_status()
        return cls(served, name, client)

    @property
    def api(self) -> str:
        return f"/api/datasets/{self.name}"

    @property
    def head(self) -> str:
        return str(self.client.get(self.api).raise_for_status().json()["sha"])

    def commit(self, *lines: dict[str, Any], parent: str | None = None, branch: str = "main") -> httpx.Response:
        header = {"key": "header", "value": {"summary": "a change", "parentCommit": parent}}
        body = "\n".join(json.dumps(line) for line in (header, *lines))
        headers = {"Content-Type": "application/x-ndjson"}
        return self.client.post(f"{self.api}/commit/{quote(branch, safe='')}", content=body, headers=headers)

    def write(self, files: Mapping[str, bytes]) -> str:
        """Commit small files; the commit's id."""
        made = self.commit(*(inline(path, data) for path, data in files.items()))
        return str(made.raise_for_status().json()["commitOid"])

    def send(self, data: bytes) -> str:
        """Send a large file by LFS; its SHA-256."""
        oid = hashlib.sha256(data).hexdigest()
        (item,) = self.batch(oid, len(data))
        if "actions" in item:
            httpx.put(item["actions"]["upload"]["href"], content=data).raise_for_status()
        return oid

    def batch(self, oid: str, size: int, operation: str = "upload") -> list[dict[str, Any]]:
        body = {"operation": operation, "transfers": ["basic", "multipart"], "objects": [{"oid": oid, "size": size}]}
        found = self.client.post(f"/datasets/{self.name}.git/info/lfs/objects/batch", json=body)
        return list(found.raise_for_status().json()["objects"])

    def read(self, path: str, revision: str = "main", **headers: str) -> httpx.Response:
        address = f"/datasets/{self.name}/resolve/{quote(revision, safe='')}/{quote(path)}"
        return self.client.get(address, headers=headers)

    def paths(self, revision: str = "main") -> list[str]:
        found, address = [], f"{self.api}/tree/{quote(revision, safe='')}?recursive=true"
        while address:
            page = self.client.get(address).raise_for_status()
            found += [entry["path"] for entry in page.json() if entry["type"] == "file"]
            address = page.links.get("next", {}).get("url", "")
        return [path for path in found if path != ".gitattributes"]


def inline(path: str, data: bytes) -> dict[str, Any]:
    content = base64.b64encode(data).decode()
    return {"key": "file", "value": {"path": path, "content": content, "encoding": "base64"}}


def large(path: str, oid: str, size: int | None) -> dict[str, Any]:
    value = {"path": path, "algo": "sha256", "oid": oid}
    return {"key": "lfsFile", "value": value if size is None else value | {"size": size}}


def deleted(path: str) -> dict[str, Any]:
    return {"key": "deletedFolder" if path.endswith("/") else "deletedFile", "value": {"path": path}}


@contextmanager
def serve_for_test(settings: HubSettings) -> Iterator[Served]:
    with running(settings) as (hub, url):
        join(hub, "lab", "ada")
        tokens = {user: issue_token(hub, user, write=user != "eve")[0] for user in ("ada", "bo", "eve")}
        served = Served(hub, url, tokens)
        yield served
        for client in served.clients.values():
            client.close()
