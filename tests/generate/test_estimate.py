"""What asking will take: tokens, money, and that nothing is written while it is worked out."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.config import Price, Teacher
from kp_data.errors import StoreError
from kp_data.generate.engine import most_nano
from kp_data.generate.estimate import (
    LEAST_MEASURED,
    TEMPLATE_TOKENS_A_CALL,
    TEMPLATE_TOKENS_A_MESSAGE,
    estimate_plan,
    expected_tokens,
    most_tokens,
    store_to_read,
)
from kp_data.generate.plan import Cell, Plan
from kp_data.schema import Question
from kp_data.store import Store, StoredCell
from kp_data.teachers.prices import cost_usd
from kp_data.teachers.transport import resolve_endpoint

PRICE = Price(input=2.0, output=10.0, request=0.001)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_expected_tokens_follow_the_script_and_half_of_what_may_be_written() -> None:
    assert expected_tokens(user("a" * 400), 1000) == (101, 500)
    # Two bytes a letter, three bytes a token; three bytes a sign, one token each.
    assert expected_tokens(user("я" * 300), 1000) == (201, 500)
    assert expected_tokens(user("水" * 100), 1) == (101, 1)
    assert expected_tokens(user("a" * 400 + "水" * 100), 10)[0] == 201


def test_the_most_tokens_are_the_bytes_and_room_for_the_chat_template() -> None:
    room = TEMPLATE_TOKENS_A_CALL + TEMPLATE_TOKENS_A_MESSAGE
    assert most_tokens(user("abc"), 7) == (3 + room, 7)
    assert most_tokens(user("é水😀"), 7) == (2 + 3 + 4 + room, 7)
    assert most_tokens(user("ab") + user("c"), 7)[0] == 3 + room + TEMPLATE_TOKENS_A_MESSAGE


@given(st.lists(st.text(), min_size=1, max_size=4), st.integers(1, 10**6))
def test_what_is_expected_is_never_more_than_what_is_possible(texts: list[str], max_tokens: int) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    expected, most = expected_tokens(messages, max_tokens), most_tokens(messages, max_tokens)
    assert 0 < expected[0] <= most[0]
    assert 0 < expected[1] <= most[1]


def test_half_a_character_is_counted_as_it_is_sent() -> None:
    assert most_tokens(user("\ud83d"), 1)[0] >= len(json.dumps("\ud83d")) - 2


def test_a_reservation_is_the_price_of_the_most_tokens() -> None:
    teacher = behind_url(max_tokens=500, price=PRICE)
    cell = next(plan_of(teacher).cells(teacher))
    read, wrote = most_tokens(cell.messages, 500)
    by_hand = read * 2.0 / 1e6 + wrote * 10.0 / 1e6 + 0.001
    assert by_hand <= most_nano(teacher, cell) / 1e9 <= by_hand + 1e-9


def plan_of(*teachers: Teacher, num_questions: int = 30, **options: Any) -> Plan:
    questions = tuple(
        Question(id=str(number), question=f"What is {number} + 1?", answer=str(number + 1))
        for number in range(num_questions)
    )
    endpoints = {teacher.name: resolve_endpoint(teacher, "auto") for teacher in teachers}
    return Plan(questions=questions, teachers=teachers, endpoints=endpoints, **{"modes": ("blind",), **options})


def behind_url(name: str = "one", **options: Any) -> Teacher:
    return Teacher(name=name, model="m", **{"api_base": "http://localhost:1/v1", "price": PRICE, **options})


def stored(cell: Cell, **changes: Any) -> StoredCell:
    held = StoredCell(
        cell.key,
        cell.request,
        attempts=1,
        created_at=datetime.now(UTC),
        reply="The answer is 3.",
        prompt_tokens=40,
        completion_tokens=90,
    )
    return replace(held, **changes)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    held = Store.of_folder(tmp_path / "panel")
    yield held
    held.close()


def test_an_empty_store_leaves_every_cell_to_ask_by_guess() -> None:
    plan = plan_of(behind_url(max_tokens=100), samples=2, modes=("blind", "teacher_forced"))
    (estimate,) = estimate_plan(plan)
    cells = list(plan.cells(plan.teachers[0]))
    prompt = sum(expected_tokens(cell.messages, 100)[0] for cell in cells)
    assert (estimate.cells, estimate.held, estimate.to_ask) == (120, 0, 120)
    assert estimate.basis == "guess"
    assert (estimate.prompt_tokens, estimate.completion_tokens) == (prompt, 120 * 50)
    assert estimate.cost_usd == pytest.approx((prompt * 2.0 + 6_000 * 10.0) / 1e6 + 0.12)
    most = sum(cost_usd(PRICE, *most_tokens(cell.messages, 100)) for cell in cells)
    assert estimate.most_usd == pytest.approx(most)
    assert estimate.price_source == "kp.yaml"


def test_a_price_that_is_not_known_leaves_the_cost_unknown_and_practice_costs_nothing() -> None:
    unknown = behind_url(price=None)
    free = Teacher(name="ada", model="practice/ada")
    first, second = estimate_plan(plan_of(unknown, free))
    assert (first.price, first.price_source, first.cost_usd, first.most_usd) == (None, None, None, None)
    assert first.to_ask == 30
    assert first.prompt_tokens > 0
    assert (second.cost_usd, second.most_usd) == (0.0, 0.0)
    assert json.loads(json.dumps(first.as_dict()))["cost_usd"] is None
    assert json.loads(json.dumps(second.as_dict()))["price"] == {"input": 0.0, "output": 0.0, "request": 0.0}


def test_answered_cells_are_not_asked_again_and_their_means_replace_the_guess(store: Store) -> None:
    plan = plan_of(behind_url(max_tokens=1000))
    cells = list(plan.cells(plan.teachers[0]))
    store.put(stored(cell) for cell in cells[:LEAST_MEASURED])
    (estimate,) = estimate_plan(plan, store)
    assert (estimate.held, estimate.to_ask) == (LEAST_MEASURED, 30 - LEAST_MEASURED)
    assert estimate.basis == "measured"
    assert estimate.completion_tokens == 90 * estimate.to_ask
    # Forty tokens a prompt, but for questions of one letter more or less.
    assert estimate.prompt_tokens == pytest.approx(40 * estimate.to_ask, rel=0.05)


def test_few_answers_or_answers_without_counts_are_no_measure(store: Store) -> None:
    plan = plan_of(behind_url())
    cells = list(plan.cells(plan.teachers[0]))
    store.put(stored(cell) for cell in cells[: LEAST_MEASURED - 1])
    store.put(stored(cell, prompt_tokens=None) for cell in cells[LEAST_MEASURED - 1 : 25])
    (estimate,) = estimate_plan(plan, store)
    assert (estimate.to_ask, estimate.basis) == (5, "guess")


def test_each_mode_is_measured_for_itself(store: Store) -> None:
    plan = plan_of(behind_url(), modes=("blind", "teacher_forced"))
    blind = [cell for cell in plan.cells(plan.teachers[0]) if cell.mode == "blind"]
    store.put(stored(cell) for cell in blind[:25])
    (estimate,) = estimate_plan(plan, store)
    assert (estimate.to_ask, estimate.basis) == (35, "measured and guess")


def test_failed_calls_are_asked_again_and_paid_failures_only_on_request(store: Store) -> None:
    plan = plan_of(behind_url())
    cells = list(plan.cells(plan.teachers[0]))
    store.put(stored(cell, reply=None, error="timeout") for cell in cells[:10])
    store.put(stored(cell, reply="", finish_reason="length") for cell in cells[10:14])
    store.put(stored(cell, reply=None, error="refused") for cell in cells[14:16])
    store.put(stored(cell) for cell in cells[16:])
    assert estimate_plan(plan, store)[0].to_ask == 10
    assert estimate_plan(plan, store, retry_failed=("truncated",))[0].to_ask == 14
    assert estimate_plan(plan, store, retry_failed=("truncated", "refused"))[0].to_ask == 16


def test_the_same_words_and_the_same_model_under_two_names_are_asked_once() -> None:
    plan = plan_of(behind_url("one"), behind_url("two"), behind_url("warm", temperature=1.0))
    twice = replace(plan, questions=(*plan.questions, replace(plan.questions[0], id="again")))
    estimates = estimate_plan(twice)
    assert [estimate.cells for estimate in estimates] == [31, 31, 31]
    assert [estimate.to_ask for estimate in estimates] == [30, 0, 30]
    assert (estimates[1].prompt_tokens, estimates[1].cost_usd) == (0, 0.0)


def test_where_nothing_was_asked_no_folder_and_no_store_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert store_to_read(folder, None) is None
    assert store_to_read(folder, f"sqlite:///{folder}/cells.sqlite") is None
    estimate_plan(plan_of(behind_url()), store_to_read(folder, None))
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_there_is_found_by_folder_and_by_url(tmp_path: Path) -> None:
    plan = plan_of(behind_url())
    made = Store.of_folder(tmp_path)
    made.put([stored(next(plan.cells(plan.teachers[0])))])
    made.close()
    for url in (None, f"sqlite:///{tmp_path}/cells.sqlite"):
        held = store_to_read(tmp_path, url)
        assert held is not None
        assert estimate_plan(plan, held)[0].held == 1
        held.close()


def test_a_url_that_is_none_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        store_to_read(tmp_path, "not a url")
