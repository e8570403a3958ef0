"""Why a cell is new although its question was asked before: what differs from the cells that the store holds of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from kp_data.generate.plan import Cell
from kp_data.store import Store, StoredCell

_MOST: Final = 200
_NOT_SENT: Final = "not sent"


@dataclass(frozen=True, slots=True)
class Earlier:
    """A stored cell of the same question, model, mode and sample under another key.

    Attributes:
        key: of the cell.
        at: when it was stored.
        outcome: `answered`, or the class of its failure.
        differences: what was other than now, each in a phrase.
    """

    key: str
    at: datetime
    outcome: str
    differences: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "key": self.key,
            "at": self.at.isoformat(),
            "outcome": self.outcome,
            "differences": list(self.differences),
        }


def asked_before(cell: Cell, store: Store) -> list[Earlier]:
    """The cells that stood where this one stands now, newest first.

    A panel that was filled by several configurations has several; the latest is what this cell takes the place of.

    Args:
        cell: of the plan.
        store: of its panel.

    Raises:
        StoreError: the store cannot be read.
    """
    now = json.loads(cell.request)
    # Stores of earlier releases do not name the question; they are found by the same messages.
    marks = [json.dumps({name: now[name]})[1:-1] for name in ("question", "messages_sha256")]
    stored = store.mentioning(marks, most=_MOST)
    return [
        _earlier(one, now) for one in stored if one.key != cell.key and _is_same_place(json.loads(one.request), now)
    ]


def why_new(earlier: list[Earlier]) -> str:
    """In one sentence, why a cell is asked although its question was.

    >>> why_new([])
    'this question was not asked of this model before, in this mode and sample'
    """
    if not earlier:
        return "this question was not asked of this model before, in this mode and sample"
    last = earlier[0]
    changed = "; ".join(last.differences) or "nothing that this program knows of"
    return f"it was asked at {last.at:%Y-%m-%d %H:%M} UTC ({last.outcome}), and since then has changed: {changed}"


def _is_same_place(then: dict[str, Any], now: dict[str, Any]) -> bool:
    if then.get("question", now["question"]) != now["question"]:
        return False
    model_then, model_now = (str(request.get("endpoint")).rpartition("|")[2] for request in (then, now))
    return model_then == model_now and all(then.get(name) == now[name] for name in ("mode", "sample"))


def _earlier(stored: StoredCell, now: dict[str, Any]) -> Earlier:
    differences = tuple(_differences(json.loads(stored.request), now))
    return Earlier(stored.key, stored.created_at, stored.error or "answered", differences)


def _differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    if then.get("endpoint") != now["endpoint"]:
        yield f"endpoint {then.get('endpoint')} → {now['endpoint']}"
    before, after = then.get("parameters") or {}, now["parameters"]
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield f"{name} {before.get(name, _NOT_SENT)} → {after.get(name, _NOT_SENT)}"
    if then.get("prompt_version") != now["prompt_version"]:
        yield f"prompt version {then.get('prompt_version')} → {now['prompt_version']}"
    elif then.get("messages_sha256") != now["messages_sha256"]:
        yield "the messages (the words of the prompt, its in-context examples or their seed)"
