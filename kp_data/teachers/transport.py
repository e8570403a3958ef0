"""One call to a teacher, whatever carries it: the request, the reply, the failure, and who carries what."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from kp_data.config import PRACTICE_PREFIX as PRACTICE_PREFIX
from kp_data.config import Teacher, Transport
from kp_data.errors import ConfigError, TeacherError
from kp_data.teachers.limits import RateLimits
from kp_data.teachers.prices import cost_usd, price_of
from kp_data.teachers.prompts import Message

_keys_in_use: Final[set[str]] = set()
"""Keys that teachers of this process use, under whatever name the environment has them; only `redact` reads it."""

# Named providers whose API is the OpenAI dialect: --transport direct reaches them without litellm.
_DIALECT_PROVIDERS: Final[Mapping[str, tuple[str, str]]] = {
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "mistral": ("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "deepseek": ("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "together_ai": ("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
}
_ANTHROPIC: Final = ("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY")
# litellm's names for local servers that speak the dialect; behind a URL the rest of the name is the model.
_LOCAL_PREFIXES: Final = (
    "openai",
    "hosted_vllm",
    "ollama",
    "ollama_chat",
    "lm_studio",
    "llamafile",
    "openai_like",
    "custom_openai",
)


@dataclass(frozen=True, slots=True)
class Call:
    """What one call sends.

    Attributes:
        messages: chat messages.
        parameters: temperature, max_tokens and whatever else can change the answer.
        timeout_s: of the whole call, in seconds.
    """

    messages: list[Message]
    parameters: Mapping[str, Any]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What a teacher sent back; None where the endpoint did not say.

    `logprob` is the mean log-probability of the reply's tokens, in nats. `limits` is what the server said about its
    rate limits. `ignored` names parameters that were sent and, as the reply shows, not followed. Both concern the
    moment and are not stored.
    """

    text: str
    reasoning: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    logprob: float | None = None
    limits: RateLimits | None = field(default=None, compare=False)
    ignored: tuple[str, ...] = ()

    @classmethod
    def of(cls, teacher: Teacher, *, text: str, usage: Mapping[str, Any], **fields: Any) -> Reply:
        """A reply of whatever an endpoint sent: what is not of the right type is unknown, half a character is replaced.

        Args:
            teacher: for its price, and what was asked of it.
            text: what it wrote.
            usage: token counts, as far as the endpoint gave any.
            fields: the other attributes; `cost_usd` only where the teacher's own price is not known.
        """
        read, wrote = (_int_or_none(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        texts = {name: _text_or_none(fields.get(name)) for name in ("reasoning", "finish_reason", "model")}
        cost = cost_of(teacher, read, wrote)
        return cls(
            text=_text_or_none(text) or "",
            **texts,
            prompt_tokens=read,
            completion_tokens=wrote,
            cost_usd=fields.get("cost_usd") if cost is None else cost,
            logprob=fields.get("logprob"),
            limits=fields.get("limits"),
            ignored=_ignored(teacher, text, wrote, fields.get("logprob")),
        )


class CallFailed(Exception):
    """A call that brought no reply.

    Attributes:
        error: class of the failure, one of `schema.ERROR_CLASSES`.
        retryable: whether the same call may succeed later.
        fatal: whether every further call to this teacher would fail the same way.
        overloaded: whether the server asked for fewer calls, and is otherwise well.
        retry_after_s: how long the server asks to wait, in seconds.
        may_be_billed: whether the provider may charge for it although no reply came; when in doubt it may.
        limits: what the server said about its rate limits, None where nothing.
        parameter: the parameter that the server does not take, where that is why.
    """

    def __init__(
        self,
        error: str,
        message: str,
        *,
        retryable: bool,
        fatal: bool = False,
        overloaded: bool = False,
        retry_after_s: float | None = None,
        may_be_billed: bool = True,
        limits: RateLimits | None = None,
        parameter: str | None = None,
    ) -> None:
        super().__init__(redact(message))
        self.error = error
        self.retryable = retryable
        self.fatal = fatal
        self.overloaded = overloaded
        self.retry_after_s = retry_after_s
        self.may_be_billed = may_be_billed
        self.limits = limits
        self.parameter = parameter


class Carrier(Protocol):
    """What carries calls to one teacher."""

    async def check(self) -> None:
        """Whether the teacher can be reached at all, without paying for an answer.

        Raises:
            TeacherError: it cannot.
        """

    async def ask(self, call: Call) -> Reply:
        """One call.

        Raises:
            CallFailed: no usable reply came.
        """

    async def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a teacher is asked and under which name; what identifies it in a cell's key.

    Attributes:
        carrier: `direct` or `litellm`.
        model: model id as the carrier needs it.
        identity: what goes into the cell's key: stable over ports of the practice server and over carriers.
        api_base: URL, where one is given.
        api_key: never printed and never stored.
    """

    carrier: str
    model: str
    identity: str
    api_base: str | None
    api_key: str | None = field(repr=False, default=None)


def resolve_endpoint(teacher: Teacher, transport: Transport, *, practice_base: str | None = None) -> Endpoint:
    """Which carrier asks a teacher, and under which model id.

    Args:
        teacher: as configured.
        transport: `auto` takes the direct path for endpoints given by URL, litellm for the rest.
        practice_base: URL of the running practice server, for `practice/NAME` teachers without a URL.

    Raises:
        TeacherError: the environment variable with its key is not set.
        ConfigError: `direct` was asked for and the provider speaks another dialect.
    """
    key = _key_of(teacher)
    if teacher.model.startswith(PRACTICE_PREFIX):
        base = teacher.api_base or practice_base
        identity = f"{teacher.api_base or 'practice'}|{teacher.model}"
        model = teacher.model.removeprefix(PRACTICE_PREFIX)
        carrier = "litellm" if transport == "litellm" else "direct"
        return Endpoint(carrier, _litellm_name(model) if carrier == "litellm" else model, identity, base, key)
    if teacher.api_base is not None:
        model, base = _behind_url(teacher.model, teacher.api_base)
        identity = f"{base}|{model}"
        if transport == "litellm":
            return Endpoint("litellm", _litellm_name(model), identity, base, key)
        return Endpoint("direct", model, identity, base, key)
    if transport == "direct":
        return _named_direct(teacher, key)
    return Endpoint("litellm", teacher.model, f"|{teacher.model}", None, key)


def resolve_batch_endpoint(teacher: Teacher, kind: str, *, practice_base: str | None = None) -> Endpoint:
    """Where a teacher's batch API is, whatever carries its single calls; the identity is the same.

    Args:
        teacher: as configured.
        kind: the dialect, `openai` or `anthropic`.
        practice_base: see `resolve_endpoint`.

    Raises:
        TeacherError: the environment variable with its key is not set.
        ConfigError: nothing says where its provider's batch API is.
    """
    if kind == "openai" or teacher.model.startswith(PRACTICE_PREFIX):
        return resolve_endpoint(teacher, "direct", practice_base=practice_base)
    model = teacher.model.removeprefix(f"{kind}/")
    if teacher.api_base is not None:
        endpoint = resolve_endpoint(teacher, "direct")
        return replace(endpoint, model=model)
    if model == teacher.model:
        raise ConfigError(f"teacher {teacher.name}: batch: {kind} needs api_base, or a model named {kind}/…")
    base, variable = _ANTHROPIC
    if (key := _key_of(teacher) or os.environ.get(variable)) is None:
        raise TeacherError(f"{variable} is not set; export it", place=f"teacher {teacher.name}")
    return Endpoint("direct", model, f"|{teacher.model}", base, key)


def make_carrier(teacher: Teacher, endpoint: Endpoint) -> Carrier:
    """The carrier of an endpoint; loads only the client that it needs."""
    if endpoint.carrier == "direct":
        from kp_data.teachers.direct import DirectCarrier

        return DirectCarrier(teacher, endpoint)
    from kp_data.teachers.litellm_pool import litellm_carrier

    return litellm_carrier(teacher, endpoint)


def parameters_of(teacher: Teacher, *, sample: int) -> dict[str, Any]:
    """The parameters of one call; a parameter that was not asked for is not sent.

    Args:
        teacher: as configured.
        sample: number of this sample, from 0; each after the first gets a seed of its own.
    """
    parameters: dict[str, Any] = {"max_tokens": teacher.max_tokens}
    if teacher.temperature is not None:
        parameters["temperature"] = teacher.temperature
    if teacher.top_p is not None:
        parameters["top_p"] = teacher.top_p
    # Sample 0 is sent as if it were alone, so that asking for more samples later pays only for those.
    if teacher.seed is not None or sample > 0:
        parameters["seed"] = (teacher.seed or 0) + sample
    if teacher.logprobs:
        parameters["logprobs"] = True
    return parameters


def keep_secret(key: str) -> None:
    """Have a key taken out of every message, whatever the environment calls it."""
    _keys_in_use.add(key)


def redact(text: str) -> str:
    """A message of somebody else's without any secret of this process's environment in it."""
    words = ("KEY", "TOKEN", "SECRET", "PASSWORD")
    named = {value for name, value in os.environ.items() if any(word in name.upper() for word in words)}
    for value in {*named, *_keys_in_use}:
        if len(value) >= 8:
            text = text.replace(value, "***")
    return text


def cost_of(teacher: Teacher, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
    """Cost of a call in US dollars; None where price or tokens are unknown.

    Args:
        teacher: for its price, see `prices.price_of`.
        prompt_tokens: that were read.
        completion_tokens: that were written, reasoning included.
    """
    if prompt_tokens is None or completion_tokens is None:
        return None
    price = price_of(teacher, prompt_tokens=prompt_tokens)
    return None if price is None else cost_usd(price, prompt_tokens, completion_tokens)


def _ignored(teacher: Teacher, text: str, wrote: int | None, logprob: float | None) -> tuple[str, ...]:
    """Parameters that a reply shows were not followed."""
    ignored = []
    if teacher.logprobs and text and logprob is None:
        ignored.append("logprobs")
    if wrote is not None and wrote > teacher.max_tokens:
        ignored.append("max_tokens")
    return tuple(ignored)


def _int_or_none(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _text_or_none(value: Any) -> str | None:
    # A token limit can cut an emoji in half; half of one can be stored nowhere.
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) and value else None


def _key_of(teacher: Teacher) -> str | None:
    """The key of a teacher. A key is sent to a URL only where the user named the variable for it."""
    if teacher.api_key_env is None:
        return None
    if not (key := os.environ.get(teacher.api_key_env)):
        raise TeacherError(
            f"{teacher.api_key_env} is not set; export it, or name another variable in api_key_env",
            place=f"teacher {teacher.name}",
        )
    _keys_in_use.add(key)
    return key


def _behind_url(model: str, api_base: str) -> tuple[str, str]:
    base = api_base.rstrip("/")
    provider, slash, rest = model.partition("/")
    if slash and provider in _LOCAL_PREFIXES:
        model = rest
    # litellm's Ollama URL has no path; the OpenAI dialect of every local server lives under /v1.
    if base.count("/") == 2:
        base += "/v1"
    return model, base


def _litellm_name(model: str) -> str:
    return f"openai/{model}"


def _named_direct(teacher: Teacher, key: str | None) -> Endpoint:
    provider, slash, model = teacher.model.partition("/")
    if not slash or provider not in _DIALECT_PROVIDERS:
        known = ", ".join(_DIALECT_PROVIDERS)
        raise ConfigError(
            f"teacher {teacher.name}: --transport direct needs a URL or one of {known}; use litellm for {teacher.model}"
        )
    base, variable = _DIALECT_PROVIDERS[provider]
    if key is None and not (key := os.environ.get(variable)):
        raise TeacherError(f"{variable} is not set; export it", place=f"teacher {teacher.name}")
    return Endpoint("direct", model, f"|{teacher.model}", base, key)
