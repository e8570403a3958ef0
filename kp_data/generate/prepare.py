"""What a run of generate is to do: questions, teachers, plan and budget, checked before anything is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from kp_data.config import Generate, Teacher
from kp_data.console import say
from kp_data.errors import ConfigError, TeacherError
from kp_data.generate.engine import Budget
from kp_data.generate.export import check_out, check_teachers, example_pool
from kp_data.generate.plan import Plan
from kp_data.generate.status import rationales_of
from kp_data.questions import select_questions
from kp_data.schema import Mode, Question
from kp_data.tables import Questions
from kp_data.teachers.prices import ceiling_of
from kp_data.teachers.transport import PRACTICE_PREFIX, Endpoint, resolve_endpoint

Route = Callable[[Sequence[Question]], Sequence[str]]
"""Questions to the name of the teacher that each is to be asked of."""
_MODES: Final[Mapping[str, tuple[Mode, ...]]] = {
    "blind": ("blind",),
    "teacher-forced": ("teacher_forced",),
    "both": ("blind", "teacher_forced"),
}


@dataclass(frozen=True)
class Job:
    """What a run is to do, before anything is asked or written.

    Attributes:
        plan: the cells.
        table: of the plan's questions.
        pool: solved questions for in-context examples, None without them.
        out: panel folder.
        options: as given.
        budget: hard limit, None without one.
    """

    plan: Plan
    table: pa.Table
    pool: pa.Table | None
    out: Path
    options: Generate
    budget: Budget | None


def prepare(
    source: str,
    everything: pa.Table,
    out: Path,
    teachers: Sequence[Teacher],
    options: Generate,
    route: Route | None,
    practice_base: str | None,
    identities: Mapping[str, str] = MappingProxyType({}),
) -> Job:
    """Check everything that a run needs; `everything` are the questions of the source, of all splits."""
    table = select_questions(everything, split=options.split, limit=options.limit, place=source)
    budget = _budget(teachers, options.budget)
    endpoints = {t.name: resolve_endpoint(t, options.transport, practice_base=practice_base) for t in teachers}
    endpoints |= {name: replace(endpoints[name], identity=identity) for name, identity in identities.items()}
    table = _in_panel_order(table, check_out(out, table))
    pool = example_pool(out, everything) if options.examples else None
    plan = _plan(table, pool, teachers, endpoints, options, route)
    check_teachers(out, plan)
    return Job(plan, table, pool, out, options, budget)


def _budget(teachers: Sequence[Teacher], usd: float | None) -> Budget | None:
    """The hard limit of a run.

    Raises:
        ConfigError: the price of a teacher is not known: its calls could cost anything.
    """
    if usd is None:
        return None
    if unknown := [teacher.name for teacher in teachers if ceiling_of(teacher) is None]:
        raise ConfigError(
            f"--budget: the price of {', '.join(unknown)} is not known; give it in kp.yaml "
            "(price: {input: …, output: …}, US dollars per million tokens), or leave out the budget"
        )
    return Budget(usd)


def _in_panel_order(table: pa.Table, panel: pa.Table) -> pa.Table:
    """Questions in the order that they have in the panel: what is asked and what is written then go hand in hand."""
    place = pc.index_in(table["id"], value_set=panel["id"])
    return table.take(pc.sort_indices(place))


def _plan(
    table: pa.Table,
    pool: pa.Table | None,
    teachers: Sequence[Teacher],
    endpoints: dict[str, Endpoint],
    options: Generate,
    route: Route | None,
) -> Plan:
    questions = Questions(table)
    modes = _MODES[options.mode]
    unlabelled = table["answer"].null_count
    if "teacher_forced" in modes and 0 < unlabelled < len(questions):
        say(f"{unlabelled} of {len(questions)} questions have no gold answer: those are not asked teacher-forced")
    return Plan(
        questions=questions,
        teachers=tuple(teachers),
        endpoints=endpoints,
        routed=_routed(questions, teachers, route),
        modes=modes,
        samples=options.samples,
        examples=options.examples,
        seed=options.seed,
        pool=Questions(pool) if pool is not None else (),
        example_rationales=rationales_of(pool),
    )


def _routed(questions: Sequence[Question], teachers: Sequence[Teacher], route: Route | None) -> list[str] | None:
    """The one teacher of each question.

    Raises:
        ConfigError: the router chose a teacher that this run does not have.
    """
    if route is None:
        return None
    names = {teacher.name: teacher.name for teacher in teachers}
    routed = [names.get(chosen, chosen) for chosen in route(questions)]
    if unknown := sorted(set(routed) - names.keys()):
        raise ConfigError(
            f"the router chooses among teachers called {', '.join(unknown)} too, which this run does not have; "
            f"teachers here: {', '.join(names)}"
        )
    return routed


def known_teachers(source: str, teachers: Sequence[Teacher]) -> tuple[Teacher, ...]:
    """Whom a run asks: those given, or the practice world's own for its questions.

    Raises:
        ConfigError: no teacher was given, or two share a name.
        TeacherError: there is no such practice teacher.
    """
    return _known(teachers or _practice_teachers(source))


def _practice_teachers(source: str) -> tuple[Teacher, ...]:
    if not source.startswith("practice:"):
        raise ConfigError("no teacher; give --teacher NAME=MODEL (repeatable), or a kp.yaml with --config")
    from kp_data.practice import TEACHERS

    return tuple(Teacher(name=name, model=PRACTICE_PREFIX + name) for name in TEACHERS)


def _known(teachers: Sequence[Teacher]) -> tuple[Teacher, ...]:
    """Teachers, after a look whether the practice ones exist; `practice/all` stands for all of them."""
    if not any(teacher.model.startswith(PRACTICE_PREFIX) for teacher in teachers):
        return tuple(teachers)
    from kp_data.practice import ERRING, TEACHERS

    known: list[Teacher] = []
    for teacher in teachers:
        name = teacher.model.removeprefix(PRACTICE_PREFIX)
        if teacher.model == PRACTICE_PREFIX + "all":
            known += [Teacher(name=each, model=PRACTICE_PREFIX + each) for each in TEACHERS]
        elif (
            teacher.model.startswith(PRACTICE_PREFIX) and teacher.api_base is None and name not in {*TEACHERS, *ERRING}
        ):
            raise TeacherError(
                f"no practice teacher {name!r}; there are {', '.join(TEACHERS)}, and {' to '.join(_ends(ERRING))}",
                place=f"teacher {teacher.name}",
            )
        else:
            known.append(teacher)
    names = [teacher.name for teacher in known]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two teachers are called {twice[0]!r}; names must differ")
    return tuple(known)


def _ends(names: Iterable[str]) -> tuple[str, str]:
    """The first and the last of some names."""
    first, *_, last = names
    return first, last


def practice_base_of(teachers: Sequence[Teacher], stack: ExitStack) -> str | None:
    """The URL of a practice server, started here and stopped with the run, where a teacher needs one."""
    if not any(teacher.model.startswith(PRACTICE_PREFIX) and teacher.api_base is None for teacher in teachers):
        return None
    from kp_data.practice import practice_server

    return stack.enter_context(practice_server())
