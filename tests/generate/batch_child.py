"""A run of batch jobs against a practice server, in this process or in one that is to be killed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kp_data.config import Teacher
from kp_data.generate.batch import BatchSettings, run_batches
from kp_data.generate.clerk import clerk_of
from kp_data.generate.feed import Feed
from kp_data.generate.plan import Plan
from kp_data.generate.tally import Tally
from kp_data.practice import make_questions
from kp_data.store import Claims, Store
from kp_data.teachers.batches import make_batch_client
from kp_data.teachers.transport import resolve_endpoint

QUICK = {"first_look_s": 0.02, "longest_look_s": 0.1, "settle_s": 0.1}


@dataclass(frozen=True)
class Job:
    """What a run is to do; JSON carries it into a child process."""

    folder: str
    url: str
    dialect: str = "openai"
    teacher: str = "ada"
    questions: int = 20
    settings: dict[str, Any] | None = None
    fields: dict[str, Any] | None = None
    budget: int | None = None
    reserve: int | None = None
    store: str | None = None


def plan_of(job: Job) -> Plan:
    """The cells."""
    teacher = Teacher(
        name=job.teacher,
        model=f"practice/{job.teacher}",
        api_base=job.url,
        **{"batch": job.dialect, **(job.fields or {})},
    )
    endpoint = resolve_endpoint(teacher, "auto")
    return Plan(tuple(make_questions(job.questions)), (teacher,), {teacher.name: endpoint}, ("blind",))


async def run(job: Job, *, stop: asyncio.Event | None = None, others: Sequence[str] = ()) -> Tally:
    """As the engine does it."""
    plan = plan_of(job)
    (teacher,) = plan.teachers
    endpoint, tally = plan.endpoints[teacher.name], Tally(teacher.name, plan.count(teacher))
    store = Store.of_folder(Path(job.folder), job.store)
    client = make_batch_client(teacher, endpoint)
    try:
        async with clerk_of(store, budget=job.budget) as clerk:
            claims = clerk.claims
            assert isinstance(claims, Claims)
            guard = asyncio.create_task(clerk.run())
            try:
                await run_batches(
                    lambda: Feed(plan, teacher, clerk, tally),
                    teacher=teacher,
                    endpoint=endpoint,
                    client=client,
                    clerk=clerk,
                    claims=claims,
                    tally=tally,
                    settings=BatchSettings(**{**QUICK, **(job.settings or {})}),
                    reserve=None if job.reserve is None else lambda cell: job.reserve or 0,
                    stop=stop,
                    others=others,
                )
            finally:
                clerk.close()
                await guard
    finally:
        await client.close()
        store.close()
    return tally


if __name__ == "__main__":
    tally = asyncio.run(run(Job(**json.loads(sys.argv[1]))))
    print(json.dumps({"answered": tally.answered, "reused": tally.reused, "left": tally.left}))
