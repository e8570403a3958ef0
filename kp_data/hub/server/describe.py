"""What the API says of repositories, commits and files, in the words of huggingface.co."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa

from kp_data.hub.server.card_data import MAX_CARD_BYTES, read_card
from kp_data.hub.server.commits import Commit, read_commit
from kp_data.hub.server.contents import Content, find_content
from kp_data.hub.server.database import OBJECTS
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.repositories import Repo
from kp_data.hub.server.trees import Entry, File, Folder, Trees

CARD = "README.md"
_LARGE_CARD_BYTES: Final = 32 * 1024


def iso(at: float) -> str:
    """A moment as JavaScript writes it.

    >>> iso(0.0)
    '1970-01-01T00:00:00.000Z'
    """
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def describe_repo(connection: sa.Connection, hub: Hub, repo: Repo, commit: str | None) -> dict[str, Any]:
    """A repository, as of a commit."""
    card = card_of(connection, hub, repo, commit) if commit else {}
    tags = [str(tag) for tag in card.get("tags", [])] if isinstance(card.get("tags"), list) else []
    told = ("pipeline_tag", "library_name") if repo.name.type == "model" else ()
    return {name: card[name] for name in told if isinstance(card.get(name), str)} | {
        "_id": repo.id,
        "id": str(repo.name),
        f"{repo.name.type}Id": str(repo.name),
        "author": repo.namespace,
        "sha": commit,
        "createdAt": iso(repo.created_at),
        "lastModified": iso(repo.modified_at),
        "private": repo.private,
        "gated": repo.gated or False,
        "disabled": False,
        "downloads": repo.downloads,
        "likes": 0,
        "tags": tags,
        "cardData": card,
    }


def describe_files(connection: sa.Connection, repo: Repo, commit: str, *, blobs: bool) -> dict[str, Any]:
    """`siblings` and `usedStorage` of a repository as of a commit."""
    files = list(Trees(connection, repo.id).files(read_commit(connection, repo, commit).tree))
    siblings = [{"rfilename": path} | (_blob(file) if blobs else {}) for path, file in files]
    return {"siblings": siblings, "usedStorage": sum(file.size for _, file in files)}


def card_of(connection: sa.Connection, hub: Hub, repo: Repo, commit: str) -> dict[str, Any]:
    """The metadata of a repository's README; empty where there is none, or none that can be read."""
    entry = Trees(connection, repo.id).find(read_commit(connection, repo, commit).tree, CARD)
    if not isinstance(entry, File) or entry.size > MAX_CARD_BYTES:
        return {}
    content = find_content(connection, hub, entry.sha256)
    found: dict[str, Any] = json.loads((_few_cards if entry.size > _LARGE_CARD_BYTES else _cards)(content))
    return found


def describe_entry(path: str, entry: Entry, xet: str | None, last: Commit | None) -> dict[str, Any]:
    """A file or folder in a listing."""
    found: dict[str, Any] = {"path": path}
    if isinstance(entry, Folder):
        found |= {"type": "directory", "oid": entry.oid, "size": 0}
    else:
        found |= {"type": "file", "oid": entry.git, "size": entry.size}
        if entry.large:
            found["lfs"] = _lfs(entry) | {"oid": entry.sha256}
        if xet:
            found["xetHash"] = xet
    if last is not None:
        found["lastCommit"] = {"id": last.oid, "title": last.title, "date": iso(last.at)}
    return found


def describe_commit(commit: Commit) -> dict[str, Any]:
    """A commit in a history."""
    return {
        "id": commit.oid,
        "title": commit.title,
        "message": commit.message,
        "authors": [{"user": commit.author}],
        "date": iso(commit.at),
    }


def xet_hashes(connection: sa.Connection, entries: list[Entry]) -> dict[str, str]:
    """SHA-256 to the hash in Xet's sense, of the large files that are stored as chunks."""
    digests = [entry.sha256 for entry in entries if isinstance(entry, File) and entry.large]
    found: dict[str, str] = {}
    for at in range(0, len(digests), 500):
        query = sa.select(OBJECTS.c.sha256, OBJECTS.c.xet).where(OBJECTS.c.sha256.in_(digests[at : at + 500]))
        found.update((sha256, xet) for sha256, xet in connection.execute(query) if xet)
    return found


def _read(content: Content) -> str:
    """A card's metadata as JSON, which takes less room than what it is read to."""
    try:
        return json.dumps(read_card(b"".join(content.blocks()).decode(errors="replace")))
    except ValueError:
        return "{}"


# Every listing shows cards, and a long one takes a second to read. By content, so they never grow old.
_cards, _few_cards = lru_cache(maxsize=512)(_read), lru_cache(maxsize=32)(_read)


def _blob(file: File) -> dict[str, Any]:
    found: dict[str, Any] = {"size": file.size, "blobId": file.git}
    return found | ({"lfs": _lfs(file) | {"sha256": file.sha256}} if file.large else {})


def _lfs(file: File) -> dict[str, Any]:
    return {"size": file.size, "pointerSize": 127 + len(str(file.size))}
