"""Batch jobs in the OpenAI dialect: upload a file of requests, create a batch from it, download two files of rows.

Source: OpenAI's Batch and Files API (`/v1/batches`, `/v1/files`), as also spoken by several gateways.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import quote, urlsplit

from kp_data.config import Teacher
from kp_data.teachers.batches.cost import at_batch_price
from kp_data.teachers.batches.protocol import (
    CLOCK_SLACK_S,
    End,
    Look,
    Row,
    Shape,
    SubmissionUnclear,
    Trace,
    Wanted,
)
from kp_data.teachers.batches.wire import Wire, WireFailed, id_of
from kp_data.teachers.direct import failure_of_status, reply_of_completion
from kp_data.teachers.parameters import MAX_COMPLETION_TOKENS, MAX_TOKENS
from kp_data.teachers.prompts import Message
from kp_data.teachers.transport import CallFailed, Endpoint, Reply

_COMPLETIONS: Final = "/v1/chat/completions"
_MARK: Final = "kp_job"
_ENDS: Final[Mapping[str, End]] = {end: end for end in get_args(End)}
_NEVER_RUN: Final = ("batch_expired", "batch_cancelled")
_PAGE: Final = "100"
_MOST_PAGES: Final = 1000


class OpenAIBatches:
    """See `BatchClient`."""

    shape = Shape(b"", b"\n", b"\n", most_requests=50_000, most_bytes=200 * 10**6)

    def __init__(self, teacher: Teacher, endpoint: Endpoint) -> None:
        assert endpoint.api_base is not None
        self._teacher, self._model = teacher, endpoint.model
        # There every model knows the later name, and the reasoning ones know no other.
        is_openai = urlsplit(endpoint.api_base).hostname == "api.openai.com"
        self._limit_name = MAX_COMPLETION_TOKENS if is_openai else MAX_TOKENS
        headers = {} if endpoint.api_key is None else {"Authorization": f"Bearer {endpoint.api_key}"}
        self._wire = Wire(endpoint.api_base, headers)
        # A refused creation is tried again without sending the file once more.
        self._uploaded: dict[str, str] = {}

    def request(self, custom_id: str, messages: list[Message], parameters: Mapping[str, Any]) -> bytes:
        """See `BatchClient.request`."""
        body = {"model": self._model, "messages": messages, **parameters}
        if MAX_TOKENS in body:
            body[self._limit_name] = body.pop(MAX_TOKENS)
        request = {"custom_id": custom_id, "method": "POST", "url": _COMPLETIONS, "body": body}
        return json.dumps(request, ensure_ascii=False).encode()

    async def check(self) -> None:
        """See `BatchClient.check`."""
        await self._wire.check(self._teacher.name, "/batches")

    async def submit(self, job: str, requests: Path) -> str:
        """See `BatchClient.submit`."""
        if job not in self._uploaded:
            answer = await self._wire.send_file("/files", requests, _file_name(job), {"purpose": "batch"})
            self._uploaded[job] = id_of(answer)
        body = {
            "input_file_id": self._uploaded[job],
            "endpoint": _COMPLETIONS,
            "completion_window": "24h",
            "metadata": {_MARK: job},
        }
        try:
            provider_id = id_of(await self._wire.call("POST", "/batches", body=body))
        except WireFailed as failure:
            if failure.was_refused:
                raise
            raise SubmissionUnclear(str(failure)) from failure
        del self._uploaded[job]
        return provider_id

    async def find(self, wanted: Wanted) -> str | Trace:
        """See `BatchClient.find`. The file of a job that is not there is deleted, so that it cannot come later."""
        files = await self._files_of(wanted.job)
        if (found := await self._search(wanted, files)) is not None:
            return found
        for file in files:
            await self._delete_file(file)
        self._uploaded.pop(wanted.job, None)
        # Once more: it may have come between the search and the deletion.
        return (await self._search(wanted, files)) or Trace.ABSENT if files else Trace.ABSENT

    async def look(self, provider_id: str) -> Look:
        """See `BatchClient.look`."""
        batch = await self._wire.call_of_job(provider_id, "GET", f"/batches/{provider_id}")
        counts = batch.get("request_counts")
        counts = counts if isinstance(counts, dict) else {}
        done = [_count(counts.get(name)) for name in ("completed", "failed")]
        files = [batch.get("output_file_id"), batch.get("error_file_id")]
        return Look(
            provider_id,
            _ENDS.get(str(batch.get("status"))),
            sum(done),
            _count(counts.get("total")),
            _message(batch.get("errors")),
            tuple(file for file in files if isinstance(file, str) and file),
        )

    async def rows(self, look: Look) -> AsyncGenerator[Row, None]:
        """See `BatchClient.rows`."""
        for file in look.results:
            path = f"/files/{quote(file, safe='')}/content"
            async with aclosing(self._wire.lines_of_job(look.provider_id, path)) as lines:
                async for line in lines:
                    if (row := read_row(self._teacher, line)) is not None:
                        yield row

    async def cancel(self, provider_id: str) -> None:
        """See `BatchClient.cancel`."""
        await self._wire.call_of_job(provider_id, "POST", f"/batches/{provider_id}/cancel")

    async def close(self) -> None:
        """See `BatchClient.close`."""
        await self._wire.close()

    async def _search(self, wanted: Wanted, files: list[str]) -> str | None:
        """The batch that names our job, or is made of its file where a server drops the name."""
        async for batch in self._listed("/batches", {}):
            metadata = batch.get("metadata")
            named = isinstance(metadata, dict) and metadata.get(_MARK) == wanted.job
            if named or batch.get("input_file_id") in files:
                return id_of(batch)
            created_at = batch.get("created_at")
            if isinstance(created_at, int | float) and created_at < wanted.created_at - CLOCK_SLACK_S:
                return None
        return None

    async def _files_of(self, job: str) -> list[str]:
        """Ids of the files that were uploaded for a job; none where the server lists no files."""
        try:
            return [
                id_of(file)
                async for file in self._listed("/files", {"purpose": "batch"})
                if file.get("filename") == _file_name(job)
            ]
        except WireFailed as failure:
            if failure.status in (404, 405, 501):
                return []
            raise

    async def _delete_file(self, file: str) -> None:
        try:
            await self._wire.call("DELETE", f"/files/{file}")
        except WireFailed as failure:
            if failure.status not in (404, 405, 501):
                raise

    async def _listed(self, path: str, params: Mapping[str, str]) -> AsyncGenerator[dict[str, Any], None]:
        """What a list holds, page by page, newest first."""
        after: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            page = await self._wire.call("GET", path, params={**params, "limit": _PAGE, **after})
            listed = [item for item in page.get("data") or () if isinstance(item, dict)]
            for item in listed:
                yield item
            if not page.get("has_more") or not listed:
                return
            after = {"after": str(listed[-1].get("id"))}


def read_row(teacher: Teacher, line: bytes) -> Row | None:
    """One line of an output or error file; None where it names no request.

    Args:
        teacher: for its price.
        line: untrusted.
    """
    try:
        row = json.loads(line)
        custom_id = row["custom_id"]
        response, error = row.get("response"), row.get("error")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return Row(custom_id, _outcome(teacher, response, error)) if isinstance(custom_id, str) else None


def _outcome(teacher: Teacher, response: Any, error: Any) -> Reply | CallFailed | None:
    if isinstance(error, dict) and error.get("code") in _NEVER_RUN:
        return None
    if not isinstance(response, dict):
        said = error.get("message") if isinstance(error, dict) else error
        return CallFailed("bad_response", f"no response ({said})"[:300], retryable=True, may_be_billed=False)
    status, body = response.get("status_code"), response.get("body")
    if isinstance(status, int) and status != 200:
        inner = body.get("error") if isinstance(body, dict) else None
        said = inner.get("message") if isinstance(inner, dict) else inner
        return failure_of_status(status, str(said or "no message"), {})
    try:
        return at_batch_price(teacher, reply_of_completion(teacher, body))
    except CallFailed as failure:
        return failure


def _file_name(job: str) -> str:
    return f"kp-{job}.jsonl"


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _message(errors: Any) -> str | None:
    """What a batch says of why it failed: the first of its errors."""
    listed = errors.get("data") if isinstance(errors, dict) else None
    first = listed[0] if isinstance(listed, list) and listed else None
    if not isinstance(first, dict):
        return None
    return ": ".join(str(first[name]) for name in ("code", "message") if first.get(name))[:300]
