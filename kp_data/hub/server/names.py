"""Names that users give: repositories, revisions and paths. What passes here cannot leave its repository."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from kp_data.hub.server.refusals import bad_request

TYPES: Final = ("model", "dataset", "space")
MAX_PATH_BYTES: Final = 1024

_PART: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_REVISION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@/-]{0,199}")
# Would be the hub's own address space where models have no prefix.
_RESERVED: Final = frozenset({"api", "datasets", "models", "spaces", "objects", "xet", "static", "health"})


@dataclass(frozen=True, slots=True)
class RepoName:
    """A repository's address.

    Attributes:
        type: one of `TYPES`.
        namespace: user or organisation.
        name: within the namespace.
    """

    type: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def url_path(self) -> str:
        """Its page, below the endpoint."""
        return f"{self}" if self.type == "model" else f"{self.type}s/{self}"


def check_repo(repo_type: str, namespace: str, name: str) -> RepoName:
    """A repository's name by the rules of official clients.

    Raises:
        Refusal: 400.
    """
    if repo_type not in TYPES:
        raise bad_request(f"{repo_type!r} is no type of repository; use one of {', '.join(TYPES)}")
    return RepoName(repo_type, check_namespace(namespace), check_part(name))


def parse_repo(full_name: str, repo_type: str) -> RepoName:
    """A repository by `namespace/name`.

    Raises:
        Refusal: 400.
    """
    namespace, slash, name = full_name.partition("/")
    if not slash:
        raise bad_request(f"{full_name[:100]!r} is not namespace/name")
    return check_repo(repo_type, namespace, name)


def check_part(part: str) -> str:
    """One half of `namespace/name`.

    Raises:
        Refusal: 400.
    """
    if not _PART.fullmatch(part) or "--" in part or ".." in part or part.endswith(".git"):
        raise bad_request(f"{part[:100]!r} cannot be a name; use letters, digits, '-', '_' and '.', at most 96")
    return part


def check_namespace(namespace: str) -> str:
    """A user's or an organisation's name.

    Raises:
        Refusal: 400.
    """
    if namespace.lower() in _RESERVED:
        raise bad_request(f"{namespace!r} is reserved")
    return check_part(namespace)


def check_path(path: str) -> str:
    """A file's path in a repository, as it is.

    Raises:
        Refusal: 400; it could name something outside, or cannot be a path on some system.
    """
    parts = path.split("/")
    if not path or len(path.encode("utf-8", "replace")) > MAX_PATH_BYTES or any(len(part) > 255 for part in parts):
        raise bad_request(f"{path[:100]!r} is no path: empty or too long")
    if any(part in ("", ".", "..") or part.lower() == ".git" for part in parts):
        raise bad_request(f"{path[:100]!r} is no path within a repository")
    # Surrogates are no text; a backslash is a separator on Windows.
    if any(ord(sign) < 32 or ord(sign) == 127 or 0xD800 <= ord(sign) < 0xE000 or sign == "\\" for sign in path):
        raise bad_request(f"{path[:100]!a} holds characters that no path may hold")
    return path


def check_ref(name: str) -> str:
    """The name of a branch or a tag.

    Raises:
        Refusal: 400.
    """
    parts = name.split("/")
    odd = any(not part or part.startswith((".", "-")) or part.endswith((".", ".lock")) for part in parts)
    if not _REVISION.fullmatch(name) or ".." in name or "@{" in name or odd or parts[0] == "refs" or is_commit(name):
        raise bad_request(f"{name[:100]!r} cannot be the name of a branch or tag")
    return name


def is_commit(text: str) -> bool:
    """Whether it is a full commit id."""
    return _COMMIT.fullmatch(text) is not None


def is_short_commit(text: str) -> bool:
    """Whether it may be the beginning of a commit id."""
    return re.fullmatch(r"[0-9a-f]{7,39}", text) is not None


def check_text(text: str) -> str:
    """A text that every database takes.

    Raises:
        Refusal: 400.
    """
    if any(sign == "\0" or 0xD800 <= ord(sign) < 0xE000 for sign in text):
        raise bad_request("a text holds half characters or NUL")
    return text


def check_digest(text: object) -> str:
    """64 lower-case hexadecimal digits.

    Raises:
        Refusal: 400.
    """
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise bad_request("not a hash of 64 hexadecimal digits")
    return text
