"""What the hub refuses, as HTTP: a status, a sentence, and the code by which official clients pick their exception."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

REPO_NOT_FOUND: Final = "RepoNotFound"
REVISION_NOT_FOUND: Final = "RevisionNotFound"
ENTRY_NOT_FOUND: Final = "EntryNotFound"
GATED_REPO: Final = "GatedRepo"

INVALID_TOKEN: Final = "Invalid credentials in Authorization header"  # noqa: S105 - a sentence
"""Official clients recognise exactly this sentence; any other 401 they take for a missing repository."""


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        message: one sentence for the user.
        code: `X-Error-Code`; empty: none.
        headers: further ones, such as the commit at which an entry is missing.
    """

    def __init__(self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.more = dict(headers or {})

    @property
    def headers(self) -> dict[str, str]:
        """What goes with the answer; no stored text can break out of a header."""
        found = {"X-Error-Message": header_safe(self.message)}
        if self.code:
            found["X-Error-Code"] = self.code
        return found | {name: header_safe(value) for name, value in self.more.items()}


def header_safe(text: str) -> str:
    r"""A text as one header line of printable ASCII; blanks at its ends are not allowed there.

    >>> header_safe("café\r\nSet-Cookie: a=b\n")
    'caf? Set-Cookie: a=b'
    """
    return re.sub(r"[^ -~]", "?", re.sub(r"[\r\n\t]+", " ", text))[:500].strip()


def bad_request(message: str) -> Refusal:
    """The request itself is wrong."""
    return Refusal(400, message)


def forbidden(message: str) -> Refusal:
    """The caller is known, and may not do this."""
    return Refusal(403, message)


def repo_not_found(*, anonymous: bool) -> Refusal:
    """An unknown repository, or one that the caller may not know of: both look the same."""
    return Refusal(401 if anonymous else 404, "Repository not found", REPO_NOT_FOUND)


def revision_not_found(revision: str) -> Refusal:
    """No branch, tag or commit of that name."""
    return Refusal(404, f"Invalid rev id: {revision}", REVISION_NOT_FOUND)


def entry_not_found(path: str, commit: str) -> Refusal:
    """No such file; clients keep in their cache that this commit has none."""
    return Refusal(404, f"Entry not found: {path}", ENTRY_NOT_FOUND, {"X-Repo-Commit": commit})
