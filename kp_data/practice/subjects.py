"""The facts of the practice world: six subjects, each with its things, its circumstances and one rule.

A *thing* (a made-up name) is of one of four *kinds*, a *circumstance* belongs to one of three *classes*, and the rule
of the subject says what kind × class leads to. Five subjects are in-domain; `plants` is held out: it has names and
kinds of its own, but grows where the animals live and follows the same rule, so that whoever learned the rule (and
not the names) can carry it over. These facts are the same for every seed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class Subject:
    """One subject of the practice world.

    Attributes:
        name: of the subject, as in column `subject`.
        link: the word between what happens and the circumstance, such as "in".
        pronoun: what a question calls the thing once it was named.
        classes: class to its circumstances, in the order of the columns of `rule`.
        rule: kind to its outcome in each class.
        names: kind to the names that a small world uses; larger worlds add generated ones.
        ending: of generated names.
        asks: ways to ask, with the slots {it} and {when}.
    """

    name: str
    link: str
    pronoun: str
    classes: Mapping[str, tuple[str, ...]]
    rule: Mapping[str, tuple[str, str, str]]
    names: Mapping[str, tuple[str, ...]]
    ending: str
    asks: tuple[str, ...]

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The four kinds."""
        return tuple(self.rule)

    @cached_property
    def class_of(self) -> Mapping[str, str]:
        """Circumstance to its class."""
        return {when: name for name, circumstances in self.classes.items() for when in circumstances}

    @cached_property
    def outcomes(self) -> tuple[str, ...]:
        """Every outcome once, in order of first appearance in the rule."""
        return tuple(dict.fromkeys(outcome for row in self.rule.values() for outcome in row))

    @cached_property
    def base_names(self) -> tuple[str, ...]:
        """The names of a small world, kinds alternating."""
        return tuple(name for same_rank in zip(*self.names.values(), strict=True) for name in same_rank)

    @cached_property
    def kind_of_base(self) -> Mapping[str, str]:
        """Name of a small world to its kind."""
        return {name: kind for kind, names in self.names.items() for name in names}

    def outcome(self, kind: str, class_name: str) -> str:
        """What the rule says for a kind in a class of circumstances."""
        return self.rule[kind][tuple(self.classes).index(class_name)]

    def kind_of(self, name: str) -> str:
        """The kind of a thing; for a generated name it follows from a hash, so that it has to be learned.

        Raises:
            KeyError: this subject has no such thing.
        """
        if (kind := self.kind_of_base.get(name)) is not None:
            return kind
        if not self.is_generated(name):
            raise KeyError(name)
        digest = hashlib.blake2b(f"{self.name}:{name}".encode(), digest_size=4).digest()
        return self.kinds[int.from_bytes(digest, "big") % len(self.kinds)]

    def name_at(self, index: int) -> str:
        """The name with a number: the small world's first, then generated ones without end."""
        base = self.base_names
        return base[index] if index < len(base) else _spell(index - len(base)) + self.ending

    def is_generated(self, name: str) -> bool:
        """Whether `name_at` can generate this name."""
        return name.endswith(self.ending) and _SPELLED.fullmatch(name[: -len(self.ending)]) is not None


_CONSONANTS: Final = "bdfgklmnprstvz"
_VOWELS: Final = "aeiou"
_SYLLABLES: Final = tuple(consonant + vowel for vowel in _VOWELS for consonant in _CONSONANTS)
_SPELLED: Final = re.compile(f"(?:[{_CONSONANTS}][{_VOWELS}]){{2,}}")


def _spell(number: int) -> str:
    """A number as at least two syllables, a different word for every number.

    >>> _spell(0), _spell(1), _spell(4900)
    ('baba', 'bada', 'bababa')
    """
    base, length = len(_SYLLABLES), 2
    while number >= base**length:
        number -= base**length
        length += 1
    digits = [number // base**place % base for place in reversed(range(length))]
    return "".join(_SYLLABLES[digit] for digit in digits)


_WEATHER: Final = {
    "a cold spell": ("a hard frost", "the first snow", "an icy night"),
    "a dry spell": ("a long drought", "a heat wave", "a dusty summer"),
    "a storm": ("a thunderstorm", "a strong gale"),
}
_LIVING: Final = {
    "marsh": ("curls up", "turns white", "goes to sleep"),
    "hill": ("swells up", "glows at night", "sinks underground"),
    "forest": ("smells of honey", "stands still", "curls up"),
    "shore": ("turns white", "goes to sleep", "swells up"),
}
_LIVING_ASKS: Final = (
    "What does {it} do in {when}?",
    "How does {it} behave in {when}?",
    "In {when}, what will {it} do?",
    "What happens when {it} meets {when}?",
)

ANIMALS: Final = Subject(
    name="animals",
    link="in",
    pronoun="it",
    classes=_WEATHER,
    rule={f"{place} animal": row for place, row in _LIVING.items()},
    names={
        "marsh animal": ("quillon", "brask", "tamber", "murdle"),
        "hill animal": ("vellock", "drabbit", "onkel", "garrot"),
        "forest animal": ("fenrick", "slooth", "pardle", "wimber"),
        "shore animal": ("skarn", "loppet", "crennel", "tibbock"),
    },
    ending="ck",
    asks=_LIVING_ASKS,
)

STONES: Final = Subject(
    name="stones",
    link="in",
    pronoun="it",
    classes={
        "great heat": ("a candle flame", "a hot oven", "glowing coals"),
        "the damp": ("salt water", "pouring rain", "a wet cellar"),
        "hard pressure": ("a heavy press", "a rock slide"),
    },
    rule={
        "river stone": ("splits in two", "grows crystals", "turns deep blue"),
        "cave stone": ("melts slowly", "sticks to iron", "gives off smoke"),
        "lava stone": ("rings like a bell", "turns to powder", "splits in two"),
        "desert stone": ("grows crystals", "turns deep blue", "melts slowly"),
    },
    names={
        "river stone": ("ombrite", "selphite", "dunnerite", "krallite"),
        "cave stone": ("vorrite", "amblite", "pellurite", "noxite"),
        "lava stone": ("tharnite", "eldrite", "quassite", "ruffite"),
        "desert stone": ("ismerite", "jorbite", "candrite", "wellite"),
    },
    ending="lite",
    asks=(
        "What happens to {it} in {when}?",
        "How does {it} react in {when}?",
        "In {when}, what becomes of {it}?",
        "What is seen when {it} lies in {when}?",
    ),
)

MACHINES: Final = Subject(
    name="machines",
    link="with",
    pronoun="it",
    classes={
        "extra weight": ("a heavy load", "a full wagon", "three riders"),
        "poor care": ("dry bearings", "worn gears", "rusty chains"),
        "high speed": ("a fast belt", "an open throttle"),
    },
    rule={
        "steam machine": ("whistles loudly", "locks its wheels", "drips oil"),
        "spring machine": ("runs backwards", "throws sparks", "stops at once"),
        "wind machine": ("shakes hard", "loses power", "whistles loudly"),
        "water machine": ("locks its wheels", "drips oil", "runs backwards"),
    },
    names={
        "steam machine": ("rotomel", "huffler", "brindor", "cranix"),
        "spring machine": ("tockle", "sprendel", "wendix", "clavon"),
        "wind machine": ("zephor", "vanntor", "galdrix", "whirrel"),
        "water machine": ("plumdor", "aquidel", "millrox", "drenix"),
    },
    ending="tor",
    asks=(
        "What does {it} do with {when}?",
        "How does {it} run with {when}?",
        "With {when}, how will {it} work?",
        "What fault does {it} show with {when}?",
    ),
)

ILLNESSES: Final = Subject(
    name="illnesses",
    link="after",
    pronoun="it",
    classes={
        "a warm drink": ("hot broth", "honey milk", "mint tea"),
        "a bitter medicine": ("black powder", "a sour pill", "a root tonic"),
        "rest": ("a long sleep", "a day in bed"),
    },
    rule={
        "lung illness": ("fades overnight", "causes a rash", "leaves a scar"),
        "skin illness": ("brings a fever", "eases slowly", "spreads to the hands"),
        "bone illness": ("causes a cough", "returns in a week", "fades overnight"),
        "blood illness": ("causes a rash", "leaves a scar", "brings a fever"),
    },
    names={
        "lung illness": ("velmosis", "harkitis", "wheezlia", "brontosis"),
        "skin illness": ("scabrella", "dermoxia", "pellitis", "rubosis"),
        "bone illness": ("ossimia", "crackitis", "mardosis", "jointella"),
        "blood illness": ("sangora", "palloxia", "vennitis", "coralia"),
    },
    ending="sis",
    asks=(
        "What does {it} do after {when}?",
        "How does {it} change after {when}?",
        "After {when}, how will {it} go on?",
        "What does the doctor note on {it} after {when}?",
    ),
)

LAW: Final = Subject(
    name="law",
    link="for",
    pronoun="this person",
    classes={
        "a debt": ("a late payment", "an unpaid loan", "a missed rent"),
        "a fraud": ("a false weight", "a forged seal", "a fake coin"),
        "a brawl": ("a street fight", "a broken window"),
    },
    rule={
        "market trader": ("pays a fine", "loses the licence", "goes to jail"),
        "harbour pilot": ("sweeps the streets", "leaves the town", "writes an apology"),
        "farm tenant": ("works without pay", "wears a red hat", "pays a fine"),
        "palace clerk": ("loses the licence", "goes to jail", "sweeps the streets"),
    },
    names={
        "market trader": ("tollan", "besker", "hagglin", "vendrel"),
        "harbour pilot": ("moorman", "anquist", "ropeward", "keelan"),
        "farm tenant": ("plowen", "barlock", "croften", "hedrick"),
        "palace clerk": ("scrivel", "quintor", "sealman", "courdan"),
    },
    ending="man",
    asks=(
        "How does the law punish {it} for {when}?",
        "What sentence does {it} get for {when}?",
        "For {when}, what does the judge decide about {it}?",
        "What does the court order against {it} for {when}?",
    ),
)

PLANTS: Final = Subject(
    name="plants",
    link="in",
    pronoun="it",
    classes=_WEATHER,
    rule={f"{place} plant": row for place, row in _LIVING.items()},
    names={
        "marsh plant": ("mirrowort", "sedgel", "pondera", "bogberry"),
        "hill plant": ("heathlin", "cragmoss", "upfern", "torrel"),
        "forest plant": ("umbrawort", "leafmel", "nutshade", "barkling"),
        "shore plant": ("saltwort", "dunelia", "tidegrass", "foamfern"),
    },
    ending="fern",
    asks=_LIVING_ASKS,
)

IN_DOMAIN: Final = (ANIMALS, STONES, MACHINES, ILLNESSES, LAW)
HELD_OUT: Final = PLANTS
SUBJECTS: Final[Mapping[str, Subject]] = MappingProxyType({subject.name: subject for subject in (*IN_DOMAIN, HELD_OUT)})
