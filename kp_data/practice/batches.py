"""The batch endpoints of the practice server, in the dialects of OpenAI and Anthropic.

    POST /v1/files   GET /v1/files   DELETE /v1/files/{id}   GET /v1/files/{id}/content
    POST /v1/batches   GET /v1/batches   GET /v1/batches/{id}   POST /v1/batches/{id}/cancel
    POST /v1/messages/batches   GET …   GET …/{id}   GET …/{id}/results   POST …/{id}/cancel

Jobs live as long as the server. Like single calls, they go wrong on request.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import BodyPartReader, web

from kp_data.errors import ConfigError
from kp_data.practice.batch_jobs import (
    Asked,
    BatchBehaviour,
    BatchJob,
    Dialect,
    anthropic_body,
    anthropic_row,
    openai_body,
    openai_row,
    read_requests,
)
from kp_data.practice.completion import Ask, NotServed, Speaker

_ENDPOINTS: Final = ("upload", "create", "look", "list", "files", "results", "cancel")
_FAULTS: Final = ("hang", "stall", "lost", "cut", "hold")
_MOST_BYTES: Final = 256 * 10**6
_MOST_REQUESTS: Final = {"openai": 50_000, "anthropic": 100_000}

_BASES: Final[Mapping[Dialect, str]] = {"openai": "/v1/batches", "anthropic": "/v1/messages/batches"}

Handler = Callable[[web.Request], Awaitable[web.Response]]


@dataclass(frozen=True)
class _File:
    id: str
    name: str
    data: bytes
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def body(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.data),
            "created_at": int(self.created_at.timestamp()),
            "filename": self.name,
            "purpose": "batch",
            "status": "processed",
        }


class BatchDesk:
    """The jobs and files of a server, and the handlers of their endpoints.

    Args:
        behaviour: see there.
        speaker: who answers.
        closing: set when the server closes.

    Raises:
        ConfigError: a fault that there is not.
    """

    def __init__(self, behaviour: BatchBehaviour, speaker: Speaker, closing: asyncio.Event) -> None:
        self._behaviour, self._speaker, self._closing = behaviour, speaker, closing
        self._faults = _parse_faults(behaviour.faults)
        self._jobs: dict[str, BatchJob] = {}
        self._files: dict[str, _File] = {}
        self._numbers = itertools.count()
        self._met: Counter[str] = Counter()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Mount the endpoints."""
        for dialect, base in _BASES.items():
            router.add_post(base, self._faulty("create", self._create(dialect)))
            router.add_get(base, self._faulty("list", self._list_jobs(dialect)))
            router.add_get(base + "/{id}", self._faulty("look", self._look))
            router.add_post(base + "/{id}/cancel", self._faulty("cancel", self._cancel))
        router.add_get("/v1/messages/batches/{id}/results", self._faulty("results", self._results))
        router.add_post("/v1/files", self._faulty("upload", self._upload))
        router.add_get("/v1/files", self._faulty("files", self._list_files))
        router.add_delete("/v1/files/{id}", self._faulty("files", self._delete_file))
        router.add_get("/v1/files/{id}/content", self._faulty("results", self._content))

    def answered(self) -> Iterator[Ask]:
        """Every request that a job has answered, however often: that is what its user pays for."""
        for job in self._jobs.values():
            yield from job.answered()

    def stats(self) -> dict[str, Any]:
        """What was handed in, and which faults were met; `ENDPOINT:FAULT` to how often."""
        return {
            "jobs": len(self._jobs),
            "rows": sum(len(job.asked) for job in self._jobs.values()),
            "answered": sum(1 for _ in self.answered()),
            "files": len(self._files),
            "met": dict(self._met),
        }

    def reset(self) -> None:
        """Forget what was counted, and the jobs with it."""
        self._jobs.clear()
        self._met.clear()

    def _faulty(self, endpoint: str, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            faults = self._faults[endpoint]
            fault = faults.popleft() if faults else ""
            if fault:
                self._met[f"{endpoint}:{fault}"] += 1
            if fault.isdigit():
                raise NotServed(int(fault), f"a fault that was asked for: HTTP {fault}", code="fault")
            if fault == "hang":
                return await self._keep_waiting(request)
            response = await handler(request)
            if fault in ("cut", "hold"):
                return await self._half(request, response, fault)
            if fault == "stall":
                return await self._keep_waiting(request)
            return _hang_up(request) if fault == "lost" else response

        return handle

    async def _keep_waiting(self, request: web.Request) -> web.Response:
        await self._closing.wait()
        return _hang_up(request)

    async def _half(self, request: web.Request, response: web.Response, fault: str) -> web.StreamResponse:
        body = response.body
        assert isinstance(body, bytes)
        half = web.StreamResponse(headers={"Content-Type": response.content_type, "Content-Length": str(len(body))})
        await half.prepare(request)
        await half.write(body[: len(body) // 2])
        if fault == "hold":
            await self._closing.wait()
        _hang_up(request)
        return half

    async def _upload(self, request: web.Request) -> web.Response:
        name, purpose, data = "", "", b""
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                raise NotServed(400, "a form within a form is not understood")
            if part.name == "file":
                name, data = part.filename or "", await _bounded(part)
            elif part.name == "purpose":
                purpose = await part.text()
        if purpose != "batch" or not data:
            raise NotServed(400, "a file with purpose 'batch' is needed")
        file = _File(f"file-{next(self._numbers):06d}", name, data)
        self._files[file.id] = file
        return web.json_response(file.body())

    async def _list_files(self, request: web.Request) -> web.Response:
        files = sorted(self._files.values(), key=lambda file: file.id, reverse=True)
        return _page(request, [file.body() for file in files], "after")

    async def _delete_file(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if self._files.pop(name, None) is None:
            raise NotServed(404, f"no file {name!r}")
        return web.json_response({"id": name, "object": "file", "deleted": True})

    def _create(self, dialect: Dialect) -> Handler:
        async def create(request: web.Request) -> web.Response:
            content = await _read(request)
            try:
                body = json.loads(content)
                return self._create_anthropic(request, body) if dialect == "anthropic" else self._create_openai(body)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                raise NotServed(400, "the body, or the file, is not understood") from error

        return create

    def _create_openai(self, body: Any) -> web.Response:
        file = self._files.get(str(body.get("input_file_id")))
        if file is None:
            raise NotServed(400, f"no file {body.get('input_file_id')!r}")
        if body.get("endpoint") != "/v1/chat/completions" or body.get("completion_window") != "24h":
            raise NotServed(400, "endpoint must be /v1/chat/completions and completion_window 24h")
        job = self._new_job("openai", [json.loads(line) for line in file.data.splitlines() if line.strip()])
        job.input_file, job.metadata = file.id, body.get("metadata")
        return web.json_response(openai_body(job))

    def _create_anthropic(self, request: web.Request, body: Any) -> web.Response:
        if "anthropic-version" not in request.headers:
            raise NotServed(400, "anthropic-version: header is required")
        return web.json_response(anthropic_body(self._new_job("anthropic", body["requests"]), ""))

    def _new_job(self, dialect: Dialect, lines: list[Any]) -> BatchJob:
        number, behaviour = len(self._jobs), self._behaviour
        asked: Sequence[Asked] = ()
        message = None
        if len(lines) > _MOST_REQUESTS[dialect]:
            raise NotServed(400, f"more than {_MOST_REQUESTS[dialect]:,} requests")
        end = behaviour.ends[number] if number < len(behaviour.ends) else "completed"
        try:
            asked = read_requests(lines, dialect, self._speaker.models)
        except NotServed as error:
            # The other dialect looks at its file only after it has taken the job.
            if dialect == "anthropic":
                raise
            end, message = "failed", str(error)
        if end == "failed":
            message = message or "a failure that was asked for"
        name = f"{'batch' if dialect == 'openai' else 'msgbatch'}_{next(self._numbers):06d}"
        job = BatchJob(name, dialect, number, asked, end, behaviour.looks, behaviour, message=message)
        self._jobs[job.id] = job
        return job

    def _list_jobs(self, dialect: Dialect) -> Handler:
        async def list_jobs(request: web.Request) -> web.Response:
            jobs = [job for job in reversed(self._jobs.values()) if job.dialect == dialect]
            after = "after" if dialect == "openai" else "after_id"
            response = _page(request, [self._body(request, job) for job in jobs], after)
            for job in jobs:
                job.look()
            return response

        return list_jobs

    async def _look(self, request: web.Request) -> web.Response:
        job = self._job(request)
        response = web.json_response(self._body(request, job))
        job.look()
        return response

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._job(request)
        job.cancel()
        return web.json_response(self._body(request, job))

    async def _results(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if not job.has_ended:
            raise NotServed(404, f"batch {job.id} has not ended yet")
        return _lines(anthropic_row(asked, fate, job, self._speaker) for asked, fate in job.rows())

    async def _content(self, request: web.Request) -> web.Response:
        name, _, which = request.match_info["id"].rpartition("-")
        job = self._jobs.get(name)
        if job is None or not job.has_ended or which not in ("output", "error"):
            raise NotServed(404, "no such file")
        rows = [(asked, fate) for asked, fate in job.rows() if (fate == "answered") == (which == "output")]
        return _lines(openai_row(asked, fate, job, self._speaker) for asked, fate in rows)

    def _job(self, request: web.Request) -> BatchJob:
        job = self._jobs.get(request.match_info["id"])
        if job is None or (job.dialect == "anthropic") != ("/messages/" in request.path):
            raise NotServed(404, f"no batch {request.match_info['id']!r}")
        return job

    def _body(self, request: web.Request, job: BatchJob) -> dict[str, Any]:
        if job.dialect == "openai":
            return openai_body(job)
        return anthropic_body(job, f"{request.url.origin()}/v1/messages/batches/{job.id}/results")


def _parse_faults(text: str | None) -> defaultdict[str, deque[str]]:
    faults: defaultdict[str, deque[str]] = defaultdict(deque)
    for item in (text or "").split(",") if text else ():
        endpoint, _, fault = item.strip().partition(":")
        is_status = fault.isdigit() and 400 <= int(fault) <= 599
        if endpoint not in _ENDPOINTS or not (is_status or fault in _FAULTS):
            raise ConfigError(
                f"no fault {item.strip()!r}; write ENDPOINT:FAULT, endpoints: {', '.join(_ENDPOINTS)}, faults: an HTTP "
                f"status, {', '.join(_FAULTS)}",
                place="faults of batches",
            )
        faults[endpoint].append(fault)
    return faults


def _page(request: web.Request, items: list[dict[str, Any]], after: str) -> web.Response:
    """One page of a list, newest first."""
    start = next((i + 1 for i, item in enumerate(items) if item["id"] == request.query.get(after)), 0)
    limit = int(request.query.get("limit", "20"))
    some = items[start : start + limit]
    ends = {"first_id": some[0]["id"] if some else None, "last_id": some[-1]["id"] if some else None}
    return web.json_response({"object": "list", "data": some, "has_more": start + limit < len(items), **ends})


def _lines(rows: Iterable[dict[str, Any]]) -> web.Response:
    body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    return web.Response(body=body, content_type="application/octet-stream")


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _read(request: web.Request) -> bytes:
    body = bytearray()
    async for part in request.content.iter_chunked(1 << 16):
        body += part
        if len(body) > _MOST_BYTES:
            raise NotServed(413, f"more than {_MOST_BYTES:,} bytes")
    return bytes(body)


async def _bounded(part: BodyPartReader) -> bytes:
    data = bytearray()
    while chunk := await part.read_chunk(1 << 16):
        data += chunk
        if len(data) > _MOST_BYTES:
            raise NotServed(413, f"more than {_MOST_BYTES:,} bytes")
    return bytes(data)
