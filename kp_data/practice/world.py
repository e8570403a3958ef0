"""Questions of the practice world, as many as wanted, with the rules they follow from.

Question i depends on the seed and on i alone, so a larger world begins with the smaller one. Every question has a
core (subject, thing, circumstance) of its own: no question of one split can recur, reworded, in another. When the
cores of the named things are used up, generated names follow, with facts of their own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from kp_data.errors import ConfigError
from kp_data.practice.beliefs import Case, argue_rightly, wrong_outcomes
from kp_data.practice.subjects import HELD_OUT, IN_DOMAIN, SUBJECTS, Subject
from kp_data.schema import Question

OOD_SPLIT: Final = "ood"
SPLIT_SHARES: Final = {"train": 62, "test": 13, "validation": 12, OOD_SPLIT: 13}
"""Questions of each split in a hundred."""

NUM_CHOICES: Final = 4
STATED_KIND_SHARE: Final = 0.5
"""Share of in-domain questions that state the kind and so need two steps instead of three; held-out ones always do."""

STATEMENTS: Final = ("{The_thing} is a {kind}.", "Take {the_thing}, a {kind}.")


def make_questions(n: int, *, seed: int = 0, subjects: Sequence[str] | None = None) -> list[Question]:
    """The first n questions of a practice world.

    Args:
        n: how many, at least 1; there is no upper limit.
        seed: of the choice of questions, their wording and the order of choices; the facts are the same in all worlds.
        subjects: ask about these only; default: all. Splits without a subject fall away.

    Returns: questions with gold answers in the splits `train`, `validation`, `test` (in-domain subjects) and `ood`.

    Raises:
        ConfigError: n below 1, or an unknown subject.

    >>> first = make_questions(600)[0]
    >>> first == make_questions(5)[0], len(first.choices), first.answer == first.choices[first.answer_index]
    (True, 4, True)
    """
    if n < 1:
        raise ConfigError(f"{n} questions asked for; ask for 1 or more", place="practice world")
    chosen = _chosen_subjects(subjects)
    world = f"practice/{seed}" + (f"/{'+'.join(subject.name for subject in chosen)}" if subjects is not None else "")
    streams = {subject.name: _cores(subject, seed) for subject in chosen}
    places = _places(chosen)
    questions = []
    for number in range(n):
        split, subject = next(places)
        thing, when = next(streams[subject.name])
        draw = random.Random(f"{seed}:{subject.name}:{thing}:{when}")
        questions.append(_question(f"{world}/{number:06d}", split, Case(subject, thing, when), draw))
    return questions


def rules(subject: str) -> list[str]:
    """Everything there is to know about a subject's named things, as English sentences.

    Raises:
        ConfigError: an unknown subject.

    >>> rules("animals")[-1]
    'In a storm, a shore animal swells up.'
    """
    (facts,) = _chosen_subjects([subject])
    kinds = [f"The {name} is a {kind}." for kind, names in facts.names.items() for name in names]
    classes = [f"We call {when} {name}." for when, name in facts.class_of.items()]
    outcomes = [
        f"{facts.link.capitalize()} {name}, a {kind} {facts.outcome(kind, name)}."
        for kind in facts.kinds
        for name in facts.classes
    ]
    return kinds + classes + outcomes


@dataclass
class _Share:
    """A split, how often it should come, and whose turn it is in it."""

    split: str
    weight: int
    subjects: tuple[Subject, ...]
    given: int = field(default=0)

    def next_subject(self) -> Subject:
        self.given += 1
        return self.subjects[(self.given - 1) % len(self.subjects)]


def _chosen_subjects(names: Sequence[str] | None) -> list[Subject]:
    if names is None:
        return list(SUBJECTS.values())
    if unknown := [name for name in names if name not in SUBJECTS]:
        raise ConfigError(f"no subject {unknown[0]!r}; there are {', '.join(SUBJECTS)}", place="practice world")
    if not names:
        raise ConfigError(f"no subject chosen; there are {', '.join(SUBJECTS)}", place="practice world")
    return [subject for subject in SUBJECTS.values() if subject.name in names]


def _places(chosen: Sequence[Subject]) -> Iterator[tuple[str, Subject]]:
    """Split and subject of each question in turn: at any moment the split that is furthest behind its share."""
    in_domain = tuple(subject for subject in chosen if subject in IN_DOMAIN)
    held_out = tuple(subject for subject in chosen if subject is HELD_OUT)
    of_split = {split: held_out if split == OOD_SPLIT else in_domain for split in SPLIT_SHARES}
    shares = [_Share(split, SPLIT_SHARES[split], subjects) for split, subjects in of_split.items() if subjects]
    while True:
        behind = min(shares, key=lambda share: (share.given + 1) / share.weight)
        yield behind.split, behind.next_subject()


def _cores(subject: Subject, seed: int) -> Iterator[tuple[str, str]]:
    """Thing and circumstance of each question of a subject, none twice, without end."""
    size = len(subject.base_names)
    first = 0
    while True:
        names = [subject.name_at(index) for index in range(first, first + size)]
        cores = [(name, when) for name in names for when in subject.class_of]
        random.Random(f"{seed}:{subject.name}:{first}").shuffle(cores)
        yield from cores
        first += size


def _question(question_id: str, split: str, case: Case, draw: random.Random) -> Question:
    if split == OOD_SPLIT or draw.random() < STATED_KIND_SHARE:
        case = Case(case.subject, case.thing, case.when, stated_kind=case.subject.kind_of(case.thing))
    answer = argue_rightly(case).outcome
    choices = _choices(case, answer, draw)
    return Question(
        id=question_id,
        question=_wording(case, draw),
        choices=choices,
        answer=answer,
        answer_index=choices.index(answer),
        split=split,
        subject=case.subject.name,
    )


def _choices(case: Case, answer: str, draw: random.Random) -> tuple[str, ...]:
    """The right outcome, what misconceptions lead to, and other outcomes of the subject, in random order."""
    tempting = wrong_outcomes(case)
    others = [outcome for outcome in case.subject.outcomes if outcome != answer and outcome not in tempting]
    draw.shuffle(others)
    choices = [answer, *tempting, *others][:NUM_CHOICES]
    draw.shuffle(choices)
    return tuple(choices)


def _wording(case: Case, draw: random.Random) -> str:
    ask, statement = draw.choice(case.subject.asks), draw.choice(STATEMENTS)
    if case.stated_kind is None:
        return _sentence(ask.format(it=f"the {case.thing}", when=case.when))
    opening = statement.format(The_thing=f"The {case.thing}", the_thing=f"the {case.thing}", kind=case.stated_kind)
    return f"{opening} {_sentence(ask.format(it=case.subject.pronoun, when=case.when))}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
