"""Prices: who has one, which one holds, and that none is ever told too low."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.config import Price, Teacher
from kp_data.teachers import prices
from kp_data.teachers.prices import batch_price_of, ceiling_of, cost_usd, price_of, source_of_price
from kp_data.teachers.transport import Reply, cost_of

PRICE_LIST: dict[str, dict[str, Any]] = {
    "gpt-x": {
        "litellm_provider": "openai",
        "input_cost_per_token": 2e-6,
        "output_cost_per_token": 8e-6,
        "input_cost_per_token_batches": 1e-6,
        "output_cost_per_token_batches": 4e-6,
        "input_cost_per_token_priority": 9e-6,
        "cache_read_input_token_cost": 1e-7,
    },
    "gpt-long": {
        "litellm_provider": "openai",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 4e-6,
        "input_cost_per_token_above_200k_tokens": 2e-6,
        "output_cost_per_token_above_200k_tokens": 6e-6,
        "input_cost_per_token_above_200k_tokens_priority": 9e-6,
        "regional_processing_uplift_multiplier_eu": 1.1,
    },
    "maker/thinks": {
        "litellm_provider": "maker",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 1e-6,
        "output_cost_per_reasoning_token": 4e-6,
    },
    "maker/ranges": {
        "litellm_provider": "maker",
        "tiered_pricing": [
            {"range": [32_000, 128_000], "input_cost_per_token": 3e-6, "output_cost_per_token": 5e-6},
            {"range": [0, 32_000], "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6},
        ],
    },
    "maker/fee": {
        "litellm_provider": "maker",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 1e-6,
        "input_cost_per_request": 0.005,
    },
    "maker/free": {"litellm_provider": "maker", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
    "maker/half-free": {"litellm_provider": "maker", "input_cost_per_token": 1e-6, "output_cost_per_token": 0},
    "maker/unlisted-output": {"litellm_provider": "maker", "input_cost_per_token": 1e-6},
    "maker/not-a-number": {"litellm_provider": "maker", "input_cost_per_token": "1e-6", "output_cost_per_token": -1.0},
    "ft:gpt-x": {"litellm_provider": "openai", "input_cost_per_token": 4e-6, "output_cost_per_token": 9e-6},
    "gemini-y": {
        "litellm_provider": "vertex_ai-language-models",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 1e-6,
    },
    "paints": {
        "litellm_provider": "openai",
        "mode": "image_generation",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 1e-6,
    },
}


@pytest.fixture
def price_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A price list of our own in the place of litellm's: its numbers do not change with a release."""
    package = tmp_path / "litellm"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    entries = {name: {"mode": "chat", **entry} for name, entry in PRICE_LIST.items()}
    (package / "model_prices_and_context_window_backup.json").write_text(json.dumps(entries))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "litellm", raising=False)
    forget()
    yield
    forget()


def forget() -> None:
    prices.tariff_of.cache_clear()
    prices._price_list.cache_clear()


def teacher(model: str, **options: Any) -> Teacher:
    return Teacher(name="one", model=model, **options)


@pytest.mark.usefixtures("price_list")
def test_a_named_model_has_the_price_of_the_list_with_and_without_its_provider() -> None:
    listed = Price(input=2.0, output=8.0)
    assert price_of(teacher("gpt-x")) == listed
    assert price_of(teacher("openai/gpt-x")) == listed
    assert price_of(teacher("openai/gpt-x-2031-02-03")) == listed
    assert price_of(teacher("vertex_ai/gemini-y")) == Price(input=1.0, output=1.0)
    assert price_of(teacher("openai/ft:gpt-x:team::id")) == Price(input=4.0, output=9.0)


@pytest.mark.usefixtures("price_list")
@pytest.mark.parametrize(
    "model",
    [
        "gpt-unheard-of",
        "groq/gpt-x",  # the same name at another provider is another model
        "gemini/gemini-y",
        "openrouter/openai/gpt-x",
        "maker/free",
        "maker/half-free",
        "maker/unlisted-output",
        "maker/not-a-number",
        "paints",
    ],
)
def test_what_is_not_known_is_none_and_never_zero(model: str) -> None:
    one = teacher(model)
    assert price_of(one) is None
    assert ceiling_of(one) is None
    assert batch_price_of(one) is None
    assert source_of_price(one) is None
    assert cost_of(one, 10, 10) is None


@pytest.mark.usefixtures("price_list")
def test_a_teacher_behind_a_url_has_no_price_but_its_own() -> None:
    behind = teacher("gpt-x", api_base="http://localhost:8000/v1")
    assert price_of(behind) is None
    assert ceiling_of(behind) is None
    own = Price(input=0.5, output=1.0, request=0.01)
    assert price_of(behind.model_copy(update={"price": own})) == own
    assert source_of_price(behind.model_copy(update={"price": own})) == "kp.yaml"


@pytest.mark.usefixtures("price_list")
def test_the_price_of_kp_yaml_comes_before_the_list_and_practice_costs_nothing() -> None:
    own = Price(input=0.0, output=0.0)
    assert price_of(teacher("gpt-x", price=own)) == own
    assert price_of(teacher("practice/ada")) == own
    assert price_of(teacher("practice/ada", api_base="http://localhost:1/v1")) == own
    assert cost_of(teacher("practice/ada"), 10, 10) == 0.0


@pytest.mark.usefixtures("price_list")
def test_a_long_prompt_costs_the_higher_tier_for_the_whole_call() -> None:
    one = teacher("openai/gpt-long")
    assert price_of(one, prompt_tokens=199_999) == Price(input=1.0, output=4.0)
    assert price_of(one, prompt_tokens=200_000) == Price(input=2.0, output=6.0)
    # 300,000 x $2 + 1,000 x $6 a million.
    assert cost_of(one, 300_000, 1_000) == pytest.approx(0.606)


@pytest.mark.usefixtures("price_list")
def test_the_ceiling_is_the_highest_tier_that_a_prompt_can_reach_with_the_uplift_of_a_place() -> None:
    one = teacher("openai/gpt-long")
    assert ceiling_of(one) == Price(input=2.0 * 1.1, output=6.0 * 1.1)
    assert ceiling_of(one, prompt_tokens=1_000) == Price(input=1.0 * 1.1, output=4.0 * 1.1)


@pytest.mark.usefixtures("price_list")
def test_ranges_reasoning_tokens_and_fees_are_in_the_price() -> None:
    ranges = teacher("maker/ranges")
    assert price_of(ranges) == Price(input=1.0, output=2.0)
    assert price_of(ranges, prompt_tokens=50_000) == Price(input=3.0, output=5.0)
    assert price_of(ranges, prompt_tokens=500_000) == Price(input=3.0, output=5.0)
    assert price_of(teacher("maker/thinks")) == Price(input=1.0, output=4.0)
    assert cost_of(teacher("maker/fee"), 1_000_000, 0) == pytest.approx(1.005)


@pytest.mark.usefixtures("price_list")
def test_a_batch_costs_what_is_listed_for_it_else_half() -> None:
    assert batch_price_of(teacher("gpt-x")) == Price(input=1.0, output=4.0)
    assert batch_price_of(teacher("gpt-long")) == Price(input=0.5, output=2.0)
    assert batch_price_of(teacher("gpt-long"), prompt_tokens=300_000) == Price(input=1.0, output=3.0)
    own = Price(input=1.0, output=3.0)
    assert batch_price_of(teacher("any", api_base="http://localhost/v1", price=own)) == Price(input=0.5, output=1.5)
    # Half is a habit of providers, not a promise: only a listed price lowers the ceiling.
    assert ceiling_of(teacher("gpt-x"), batch=True) == Price(input=1.0, output=4.0)
    assert ceiling_of(teacher("gpt-long"), batch=True) == ceiling_of(teacher("gpt-long"))


@pytest.mark.usefixtures("price_list")
@given(st.sampled_from(list(PRICE_LIST)), st.integers(0, 2_000_000), st.integers(0, 10**6))
def test_no_call_costs_more_than_the_ceiling_says(model: str, prompt_tokens: int, completion_tokens: int) -> None:
    one = teacher(model)
    price, ceiling = price_of(one, prompt_tokens=prompt_tokens), ceiling_of(one, prompt_tokens=prompt_tokens)
    assert (price is None) == (ceiling is None)
    if price is not None and ceiling is not None:
        cost = cost_usd(price, prompt_tokens, completion_tokens)
        assert cost <= cost_usd(ceiling, prompt_tokens, completion_tokens)
        highest = ceiling_of(one)
        assert highest is not None
        assert cost <= cost_usd(highest, prompt_tokens, completion_tokens)


@pytest.mark.usefixtures("price_list")
def test_a_reply_is_priced_by_the_list_before_what_the_carrier_says() -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 500}
    assert Reply.of(teacher("openai/gpt-x"), text="t", usage=usage, cost_usd=9.0).cost_usd == pytest.approx(0.006)
    assert Reply.of(teacher("openai/new"), text="t", usage=usage, cost_usd=9.0).cost_usd == 9.0
    assert Reply.of(teacher("openai/new"), text="t", usage=usage).cost_usd is None
    assert Reply.of(teacher("openai/gpt-x"), text="t", usage={}).cost_usd is None


def test_a_reply_tells_which_parameters_it_did_not_follow() -> None:
    one = teacher("practice/ada", logprobs=True, max_tokens=10)
    usage = {"prompt_tokens": 1, "completion_tokens": 11}
    assert Reply.of(one, text="t", usage=usage).ignored == ("logprobs", "max_tokens")
    assert Reply.of(one, text="t", usage={"completion_tokens": 10}, logprob=-0.5).ignored == ()
    # An empty reply has no tokens to speak of.
    assert Reply.of(one, text="", usage={}).ignored == ()


def test_a_package_without_the_list_means_that_no_price_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "litellm").mkdir()
    (tmp_path / "litellm" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "litellm", raising=False)
    forget()
    assert price_of(teacher("openai/gpt-4o-mini")) is None
    forget()


def test_prices_of_the_packaged_list_are_found_without_importing_litellm() -> None:
    program = (
        "import sys; from kp_data.config import Teacher; from kp_data.teachers.prices import price_of; "
        "price = price_of(Teacher(name='g', model='openai/gpt-4o-mini')); "
        "assert 0 < price.input < price.output; assert 'litellm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
def test_litellm_itself_has_the_same_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    program = """
import json, sys, litellm
for model in json.loads(sys.argv[1]):
    info = litellm.get_model_info(model)
    print(json.dumps([model, info["input_cost_per_token"], info["output_cost_per_token"]]))
"""
    known = [name for name in SAME_IN_LITELLM if price_of(teacher(name)) is not None]
    assert len(known) >= 10
    ran = subprocess.run([sys.executable, "-c", program, json.dumps(known)], check=True, capture_output=True, text=True)
    for line in ran.stdout.splitlines():
        model, read, wrote = json.loads(line)
        ours = price_of(teacher(model))
        assert ours is not None
        assert (ours.input, ours.output) == pytest.approx((read * 1e6, wrote * 1e6)), model


SAME_IN_LITELLM = (
    "gpt-4o-mini",
    "openai/gpt-4o",
    "openai/gpt-4.1-mini",
    "openai/o3-mini",
    "anthropic/claude-haiku-4-5",
    "claude-sonnet-4-5",
    "gemini/gemini-2.5-pro",
    "gemini/gemini-2.5-flash",
    "vertex_ai/gemini-2.5-flash",
    "mistral/mistral-small-latest",
    "deepseek/deepseek-chat",
    "groq/openai/gpt-oss-20b",
    "together_ai/meta-llama/Llama-3.3-70B-Instruct-Turbo",
    "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "azure/gpt-4o",
    "ft:gpt-4o-mini-2024-07-18:org::id",
)
