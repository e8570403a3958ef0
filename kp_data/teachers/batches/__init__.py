"""Provider batch APIs: thousands of requests in one job, at half the price, answered within a day."""

from __future__ import annotations

from kp_data.config import Teacher
from kp_data.teachers.batches.protocol import (
    BatchClient,
    BatchKind,
    End,
    JobUnknown,
    Look,
    Row,
    Shape,
    SubmissionUnclear,
    Trace,
    Wanted,
)
from kp_data.teachers.transport import PRACTICE_PREFIX, Endpoint, resolve_batch_endpoint

__all__ = [
    "BatchClient",
    "BatchKind",
    "End",
    "JobUnknown",
    "Look",
    "Row",
    "Shape",
    "SubmissionUnclear",
    "Trace",
    "Wanted",
    "batch_kind",
    "make_batch_client",
]


def batch_kind(teacher: Teacher, endpoint: Endpoint) -> BatchKind | None:
    """The dialect of a teacher's batch API, None where it has none that we know of.

    OpenAI and Anthropic by name have one, and so has the practice server of a run; behind a URL the user says so
    (`batch:` in kp.yaml).

    Args:
        teacher: as configured.
        endpoint: as resolved for its single calls.
    """
    if teacher.batch is not None:
        return teacher.batch
    if teacher.api_base is not None:
        return None
    if teacher.model.startswith(PRACTICE_PREFIX):
        return "openai" if endpoint.api_base is not None else None
    provider = teacher.model.partition("/")[0]
    return "openai" if provider == "openai" else "anthropic" if provider == "anthropic" else None


def make_batch_client(teacher: Teacher, endpoint: Endpoint) -> BatchClient:
    """The client of a teacher's batch API; inside a running event loop.

    Args:
        teacher: one that has a `batch_kind`.
        endpoint: as resolved for its single calls.

    Raises:
        TeacherError: its key is not set, or it asks for what the batch API does not take.
        ConfigError: nothing says where the batch API is.
    """
    kind = batch_kind(teacher, endpoint)
    assert kind is not None
    there = resolve_batch_endpoint(teacher, kind, practice_base=endpoint.api_base)
    if kind == "openai":
        from kp_data.teachers.batches.openai_dialect import OpenAIBatches

        return OpenAIBatches(teacher, there)
    from kp_data.teachers.batches.anthropic_dialect import AnthropicBatches

    return AnthropicBatches(teacher, there)
