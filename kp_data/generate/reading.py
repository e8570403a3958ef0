"""What a stored cell says, as a row of the responses table: read anew at every export, so a better parser is free."""

from __future__ import annotations

from datetime import UTC
from typing import Final

from kp_data.answers import same_answer
from kp_data.schema import Mode, Question, Response
from kp_data.store import StoredCell
from kp_data.teachers.parsing import ParsedAnswer, is_refusal, parse_answer

CONTENT_ERRORS: Final = ("refused", "truncated", "empty")
"""Failures that the teacher was paid for: asked again only on request."""


def read_cell(cell: StoredCell, question: Question, *, teacher: str, mode: Mode, sample: int) -> Response:
    """The response that a stored cell stands for.

    A reply that states an answer counts, even one cut off after it; a reply that states none is a failure when it was
    cut off, is a refusal or is empty, and a rationale without an answer otherwise.
    """
    parsed = parse_answer(cell.reply or "", question.choices) if cell.error is None else ParsedAnswer(None, None, "")
    error = cell.error or content_error(cell, parsed)
    created_at = cell.created_at if cell.created_at.tzinfo else cell.created_at.replace(tzinfo=UTC)
    return Response(
        question_id=question.id,
        teacher=teacher,
        mode=mode,
        sample=sample,
        rationale=None if error else parsed.rationale or None,
        answer=parsed.answer,
        answer_index=parsed.index,
        correct=_is_correct(parsed, question) if mode == "blind" and error is None else None,
        error=error,
        model=cell.model,
        finish_reason=cell.finish_reason,
        prompt_tokens=cell.prompt_tokens,
        completion_tokens=cell.completion_tokens,
        cost_usd=cell.cost_usd,
        latency_s=cell.latency_s,
        logprob=cell.logprob,
        created_at=created_at,
    )


def content_error(cell: StoredCell, parsed: ParsedAnswer) -> str | None:
    """The failure class of a reply that came but is of no use, None for a usable one."""
    if parsed.answer is not None:
        return None
    text = (cell.reply or "").strip()
    if cell.finish_reason == "length":
        return "truncated"
    if cell.finish_reason == "content_filter" or is_refusal(text):
        return "refused"
    return "empty" if not text else None


def _is_correct(parsed: ParsedAnswer, question: Question) -> bool | None:
    if question.choices:
        known = question.answer_index is not None and parsed.index is not None
        return parsed.index == question.answer_index if known else None
    if question.answer is None or parsed.answer is None:
        return None
    return same_answer(parsed.answer, question.answer)
