"""A run with batch jobs is killed at every step, and the next one goes on: nothing is lost, nothing is paid twice."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import batch_child
import pytest
from batch_child import Job, plan_of, run

from kp_data.practice import practice_server
from kp_data.practice.batch_jobs import BatchBehaviour
from kp_data.store import Store
from kp_data.store.jobs import Jobs

CHILD = Path(batch_child.__file__)


def batches(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as answer:
        told = dict(json.load(answer))
    return {**told["batches"], "repeated": told["repeated"]}


@contextmanager
def child(job: Job) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process of its own, killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, str(CHILD), json.dumps(vars(job))], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def kill_when(job: Job, met: str) -> None:
    """Run a child until the server has met a fault, then kill it without notice."""
    with child(job) as process:
        while not batches(job.url)["met"].get(met):
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.02)
        # What it stores after the server's answer is on its way to the disk, or not.
        time.sleep(0.05)


def answered(job: Job) -> int:
    plan = plan_of(job)
    store = Store.of_folder(Path(job.folder))
    try:
        return list(store.states([cell.key for cell in plan.cells(plan.teachers[0])]).values()).count(None)
    finally:
        store.close()


POINTS = [
    # The job is on record, and the file not sent; sent; then the batch not made; made, and the answer never came.
    ("openai", "upload:hang"),
    ("openai", "upload:stall"),
    ("openai", "create:hang"),
    ("openai", "create:stall"),
    # At the provider, and followed; half of the rows downloaded, and some of them stored.
    ("openai", "look:hang"),
    ("openai", "results:hold"),
    # While it is being looked for.
    ("openai", "create:lost,list:hang"),
    ("anthropic", "create:hang"),
    ("anthropic", "create:stall"),
    ("anthropic", "look:hang"),
    ("anthropic", "results:hold"),
    ("anthropic", "create:lost,list:hang"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("dialect", "faults"), POINTS)
def test_after_a_kill_the_next_run_goes_on_and_pays_for_every_cell_once(
    tmp_path: Path, dialect: str, faults: str
) -> None:
    with practice_server(batches=BatchBehaviour(looks=2, faults=faults)) as url:
        job = Job(str(tmp_path), url, dialect, settings={"group": 4})
        kill_when(job, faults.split(",")[-1])
        before = answered(job)
        tally = asyncio.run(run(job))
        told = batches(url)
    assert (tally.left, answered(job)) == (0, 20)
    assert (told["jobs"], told["answered"], told["repeated"]) == (1, 20, 0)
    if faults == "results:hold":
        assert 0 < before < 20


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_kills_at_any_moment_lose_no_job_and_pay_for_no_cell_twice(tmp_path: Path, dialect: str) -> None:
    draw, states = random.Random(dialect), []
    with practice_server(batches=BatchBehaviour(looks=4)) as url:
        job = Job(str(tmp_path), url, dialect, questions=120, settings={"requests": 10, "group": 3})
        for _ in range(8):
            with child(job) as process:
                # Long enough for it to do something: hand a job in, or store some rows.
                before = batches(url)["jobs"], answered(job)
                while process.poll() is None and (batches(url)["jobs"], answered(job)) == before:
                    time.sleep(0.01)
                time.sleep(draw.uniform(0.0, 0.1))
            states.append((batches(url)["jobs"], answered(job)))
        tally = asyncio.run(run(job))
        told = batches(url)
    store = Store.of_folder(tmp_path)
    assert Jobs(store).open_jobs() == []
    assert store.ledger().reserved_usd == 0
    store.close()
    assert (tally.left, answered(job)) == (0, 120)
    assert (told["answered"], told["repeated"]) == (120, 0)
    # The kills met it in the middle: some jobs in, some rows stored.
    assert any(0 < rows < 120 for _, rows in states) or any(0 < jobs < 12 for jobs, _ in states)


@pytest.mark.slow
def test_two_processes_on_one_store_share_the_cells_and_pay_for_none_twice(tmp_path: Path) -> None:
    with practice_server(batches=BatchBehaviour(looks=3)) as url:
        job = Job(str(tmp_path), url, questions=60, settings={"requests": 5})
        with child(job) as one, child(job) as other:
            assert one.wait(60) == 0, one.communicate()[1].decode()
            assert other.wait(60) == 0, other.communicate()[1].decode()
        told = batches(url)
    assert answered(job) == 60
    assert (told["answered"], told["repeated"]) == (60, 0)
