"""What the driver of batch jobs needs of a provider, whatever dialect it speaks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from kp_data.teachers.prompts import Message
from kp_data.teachers.transport import CallFailed, Reply

BatchKind = Literal["openai", "anthropic"]
End = Literal["completed", "expired", "cancelled", "failed"]

CLOCK_SLACK_S: Final = 24 * 3600.0
"""How far the clocks of provider and client may differ when a job is looked for by its time."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How requests stand in one submission: what comes before, between and after them, and how much may.

    Attributes:
        before, between, after: bytes around the requests.
        most_requests: in one job.
        most_bytes: in one job, everything counted.
    """

    before: bytes
    between: bytes
    after: bytes
    most_requests: int
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job that may or may not have reached the provider.

    Attributes:
        job: our id of it.
        requests: how many it holds.
        created_at: when it was made, in seconds since 1970.
        known: the provider's ids of all other jobs that we know of.
    """

    job: str
    requests: int
    created_at: float
    known: frozenset[str]


class Trace(Enum):
    """What a search for a job showed, where it did not show the job."""

    ABSENT = "absent"
    """It is not there."""
    UNCLEAR = "unclear"
    """It may be one that cannot be told yet."""


@dataclass(frozen=True, slots=True)
class Look:
    """A job as the provider has it now.

    Attributes:
        provider_id: the provider's id.
        end: how it ended, None while it is at work.
        done: requests that came to an end, as far as the provider counts them.
        total: requests in it, 0 where the provider does not say yet.
        message: why it failed, None without a reason.
        results: where the rows are, in the provider's own terms.
    """

    provider_id: str
    end: End | None
    done: int
    total: int
    message: str | None = None
    results: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one request of a job.

    Attributes:
        custom_id: the request's id, as sent.
        outcome: the reply, the failure, or None where it was never run: it may be asked again.
    """

    custom_id: str
    outcome: Reply | CallFailed | None


class SubmissionUnclear(Exception):
    """A submission that brought no answer: the provider may have the job, or not."""


class JobUnknown(Exception):
    """The provider knows no job of this id, for the key at hand."""


class BatchClient(Protocol):
    """Batch jobs of one teacher at its provider."""

    @property
    def shape(self) -> Shape:
        """How a submission is written."""

    def request(self, custom_id: str, messages: list[Message], parameters: Mapping[str, Any]) -> bytes:
        """One request as it stands in a submission.

        Raises:
            TeacherError: the provider takes no such parameter in a batch.
        """

    async def check(self) -> None:
        """Whether the batch API can be used at all, without paying.

        Raises:
            TeacherError: it cannot.
        """

    async def submit(self, job: str, requests: Path) -> str:
        """Hand a job over, which begins to cost; gives the provider's id.

        Args:
            job: our id.
            requests: a file written as `shape` says.

        Raises:
            CallFailed: it was refused, and certainly not taken.
            SubmissionUnclear: no answer came.
        """

    async def find(self, wanted: Wanted) -> str | Trace:
        """The provider's id of a job that may have been handed over.

        Raises:
            CallFailed: the provider could not be asked.
        """

    async def look(self, provider_id: str) -> Look:
        """Where a job stands.

        Raises:
            CallFailed: the provider could not be asked.
            JobUnknown: it knows none of that id.
        """

    def rows(self, look: Look) -> AsyncGenerator[Row, None]:
        """The rows of a job that has ended, in any order, one at a time.

        Raises:
            CallFailed: the download broke off, or could not begin.
        """

    async def cancel(self, provider_id: str) -> None:
        """Ask the provider to stop a job; what was finished stays, and is paid for.

        Raises:
            CallFailed: the provider could not be asked.
            JobUnknown: it knows none of that id.
        """

    async def close(self) -> None:
        """Release connections."""
