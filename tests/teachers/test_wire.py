"""Messages between processes arrive as they were sent."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kp_data.teachers.limits import Quota, RateLimits
from kp_data.teachers.transport import CallFailed, Reply
from kp_data.teachers.wire import Outbox, pack, pack_failure, pack_reply, unpack, unpack_failure, unpack_reply

ANY_TEXT = st.text(st.characters())
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | ANY_TEXT, lambda inner: st.lists(inner, max_size=3))
MESSAGES = st.lists(st.dictionaries(ANY_TEXT, VALUES, max_size=3), max_size=4)


def read(data: bytes) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return [message async for message in unpack(reader)]

    return asyncio.run(collect())


@given(st.lists(MESSAGES, max_size=3))
def test_frames_arrive_in_order_and_whole(frames: list[list[dict[str, Any]]]) -> None:
    assert read(b"".join(pack(frame) for frame in frames)) == [message for frame in frames for message in frame]


@given(MESSAGES, st.integers(min_value=1))
def test_a_frame_that_was_cut_short_brings_nothing_but_the_frames_before_it(
    messages: list[dict[str, Any]], cut: int
) -> None:
    whole, last = pack([{"first": True}]), pack(messages)
    assert read(whole + last[: -1 - cut % len(last)]) == [{"first": True}]


def test_messages_of_one_turn_leave_in_one_write() -> None:
    written: list[bytes] = []

    async def send() -> None:
        outbox = Outbox(written.append)
        outbox.put({"n": 1})
        outbox.put({"n": 2})
        await asyncio.sleep(0)
        outbox.put({"n": 3})
        await asyncio.sleep(0)

    asyncio.run(send())
    assert written == [pack([{"n": 1}, {"n": 2}]), pack([{"n": 3}])]


def test_a_reply_keeps_every_field() -> None:
    limits = RateLimits(requests=Quota(limit=60, remaining=3, reset_s=1.5), scope="m")
    reply = Reply("text", "why", "stop", "m-1", 8, 6, 0.25, -0.5, limits, ("logprobs",))
    again = unpack_reply(read(pack([pack_reply(reply)]))[0])
    assert again == reply
    assert again.limits == limits


def test_a_failure_keeps_everything_it_says() -> None:
    about = {"retryable": True, "fatal": True, "overloaded": True, "retry_after_s": 2.5, "may_be_billed": False}
    failure = CallFailed("rate_limited", "slow down", **about, limits=RateLimits(tokens=Quota(limit=9)))
    again = unpack_failure(read(pack([pack_failure(failure)]))[0])
    assert (vars(again), str(again)) == (vars(failure), "slow down")
