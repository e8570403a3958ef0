"""The three claims of the Knowledge Purification paper, put to the students of a sweep.

    a   students of all teachers' rationales get worse as teachers are added
    b   routing and RL selection have a positive conflict mitigation value (CMV)
    c   out of domain, students of routed rationales are better than those of all rationales

A claim is confirmed when the 95 % interval over seeds and questions lies wholly on its side of zero, not confirmed
when it lies wholly on the other side, and undecided when zero is inside. Each claim is read off the mean over students
and methods; the lines below it are its parts, not corrected for how many they are.
Source: arXiv:2602.01064; how the claims become numbers is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from kp_train.experiments.config import ALL
from kp_train.experiments.outcomes import Measured, Outcomes
from kp_train.experiments.plan import IN_DOMAIN, OUT_OF_DOMAIN

Verdict = Literal["confirmed", "not confirmed", "undecided"]

PURIFIERS: Final = ("plackett-luce", "plm-classifier", "similarity-router", "teacher-selection")
"""The paper's routers and its RL-based selection."""
OOD_ROUTERS: Final = ("plackett-luce", "plm-classifier", "similarity-router")


@dataclass(frozen=True, slots=True)
class Part:
    """One line of a claim."""

    name: str
    difference: Measured
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim and what the sweep says of it.

    Attributes:
        key: a, b or c.
        text: the claim.
        measure: what number stands for it.
        overall: that number; None where the sweep has no students for it.
        verdict: of the overall number; `undecided` without one.
        parts: by method and student.
    """

    key: str
    text: str
    measure: str
    overall: Measured | None
    verdict: Verdict
    parts: tuple[Part, ...]


def verdict_of(difference: Measured | None, *, sign: int = 1) -> Verdict:
    """Confirmed where the interval lies on the side of `sign`.

    >>> verdict_of(Measured(0.02, 0.01, 0.03)), verdict_of(Measured(0.02, 0.01, 0.03), sign=-1)
    ('confirmed', 'not confirmed')
    >>> verdict_of(Measured(0.02, -0.01, 0.05))
    'undecided'
    """
    if difference is None or not difference.certain:
        return "undecided"
    return "confirmed" if (difference.low > 0) == (sign > 0) else "not confirmed"


def judge(outcomes: Outcomes) -> tuple[Claim, ...]:
    """The three claims."""
    return (_more_teachers(outcomes), _mitigation(outcomes), _out_of_domain(outcomes))


def cmv(outcomes: Outcomes, methods: Sequence[str], students: Sequence[str]) -> Measured | None:
    """The conflict mitigation value, mean over these methods and students; None where a student is missing.

    The same number as `kp_data.purify.cmv.conflict_mitigation_value` where every number of teachers from two up was
    planned, with an interval that is shared with every other comparison of the sweep.
    Source: arXiv:2602.01064, reconstructed there.
    """
    counts = [count for count in outcomes.counts(IN_DOMAIN) if count > 1]
    if not counts or not methods or not students:
        return None
    share = 1 / (len(counts) * len(methods) * len(students))
    return outcomes.combined(
        [
            (IN_DOMAIN, name, count, student, sign * share)
            for count in counts
            for method in methods
            for student in students
            for name, sign in ((method, 1.0), (ALL, -1.0))
        ]
    )


def _more_teachers(outcomes: Outcomes) -> Claim:
    counts = [count for count in outcomes.counts(IN_DOMAIN) if count > 1]
    students = _students(outcomes, IN_DOMAIN, ALL)
    text = "Students of all teachers' rationales get worse as teachers are added."
    if len(counts) < 2 or not students:
        return _missing("a", text, "needs `all` with two different numbers of teachers above one")
    least, most = counts[0], counts[-1]
    measure = f"accuracy with {most} teachers minus with {least}"

    def change(names: Sequence[str]) -> Measured | None:
        return outcomes.difference(IN_DOMAIN, (ALL, most), (ALL, least), names)

    return _claim("a", text, measure, change(students), [(name, change([name])) for name in students], sign=-1)


def _mitigation(outcomes: Outcomes) -> Claim:
    text = "Routing and RL selection mitigate conflicts: their CMV is positive."
    methods = [name for name in outcomes.names("method", IN_DOMAIN) if name in PURIFIERS]
    students = _students(outcomes, IN_DOMAIN, ALL)
    if not methods or not students:
        return _missing("b", text, "needs `all` and one of the paper's routers or teacher-selection")
    parts = [(f"{method}, {name}", cmv(outcomes, [method], [name])) for method in methods for name in students]
    counts = [str(count) for count in outcomes.counts(IN_DOMAIN) if count > 1]
    measure = f"CMV over {', '.join(counts)} teachers, mean of {', '.join(methods)}"
    return _claim("b", text, measure, cmv(outcomes, methods, students), parts)


def _out_of_domain(outcomes: Outcomes) -> Claim:
    text = "Out of domain, students of routed rationales are better than those of all rationales."
    methods = [name for name in outcomes.names("method", OUT_OF_DOMAIN) if name in OOD_ROUTERS]
    students = _students(outcomes, OUT_OF_DOMAIN, ALL)
    if not methods or not students:
        return _missing("c", text, "needs out_of_domain with `all` and one of the paper's routers")
    count = outcomes.counts(OUT_OF_DOMAIN)[-1]

    def gain(names: Sequence[str], who: Sequence[str]) -> Measured | None:
        share = 1 / (len(names) * len(who))
        return outcomes.combined(
            [
                (OUT_OF_DOMAIN, name, count, student, sign * share)
                for method in names
                for student in who
                for name, sign in ((method, 1.0), (ALL, -1.0))
            ]
        )

    parts = [(f"{method}, {name}", gain([method], [name])) for method in methods for name in students]
    measure = f"accuracy out of domain minus that of `{ALL}`, mean of {', '.join(methods)}"
    return _claim("c", text, measure, gain(methods, students), parts)


def _students(outcomes: Outcomes, domain: str, method: str) -> list[str]:
    return list(dict.fromkeys(group.student for group in outcomes.groups(domain) if group.method == method))


def _claim(
    key: str,
    text: str,
    measure: str,
    overall: Measured | None,
    parts: Sequence[tuple[str, Measured | None]],
    *,
    sign: int = 1,
) -> Claim:
    listed = tuple(Part(name, found, verdict_of(found, sign=sign)) for name, found in parts if found is not None)
    return Claim(key, text, measure, overall, verdict_of(overall, sign=sign), listed)


def _missing(key: str, text: str, needs: str) -> Claim:
    return Claim(key, text, f"not measured: {needs}", None, "undecided", ())
