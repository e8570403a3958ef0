"""What a reply cost that came in a batch."""

from __future__ import annotations

from dataclasses import replace

from kp_data.config import Teacher
from kp_data.teachers.prices import batch_price_of, cost_usd
from kp_data.teachers.transport import Reply


def at_batch_price(teacher: Teacher, reply: Reply) -> Reply:
    """A reply with its cost by the price of the batch API in place of the standard one; None where it is not known."""
    read, wrote = reply.prompt_tokens, reply.completion_tokens
    if read is None or wrote is None:
        return replace(reply, cost_usd=None)
    price = batch_price_of(teacher, prompt_tokens=read)
    return replace(reply, cost_usd=None if price is None else cost_usd(price, read, wrote))
