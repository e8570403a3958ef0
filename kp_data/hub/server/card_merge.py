"""Two pushes that both changed the README's metadata, put together where they do not contradict each other.

Official clients push one config at a time, and each push rewrites README.md: two at once always collide there, and the
second fails although its data touch nothing of the first. Where the operator allows it (`HubSettings.merge_cards`), a
commit onto a stale parent is put on top of the branch when README.md is the only file that both sides changed, and its
metadata merge: entry by entry for `configs` and `dataset_info`, key by key for the rest.

Source: own; a three-way merge. Differs from huggingface.co, which refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
import yaml

from kp_data.hub.server.card_data import MAX_CARD_BYTES, split_card
from kp_data.hub.server.commits import Draft, compare, history, read_commit
from kp_data.hub.server.contents import Content, find_content
from kp_data.hub.server.describe import CARD
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.refusals import Refusal
from kp_data.hub.server.repositories import Repo, resolve
from kp_data.hub.server.trees import File, Trees

_BY_CONFIG: Final = ("configs", "dataset_info")
_ABSENT: Final = object()


class Contradiction(Exception):
    """Both sides changed the same thing, differently."""


def merge_cards(base: str, ours: str, theirs: str) -> str:
    """A README with the changes of both sides.

    Args:
        base: what both began with.
        ours: what stands there now.
        theirs: what comes in.

    Raises:
        Contradiction: both changed the same entry, or both the text, differently.
        ValueError: one of them has no valid metadata.
    """
    (base_data, base_text), (our_data, our_text), (their_data, their_text) = map(split_card, (base, ours, theirs))
    merged = _merged_keys(_by_config(base_data), _by_config(our_data), _by_config(their_data))
    text = _merged(base_text, our_text, their_text)
    front = yaml.safe_dump(_as_lists(merged), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n{text}"


def rebase(connection: sa.Connection, hub: Hub, repo: Repo, branch: str, draft: Draft) -> tuple[str, str | None]:
    """What it takes to put a draft with a stale parent on top of its branch.

    Args:
        connection: within a transaction.
        hub: whose contents are read.
        repo: that the draft is for.
        branch: that has moved on.
        draft: with the parent it was made for.

    Returns: the commit to put it on, and the README to replace the draft's with; None: the draft's stays.

    Raises:
        Refusal: 412; they contradict each other.
    """
    head, stale = resolve(connection, repo, branch), Refusal(412, "A commit has happened since. Please refresh.")
    if draft.parent is None or not any(commit.oid == draft.parent for commit in history(connection, repo, head)):
        raise stale
    spans = compare(connection, repo, draft.parent, head)
    changed = {path for paths in spans.values() for path in paths}
    both = {path for path in changed for mine in draft.paths if path == mine or path.startswith(f"{mine}/")}
    # A file where the other side has a folder, and the other way round, is left to the commit itself to refuse.
    if not both:
        return head, None
    if both != {CARD} or CARD not in draft.inline:
        raise stale
    try:
        base, ours = (_card(connection, hub, repo, commit) for commit in (draft.parent, head))
        incoming = draft.inline[CARD]
        theirs = _text(Content(hub, incoming.sha256, incoming.size, incoming.location, None))
        return head, merge_cards(base, ours, theirs)
    except (Contradiction, ValueError) as error:
        raise stale from error


def _card(connection: sa.Connection, hub: Hub, repo: Repo, commit: str) -> str:
    entry = Trees(connection, repo.id).find(read_commit(connection, repo, commit).tree, CARD)
    return _text(find_content(connection, hub, entry.sha256)) if isinstance(entry, File) else ""


def _text(content: Content) -> str:
    if content.size > MAX_CARD_BYTES:
        raise ValueError("too large to merge")
    return b"".join(content.blocks()).decode()


def _merged(base: Any, ours: Any, theirs: Any) -> Any:
    if ours == theirs or theirs == base:
        return ours
    if ours == base:
        return theirs
    raise Contradiction


def _merged_keys(base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Key by key; within `configs` and `dataset_info`, config by config."""
    found = {}
    for key in dict.fromkeys([*ours, *theirs]):
        sides = [side.get(key, _ABSENT) for side in (base, ours, theirs)]
        if key in _BY_CONFIG:
            parts = [side if isinstance(side, dict) else {} for side in sides]
            found[key] = {
                name: value
                for name in dict.fromkeys([*parts[1], *parts[2]])
                if (value := _merged(*(part.get(name, _ABSENT) for part in parts))) is not _ABSENT
            }
        elif (value := _merged(*sides)) is not _ABSENT:
            found[key] = value
    return found


def _by_config(data: Mapping[str, Any]) -> dict[str, Any]:
    """The same with `configs` and `dataset_info` as mappings from a config's name to its entry."""
    found = dict(data)
    for key in _BY_CONFIG:
        if key in found:
            entries = found[key] if isinstance(found[key], list) else [found[key]]
            if not all(isinstance(entry, dict) for entry in entries):
                raise ValueError(f"{key} is a list of mappings")
            found[key] = {str(entry.get("config_name", "default")): entry for entry in entries}
    return found


def _as_lists(data: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_by_config`; a single `dataset_info` without a name stays a mapping, as clients write it."""
    found = dict(data)
    for key in _BY_CONFIG:
        if key in found:
            entries = [found[key][name] for name in sorted(found[key])]
            alone = key == "dataset_info" and len(entries) == 1 and "config_name" not in entries[0]
            named = [entry if "config_name" in entry else {"config_name": "default", **entry} for entry in entries]
            found[key] = entries[0] if alone else named
    return found
