"""The least hub that the official client can publish to: repositories in memory, LFS uploads, faults on request.

What it answers follows the client's own requests; it is a test's counterpart, not a server to use.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from aiohttp import web

LARGE = (".parquet", ".safetensors")


@dataclass
class Repository:
    private: bool
    commits: list[str] = field(default_factory=list)
    trees: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], message: str) -> str:
        sha = hashlib.sha1(f"{len(self.commits)}{message}".encode()).hexdigest()
        self.commits.append(sha)
        self.messages.append(message)
        self.trees[sha] = files
        return sha

    @property
    def head(self) -> str:
        return self.commits[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.trees[self.head]

    def resolve(self, revision: str) -> str | None:
        known = {"main": self.head, **self.tags, **{sha: sha for sha in self.commits}}
        return known.get(revision)


@dataclass
class SmallHub:
    """Repositories by name; `faults` maps a step (preupload, put, commit, tag) to statuses it answers first."""

    token = "hf_smallhubtoken123"
    repositories: dict[str, Repository] = field(default_factory=dict)
    faults: dict[str, list[int]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    before_commit: Any = None
    after_commit: Any = None
    corrupt: bool = False
    readers_only: bool = False

    @contextmanager
    def running(self) -> Iterator[SmallHub]:
        started, loop = threading.Event(), asyncio.new_event_loop()
        runner = web.AppRunner(self._app())

        async def start() -> None:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            self.url = f"http://{host}:{port}"

        def serve() -> None:
            loop.run_until_complete(start())
            # Once it runs for good: a stop that came before would be forgotten.
            loop.call_soon(started.set)
            loop.run_forever()
            loop.run_until_complete(runner.cleanup())
            loop.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        started.wait()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=2**28)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        # The raw path: `feat%2Fx` is one segment.
        parts = [unquote(part) for part in request.raw_path.split("?")[0].strip("/").split("/")]
        self.requests.append(f"{request.method} /{'/'.join(parts)}")
        if parts[0] == "objects":
            return await self._put(parts[1], request)
        sent = request.headers.get("Authorization", "")
        if sent and sent != f"Bearer {self.token}":
            return _error(401, "Invalid credentials in Authorization header")
        if self.readers_only and request.method == "POST":
            return _error(403, "this token is read-only")
        if parts == ["api", "repos", "create"]:
            return self._create(await request.json())
        if parts == ["api", "validate-yaml"]:
            return web.json_response({"errors": [], "warnings": []})
        if parts[:2] == ["api", "datasets"]:
            return await self._api("/".join(parts[2:4]), parts[4:], request)
        return await self._content("/".join(parts[1:3]).removesuffix(".git"), parts[3:], request)

    def _create(self, body: dict[str, Any]) -> web.Response:
        name = f"{body['organization']}/{body['name']}"
        private = body.get("private", False) or body.get("visibility") == "private"
        exists = name in self.repositories
        if not exists:
            self.repositories[name] = Repository(private)
            self.repositories[name].commit({".gitattributes": b""}, "initial commit")
        return web.json_response({"url": f"{self.url}/datasets/{name}"}, status=409 if exists else 200)

    async def _api(self, name: str, rest: list[str], request: web.Request) -> web.Response:
        repository = self.repositories.get(name)
        if repository is None:
            return _error(404, "Repository not found", "RepoNotFound")
        step, revision = (rest[0] if rest else "revision"), (rest[1] if len(rest) > 1 else "main")
        if (status := self._fault(step)) is not None:
            return _error(status, "injected")
        if step == "refs":
            tags = [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": sha} for tag, sha in repository.tags.items()
            ]
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head}
            return web.json_response({"branches": [main], "converts": [], "tags": tags})
        if (sha := repository.resolve(revision)) is None:
            return _error(404, "Revision not found", "RevisionNotFound")
        if step == "revision":
            siblings = [{"rfilename": path} for path in repository.trees[sha]]
            return web.json_response({"id": name, "sha": sha, "private": repository.private, "siblings": siblings})
        if step == "tree":
            return web.json_response([_entry(path, data) for path, data in sorted(repository.trees[sha].items())])
        body = await request.read()
        if step == "preupload":
            files = [(entry["path"], entry["size"]) for entry in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": _mode(path), "shouldIgnore": False} for path, _ in files]
            return web.json_response({"files": modes})
        if step == "commit":
            return self._commit(name, repository, body)
        assert step == "tag", f"the small hub does not know {rest}"
        tag = json.loads(body)["tag"]
        if tag in repository.tags:
            return _error(409, "tag exists")
        repository.tags[tag] = sha
        return web.json_response({})

    def _commit(self, name: str, repository: Repository, body: bytes) -> web.Response:
        if self.before_commit is not None:
            action, self.before_commit = self.before_commit, None
            action(repository)
        lines = [json.loads(line) for line in body.splitlines() if line]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, repository.head):
            return _error(412, "A commit has happened since")
        files = dict(repository.files)
        for line in lines[1:]:
            path = line["value"]["path"]
            if line["key"] == "deletedFile":
                del files[path]
            elif line["key"] == "lfsFile":
                files[path] = self.objects[line["value"]["oid"]]
            else:
                files[path] = base64.b64decode(line["value"]["content"])
        if self.corrupt:
            files = {path: data[:-1] if path.endswith(".parquet") else data for path, data in files.items()}
        sha = repository.commit(files, header["summary"])
        if self.after_commit is not None:
            action, self.after_commit = self.after_commit, None
            return action(repository)
        return web.json_response({"commitUrl": f"{self.url}/datasets/{name}/commit/{sha}", "commitOid": sha})

    async def _content(self, name: str, rest: list[str], request: web.Request) -> web.Response:
        if rest[:4] == ["info", "lfs", "objects", "batch"]:
            wanted = (await request.json())["objects"]
            return web.json_response(
                {"transfer": "basic", "objects": [self._object(entry) for entry in wanted]},
                content_type="application/vnd.git-lfs+json",
            )
        repository = self.repositories.get(name)
        sha = repository.resolve(rest[1]) if repository else None
        if repository is None or sha is None:
            return _error(404, "not found", "RepoNotFound" if repository is None else "RevisionNotFound")
        path = "/".join(rest[2:])
        if path not in repository.trees[sha]:
            return _error(404, "no such file", "EntryNotFound", commit=sha)
        data = repository.trees[sha][path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{_entry(path, data)["oid"]}"', "Accept-Ranges": "bytes"}
        return web.Response(body=data, headers=headers)

    def _object(self, entry: dict[str, Any]) -> dict[str, Any]:
        known = {"oid": entry["oid"], "size": entry["size"]}
        upload = {"upload": {"href": f"{self.url}/objects/{entry['oid']}"}}
        return known if entry["oid"] in self.objects else {**known, "actions": upload}

    async def _put(self, oid: str, request: web.Request) -> web.Response:
        data = await request.read()
        if (status := self._fault("put")) is not None:
            return _error(status, "injected")
        assert hashlib.sha256(data).hexdigest() == oid
        self.objects[oid] = data
        return web.Response()

    def _fault(self, step: str) -> int | None:
        queue = self.faults.get(step)
        return queue.pop(0) if queue else None


def _mode(path: str) -> str:
    return "lfs" if path.endswith(LARGE) else "regular"


def _entry(path: str, data: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry = {"type": "file", "path": path, "size": len(data), "oid": blob}
    if _mode(path) == "lfs":
        digest = hashlib.sha256(data).hexdigest()
        entry |= {"oid": digest, "lfs": {"oid": digest, "size": len(data), "pointerSize": 130}}
    return entry


def _error(status: int, message: str, code: str = "", *, commit: str = "") -> web.Response:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    headers |= {"X-Repo-Commit": commit} if commit else {}
    return web.json_response({"error": message}, status=status, headers=headers)
