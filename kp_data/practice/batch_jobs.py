"""Batch jobs of the practice server: what becomes of each request, and how the two dialects write it down."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from kp_data.practice.completion import Ask, NotServed, Speaker, completion_body, read_ask
from kp_data.practice.faults import uniform

Dialect = Literal["openai", "anthropic"]
Fate = Literal["answered", "failed", "refused", "unfinished", "missing"]
End = Literal["completed", "expired", "cancelled", "failed"]

_WINDOW: Final = timedelta(hours=24)
_MESSAGES: Final[Mapping[Fate, str]] = {"failed": "the server had an error", "refused": "the request is invalid"}


@dataclass(frozen=True)
class BatchBehaviour:
    """How batch jobs go, and what goes wrong.

    Attributes:
        looks: how many looks at a job find it still at work.
        ends: how the jobs end in turn (`completed`, `expired`, `cancelled`, `failed`); later ones complete.
        finished: share of the requests that are finished in a job that expires or is cancelled.
        failing, refused: shares of requests that end with an error of the server, or of the request.
        missing, doubled: shares of requests whose row is left out, or comes twice.
        in_order: whether rows come in the order of the requests.
        keeps_metadata: whether a job's metadata is given back.
        faults: `"ENDPOINT:FAULT,…"`, each met once, in turn for each endpoint (`upload`, `create`, `look`, `list`,
            `files`, `results`, `cancel`). Faults: an HTTP status; `hang` (nothing is done, no answer); `stall` (it is
            done, no answer); `lost` (it is done, the connection breaks); `cut` and `hold` (half of a body, then the
            connection breaks, or nothing more comes).
        seed: of the shares and the order.
    """

    looks: int = 1
    ends: tuple[End, ...] = ()
    finished: float = 0.5
    failing: float = 0.0
    refused: float = 0.0
    missing: float = 0.0
    doubled: float = 0.0
    in_order: bool = False
    keeps_metadata: bool = True
    faults: str | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a job; `error` where it could not be read."""

    custom_id: str
    ask: Ask | None
    error: str | None = None


@dataclass
class BatchJob:
    """One job.

    Attributes:
        id: the server's.
        dialect: in which it came.
        number: how many came before it.
        asked: its requests, in order.
        end: how it ends, or has ended.
        looks_left: looks that will still find it at work.
        input_file, metadata: as given, OpenAI's dialect only.
        message: why it failed as a whole.
    """

    id: str
    dialect: Dialect
    number: int
    asked: Sequence[Asked]
    end: End
    looks_left: int
    behaviour: BatchBehaviour
    input_file: str | None = None
    metadata: Mapping[str, str] | None = None
    message: str | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def has_ended(self) -> bool:
        """Whether its rows can be fetched."""
        return self.looks_left <= 0 or self.end == "failed"

    def look(self) -> None:
        """Somebody looked at it."""
        self.looks_left -= 1

    def cancel(self) -> None:
        """Stop it, unless it has ended."""
        if not self.has_ended:
            self.end, self.looks_left = "cancelled", 0

    def fates(self) -> Iterator[tuple[Asked, Fate]]:
        """What becomes of each request, in order; always the same."""
        finished = len(self.asked)
        if self.end != "completed":
            finished = 0 if self.end == "failed" else int(self.behaviour.finished * finished)
        for place, asked in enumerate(self.asked):
            yield asked, "unfinished" if place >= finished else self._fate(asked)

    def answered(self) -> Iterator[Ask]:
        """What it answered, whether the row is given out or not: that is what is paid for."""
        for asked, fate in self.fates():
            if asked.ask is not None and fate in ("answered", "missing"):
                yield asked.ask

    def rows(self) -> list[tuple[Asked, Fate]]:
        """Its rows in the order in which they are given out; a failed job has none."""
        if self.end == "failed":
            return []
        rows = [row for row in self.fates() if row[1] != "missing"]
        rows += [row for row in rows if uniform(self._draw("doubled", row[0])) < self.behaviour.doubled]
        if not self.behaviour.in_order:
            random.Random(f"{self.behaviour.seed}:{self.number}").shuffle(rows)
        return rows

    def _fate(self, asked: Asked) -> Fate:
        if asked.ask is None:
            return "refused"
        rest = uniform(self._draw("fate", asked))
        fates: tuple[Fate, ...] = ("failed", "refused", "missing")
        for fate in fates:
            rest -= getattr(self.behaviour, "failing" if fate == "failed" else fate)
            if rest < 0:
                return fate
        return "answered"

    def _draw(self, what: str, asked: Asked) -> str:
        return f"{what}:{self.behaviour.seed}:{self.number}:{asked.custom_id.rpartition('-')[2]}"


def read_requests(lines: Sequence[Mapping[str, Any]], dialect: Dialect, models: Sequence[str]) -> list[Asked]:
    """The requests of a job.

    Raises:
        NotServed: 400, two have the same id or one has none.
    """
    read = [_request(line, dialect, models) for line in lines]
    if len({asked.custom_id for asked in read}) < len(read):
        raise NotServed(400, "two requests have the same custom_id", code="duplicate_custom_id")
    return read


def openai_row(asked: Asked, fate: Fate, job: BatchJob, speaker: Speaker) -> dict[str, Any]:
    """One line of an output or error file."""
    row: dict[str, Any] = {"id": f"batch_req_{asked.custom_id}", "custom_id": asked.custom_id, "error": None}
    if fate == "unfinished":
        code = f"batch_{job.end}"
        return {**row, "response": None, "error": {"code": code, "message": "it was not run in time"}}
    status, body = 200, {}
    if fate == "answered" and asked.ask is not None:
        body = completion_body(asked.ask, speaker.answer(asked.ask))
    else:
        status = 500 if fate == "failed" else 400
        body = NotServed(status, asked.error or _MESSAGES[fate]).body()
    return {**row, "response": {"status_code": status, "request_id": asked.custom_id, "body": body}}


def anthropic_row(asked: Asked, fate: Fate, job: BatchJob, speaker: Speaker) -> dict[str, Any]:
    """One line of results."""
    if fate == "unfinished":
        result: dict[str, Any] = {"type": "expired" if job.end == "expired" else "canceled"}
    elif fate == "answered" and asked.ask is not None:
        result = {"type": "succeeded", "message": _message(asked.ask, speaker)}
    else:
        kind = "api_error" if fate == "failed" else "invalid_request_error"
        inner = {"type": kind, "message": asked.error or _MESSAGES[fate]}
        result = {"type": "errored", "error": {"type": "error", "error": inner}}
    return {"custom_id": asked.custom_id, "result": result}


def openai_body(job: BatchJob) -> dict[str, Any]:
    """A job as OpenAI's dialect shows it."""
    fates = [fate for _, fate in job.fates()]
    done, failed = (sum(fate in group for fate in fates) for group in (("answered", "missing"), ("failed", "refused")))
    ended = job.has_ended
    errors = {"object": "list", "data": [{"code": "invalid_batch", "message": job.message}]} if job.message else None
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "errors": errors,
        "input_file_id": job.input_file,
        "completion_window": "24h",
        "status": job.end if ended else "in_progress",
        "output_file_id": f"{job.id}-output" if ended and done else None,
        "error_file_id": f"{job.id}-error" if ended and job.end != "failed" and done < len(fates) else None,
        "created_at": int(job.created_at.timestamp()),
        "expires_at": int((job.created_at + _WINDOW).timestamp()),
        "request_counts": {
            "total": len(fates),
            "completed": done if ended else 0,
            "failed": failed if ended else 0,
        },
        "metadata": dict(job.metadata) if job.metadata and job.behaviour.keeps_metadata else None,
    }


def anthropic_body(job: BatchJob, url: str) -> dict[str, Any]:
    """A job as Anthropic's dialect shows it; `url` is that of its results."""
    fates = [fate for _, fate in job.fates()]
    left = "expired" if job.end == "expired" else "canceled"
    counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    named: Mapping[Fate, str] = {
        "answered": "succeeded",
        "missing": "succeeded",
        "failed": "errored",
        "refused": "errored",
        "unfinished": left,
    }
    for fate in fates:
        counts[named[fate] if job.has_ended else "processing"] += 1
    return {
        "id": job.id,
        "type": "message_batch",
        "processing_status": "ended" if job.has_ended else "in_progress",
        "request_counts": counts,
        "created_at": job.created_at.isoformat(),
        "expires_at": (job.created_at + _WINDOW).isoformat(),
        "ended_at": datetime.now(UTC).isoformat() if job.has_ended else None,
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": url if job.has_ended else None,
    }


def _request(line: Mapping[str, Any], dialect: Dialect, models: Sequence[str]) -> Asked:
    custom_id = line.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= 64:
        raise NotServed(400, "custom_id must be a text of 1 to 64 characters")
    fields = line.get("body" if dialect == "openai" else "params")
    if not isinstance(fields, Mapping):
        raise NotServed(400, f"request {custom_id} has no parameters")
    try:
        return Asked(custom_id, _ask(fields, dialect, models))
    except NotServed as error:
        return Asked(custom_id, None, str(error))


def _ask(fields: Mapping[str, Any], dialect: Dialect, models: Sequence[str]) -> Ask:
    if dialect == "openai":
        return read_ask(json.dumps(fields).encode(), models)
    if not isinstance(fields.get("max_tokens"), int):
        raise NotServed(400, "max_tokens: Field required")
    if unknown := [name for name in fields if name not in _ANTHROPIC_FIELDS]:
        raise NotServed(400, f"{unknown[0]}: Extra inputs are not permitted")
    ask = read_ask(json.dumps({name: fields[name] for name in fields if name != "system"}).encode(), models)
    if any(message.get("role") not in ("user", "assistant") for message in ask.messages):
        raise NotServed(400, "messages: roles must be user or assistant")
    system = ({"role": "system", "content": fields["system"]},) if fields.get("system") else ()
    return replace(ask, messages=(*system, *ask.messages))


_ANTHROPIC_FIELDS: Final = ("model", "max_tokens", "messages", "system", "temperature", "top_p", "top_k", "metadata")


def _message(ask: Ask, speaker: Speaker) -> dict[str, Any]:
    completion = speaker.answer(ask)
    reply = completion.replies[0]
    return {
        "id": f"msg_{ask.digest()[:24]}",
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": [{"type": "text", "text": reply.text}],
        "stop_reason": "max_tokens" if reply.finish_reason == "length" else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": completion.prompt_tokens, "output_tokens": completion.completion_tokens},
    }
