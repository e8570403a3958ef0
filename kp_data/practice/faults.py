"""Faults that a practice server makes on request: by chance, the same for the same seed, or one after another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from kp_data.errors import ConfigError

OK: Final = "ok"
HANG: Final = "hang"
BROKEN: Final = "broken"
DISCONNECT: Final = "disconnect"
CUT: Final = "cut"
EMPTY: Final = "empty"
TRUNCATED: Final = "truncated"
HTML: Final = "html"
MISLABELLED: Final = "mislabelled"
HUGE: Final = "huge"
OTHER_MODEL: Final = "other-model"
_NAMED: Final = (OK, HANG, BROKEN, DISCONNECT, CUT, EMPTY, TRUNCATED, HTML, MISLABELLED, HUGE, OTHER_MODEL)
_USAGE: Final = 'write chances such as "429:0.1,hang:0.01" or a sequence such as "500,429*3,ok,401*"'
_MOST_REPEATED: Final = 1_000_000


@dataclass(frozen=True)
class FaultPlan:
    """Which request meets which fault.

    Attributes:
        chances: (fault, probability); what is left of 1 is `ok`.
        sequence: (fault, number of requests) in turn.
        seed: of the chances.
        afterwards: the fault of every request after the sequence.
    """

    chances: tuple[tuple[str, float], ...] = ()
    sequence: tuple[tuple[str, int], ...] = ()
    seed: int = 0
    afterwards: str = OK

    def fault(self, number: int) -> str:
        """The fault of request `number`, counted from 0: an HTTP status, or one of the named ones.

        >>> plan = parse_faults("500,hang")
        >>> [plan.fault(number) for number in range(3)]
        ['500', 'hang', 'ok']
        """
        if not self.chances:
            return self._in_turn(number)
        rest = uniform(f"{self.seed}:{number}")
        for name, chance in self.chances:
            rest -= chance
            if rest < 0:
                return name
        return OK

    def _in_turn(self, number: int) -> str:
        for name, count in self.sequence:
            if number < count:
                return name
            number -= count
        return self.afterwards


def parse_faults(text: str | None, *, seed: int = 0) -> FaultPlan:
    """A plan from its text; nothing gives a plan without faults.

    Args:
        text: `"FAULT:CHANCE,…"`, or `"FAULT,FAULT*COUNT,…"`, where the last may be `FAULT*`: from then on. A fault is
            `ok`, an HTTP status from 400 to 599, `hang` (never answers), `disconnect` (no answer), `cut` (the
            connection ends in the middle of the body), `broken` (half of the JSON), `html` (a web page),
            `mislabelled` (an answer that calls itself a web page), `empty` (a reply without text), `truncated` (half
            of a reply, finish reason `length`), `huge` (a reply of 10 MB) or `other-model` (the answer names another
            model).
        seed: of the chances.

    Raises:
        ConfigError: an unknown fault, or chances that are none or come to more than 1.
    """
    items = [item.strip() for item in (text or "").split(",") if item.strip()]
    chancy = [item for item in items if ":" in item]
    if chancy and len(chancy) < len(items):
        raise ConfigError(f"{text!r} mixes chances and a sequence; {_USAGE}", place="faults")
    if not chancy:
        return _sequence(items, seed)
    chances = tuple((_checked(name.strip()), _chance(value)) for name, value in (item.split(":", 1) for item in items))
    if sum(chance for _, chance in chances) > 1 + 1e-9:
        raise ConfigError(f"the chances of {text!r} come to more than 1", place="faults")
    return FaultPlan(chances=chances, seed=seed)


def uniform(key: str) -> float:
    """A number in [0, 1) that a key always gives."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def _sequence(items: list[str], seed: int) -> FaultPlan:
    forever = _checked(items.pop()[:-1].strip()) if items and items[-1].endswith("*") else OK
    return FaultPlan(sequence=tuple(_repeated(item) for item in items), seed=seed, afterwards=forever)


def _repeated(item: str) -> tuple[str, int]:
    name, star, count = (part.strip() for part in item.partition("*"))
    if star and not (count.isascii() and count.isdigit() and 0 < int(count) <= _MOST_REPEATED):
        raise ConfigError(f"{item!r}: after * comes a number, or nothing in the last; {_USAGE}", place="faults")
    return _checked(name), int(count or 1)


def _checked(name: str) -> str:
    if name in _NAMED or (name.isascii() and name.isdigit() and 400 <= int(name) <= 599):
        return name
    raise ConfigError(
        f"no fault {name!r}; there are HTTP statuses from 400 to 599, {', '.join(_NAMED)}; {_USAGE}", place="faults"
    )


def _chance(value: str) -> float:
    try:
        chance = float(value)
    except ValueError:
        chance = -1.0
    if not 0 <= chance <= 1:
        raise ConfigError(f"{value!r} is no chance between 0 and 1; {_USAGE}", place="faults")
    return chance
