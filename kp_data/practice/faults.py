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
EMPTY: Final = "empty"
_NAMED: Final = (OK, HANG, BROKEN, DISCONNECT, EMPTY)
_USAGE: Final = 'write chances such as "429:0.1,hang:0.01" or a sequence such as "500,429,ok"'


@dataclass(frozen=True)
class FaultPlan:
    """Which request meets which fault.

    Attributes:
        chances: (fault, probability); what is left of 1 is `ok`.
        sequence: the fault of the first requests in turn; `ok` afterwards.
        seed: of the chances.
    """

    chances: tuple[tuple[str, float], ...] = ()
    sequence: tuple[str, ...] = ()
    seed: int = 0

    def fault(self, number: int) -> str:
        """The fault of request `number`, counted from 0: an HTTP status, or one of the named ones.

        >>> plan = parse_faults("500,hang")
        >>> [plan.fault(number) for number in range(3)]
        ['500', 'hang', 'ok']
        """
        if self.sequence:
            return self.sequence[number] if number < len(self.sequence) else OK
        if not self.chances:
            return OK
        rest = uniform(f"{self.seed}:{number}")
        for name, chance in self.chances:
            rest -= chance
            if rest < 0:
                return name
        return OK


def parse_faults(text: str | None, *, seed: int = 0) -> FaultPlan:
    """A plan from its text; nothing gives a plan without faults.

    Args:
        text: `"FAULT:CHANCE,…"` or `"FAULT,FAULT,…"`; a fault is an HTTP status from 400 to 599, `hang` (never
            answers), `broken` (a body cut in the middle), `disconnect`, `empty` (a reply without text) or `ok`.
        seed: of the chances.

    Raises:
        ConfigError: an unknown fault, or chances that are none or come to more than 1.
    """
    items = [item.strip() for item in (text or "").split(",") if item.strip()]
    chancy = [item for item in items if ":" in item]
    if chancy and len(chancy) < len(items):
        raise ConfigError(f"{text!r} mixes chances and a sequence; {_USAGE}", place="faults")
    if not chancy:
        return FaultPlan(sequence=tuple(_checked(item) for item in items), seed=seed)
    chances = tuple((_checked(name.strip()), _chance(value)) for name, value in (item.split(":", 1) for item in items))
    if sum(chance for _, chance in chances) > 1 + 1e-9:
        raise ConfigError(f"the chances of {text!r} come to more than 1", place="faults")
    return FaultPlan(chances=chances, seed=seed)


def uniform(key: str) -> float:
    """A number in [0, 1) that a key always gives."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


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
