"""Batch jobs over real HTTP, in both dialects, with everything that goes wrong with them."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from batch_child import Job, plan_of, run

from kp_data.config import Generate, Teacher
from kp_data.errors import StoreError, TeacherError
from kp_data.generate import generate_panel
from kp_data.practice import TEACHERS, practice_server
from kp_data.practice.batch_jobs import BatchBehaviour
from kp_data.schema import MEASURED_COLUMNS
from kp_data.store import Claims, Store, StoredCell
from kp_data.store.jobs import UNSENT, JobCell, Jobs, new_job_id
from kp_data.teachers.batches import Row, make_batch_client
from kp_data.teachers.direct import DirectCarrier
from kp_data.teachers.transport import Call

DIALECTS = ("openai", "anthropic")
PRICE = {"price": {"input": 2.0, "output": 8.0}}


@contextmanager
def server(**behaviour: Any) -> Iterator[str]:
    api_key = behaviour.pop("api_key", None)
    with practice_server(batches=BatchBehaviour(**behaviour), api_key=api_key) as url:
        yield url


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as answer:
        return dict(json.load(answer))


def stored(job: Job) -> dict[str, StoredCell]:
    plan = plan_of(job)
    store = Store.of_folder(Path(job.folder))
    try:
        return store.get([cell.key for cell in plan.cells(plan.teachers[0])])
    finally:
        store.close()


async def asked_online(job: Job) -> dict[str, Any]:
    plan = plan_of(job)
    (teacher,) = plan.teachers
    carrier = DirectCarrier(teacher, plan.endpoints[teacher.name])
    try:
        return {cell.key: await carrier.ask(Call(cell.messages, cell.parameters, 10.0)) for cell in plan.cells(teacher)}
    finally:
        await carrier.close()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_batch_brings_what_single_calls_bring_at_half_the_price(tmp_path: Path, dialect: str) -> None:
    with server(looks=3) as url:
        job = Job(str(tmp_path), url, dialect, fields={**PRICE, "logprobs": dialect == "openai"})
        tally = asyncio.run(run(job))
        replies = asyncio.run(asked_online(job))
    cells = stored(job)
    assert (tally.answered, tally.left, len(cells)) == (20, 0, 20)
    for key, reply in replies.items():
        cell = cells[key]
        assert (cell.reply, cell.finish_reason, cell.model) == (reply.text, reply.finish_reason, reply.model)
        assert (cell.prompt_tokens, cell.completion_tokens) == (reply.prompt_tokens, reply.completion_tokens)
        assert cell.logprob == pytest.approx(reply.logprob)
        assert cell.cost_usd == pytest.approx(reply.cost_usd / 2)
    # By hand: 2 and 8 dollars a million tokens, halved.
    assert tally.cost_usd == pytest.approx((tally.prompt_tokens * 1.0 + tally.completion_tokens * 4.0) / 1e6)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_rows_that_were_finished_are_kept_and_only_the_rest_is_asked_again(
    tmp_path: Path, dialect: str, end: str
) -> None:
    with server(ends=(end, end), finished=0.25) as url:
        tally = asyncio.run(run(Job(str(tmp_path), url, dialect)))
        told = stats(url)
    # 20, then the 15 that are left, then the 12 that are left of those.
    assert told["batches"]["rows"] == 20 + 15 + 12
    assert (tally.answered, tally.left, told["repeated"]) == (20, 0, 0)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_never_finishes_is_left_to_the_next_run(tmp_path: Path, dialect: str) -> None:
    with server(ends=("expired",) * 5, finished=0.5) as url:
        job = Job(str(tmp_path), url, dialect, settings={"rounds": 2})
        assert asyncio.run(run(job)).left == 5
        tally = asyncio.run(run(job))
        assert (tally.reused, tally.answered, tally.left) == (15, 3, 2)
        assert stats(url)["repeated"] == 0


@pytest.mark.parametrize("dialect", DIALECTS)
def test_failed_lost_doubled_and_shuffled_rows_end_in_the_right_cells(tmp_path: Path, dialect: str) -> None:
    with server(failing=0.2, refused=0.2, missing=0.2, doubled=0.5) as url:
        job = Job(str(tmp_path), url, dialect, questions=60, settings={"group": 7, "rounds": 8})
        tally = asyncio.run(run(job))
        rows = stats(url)["batches"]["rows"]
    cells = stored(job)
    refused = [cell for cell in cells.values() if "invalid" in (cell.message or "")]
    broken = [cell for cell in cells.values() if "the server had an error" in (cell.message or "")]
    assert 10 < len(refused) < 30
    # What the provider broke, or kept, was asked again; what it refused was not.
    assert rows > 60
    assert tally.failed == {"bad_response": len(refused) + len(broken)}
    assert tally.answered == len(cells) - len(refused) - len(broken)
    plan = plan_of(job)
    for cell in plan.cells(plan.teachers[0]):
        said = TEACHERS["ada"].answer(cell.messages).text
        assert cells[cell.key].reply in (None, said)


@pytest.mark.parametrize(
    ("dialect", "faults", "jobs"),
    [
        ("openai", "create:lost", 1),
        ("openai", "create:stall", 1),
        ("openai", "create:429,create:503", 1),
        ("openai", "create:500", 1),
        ("openai", "upload:lost,upload:500", 1),
        ("openai", "look:500,look:lost,look:429,results:cut,results:500,results:lost", 1),
        ("openai", "create:lost,files:500,list:500,files:lost", 1),
        ("anthropic", "create:lost", 1),
        ("anthropic", "create:500,create:429", 1),
        ("anthropic", "create:lost,list:500,results:500", 1),
        ("anthropic", "look:500,look:lost,results:cut,results:lost", 1),
    ],
)
def test_no_fault_pays_twice_or_loses_a_row(
    tmp_path: Path, dialect: str, faults: str, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _short_calls(monkeypatch)
    with server(faults=faults) as url:
        tally = asyncio.run(run(Job(str(tmp_path), url, dialect, settings={"group": 3})))
        told = stats(url)
    assert (tally.answered, tally.left) == (20, 0)
    assert (told["batches"]["jobs"], told["repeated"]) == (jobs, 0)
    assert sum(told["batches"]["met"].values()) == len(faults.split(","))


def _short_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    import aiohttp

    from kp_data.teachers.batches import wire

    monkeypatch.setattr(wire, "_CALL", aiohttp.ClientTimeout(total=0.5))


def test_a_server_that_drops_the_name_of_a_job_is_known_by_its_file(tmp_path: Path) -> None:
    with server(faults="create:lost", keeps_metadata=False) as url:
        tally = asyncio.run(run(Job(str(tmp_path), url)))
        assert (tally.answered, stats(url)["batches"]["jobs"]) == (20, 1)


def test_another_job_of_the_same_size_is_not_taken_for_ours(tmp_path: Path) -> None:
    with server(faults="create:500") as url:
        # Somebody else's, on the same account: ended, and of the very size.
        asyncio.run(run(Job(str(tmp_path / "other"), url, "anthropic", teacher="bruno", questions=20)))
        tally = asyncio.run(run(Job(str(tmp_path / "ours"), url, "anthropic")))
        told = stats(url)
    assert (tally.answered, told["batches"]["jobs"], told["repeated"]) == (20, 2, 0)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_job_that_fails_as_a_whole_stops_its_teacher_and_says_why(tmp_path: Path, dialect: str) -> None:
    with server(ends=("failed",)) as url:
        job = Job(str(tmp_path), url, dialect)
        tally = asyncio.run(run(job))
        assert (tally.answered, tally.left) == (0, 20)
        if dialect == "openai":
            assert tally.stopped == "invalid_batch: a failure that was asked for"
        # Nothing stands in the way of the next run.
        assert asyncio.run(run(job)).answered == 20


def test_jobs_are_split_by_number_and_by_bytes(tmp_path: Path) -> None:
    with server() as url:
        asyncio.run(run(Job(str(tmp_path / "a"), url, settings={"requests": 6})))
        assert stats(url)["batches"]["jobs"] == 4
        asyncio.run(run(Job(str(tmp_path / "b"), url, "anthropic", settings={"requests": 20})))
        assert stats(url)["batches"]["jobs"] == 5


def test_a_file_is_never_larger_than_the_provider_takes() -> None:
    from kp_data.generate.batch import _Bundle
    from kp_data.teachers.batches import Shape

    plan = plan_of(Job("", "http://localhost:1/v1", questions=1))
    (cell,) = plan.cells(plan.teachers[0])
    bundle = _Bundle(Shape(b"[", b",", b"]", most_requests=10, most_bytes=11), requests=10)
    try:
        for line in (b"xxx", b"xxx"):
            assert bundle.has_room(line)
            bundle.add(cell, line)
        assert not bundle.has_room(b"x" * 3)
        assert bundle.has_room(b"x")
        bundle.finish()
        assert bundle.path.read_bytes() == b"[xxx,xxx]"
    finally:
        bundle.close()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_run_that_is_stopped_leaves_its_jobs_and_the_next_one_fetches_them(
    tmp_path: Path, dialect: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def stopped(job: Job) -> Any:
        stop = asyncio.Event()
        running = asyncio.create_task(run(job, stop=stop))
        while not await asyncio.to_thread(lambda: stats(job.url)["batches"]["jobs"]):
            await asyncio.sleep(0.02)
        stop.set()
        return await running

    with server(looks=10**6) as url:
        job = Job(str(tmp_path), url, dialect, settings={"rounds": 1})
        tally = asyncio.run(stopped(job))
        assert (tally.answered, tally.left, tally.stopped) == (0, 20, None)
        assert "ada: 20 cells in 1 batch job at the provider since" in capsys.readouterr().err
        urllib.request.urlopen(_cancel(url, dialect)).close()
        again = asyncio.run(run(job))
        told = stats(url)
    # What was finished before the job was cancelled counts as there already; the rest is left to one more round.
    assert (again.reused, again.left) == (10, 10)
    assert (told["batches"]["jobs"], told["repeated"]) == (1, 0)


def _cancel(url: str, dialect: str) -> urllib.request.Request:
    base = url + ("/messages/batches" if dialect == "anthropic" else "/batches")
    with urllib.request.urlopen(base) as answer:
        (listed,) = json.load(answer)["data"]
    return urllib.request.Request(f"{base}/{listed['id']}/cancel", method="POST")


def test_an_interrupted_run_leaves_its_job_on_record(tmp_path: Path) -> None:
    async def interrupted(job: Job) -> None:
        running = asyncio.create_task(run(job))
        while not await asyncio.to_thread(lambda: stats(job.url)["batches"]["jobs"]):
            await asyncio.sleep(0.02)
        running.cancel()
        await running

    with server(looks=8) as url:
        job = Job(str(tmp_path), url)
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(interrupted(job))
        tally = asyncio.run(run(job))
        assert (tally.reused, tally.left) == (20, 0)
        assert stats(url)["batches"]["jobs"] == 1


def test_the_budget_is_reserved_in_advance_and_kept_exactly(tmp_path: Path) -> None:
    with server() as url:
        # Each cell may cost 600,000 billionths of a dollar, so that 3 fit in at once.
        job = Job(str(tmp_path), url, fields=PRICE, budget=2_000_000, reserve=600_000)
        tally = asyncio.run(run(job))
    store = Store.of_folder(tmp_path)
    ledger = store.ledger()
    store.close()
    spent = sum(round((cell.cost_usd or 0) * 1e9) for cell in stored(job).values())
    assert tally.stopped == "the budget is used up"
    # Ended jobs gave back what they did not need, so later rounds could ask more; never more than the budget.
    assert 3 < tally.answered < 20
    assert round(ledger.spent_usd * 1e9) == spent <= 2_000_000
    assert ledger.reserved_usd == 0


def test_money_of_a_job_at_the_provider_stays_reserved_between_runs(tmp_path: Path) -> None:
    with server(looks=10**6) as url:
        job = Job(str(tmp_path), url, fields=PRICE, budget=10**9, reserve=50_000)

        async def begun() -> None:
            stop = asyncio.Event()
            running = asyncio.create_task(run(job, stop=stop))
            while not await asyncio.to_thread(lambda: stats(url)["batches"]["jobs"]):
                await asyncio.sleep(0.02)
            stop.set()
            await running

        asyncio.run(begun())
    store = Store.of_folder(tmp_path)
    assert round(store.ledger().reserved_usd * 1e9) == 20 * 50_000
    store.close()


def test_a_job_that_the_provider_does_not_know_is_not_paid_again_unasked(tmp_path: Path) -> None:
    with server() as url:
        job = Job(str(tmp_path), url, questions=5)
        _leave_job(tmp_path, job, "batch_999")
        tally = asyncio.run(run(job))
        assert (tally.answered, tally.left, stats(url)["batches"]["jobs"]) == (0, 5, 0)
        assert tally.stopped is not None
        assert "knows no batch job batch_999 for this key" in tally.stopped
        tally = asyncio.run(run(Job(str(tmp_path), url, questions=5, settings={"forget_lost": True})))
        assert (tally.answered, stats(url)["batches"]["jobs"]) == (5, 1)


def _leave_job(folder: Path, job: Job, provider_id: str | None, *, endpoint: str | None = None) -> str:
    """A job on record, as a run that was killed leaves it."""
    plan = plan_of(job)
    (teacher,) = plan.teachers
    cells = [JobCell(cell.key, cell.request) for cell in plan.cells(teacher)]
    store = Store.of_folder(folder)
    claims, jobs = Claims(store), Jobs(store)
    claims.take([cell.key for cell in cells])
    begun = jobs.begin(
        new_job_id(),
        cells,
        teacher=teacher.name,
        endpoint=endpoint or plan.endpoints[teacher.name].identity,
        owner=claims.owner,
    )
    assert begun is not None
    if provider_id is not None:
        jobs.submitted(begun.id, provider_id)
    claims.close()
    store.close()
    return begun.id


def test_a_job_that_was_never_sent_is_sent_by_the_next_run(tmp_path: Path) -> None:
    with server() as url:
        job = Job(str(tmp_path), url)
        left = _leave_job(tmp_path, job, None)
        tally = asyncio.run(run(job))
        assert (tally.answered, tally.left, stats(url)["batches"]["jobs"]) == (20, 0, 1)
    store = Store.of_folder(tmp_path)
    found = Jobs(store).get(left)
    store.close()
    assert found is not None
    assert found.state == UNSENT


def test_a_job_of_another_teacher_of_the_run_is_left_to_it(tmp_path: Path) -> None:
    with server() as url:
        job = Job(str(tmp_path), url)
        _leave_job(tmp_path, job, None)
        tally = asyncio.run(run(job, others=["ada"]))
        assert (tally.answered, tally.elsewhere, stats(url)["batches"]["jobs"]) == (0, 20, 0)


def test_a_key_that_is_refused_stops_the_teacher_and_keeps_the_cells_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "a-wrong-key-123")
    with server(api_key="right-key-12345") as url:
        job = Job(str(tmp_path), url, "anthropic", fields={"api_key_env": "SOME_KEY"})
        tally = asyncio.run(run(job))
        assert tally.stopped is not None
        assert tally.stopped.startswith("auth: HTTP 401")
        assert "a-wrong-key-123" not in tally.stopped
        assert (tally.left, stored(job)) == (20, {})
        monkeypatch.setenv("SOME_KEY", "right-key-12345")
        assert asyncio.run(run(job)).answered == 20
    assert b"right-key-12345" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_an_endpoint_without_a_batch_api_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    async def check(job: Job) -> None:
        plan = plan_of(job)
        client = make_batch_client(plan.teachers[0], plan.endpoints[job.teacher])
        try:
            await client.check()
        finally:
            await client.close()

    with server() as url:
        asyncio.run(check(Job(str(tmp_path), url)))
        with pytest.raises(TeacherError, match="there is no batch API; leave `batch:`"):
            asyncio.run(check(Job(str(tmp_path), url + "/elsewhere")))
    with pytest.raises(TeacherError, match="cannot be reached"):
        asyncio.run(check(Job(str(tmp_path), "http://127.0.0.1:9/v1")))


def test_a_failure_is_never_written_over_a_reply(tmp_path: Path) -> None:
    with server(failing=1.0) as url:
        job = Job(str(tmp_path), url, questions=3)
        plan = plan_of(job)
        keys = [cell.key for cell in plan.cells(plan.teachers[0])]
        _leave_job(tmp_path, job, None)
        store = Store.of_folder(tmp_path)
        cell = next(iter(plan.cells(plan.teachers[0])))
        store.put([StoredCell(cell.key, cell.request, 1, datetime.now(UTC), reply="mine")])
        store.close()
        asyncio.run(run(job))
    assert stored(job)[keys[0]].reply == "mine"
    assert stored(job)[keys[1]].error == "bad_response"


def test_batch_jobs_and_single_calls_go_together_in_one_run(tmp_path: Path) -> None:
    def panel(out: str, url: str, *, is_batch: bool) -> Any:
        teachers = [
            Teacher(name=name, model=f"practice/{name}", api_base=url, batch=kind)
            for name, kind in (("ada", "openai"), ("bruno", None), ("clara", "anthropic"))
        ]
        summary = generate_panel("practice:30", out=tmp_path / out, teachers=teachers, options=Generate(batch=is_batch))
        assert summary.left == 0
        return pq.read_table(tmp_path / out / "responses.parquet").drop_columns(list(MEASURED_COLUMNS))

    with server(looks=0) as url:
        together = panel("together", url, is_batch=True)
        told = stats(url)
        assert (told["batches"]["jobs"], told["batches"]["answered"]) == (2, 60)
        assert told["requests_per_model"] == {"bruno": 30}
        # The same cells under the same keys: nothing is left to ask without the batch API either.
        assert panel("together", url, is_batch=False).equals(together)
        assert stats(url)["completed"] == 90
        assert panel("alone", url, is_batch=False).equals(together)


def test_a_run_whose_cells_were_taken_over_stops_with_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Jobs, "begin", lambda *_, **__: None)
    with server() as url, pytest.raises(StoreError, match="another process took over cells"):
        asyncio.run(run(Job(str(tmp_path), url)))


def test_rows_of_strangers_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kp_data.teachers.batches.openai_dialect import OpenAIBatches

    true_rows = OpenAIBatches.rows

    async def with_strangers(self: OpenAIBatches, look: Any) -> Any:
        async for row in true_rows(self, look):
            job = row.custom_id.partition("-")[0]
            for custom_id in ("", "x-0", f"{job}-20", f"{job}--1", f"{job}-{'9' * 50}", f"{job}-١", f"{job}-0-1"):
                yield Row(custom_id, row.outcome)
            yield row

    monkeypatch.setattr(OpenAIBatches, "rows", with_strangers)
    with server() as url:
        job = Job(str(tmp_path), url)
        assert asyncio.run(run(job)).answered == 20
        replies = asyncio.run(asked_online(job))
    assert {key: cell.reply for key, cell in stored(job).items()} == {key: r.text for key, r in replies.items()}
