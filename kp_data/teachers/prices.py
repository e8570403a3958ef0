"""What teachers cost: prices from kp.yaml, else from the price list that litellm is packaged with.

The list is read as a file: litellm itself is not imported, nothing is fetched. Prices are US dollars per million
tokens. A price that is not known is None, never zero.

Two prices of the list are left out on purpose. Cached input is counted as plain input, and tokens of reasoning are
counted at the higher of the two output prices where a model has two: a cost is thus never told too low. Prices of
other ways to call (priority, flex, fast) do not apply to the calls made here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from kp_data.config import PRACTICE_PREFIX, Price, Teacher

_LIST_FILE: Final = "model_prices_and_context_window_backup.json"
_TEXT_MODES: Final = ("chat", "completion", "responses")
_TIER: Final = re.compile(r"(input|output)_cost_per_token_above_(\d+)(k?)_tokens(_batches)?")
# Multipliers for a place that an account, not a call, decides about.
_UPLIFTS: Final = (
    "regional_processing_uplift_multiplier_eu",
    "regional_processing_uplift_multiplier_us",
    "regional_endpoint_uplift_multiplier",
)
_ALWAYS_SEARCHING: Final = ("-search-preview", "-search-api", "perplexity/sonar")
# How much these read and search before they answer is bounded by nothing that a call says.
_UNBOUNDED: Final = ("deep-research", "model-router", "model_router", "/preset/")
_FAMILIES: Final = ("vertex_ai", "bedrock", "fireworks_ai", "cohere", "text-completion-")
_FREE: Final = Price(input=0.0, output=0.0)
# What batch APIs ask of the standard price where the list names no price of their own.
_BATCH_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Tariff:
    """What a listed model costs, by the length of the prompt.

    Attributes:
        steps: from how many prompt tokens on which price holds for the whole call; ascending, the first from 0.
        batch_steps: the same for the provider's batch API.
        lists_batch: whether the list names prices of the batch API; without, they are half of the standard ones.
        uplift: factor that the place of an account may add to every price, 1.0 or more.
    """

    steps: tuple[tuple[int, Price], ...]
    batch_steps: tuple[tuple[int, Price], ...]
    lists_batch: bool
    uplift: float = 1.0


def price_of(teacher: Teacher, *, prompt_tokens: int = 0) -> Price | None:
    """What a teacher's calls cost; None where that is not known.

    The price of kp.yaml comes first. Practice teachers are programs and cost nothing. A teacher behind a URL has no
    price but the one of kp.yaml: a local server may call its model gpt-4o. A named model has the list's.

    Args:
        teacher: as configured.
        prompt_tokens: length of the prompt, for models that cost more from some length on.
    """
    if (known := _own_price(teacher)) is not None or teacher.api_base is not None:
        return known
    tariff = tariff_of(teacher.model)
    return None if tariff is None else _at(tariff.steps, prompt_tokens)


def ceiling_of(teacher: Teacher, *, prompt_tokens: int | None = None, batch: bool = False) -> Price | None:
    """The highest price that a standard call to a teacher can have; None where that is not known.

    Args:
        teacher: as configured.
        prompt_tokens: length of the prompt at most; None: a prompt of any length.
        batch: through the provider's batch API. Only a listed batch price is lower than the standard one here: half of
            it is what such APIs usually ask, not a promise.
    """
    if (known := _own_price(teacher)) is not None or teacher.api_base is not None:
        return known
    tariff = tariff_of(teacher.model)
    if tariff is None:
        return None
    steps = tariff.batch_steps if batch and tariff.lists_batch else tariff.steps
    within = [price for start, price in steps if prompt_tokens is None or start <= prompt_tokens]
    return Price(
        input=max(price.input for price in within) * tariff.uplift,
        output=max(price.output for price in within) * tariff.uplift,
        request=max(price.request for price in within),
    )


def batch_price_of(teacher: Teacher, *, prompt_tokens: int = 0) -> Price | None:
    """What a teacher's calls cost through the provider's batch API: the listed price, else half of the standard one.

    Args:
        teacher: as configured.
        prompt_tokens: as for `price_of`.
    """
    if (known := _own_price(teacher)) is not None or teacher.api_base is not None:
        return None if known is None else _scaled(known, _BATCH_SHARE)
    tariff = tariff_of(teacher.model)
    return None if tariff is None else _at(tariff.batch_steps, prompt_tokens)


def source_of_price(teacher: Teacher) -> str | None:
    """Where a teacher's price comes from, in words; None where it has none.

    >>> source_of_price(Teacher(name="ada", model="practice/ada"))
    'practice teachers cost nothing'
    """
    if teacher.price is not None:
        return "kp.yaml"
    if teacher.model.startswith(PRACTICE_PREFIX):
        return "practice teachers cost nothing"
    if price_of(teacher) is None:
        return None
    return f"price list of litellm {importlib.metadata.version('litellm')}"


def cost_usd(price: Price, prompt_tokens: float, completion_tokens: float, *, calls: int = 1) -> float:
    """Cost of calls in US dollars.

    Args:
        price: in US dollars per million tokens.
        prompt_tokens: of all calls together.
        completion_tokens: of all calls together.
        calls: how many.

    >>> cost_usd(Price(input=2.0, output=8.0), 1_000, 500)
    0.006
    """
    return (prompt_tokens * price.input + completion_tokens * price.output) / 1e6 + calls * price.request


@cache
def tariff_of(model: str) -> Tariff | None:
    """The tariff of a model by its name, as litellm writes it; None where the list has none.

    The name is looked up as litellm does: as written, without the provider, a fine-tuned model by its base, a dated
    snapshot by its model. An entry of another provider never counts, whatever its name.
    """
    if any(word in model for word in _UNBOUNDED):
        return None
    for provider, name in _names(model):
        entry = _price_list().get(name)
        if entry is not None and _is_of(provider, str(entry.get("litellm_provider", ""))):
            return _tariff(name, entry)
    return None


def _own_price(teacher: Teacher) -> Price | None:
    if teacher.price is not None:
        return teacher.price
    return _FREE if teacher.model.startswith(PRACTICE_PREFIX) else None


def _at(steps: tuple[tuple[int, Price], ...], prompt_tokens: int) -> Price:
    return max((step for step in steps if step[0] <= prompt_tokens), key=lambda step: step[0])[1]


def _names(model: str) -> Iterator[tuple[str, str]]:
    """Under which names a model may be listed, the most specific first, each with the provider it must have."""
    provider, slash, rest = model.partition("/")
    if not slash:
        provider, rest = "", model
    if provider == "bedrock":
        rest = re.sub(r"^(converse|invoke)/", "", rest)
    tuned = re.match(r"ft:[^:]+", rest)
    for name in (rest, tuned[0] if tuned else re.sub(r"-\d{4}-\d{2}-\d{2}$", "", rest)):
        yield provider, f"{provider}/{name}" if provider else name
        yield provider, name


def _is_of(provider: str, listed: str) -> bool:
    """Whether a listed entry is the provider's; without a provider every entry is meant by its own name."""
    families = (family for family in _FAMILIES if listed.startswith(family))
    return not provider or listed == provider or any(provider.startswith(family) for family in families)


def _tariff(name: str, entry: Mapping[str, Any]) -> Tariff | None:
    fee = _request_fee(name, entry)
    steps = _ranges(entry, fee) or _steps(entry, fee)
    # The list writes zero where it means "not billed by the token": that is no price.
    if not steps or any(not price.request and not (price.input and price.output) for _, price in steps):
        return None
    uplift = max(1.0, *(_number(entry.get(key)) or 1.0 for key in _UPLIFTS), _place_of_account(entry))
    lists_batch = all(_number(entry.get(f"{side}_cost_per_token_batches")) for side in ("input", "output"))
    return Tariff(steps, tuple(_batch_step(entry, start, price) for start, price in steps), lists_batch, uplift)


def _steps(entry: Mapping[str, Any], fee: float) -> tuple[tuple[int, Price], ...]:
    """Prices listed as a base and what holds above some number of tokens, here from that number on."""
    read, wrote = (_number(entry.get(f"{side}_cost_per_token")) for side in ("input", "output"))
    if read is None or wrote is None:
        return ()
    thinks = _number(entry.get("output_cost_per_reasoning_token")) or 0.0
    steps = [(0, _price(read, max(wrote, thinks), fee))]
    for start in _thresholds(entry):
        above = (_tier(entry, side, start, base) for side, base in (("input", read), ("output", wrote)))
        tier_read, tier_wrote = above
        steps.append((start, _price(tier_read, max(tier_wrote, thinks), fee)))
    return tuple(steps)


def _ranges(entry: Mapping[str, Any], fee: float) -> tuple[tuple[int, Price], ...]:
    """Prices listed as one entry for each range of prompt lengths."""
    steps = []
    for row in entry.get("tiered_pricing") or ():
        read, wrote = (_number(row.get(f"{side}_cost_per_token")) for side in ("input", "output"))
        if read is None or wrote is None or not row.get("range"):
            return ()
        thinks = _number(row.get("output_cost_per_reasoning_token")) or 0.0
        steps.append((int(row["range"][0]), _price(read, max(wrote, thinks), fee)))
    steps.sort(key=lambda step: step[0])
    return ((0, steps[0][1]), *steps[1:]) if steps else ()


def _thresholds(entry: Mapping[str, Any]) -> list[int]:
    found = (_TIER.fullmatch(key) for key in entry)
    return sorted({_tokens(match) for match in found if match and not match[4]})


def _tokens(match: re.Match[str]) -> int:
    return int(match[2]) * (1000 if match[3] else 1)


def _tier(entry: Mapping[str, Any], side: str, start: int, base: float, *, suffix: str = "") -> float:
    """The price of one side from a number of tokens on; where none is listed for it, the base price."""
    for number in (f"{start // 1000}k", str(start)):
        if (value := _number(entry.get(f"{side}_cost_per_token_above_{number}_tokens{suffix}"))) is not None:
            return value
    return base


def _batch_step(entry: Mapping[str, Any], start: int, price: Price) -> tuple[int, Price]:
    """The batch price beside a standard one: listed for the same number of tokens, else half."""
    half = _scaled(price, _BATCH_SHARE)
    read, wrote = (
        _tier(entry, side, start, base / 1e6, suffix="_batches")
        if start
        else _number(entry.get(f"{side}_cost_per_token_batches")) or base / 1e6
        for side, base in (("input", half.input), ("output", half.output))
    )
    return start, _price(read, wrote, half.request)


def _request_fee(name: str, entry: Mapping[str, Any]) -> float:
    """What a call costs beside its tokens. Models that search by themselves pay for one search a call at least."""
    fee = _number(entry.get("input_cost_per_request")) or 0.0
    if any(mark in name for mark in _ALWAYS_SEARCHING):
        fee += max(
            (_number(value) or 0.0 for value in (entry.get("search_context_cost_per_query") or {}).values()),
            default=0.0,
        )
    return fee


def _place_of_account(entry: Mapping[str, Any]) -> float:
    return _number((entry.get("provider_specific_entry") or {}).get("us")) or 1.0


def _price(read: float, wrote: float, fee: float) -> Price:
    # Rounded: the list has prices a token, which come out as 0.09999999999999999 a million.
    return Price(input=round(read * 1e6, 9), output=round(wrote * 1e6, 9), request=fee)


def _scaled(price: Price, share: float) -> Price:
    return Price(input=price.input * share, output=price.output * share, request=price.request * share)


def _number(value: Any) -> float | None:
    """A listed price; anything but a finite number from zero on is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


@cache
def _price_list() -> Mapping[str, Mapping[str, Any]]:
    """Listed models that write text, by name. Empty where litellm packages no such file: then no price is known."""
    spec = importlib.util.find_spec("litellm")
    places = spec.submodule_search_locations if spec is not None else None
    path = Path(next(iter(places))) / _LIST_FILE if places else None
    if path is None or not path.is_file():
        return {}
    entries = json.loads(path.read_text(encoding="utf-8"))
    return {name: entry for name, entry in entries.items() if entry.get("mode") in _TEXT_MODES}
