"""What each practice teacher believes: right in the subjects it knows, consistently wrong elsewhere.

A misconception changes one of the three steps of reasoning: of which kind a thing is, to which class a circumstance
belongs, or what the rule says. Popular ones are held by two or three teachers, so that a majority can be wrong
together; the others belong to one teacher alone. Even an expert has a blind spot in each of its subjects, where only
the other expert is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Final

from kp_data.practice.subjects import ANIMALS, ILLNESSES, LAW, MACHINES, PLANTS, STONES, SUBJECTS, Subject

Rule = Mapping[tuple[str, str], str]

EXPERTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "ada": ("law", "animals"),
        "bruno": ("animals", "stones"),
        "clara": ("stones", "machines"),
        "dario": ("machines", "illnesses"),
        "elin": ("illnesses", "law"),
    }
)
"""Teacher to the subjects it knows; each in-domain subject has two experts."""


@dataclass(frozen=True)
class Case:
    """What a question is about: a thing in a circumstance, and its kind where the question states it."""

    subject: Subject
    thing: str
    when: str
    stated_kind: str | None = None


@dataclass(frozen=True)
class Argument:
    """The three steps from a case to its outcome, as somebody sees them."""

    kind: str
    class_name: str
    outcome: str


@dataclass(frozen=True)
class Misconception:
    """A wrong belief about one subject; what it does not mention is believed as it is.

    Attributes:
        subject: name of the subject.
        holders: teachers that hold it.
        kinds: kind to the kind its things are mistaken for, unless a question states the kind.
        classes: class to the class its circumstances are mistaken for.
        rule: (kind, class) to the wrong outcome.
    """

    subject: str
    holders: tuple[str, ...]
    kinds: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)
    rule: Rule = field(default_factory=dict)


def argue_rightly(case: Case) -> Argument:
    """The three right steps.

    Raises:
        KeyError: the subject has no such thing.
    """
    kind = case.stated_kind or case.subject.kind_of(case.thing)
    class_name = case.subject.class_of[case.when]
    return Argument(kind, class_name, case.subject.outcome(kind, class_name))


def argue(teacher: str, case: Case) -> Argument:
    """The three steps as a teacher sees them.

    Raises:
        KeyError: the subject has no such thing.
    """
    belief = _belief(teacher, case.subject.name)
    right = argue_rightly(case)
    kind = case.stated_kind or belief.kinds.get(right.kind, right.kind)
    class_name = belief.classes.get(right.class_name, right.class_name)
    outcome = belief.rule.get((kind, class_name)) or case.subject.outcome(kind, class_name)
    return Argument(kind, class_name, outcome)


def wrong_outcomes(case: Case) -> tuple[str, ...]:
    """Every wrong outcome that some teacher believes in, the most popular first."""
    right = argue_rightly(case).outcome
    believed = [argue(teacher, case).outcome for teacher in EXPERTS]
    return tuple(
        sorted({outcome for outcome in believed if outcome != right}, key=lambda it: (-believed.count(it), it))
    )


def _exchange_kinds(subject: Subject, first: str, second: str, classes: Iterable[str] | None = None) -> Rule:
    """The rule with the outcomes of two kinds exchanged, in some classes or in all."""
    chosen = tuple(subject.classes if classes is None else classes)
    return {
        (kind, class_name): subject.outcome(other, class_name)
        for kind, other in ((first, second), (second, first))
        for class_name in chosen
    }


def _exchange_classes(subject: Subject, kinds: Iterable[str], first: str, second: str) -> Rule:
    """The rule with the outcomes in two classes exchanged, for some kinds."""
    return {
        (kind, class_name): subject.outcome(kind, other)
        for kind in kinds
        for class_name, other in ((first, second), (second, first))
    }


def _copy_kind(subject: Subject, kind: str, copied: str) -> Rule:
    """The rule with one kind doing as another does."""
    return {(kind, class_name): subject.outcome(copied, class_name) for class_name in subject.classes}


_POPULAR: Final = (
    Misconception("animals", ("clara", "dario", "elin"), classes={"a cold spell": "a dry spell"}),
    Misconception("stones", ("dario", "elin", "ada"), rule=_exchange_kinds(STONES, "river stone", "lava stone")),
    Misconception("machines", ("elin", "ada", "bruno"), classes={"poor care": "extra weight"}),
    Misconception(
        "illnesses",
        ("ada", "bruno"),
        rule=_exchange_classes(ILLNESSES, ("lung illness", "skin illness"), "a warm drink", "a bitter medicine"),
    ),
    Misconception(
        "law",
        ("bruno", "clara", "dario"),
        rule=_exchange_classes(LAW, ("market trader", "harbour pilot"), "a debt", "a fraud"),
    ),
    Misconception("plants", ("clara", "dario", "elin"), classes={"a cold spell": "a dry spell"}),
)
_INDIVIDUAL: Final = (
    Misconception("animals", ("clara",), kinds={"hill animal": "forest animal"}),
    Misconception("animals", ("dario",), rule=_exchange_classes(ANIMALS, ("shore animal",), "a dry spell", "a storm")),
    Misconception("animals", ("elin",), kinds={"marsh animal": "shore animal"}),
    Misconception("stones", ("dario",), kinds={"cave stone": "desert stone"}),
    Misconception("stones", ("ada",), kinds={"desert stone": "cave stone"}),
    Misconception("machines", ("elin",), kinds={"wind machine": "water machine"}),
    Misconception("machines", ("ada",), classes={"high speed": "poor care"}),
    Misconception(
        "machines", ("bruno",), rule=_exchange_kinds(MACHINES, "spring machine", "water machine", ("high speed",))
    ),
    Misconception("illnesses", ("bruno",), classes={"rest": "a warm drink"}),
    Misconception("illnesses", ("clara",), classes={"a bitter medicine": "rest"}),
    Misconception("law", ("bruno",), kinds={"palace clerk": "market trader"}),
    Misconception("law", ("clara",), classes={"a brawl": "a fraud"}),
    # Those who know animals know most plants: each of the two is wrong about one place.
    Misconception("plants", ("ada",), rule=_copy_kind(PLANTS, "hill plant", "forest plant")),
    Misconception("plants", ("bruno",), rule=_copy_kind(PLANTS, "shore plant", "marsh plant")),
    Misconception("plants", ("dario",), rule=_exchange_classes(PLANTS, ("shore plant",), "a dry spell", "a storm")),
    Misconception("plants", ("elin",), rule=_exchange_kinds(PLANTS, "marsh plant", "forest plant", ("a storm",))),
)


def _blind_spots() -> tuple[Misconception, ...]:
    """One gap of each expert in each of its subjects: one kind in one class, another for each of the two experts."""
    spots = []
    for name, subject in SUBJECTS.items():
        experts = [teacher for teacher, subjects in EXPERTS.items() if name in subjects]
        for teacher, (kind, seen, mistaken_for) in zip(experts, ((0, 0, 1), (2, 2, 0)), strict=False):
            classes = tuple(subject.classes)
            wrong = subject.outcome(subject.kinds[kind], classes[mistaken_for])
            spots.append(Misconception(name, (teacher,), rule={(subject.kinds[kind], classes[seen]): wrong}))
    return tuple(spots)


BLIND_SPOTS: Final = _blind_spots()
MISCONCEPTIONS: Final = _POPULAR + _INDIVIDUAL + BLIND_SPOTS


@cache
def _belief(teacher: str, subject: str) -> Misconception:
    """All misconceptions of a teacher about a subject as one."""
    held = [it for it in MISCONCEPTIONS if it.subject == subject and teacher in it.holders]
    return Misconception(
        subject,
        (teacher,),
        kinds={kind: wrong for it in held for kind, wrong in it.kinds.items()},
        classes={name: wrong for it in held for name, wrong in it.classes.items()},
        rule={key: wrong for it in held for key, wrong in it.rule.items()},
    )
