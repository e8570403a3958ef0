"""Chat completions as the OpenAI dialect writes them: what a request asks, and the body of its answer.

Two speakers can answer: the practice teachers, and the recorded answers of a panel. Tokens are counted as
`teachers.count_tokens` does (a word or a punctuation mark is one; roles and separators cost nothing), unless a panel
recorded the count.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from kp_data.practice.editors import EDITORS
from kp_data.practice.erring import ERRING
from kp_data.practice.judges import JUDGES
from kp_data.practice.reading import content_text, last_prompt
from kp_data.practice.replay import Recorded, spoken
from kp_data.practice.teachers import MODEL_PREFIX, REFUSAL, TEACHERS, Reply, count_tokens

MAX_SAMPLES: Final = 128


class NotServed(Exception):
    """A request that gets an error instead of an answer, in the shape of the OpenAI dialect."""

    def __init__(self, status: int, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def body(self) -> dict[str, Any]:
        """The error as the dialect writes it."""
        kind = _ERROR_TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


_ERROR_TYPES: Final = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Ask:
    """What a request asks, checked."""

    model: str
    messages: tuple[Mapping[str, Any], ...]
    temperature: float
    seed: int | None
    n: int
    max_tokens: int | None
    logprobs: bool

    def digest(self) -> str:
        """sha256 of the messages and the seed: what makes two calls to a model the same call."""
        asked = json.dumps([self.messages, self.seed], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()


@dataclass(frozen=True)
class Completion:
    """The answers to one request; `completion_tokens` in all."""

    replies: tuple[Reply, ...]
    prompt_tokens: int
    completion_tokens: int


class Speaker(Protocol):
    """Who answers."""

    @property
    def models(self) -> tuple[str, ...]:
        """Ids of the models there are."""

    def answer(self, ask: Ask) -> Completion:
        """The answer to a request for a model that there is.

        Raises:
            NotServed: there is none.
        """


class Program(Protocol):
    """A practice model: chat messages to a reply."""

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        sample: int = 0,
        max_tokens: int | None = None,
    ) -> Reply:
        """See `PracticeTeacher.answer`."""


class PracticeSpeaker:
    """The practice teachers, those with a knob, editors and judges."""

    _programs: Mapping[str, Program] = {**TEACHERS, **ERRING, **EDITORS, **JUDGES}
    models = tuple(_programs)

    def answer(self, ask: Ask) -> Completion:
        """See `Speaker.answer`."""
        program = self._programs[ask.model]
        replies = tuple(
            program.answer(
                ask.messages, temperature=ask.temperature, seed=ask.seed, sample=sample, max_tokens=ask.max_tokens
            )
            for sample in range(ask.n)
        )
        return Completion(replies, _prompt_tokens(ask), sum(len(reply.logprobs) for reply in replies))


class ReplaySpeaker:
    """The recorded answers of a panel; the seed of a request is the sample it asks for."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self.models = recorded.teachers

    def answer(self, ask: Ask) -> Completion:
        """See `Speaker.answer`."""
        asked = self._recorded.asked(last_prompt(ask.messages))
        if asked is None:
            raise NotServed(404, "the replayed panel has no such question", code="question_not_found")
        replies, prompt_tokens, tokens = [], _prompt_tokens(ask), 0
        for sample in range(ask.seed or 0, (ask.seed or 0) + ask.n):
            found = self._recorded.response(asked, ask.model, sample)
            if found is None:
                # Not 404: the teacher and the question are there, only this cell was never filled.
                raise NotServed(422, f"{ask.model} was not asked this, {asked.mode}", code="not_recorded")
            question, response = found
            if response.error in _FAILURES:
                status, message = _FAILURES[response.error]
                raise NotServed(status, f"recorded failure: {message}", code=response.error)
            text = spoken(question, response) or (REFUSAL if response.error == "refused" else "")
            finish_reason = _FINISHES.get(response.error or "") or response.finish_reason or "stop"
            replies.append(_recorded_reply(text, finish_reason, response.logprob))
            prompt_tokens = response.prompt_tokens if response.prompt_tokens is not None else prompt_tokens
            tokens += response.completion_tokens if response.completion_tokens is not None else count_tokens(text)
        return Completion(tuple(replies), prompt_tokens, tokens)


_FAILURES: Final = {
    "rate_limited": (429, "the rate limit was reached"),
    "timeout": (504, "no answer came in time"),
    "bad_response": (502, "the answer could not be read"),
    "auth": (401, "the key was refused"),
    "budget": (422, "it was never asked, the budget was spent"),
}
_FINISHES: Final = {"truncated": "length", "refused": "content_filter", "empty": "stop"}


def read_ask(body: bytes, models: Sequence[str]) -> Ask:
    """What a request body asks.

    Args:
        body: untrusted.
        models: ids of the models there are; `practice/NAME` is also understood.

    Raises:
        NotServed: 400 for a body that is no chat completion request, 404 for an unknown model.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise NotServed(400, f"the body is not valid JSON ({error})") from error
    if not isinstance(fields, dict):
        raise NotServed(400, "the body must be a JSON object")
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise NotServed(400, "'messages' must be a list of messages")
    if fields.get("stream"):
        raise NotServed(400, "'stream' is not supported here; ask without it")
    return Ask(
        model=_model(fields.get("model"), models),
        messages=tuple(messages),
        temperature=float(_number(fields, "temperature", default=1.0, low=0.0)),
        seed=_optional_int(fields, "seed", low=-(2**63)),
        n=_optional_int(fields, "n", low=1, high=MAX_SAMPLES) or 1,
        max_tokens=_optional_int(fields, "max_completion_tokens") or _optional_int(fields, "max_tokens"),
        logprobs=bool(fields.get("logprobs")),
    )


def completion_body(ask: Ask, completion: Completion) -> dict[str, Any]:
    """The body of an answer."""
    return {
        "id": f"chatcmpl-{ask.digest()[:24]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": ask.model,
        "choices": [_choice(index, reply, ask.logprobs) for index, reply in enumerate(completion.replies)],
        "usage": {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "total_tokens": completion.prompt_tokens + completion.completion_tokens,
        },
    }


def _choice(index: int, reply: Reply, with_logprobs: bool) -> dict[str, Any]:
    logprobs = None
    if with_logprobs and reply.logprobs:
        content = [
            {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []}
            for token, logprob in reply.logprobs
        ]
        logprobs = {"content": content, "refusal": None}
    return {
        "index": index,
        "message": {"role": "assistant", "content": reply.text},
        "logprobs": logprobs,
        "finish_reason": reply.finish_reason,
    }


def _recorded_reply(text: str, finish_reason: str, logprob: float | None) -> Reply:
    # A panel keeps the mean alone: as one token of that log-probability it comes back as it was.
    return Reply(text, finish_reason, ((text, logprob),) if logprob is not None else ())


def _prompt_tokens(ask: Ask) -> int:
    return sum(count_tokens(content_text(message)) for message in ask.messages)


def _model(name: object, models: Sequence[str]) -> str:
    if not isinstance(name, str):
        raise NotServed(400, "'model' must be a string")
    for model in (name, name.removeprefix(MODEL_PREFIX)):
        if model in models:
            return model
    raise NotServed(404, f"no model {name!r}; there are {', '.join(models)}", code="model_not_found")


def _number(fields: Mapping[str, Any], name: str, *, default: float, low: float) -> float:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= low:
        raise NotServed(400, f"{name!r} must be a number not below {low:g}")
    return value


def _optional_int(fields: Mapping[str, Any], name: str, *, low: int = 1, high: int = 2**63) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise NotServed(400, f"{name!r} must be a whole number from {low} to {high}")
    return value
