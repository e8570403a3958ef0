"""Batch jobs on record: made whole or not at all, handled by one, their cells and money exact; on both databases."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from kp_data.store import Claims, Outcome, Store, StoredCell, Work
from kp_data.store.database import LEASES, OWNERS
from kp_data.store.jobs import JOB_CELLS, RUNNING, SUBMITTING, UNSENT, Job, JobCell, Jobs, describe_jobs, new_job_id

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = Store(store_url)
    yield opened
    opened.close()


def begin(jobs: Jobs, claims: Claims, keys: str = "abc", **names: str) -> Job | None:
    cells = [JobCell(key, f'{{"of": "{key}"}}') for key in keys]
    return jobs.begin(
        new_job_id(), cells, **{"teacher": "gpt", "endpoint": "|openai/gpt", "owner": claims.owner, **names}
    )


def made(jobs: Jobs, claims: Claims, keys: str = "abc", *, amount: int = 0) -> Job:
    """A job of cells that were claimed, and paid for in advance."""
    claims.take(list(keys))
    if amount:
        claims.commit(Work(wanted=dict.fromkeys(keys, amount)))
    job = begin(jobs, claims, keys)
    assert job is not None
    return job


def reply(key: str) -> StoredCell:
    return StoredCell(key, "{}", 1, NOW, reply="so")


def rows(store: Store, table: sa.Table) -> int:
    return int(store.database.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()))


def money(store: Store) -> tuple[int, int]:
    ledger = store.ledger()
    return round(ledger.spent_usd * 1e9), round(ledger.reserved_usd * 1e9)


def test_a_job_takes_the_leases_of_its_cells_so_that_nobody_else_asks_them(store: Store) -> None:
    jobs, claims, other = Jobs(store), Claims(store), Claims(store)
    job = made(jobs, claims)
    assert jobs.open_jobs() == [job]
    assert (job.state, job.provider_id, job.requests) == (SUBMITTING, None, 3)
    assert other.take(["a", "b", "c", "d"]).granted == ("d",)
    claims.close()
    # The leases live as long as the job, whatever becomes of the process.
    assert other.take(["a"]).elsewhere == {"a"}
    assert jobs.cells(job.id, [0, 2, 7]) == {0: JobCell("a", '{"of": "a"}'), 2: JobCell("c", '{"of": "c"}')}


def test_a_job_with_a_cell_of_somebody_else_is_not_made_at_all(store: Store) -> None:
    jobs, claims, other = Jobs(store), Claims(store), Claims(store)
    other.take(["b"])
    claims.take(["a", "c"])
    assert begin(jobs, claims) is None
    assert jobs.open_jobs() == []
    assert rows(store, JOB_CELLS) == 0
    claims.commit(Work(returns=["a", "c"]))
    assert other.take(["a", "c"]).granted == ("a", "c")


def test_a_living_process_keeps_its_job_and_a_dead_one_loses_it(store: Store) -> None:
    jobs, claims, other = Jobs(store), Claims(store), Claims(store)
    job = made(jobs, claims)
    assert jobs.take(job.id, claims.owner)
    assert not jobs.take(job.id, other.owner)
    assert jobs.sending(job.id, claims.owner)
    claims.close()
    assert jobs.take(job.id, other.owner)
    # Whoever comes back from the dead must not send it a second time.
    assert not jobs.sending(job.id, claims.owner)


def test_a_process_that_others_took_for_dead_may_not_send(store: Store) -> None:
    jobs, claims = Jobs(store), Claims(store)
    job = made(jobs, claims)
    store.database.write(lambda connection: connection.execute(sa.delete(OWNERS)))
    assert not jobs.sending(job.id, claims.owner)


def test_a_job_of_a_process_that_was_killed_is_free_for_the_next(store: Store, store_url: str) -> None:
    code = (
        "import os, signal, sys; from kp_data.store import Claims, Store; from kp_data.store.jobs import *\n"
        "store = Store(sys.argv[1]); claims = Claims(store); claims.take(['a'])\n"
        "Jobs(store).begin(new_job_id(), [JobCell('a', '{}')], teacher='t', endpoint='e', owner=claims.owner)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, store_url]).returncode == -9
    claims, jobs = Claims(store), Jobs(store)
    (job,) = jobs.open_jobs("e")
    assert claims.take(["a"]).elsewhere == {"a"}
    assert jobs.take(job.id, claims.owner)


def test_the_providers_id_is_kept_and_a_settled_job_changes_no_more(store: Store) -> None:
    jobs, claims = Jobs(store), Claims(store)
    job = made(jobs, claims)
    jobs.submitted(job.id, "batch_1")
    found = jobs.get(job.id)
    assert found is not None
    assert (found.state, found.provider_id) == (RUNNING, "batch_1")
    assert jobs.provider_ids() == {"batch_1"}
    jobs.finish(job.id, "completed")
    jobs.finish(job.id, UNSENT, "too late")
    jobs.submitted(job.id, "batch_2")
    found = jobs.get(job.id)
    assert found is not None
    assert (found.state, found.provider_id, found.message) == ("completed", "batch_1", None)
    assert not jobs.take(job.id, claims.owner)
    assert jobs.open_jobs() == []


def test_outcomes_are_stored_once_and_the_rest_is_open_again_with_its_money(store: Store) -> None:
    jobs, claims = Jobs(store), Claims(store, budget=1000)
    job = made(jobs, claims, amount=100)
    assert money(store) == (0, 300)
    for _ in range(2):
        jobs.store_outcomes(job.id, [Outcome(reply("a"), 40), Outcome(reply("b"), None)])
        # A cost that nobody told is all that was reserved.
        assert money(store) == (140, 100)
    for _ in range(2):
        jobs.finish(job.id, "expired")
        assert money(store) == (140, 0)
    assert store.states(["a", "b", "c"]) == {"a": None, "b": None}
    assert claims.take(["a", "b", "c"]).granted == ("a", "b", "c")
    assert rows(store, JOB_CELLS) == 0


def test_a_large_job_is_closed_whole(store: Store) -> None:
    jobs, claims = Jobs(store), Claims(store)
    keys = [f"k{n}" for n in range(1201)]
    claims.take(keys)
    job = jobs.begin(new_job_id(), [JobCell(key, "{}") for key in keys], teacher="t", endpoint="e", owner=claims.owner)
    assert job is not None
    jobs.finish(job.id, UNSENT)
    assert rows(store, LEASES) == 0


def test_a_store_that_was_opened_before_there_were_jobs_gets_the_tables(tmp_path: object) -> None:
    store = Store(f"sqlite:///{tmp_path}/cells.sqlite")
    store.database.write(lambda connection: connection.execute(sa.text("DROP TABLE job_cells")))
    assert Jobs(store).open_jobs() == []
    store.close()


def test_open_jobs_are_told_in_a_phrase() -> None:
    job = Job("0" * 32, "gpt", "|openai/gpt", None, SUBMITTING, 1, None, NOW, NOW)
    assert describe_jobs([]) == ""
    assert describe_jobs([job]) == "1 cell in 1 batch job at the provider since 2026-01-02 00:00 UTC"
    assert describe_jobs([job] * 1500).startswith("1,500 cells in 1,500 batch jobs at the provider")
