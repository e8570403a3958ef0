"""Claims: a cell has one asker, money is exact, and the dead take nothing with them; on SQLite and on PostgreSQL."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kp_data.errors import StoreError
from kp_data.store import Claims, Outcome, Store, StoredCell, Work, to_nano
from kp_data.store import claims as claims_module
from kp_data.store.database import LEASES, OWNERS, Database

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = Store(store_url)
    yield opened
    opened.close()


def cell(key: str, *, cost: float | None = None, error: str | None = None) -> StoredCell:
    return StoredCell(key, "{}", 1, NOW, reply=None if error else "so", error=error, cost_usd=cost)


def done(key: str, spent: int | None = 0) -> Work:
    return Work(outcomes=[Outcome(cell(key), spent)])


def leases(store: Store) -> dict[str, int]:
    rows = store.database.read(lambda connection: connection.execute(sa.select(LEASES.c.key, LEASES.c.reserved)).all())
    return dict(rows)


def money(store: Store) -> tuple[int, int]:
    ledger = store.ledger()
    return round(ledger.spent_usd * 1e9), round(ledger.reserved_usd * 1e9)


def test_a_cell_that_one_run_asks_is_not_given_to_another(store: Store) -> None:
    one, other = Claims(store), Claims(store)
    assert one.take(["a", "b"]).granted == ("a", "b")
    taken = other.take(["b", "c"])
    assert (taken.granted, taken.elsewhere) == (("c",), frozenset({"b"}))
    one.commit(done("b"))
    again = other.take(["b"])
    assert again.granted == ("b",)
    assert again.held == {"b": None}
    one.close()
    assert set(leases(store)) == {"b", "c"}
    other.close()
    assert leases(store) == {}


def test_what_is_returned_can_be_taken_by_another(store: Store) -> None:
    one, other = Claims(store), Claims(store)
    one.take(["a"])
    one.commit(Work(returns=["a"]))
    assert other.take(["a"]).granted == ("a",)


def test_outcomes_are_stored_and_told_with_their_failure_class(store: Store) -> None:
    claims = Claims(store)
    claims.take(["a", "b"])
    claims.commit(Work(outcomes=[Outcome(cell("a"), 5), Outcome(cell("b", error="timeout"), None)]))
    assert store.states(["a", "b"]) == {"a": None, "b": "timeout"}
    assert leases(store) == {}
    assert money(store) == (5, 0)


def test_money_is_reserved_settled_charged_and_refunded_to_the_last_digit(store: Store) -> None:
    claims = Claims(store, budget=100)
    claims.take(["a", "b", "c", "d"])
    assert claims.commit(Work(wanted={"a": 40, "b": 40, "c": 40, "d": 20})).granted == {"a", "b", "d"}
    assert money(store) == (0, 100)
    # a: answered for 10 of its 40; b: surely not billed; d: nobody knows, so all of it counts.
    first = claims.commit(Work(outcomes=[Outcome(cell("a"), 10)], refunds={"b"}, charges={"d"}, wanted={"c": 70}))
    assert first.granted == {"c"}
    assert first.committed == 100
    assert money(store) == (30, 70)
    claims.commit(done("c", None))
    assert money(store) == (100, 0)
    assert claims.commit(Work(wanted={"b": 1})).granted == frozenset()


def test_a_budget_holds_over_runs_and_counts_what_was_spent_before(store: Store) -> None:
    first = Claims(store)
    first.take(["a"])
    first.commit(done("a", 60))
    first.close()
    second = Claims(store, budget=100)
    second.take(["b"])
    assert second.commit(Work(wanted={"b": 41})).granted == frozenset()
    assert second.commit(Work(wanted={"b": 40})).granted == {"b"}


def test_two_runs_share_one_budget(store: Store) -> None:
    one, other = Claims(store, budget=100), Claims(store, budget=100)
    one.take(["a"])
    other.take(["b"])
    assert one.commit(Work(wanted={"a": 60})).granted == {"a"}
    assert other.commit(Work(wanted={"b": 60})).granted == frozenset()
    one.commit(done("a", 30))
    assert other.commit(Work(wanted={"b": 60})).granted == {"b"}


def test_money_is_given_only_for_cells_that_the_run_holds(store: Store) -> None:
    claims = Claims(store, budget=100)
    assert claims.commit(Work(wanted={"never taken": 1})).granted == frozenset()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_order_of_events_spends_more_than_the_budget(tmp_path: Path, data: st.DataObject) -> None:
    store = Store(f"sqlite:///{tmp_path / uuid.uuid4().hex}.sqlite")
    claims = Claims(store, budget=1000)
    keys = [f"k{number}" for number in range(8)]
    claims.take(keys)
    reserved: dict[str, int] = {}
    billed, idle = 0, set(keys)
    for _ in range(data.draw(st.integers(1, 12))):
        wanted = {
            key: data.draw(st.integers(1, 600))
            for key in sorted(data.draw(st.sets(st.sampled_from(keys))))
            if key in idle
        }
        granted = claims.commit(Work(wanted=wanted)).granted
        reserved.update({key: wanted[key] for key in granted})
        idle -= granted
        for key in sorted(reserved):
            what = data.draw(st.sampled_from(["wait", "charge", "refund"]))
            if what == "charge":
                claims.commit(Work(charges={key}))
                billed += reserved.pop(key)
                idle.add(key)
            elif what == "refund":
                claims.commit(Work(refunds={key}))
                reserved.pop(key)
                idle.add(key)
    assert money(store) == (billed, sum(reserved.values()))
    assert billed + sum(reserved.values()) <= 1000
    claims.close()
    assert money(store) == (billed + sum(reserved.values()), 0)
    store.close()


CHILD = """
import sys, os
from kp_data.store import Claims, Store, Work
store = Store(sys.argv[1])
claims = Claims(store, budget=1000)
claims.take(["a", "b"])
claims.commit(Work(wanted={"a": 70}))
print("ready", flush=True)
sys.stdin.read()
"""


def test_leases_of_a_killed_process_go_back_and_its_money_counts_as_spent(store: Store, store_url: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, store_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == b"ready\n"
    alive = Claims(store)
    assert alive.take(["a", "b"]).granted == ()
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert alive.beat()
    assert alive.take(["a", "b"]).granted == ("a", "b")
    assert money(store) == (70, 0)


def test_a_living_process_keeps_its_cells_though_the_clock_jumps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Claims(store)
    one.take(["a"])
    monkeypatch.setattr(Database, "now", lambda self, connection: 9e9)
    other = Claims(store)
    assert other.take(["a"]).elsewhere == {"a"}
    assert one.beat()


def test_a_process_of_another_machine_keeps_its_cells_until_its_lease_runs_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(claims_module, "_this_host", lambda: "another")
        far = Claims(store)
    far.take(["a"])
    near = Claims(store)
    assert near.take(["a"]).elsewhere == {"a"}
    late = near._database.read(near._database.now) + 61
    monkeypatch.setattr(Database, "now", lambda self, connection: late)
    assert near.beat()
    assert near.take(["a"]).granted == ("a",)
    # The one that was taken for dead learns it, and an outcome it still brings neither harms nor counts twice.
    assert not far.beat()
    far.commit(done("a", 10))
    assert money(store) == (0, 0)
    assert near.commit(Work(wanted={"a": 5})).granted == {"a"}


def test_a_later_process_of_the_same_number_is_not_taken_for_the_dead_one(store: Store) -> None:
    one = Claims(store)
    one.take(["a"])
    stale = f"{os.getpid()}@0"
    store.database.write(lambda connection: connection.execute(sa.update(OWNERS).values(process=stale)))
    assert Claims(store).take(["a"]).granted == ("a",)


def test_what_is_done_again_after_a_broken_connection_counts_once(store: Store) -> None:
    claims = Claims(store, budget=1000)
    claims.take(["a", "b"])
    claims.commit(Work(wanted={"a": 50}))
    work = Work(outcomes=[Outcome(cell("a"), 20)], wanted={"b": 30})
    first, second = claims.commit(work), claims.commit(work)
    assert first == second
    assert money(store) == (20, 30)
    assert claims.take(["b"]).granted == ("b",)


def test_prices_are_rounded_up_so_that_a_reservation_is_never_too_small() -> None:
    assert to_nano(0.15e-6) == 150
    assert to_nano(1e-10) == 1
    assert to_nano(0.0) == 0


def test_a_server_that_is_not_there_is_one_clear_message_without_its_password() -> None:
    with pytest.raises(StoreError, match="cannot be opened") as caught:
        Store("postgresql://kp:secret-word@127.0.0.1:1/none")
    assert "secret-word" not in str(caught.value)


def test_a_database_that_is_not_supported_is_named() -> None:
    with pytest.raises(StoreError, match="mysql is not supported"):
        Store("mysql://localhost/x")
