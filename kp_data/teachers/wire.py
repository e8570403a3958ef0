"""Calls, replies and failures between our own processes: JSON with its length in front, many messages a frame.

JSON rather than pickle: what teachers wrote travels here, and must never be more than text.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from pydantic import TypeAdapter

from kp_data.teachers.limits import RateLimits
from kp_data.teachers.transport import CallFailed, Reply

Message = dict[str, Any]

_LENGTH: Final = struct.Struct(">I")
_REPLY: Final = TypeAdapter(Reply)
_LIMITS: Final[TypeAdapter[RateLimits | None]] = TypeAdapter(RateLimits | None)
# Whatever a failure comes to say besides its class and its message travels too.
_ABOUT_FAILURE: Final = tuple(
    name for name, field in inspect.signature(CallFailed).parameters.items() if field.kind is field.KEYWORD_ONLY
)


def pack(messages: Sequence[Message]) -> bytes:
    """One frame. Half a character, as a broken file can hold, is kept: JSON escapes it.

    >>> pack([{"a": 1}])
    b'\\x00\\x00\\x00\\n[{"a": 1}]'
    """
    body = json.dumps(messages).encode("ascii")
    return _LENGTH.pack(len(body)) + body


async def unpack(reader: asyncio.StreamReader) -> AsyncIterator[Message]:
    """Every message until the other side is gone; a frame that was cut short is dropped."""
    while True:
        try:
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            body = await reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        for message in json.loads(body):
            yield message


class Outbox:
    """Messages to one process: those of one turn of the loop leave in one write."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._messages: list[Message] = []

    def put(self, message: Message) -> None:
        """Send a message at the end of this turn."""
        if not self._messages:
            asyncio.get_running_loop().call_soon(self._flush)
        self._messages.append(message)

    def _flush(self) -> None:
        messages, self._messages = self._messages, []
        self._write(pack(messages))


def pack_reply(reply: Reply) -> Message:
    """A reply as JSON values."""
    packed: Message = _REPLY.dump_python(reply, mode="json")
    return packed


def unpack_reply(message: Message) -> Reply:
    """The reply that `pack_reply` packed."""
    return _REPLY.validate_python(message)


def pack_failure(failure: CallFailed) -> Message:
    """A failure as JSON values."""
    about = {name: getattr(failure, name) for name in _ABOUT_FAILURE}
    about["limits"] = _LIMITS.dump_python(failure.limits, mode="json")
    return {"error": failure.error, "message": str(failure), **about}


def unpack_failure(message: Message) -> CallFailed:
    """The failure that `pack_failure` packed; this process's secrets are taken out of it once more."""
    return CallFailed(**{**message, "limits": _LIMITS.validate_python(message["limits"])})
