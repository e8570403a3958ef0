"""litellm carries every named provider. The only file that imports it, and only when a teacher needs it.

Its retries, callbacks and telemetry are off, its price map is the packaged one: nothing is fetched, nothing is sent but
the call itself. It takes seconds to load and milliseconds of CPU time a call, so `litellm_pool` runs this in processes
of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from functools import cache
from typing import Any

from kp_data.config import Teacher
from kp_data.errors import TeacherError
from kp_data.teachers.direct import failure_of_status, mean_logprob
from kp_data.teachers.limits import read_limits, retry_after
from kp_data.teachers.parameters import refused_parameter, remedy_for
from kp_data.teachers.prices import price_of
from kp_data.teachers.transport import Call, CallFailed, Endpoint, Reply, parameters_of, redact

_KEYLESS = "none"
"""What a local server without keys is sent; litellm refuses to send nothing."""
_ORGANISATION = ("OPENAI_ORGANIZATION", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID")
_SHOWN = 300


@cache
def _litellm() -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    # Its own HTTP handler, which carries most providers, takes a quarter less CPU time a call than OpenAI's client; but
    # it does not say which organisation pays.
    if not any(os.environ.get(name) for name in _ORGANISATION):
        os.environ.setdefault("EXPERIMENTAL_OPENAI_BASE_LLM_HTTP_HANDLER", "True")
    # How many calls run at a time is the engine's to say; waiting for a connection here would count as a slow teacher.
    for name in ("AIOHTTP_CONNECTOR_LIMIT", "AIOHTTP_CONNECTOR_LIMIT_PER_HOST"):
        os.environ.setdefault(name, "10000")
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.drop_params = False
    litellm.num_retries = 0
    litellm.callbacks = []
    litellm.success_callback = []
    litellm.failure_callback = []
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    return litellm


def warm_up() -> None:
    """Load litellm now, and keep it from writing a log of every call: nobody reads it.

    For a process that does nothing else. Calls made later in this context, or in tasks started from it, are affected.
    """
    _litellm()
    with contextlib.suppress(ImportError):
        from litellm._internal_context import is_internal_call

        is_internal_call.set(True)


class LitellmCarrier:
    """Calls to one model through litellm."""

    def __init__(self, teacher: Teacher, endpoint: Endpoint) -> None:
        self._teacher, self._endpoint = teacher, endpoint

    async def check(self) -> None:
        """See `Carrier.check`: the provider is known, and its key is set."""
        if self._endpoint.api_base is not None:
            await self._check_url()
            return
        litellm = _litellm()
        place = f"teacher {self._teacher.name}"
        try:
            litellm.get_llm_provider(self._endpoint.model)
        except Exception as error:
            raise TeacherError(
                f"litellm knows no provider for {self._teacher.model!r}; write PROVIDER/MODEL, such as "
                "openai/gpt-4o-mini, or NAME=MODEL@URL for an endpoint of your own",
                place=place,
            ) from error
        if self._endpoint.api_key is None:
            missing = litellm.validate_environment(self._endpoint.model)["missing_keys"]
            if missing:
                raise TeacherError(f"{' and '.join(missing)} not set; export it, then run again", place=place)
        supported = litellm.get_supported_openai_params(self._endpoint.model) or ()
        asked = parameters_of(self._teacher, sample=0)
        # Said here rather than dropped in silence: a seed or logprobs that vanish would falsify the data.
        if supported and (lacking := [name for name in asked if name not in (*supported, "max_tokens")]):
            raise TeacherError(f"{self._teacher.model} does not take {', '.join(lacking)}; leave it out", place=place)

    async def ask(self, call: Call) -> Reply:
        """See `Carrier.ask`."""
        litellm = _litellm()
        key = self._endpoint.api_key or (_KEYLESS if self._endpoint.api_base is not None else None)
        try:
            # litellm's own timeout begins anew with every piece of a body that arrives.
            async with asyncio.timeout(call.timeout_s):
                response = await litellm.acompletion(
                    model=self._endpoint.model,
                    messages=call.messages,
                    api_base=self._endpoint.api_base,
                    api_key=key,
                    timeout=call.timeout_s,
                    max_retries=0,
                    num_retries=0,
                    **call.parameters,
                )
        except TimeoutError:
            raise CallFailed("timeout", f"no answer within {call.timeout_s:g} s", retryable=True) from None
        except Exception as error:
            raise self._failure(litellm, error, call) from None
        return self._reply(litellm, response)

    async def close(self) -> None:
        """Close the clients that litellm keeps."""
        close = getattr(_litellm(), "close_litellm_async_clients", None)
        if close is not None:
            await close()

    async def _check_url(self) -> None:
        from kp_data.teachers.direct import DirectCarrier

        plain = Endpoint(
            "direct", self._endpoint.model.removeprefix("openai/"), "", self._endpoint.api_base, self._endpoint.api_key
        )
        carrier = DirectCarrier(self._teacher, plain)
        try:
            await carrier.check()
        finally:
            await carrier.close()

    def _reply(self, litellm: Any, response: Any) -> Reply:
        try:
            choice = response.choices[0]
            message = choice.message
            text = message.content or ""
        except (AttributeError, LookupError, TypeError) as error:
            raise CallFailed("bad_response", "not a chat completion", retryable=True) from error
        usage = getattr(response, "usage", None)
        # No prompt has no tokens: litellm writes 0 where the provider said nothing.
        told = usage is not None and getattr(usage, "prompt_tokens", None) != 0
        counts = {name: getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")} if told else {}
        # Asked only where our own look-up knows no price: it takes time, and loses to ours anyway.
        is_listed = self._endpoint.api_base is None and price_of(self._teacher) is None
        headers = (getattr(response, "_hidden_params", None) or {}).get("additional_headers") or {}
        logprobs: Any = getattr(choice, "logprobs", None)
        return Reply.of(
            self._teacher,
            text=text,
            usage=counts,
            reasoning=getattr(message, "reasoning_content", None),
            finish_reason=choice.finish_reason,
            model=getattr(response, "model", None),
            cost_usd=_listed_cost(litellm, response) if is_listed else None,
            limits=read_limits(headers, scope=self._endpoint.model),
            logprob=mean_logprob(logprobs.model_dump() if hasattr(logprobs, "model_dump") else logprobs),
        )

    def _failure(self, litellm: Any, error: Exception, call: Call) -> CallFailed:
        """litellm's exceptions as our classes. The message is the provider's; keys are never part of it."""
        # Secrets go first: half a key, cut off at the end, would be recognised by nothing.
        message = _clean(redact((str(error).splitlines() or [""])[0]))[:_SHOWN] or type(error).__name__
        headers = _headers_of(error)
        about: dict[str, Any] = {
            "sent": call.parameters,
            "teacher": self._teacher.name,
            "scope": self._endpoint.model,
        }
        if isinstance(error, litellm.exceptions.Timeout):
            return CallFailed("timeout", message, retryable=True, retry_after_s=retry_after(headers))
        if isinstance(error, litellm.exceptions.RateLimitError):
            body = getattr(error, "body", None)
            code = body.get("code") if isinstance(body, dict) else None
            return failure_of_status(429, f"{message} ({code})" if code else message, headers, **about)
        if isinstance(error, litellm.exceptions.APIConnectionError):
            return CallFailed("bad_response", message, retryable=True)
        if isinstance(error, litellm.exceptions.UnsupportedParamsError):
            parameter = refused_parameter(message, call.parameters)
            remedy = f"; {remedy_for(parameter, self._teacher.name)}" if parameter is not None else ""
            return CallFailed("bad_response", message + remedy, retryable=False, fatal=True, parameter=parameter)
        if isinstance(error, litellm.exceptions.ContentPolicyViolationError):
            return CallFailed("refused", message, retryable=False)
        status = getattr(error, "status_code", None)
        # 200 is what its handler calls a body that is no JSON.
        if isinstance(status, int) and status != 200:
            return failure_of_status(status, message, headers, **about)
        return CallFailed("bad_response", message, retryable=True)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _listed_cost(litellm: Any, response: Any) -> float | None:
    """Cost by litellm's price map; None for a model that is not in it."""
    try:
        cost = litellm.completion_cost(completion_response=response)
    except Exception:
        return None
    # An unlisted model comes back as zero in some versions: a price of zero is as unknown as none.
    return float(cost) or None


def _headers_of(error: Exception) -> Any:
    """The headers of the response behind an exception, wherever litellm keeps them."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    return headers or getattr(error, "litellm_response_headers", None) or {}
