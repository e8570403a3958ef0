"""What was found out of files and holds as long as they do not change: counts, values, statistics.

Keys name the contents of files (`Part.identity`), so nothing outlives a change, and two datasets share an answer only
where they share the bytes. Who may see an answer is decided before, where the dataset is opened.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar, cast

T = TypeVar("T")

KEPT: Final = 4_096


class Remembered:
    """Answers by key, those not asked for longest forgotten first; many who ask at once wait for one to find out."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._answers: OrderedDict[Hashable, Any] = OrderedDict()
        self._finding: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, find: Callable[[], T]) -> T:
        """The answer, found out if need be; what `find` raises is raised and not remembered.

        >>> answers = Remembered()
        >>> answers.get("sum", lambda: 1 + 1), answers.get("sum", lambda: 0)
        (2, 2)
        """
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return cast(T, self._answers[key])
            mine = self._finding.setdefault(key, threading.Lock())
        with mine:
            with self._lock:
                if key in self._answers:
                    return cast(T, self._answers[key])
            try:
                answer = find()
            finally:
                with self._lock:
                    self._finding.pop(key, None)
            with self._lock:
                self._answers[key] = answer
                while len(self._answers) > self._kept:
                    self._answers.popitem(last=False)
            return answer
