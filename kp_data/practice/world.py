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

PLACE: Final = "practice world"
OOD_SPLIT: Final = "ood"
SPLIT_SHARES: Final = {"train": 62, "test": 13, "validation": 12, OOD_SPLIT: 13}
"""Questions of each split in a hundred."""

NUM_CHOICES: Final = 4
STATED_KIND_SHARE: Final = 0.5
"""Share of in-domain questions that state the kind and so need two steps instead of three; held-out ones all do unless
another share is asked for."""

STATEMENTS: Final = ("{The_thing} is a {kind}.", "Take {the_thing}, a {kind}.")


def make_questions(n: int, *, seed: int = 0, subjects: Sequence[str] | None = None) -> list[Question]:
    """The first n questions of a practice world.

    Args:
        n: how many, at least 1; there is no upper limit.
        seed: of the choice of questions, their wording and the order of choices; the facts are the same in all worlds.
        subjects: ask about these only; default: all. Splits without a subject fall away. `plants:50` has half of the
            questions about plants state the kind; in the others the name has to be known.

    Returns: questions with gold answers in the splits `train`, `validation`, `test` (in-domain subjects) and `ood`.

    Raises:
        ConfigError: n below 1, an unknown subject, one twice, or a percentage that is none.

    >>> first = make_questions(600)[0]
    >>> first == make_questions(5)[0], len(first.choices), first.answer == first.choices[first.answer_index]
    (True, 4, True)
    """
    if n < 1:
        raise ConfigError(f"{n} questions asked for; ask for 1 or more", place=PLACE)
    chosen = choose_subjects(subjects)
    world = f"practice/{seed}" + (f"/{'+'.join(asked.written for asked in chosen)}" if subjects is not None else "")
    streams = {asked.subject.name: _cores(asked.subject, seed) for asked in chosen}
    stated = {asked.subject.name: asked.stated for asked in chosen}
    places = _places([asked.subject for asked in chosen])
    questions = []
    for number in range(n):
        split, subject = next(places)
        thing, when = next(streams[subject.name])
        draw = random.Random(f"{seed}:{subject.name}:{thing}:{when}")
        case = Case(subject, thing, when)
        questions.append(_question(f"{world}/{number:06d}", split, case, draw, stated=stated[subject.name]))
    return questions


def rules(subject: str) -> list[str]:
    """Everything there is to know about a subject's named things, as English sentences.

    Raises:
        ConfigError: an unknown subject.

    >>> rules("animals")[-1]
    'In a storm, a shore animal swells up.'
    """
    facts = parse_subject(subject).subject
    kinds = [f"The {name} is a {kind}." for kind, names in facts.names.items() for name in names]
    classes = [f"We call {when} {name}." for when, name in facts.class_of.items()]
    outcomes = [
        f"{facts.link.capitalize()} {name}, a {kind} {facts.outcome(kind, name)}."
        for kind in facts.kinds
        for name in facts.classes
    ]
    return kinds + classes + outcomes


@dataclass(frozen=True)
class AskedSubject:
    """A subject as a source asks for it.

    Attributes:
        written: as it was written.
        subject: which one.
        stated: share of its questions that state the kind; None: as the split has it.
    """

    written: str
    subject: Subject
    stated: float | None = None


def parse_subject(text: str, *, place: str = PLACE) -> AskedSubject:
    """A subject from `NAME` or `NAME:PERCENT`.

    Args:
        text: as written.
        place: named in errors.

    Raises:
        ConfigError: an unknown name, or a percentage that is no whole number from 0 to 100.

    >>> parse_subject("plants:50").stated
    0.5
    """
    name, colon, percent = text.partition(":")
    if name not in SUBJECTS:
        raise ConfigError(f"no subject {name!r}; there are {', '.join(SUBJECTS)}", place=place)
    if not colon:
        return AskedSubject(text, SUBJECTS[name])
    if not (percent.isascii() and percent.isdigit() and int(percent) <= 100):
        raise ConfigError(
            f"subject {text!r}: behind the colon goes how many in a hundred questions state the kind, 0 to 100",
            place=place,
        )
    return AskedSubject(text, SUBJECTS[name], int(percent) / 100)


def choose_subjects(names: Sequence[str] | None, *, place: str = PLACE) -> list[AskedSubject]:
    """The subjects of these names, in the order of the world; all of them for None.

    Raises:
        ConfigError: there is no name, an unknown one, or one with two percentages.
    """
    if names is not None and not names:
        raise ConfigError(f"no subject chosen; there are {', '.join(SUBJECTS)}", place=place)
    asked = [parse_subject(name, place=place) for name in (SUBJECTS if names is None else dict.fromkeys(names))]
    of_name = {one.subject.name: one for one in asked}
    if twice := [one.subject.name for one in asked if of_name[one.subject.name] is not one]:
        raise ConfigError(f"subject {twice[0]!r} stands there twice; keep one", place=place)
    return [of_name[name] for name in SUBJECTS if name in of_name]


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


def _question(question_id: str, split: str, case: Case, draw: random.Random, *, stated: float | None) -> Question:
    share = stated if stated is not None else 1.0 if split == OOD_SPLIT else STATED_KIND_SHARE
    # No draw where none is needed: later draws, and so the wording, are those of worlds made before there was a choice.
    if share == 1 or draw.random() < share:
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
