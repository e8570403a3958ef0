"""How several workers divide a plan and the limits of its accounts, and what all of them know together."""

import asyncio
import json
import time
import urllib.request
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kp_data.config import Teacher
from kp_data.errors import ConfigError, TeacherError
from kp_data.generate.account import Account
from kp_data.generate.plan import Plan
from kp_data.generate.tally import AccountReading, Limits, Tally
from kp_data.generate.worker import LOST, Access, Sight, Task, Worker, at_rest, merge, task_of, turned
from kp_data.practice import practice_server
from kp_data.questions import load_questions
from kp_data.tables import Questions
from kp_data.teachers.transport import resolve_endpoint

TEACHER = Teacher(name="ada", model="practice/ada")


def plan_of(num_questions: int = 10) -> tuple[Plan, pa.Table]:
    table = load_questions(f"practice:{num_questions}")
    endpoint = resolve_endpoint(TEACHER, "auto", practice_base="http://localhost")
    return Plan(Questions(table), (TEACHER,), {"ada": endpoint}, ("blind",)), table


@settings(deadline=None)
@given(turn=st.integers(0, 6), of=st.integers(1, 7), num_questions=st.integers(1, 12))
def test_every_worker_has_the_same_cells_and_begins_at_its_own(turn: int, of: int, num_questions: int) -> None:
    plan, table = plan_of(num_questions)
    turn %= of
    keys = [cell.key for cell in plan.cells(TEACHER)]
    start = num_questions * turn // of
    assert [cell.key for cell in turned(plan, table, turn=turn, of=of).cells(TEACHER)] == keys[start:] + keys[:start]


def test_the_routed_teacher_goes_with_its_question() -> None:
    plan, table = plan_of(4)
    bruno = Teacher(name="bruno", model="practice/bruno")
    both = replace(plan, teachers=(TEACHER, bruno), endpoints={**plan.endpoints, "bruno": plan.endpoints["ada"]})
    routed = replace(both, routed=["ada", "bruno", "bruno", "ada"])
    there = turned(routed, table, turn=1, of=2)
    for teacher in routed.teachers:
        assert {cell.key for cell in there.cells(teacher)} == {cell.key for cell in routed.cells(teacher)}


def part(**counts: Any) -> Tally:
    return Tally("ada", 100, **counts)


def test_what_workers_answered_adds_up_and_is_not_counted_as_known_too() -> None:
    whole = Tally("ada", 100)
    # Ten were known before; the first worker has seen them, and the twenty of the second.
    merge(whole, [part(answered=30, reused=30), part(answered=20, reused=4, failed=Counter(timeout=1))])
    assert (whole.answered, whole.reused, whole.failed) == (50, 9, {"timeout": 1})
    assert whole.done == 60


@settings(deadline=None)
@given(
    known=st.integers(0, 40),
    brought=st.lists(st.tuples(st.integers(0, 10), st.integers(0, 5)), min_size=1, max_size=5),
)
def test_when_all_cells_are_seen_done_and_left_are_exact(known: int, brought: list[tuple[int, int]]) -> None:
    everything = known + sum(answered + failed for answered, failed in brought)
    parts = [
        Tally(
            "ada",
            everything,
            answered=answered,
            failed=Counter(timeout=failed),
            reused=everything - answered - failed,
        )
        for answered, failed in brought
    ]
    whole = Tally("ada", everything)
    merge(whole, parts)
    assert (whole.reused, whole.left) == (known, 0)


def test_a_teacher_has_stopped_only_when_it_has_for_every_worker() -> None:
    whole = Tally("ada", 100)
    merge(whole, [part(stopped="auth: no"), part()])
    assert whole.stopped is None
    merge(whole, [part(stopped="auth: no"), at_rest(part(), lost=True)])
    assert whole.stopped == "auth: no"
    merge(whole, [at_rest(part(in_flight=3), lost=True)])
    assert (whole.stopped, whole.in_flight) == (LOST, 0)


def test_accounts_add_up_and_rest_only_while_all_of_them_do() -> None:
    whole = Tally("ada", 100)
    first = AccountReading(limit=4.0, in_flight=3, paused_s=2.0, reason="overloaded")
    second = AccountReading(limit=6.0, in_flight=1, paused_s=0.0, reason="")
    merge(whole, [part(account=first, retry_at=9.0, retry_why="timeout"), part(account=second, retry_at=7.0)])
    assert whole.account == AccountReading(limit=10.0, in_flight=4, paused_s=0.0, reason="overloaded")
    assert (whole.retry_at, whole.retry_why) == (7.0, "")


def test_times_of_another_machine_become_times_of_this_one() -> None:
    before = time.monotonic()
    here = Sight((part(retry_at=1_005.0),), now=1_000.0).here()
    assert here.tallies[0].retry_at is not None
    assert before + 5 <= here.tallies[0].retry_at <= time.monotonic() + 5


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def starts_within(seconds: float, accounts: list[Account], clock: Clock, *, tokens: int = 100) -> list[float]:
    """When calls start that are made as soon as each account allows; they are answered at once."""
    starts = []
    while clock.now < seconds:
        for account in accounts:
            if account.paused_s == 0:
                account.start(tokens)
                starts.append(clock.now)
                account.succeed()
        clock.now += 0.125
    return starts


@pytest.mark.parametrize(("of", "rpm"), [(1, 60), (3, 60), (4, 12), (16, 4)])
def test_workers_together_keep_the_rate_of_one_account(of: int, rpm: int) -> None:
    clock = Clock()
    gap_s = 60 / rpm
    accounts = [Account(64, rpm=rpm, share=1 / of, first_s=turn * gap_s, clock=clock) for turn in range(of)]
    starts = starts_within(600, accounts, clock)
    # A second's worth at once is the burst that a single account has too.
    assert abs(len(starts) - 10 * rpm) <= of + rpm / 60 + 1
    in_a_minute = [sum(at <= other < at + 60 for other in starts) for at in starts]
    assert max(in_a_minute) <= rpm + of * rpm / 60 + 2


def test_tokens_are_shared_as_requests_are() -> None:
    clock = Clock()
    accounts = [Account(64, tpm=6_000, share=0.5, clock=clock) for _ in range(2)]
    assert abs(len(starts_within(600, accounts, clock)) - 600) <= 4


def test_a_worker_that_goes_leaves_its_share_to_the_others() -> None:
    clock = Clock()
    account = Account(9, rpm=60, share=1 / 3, clock=clock)
    assert account.most == 3
    assert abs(len(starts_within(300, [account], clock)) - 100) <= 2
    account.set_share(1.0)
    assert account.most == 9
    assert abs(len(starts_within(600, [account], clock)) - 300) <= 2


@settings(deadline=None)
@given(ceiling=st.integers(1, 4096), of=st.integers(1, 64))
def test_ceilings_of_all_workers_add_up_to_no_more_than_the_account_takes(ceiling: int, of: int) -> None:
    most = Account(ceiling, share=1 / of).most
    assert most >= 1
    if of <= ceiling:
        assert ceiling - of < of * most <= ceiling


def test_a_task_holds_no_key_and_no_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, table = plan_of()
    secret = replace(plan, endpoints={"ada": replace(plan.endpoints["ada"], api_key="right-key-12345")})
    monkeypatch.chdir(tmp_path)
    task, access = task_of(secret, table, Path("panel"), Limits(8, 1, 10.0), store_url="sqlite:///cells.sqlite")
    assert task.plan.endpoints == {}
    assert "right-key-12345" not in repr((task, access))
    assert access.endpoints["ada"].api_key == "right-key-12345"
    assert task.out == tmp_path / "panel"
    assert access.store_url == f"sqlite:///{tmp_path}/cells.sqlite"
    with pytest.raises(ConfigError, match="workers need a file or a server"):
        task_of(secret, table, Path("panel"), Limits(8, 1, 10.0), store_url="sqlite://")


def at(url: str, num_questions: int = 60) -> tuple[Plan, pa.Table]:
    plan, table = plan_of(num_questions)
    return replace(plan, endpoints={"ada": replace(plan.endpoints["ada"], api_base=url)}), table


async def begun(task: Task, access: Access, *, of: int) -> list[Worker]:
    workers = [Worker() for _ in range(of)]
    for turn, worker in enumerate(workers):
        await worker.begin(task, access, turn, of)
    return workers


def test_workers_divide_a_plan_and_ask_nothing_twice(tmp_path: Path) -> None:
    async def ask(url: str) -> list[Sight]:
        task, access = task_of(*at(url, 240), tmp_path, Limits(6, 2, 10.0), store_url=None)
        return await asyncio.gather(*(worker.ask() for worker in await begun(task, access, of=2)))

    with practice_server(latency_s=0.02) as url:
        ended = asyncio.run(ask(url))
        with urllib.request.urlopen(url.removesuffix("/v1") + "/stats?brief") as answer:
            seen = json.load(answer)
    assert (seen["completed"], seen["repeated"]) == (240, 0)
    assert min(sight.tallies[0].answered for sight in ended) > 0
    whole = Tally("ada", 240)
    merge(whole, [sight.tallies[0] for sight in ended])
    assert (whole.answered, whole.reused, whole.left) == (240, 0, 0)


def test_a_worker_shows_where_it_stands_and_takes_what_it_is_told(tmp_path: Path) -> None:
    async def ask(url: str) -> tuple[Sight, Sight, Sight]:
        task, access = task_of(*at(url), tmp_path, Limits(8, 2, 10.0), store_url=None)
        (worker,) = await begun(replace(task, budget_usd=None), access, of=1)
        await worker.set_share(0.25)
        asking = asyncio.create_task(worker.ask())
        while not (first := await worker.look()).tallies[0].answered:
            await asyncio.sleep(0.01)
        await worker.set_share(0.125)
        second = await worker.look()
        await worker.stop(False)
        return first, second, await asking

    with practice_server(latency_s=0.1) as url:
        first, second, last = asyncio.run(ask(url))
    accounts = [sight.tallies[0].account for sight in (first, second)]
    assert [account and account.limit for account in accounts] == [2.0, 1.0]
    assert 0 < last.tallies[0].answered < 60
    assert last.tallies[0].in_flight == 0


def test_a_worker_that_cannot_reach_a_teacher_says_so_before_it_asks(tmp_path: Path) -> None:
    task, access = task_of(*at("http://127.0.0.1:9/v1"), tmp_path, Limits(8, 2, 10.0), store_url=None)
    with pytest.raises(TeacherError, match="cannot be reached"):
        asyncio.run(begun(task, access, of=1))
    assert list(tmp_path.iterdir()) == []
