"""What an operator does about users: tokens, and members of organisations."""

from __future__ import annotations

import time

from kp_data.errors import HubError
from kp_data.hub.server.auth import Role, TokenInfo, add_member, create_token, list_tokens, revoke_token
from kp_data.hub.server.hub import Hub


def issue_token(hub: Hub, user: str, *, write: bool = False, days: float | None = None) -> tuple[str, TokenInfo]:
    """A new token and what is kept of it; the token itself cannot be had again.

    Args:
        hub: that it opens.
        user: whose; made when new.
        write: it may write, too.
        days: how long it is good for; None: until it is revoked.

    Raises:
        HubError: the name cannot be one.
    """
    if days is not None and not 0 < days < 1e5:
        raise HubError(f"{days:g} is no number of days that a token can last")
    expires_at = None if days is None else time.time() + days * 24 * 3600
    role: Role = "write" if write else "read"
    return hub.database.write(lambda connection: create_token(connection, user, role=role, expires_at=expires_at))


def tokens(hub: Hub) -> list[TokenInfo]:
    """All tokens, oldest first, without the tokens themselves."""
    return hub.database.read(list_tokens)


def revoke(hub: Hub, token_id: str) -> None:
    """Make a token worthless.

    Raises:
        HubError: there is none of that id.
    """
    hub.database.write(lambda connection: revoke_token(connection, token_id))


def join(hub: Hub, org: str, user: str, *, write: bool = True) -> None:
    """Make a user a member of an organisation; both are made when new.

    Raises:
        HubError: a name cannot be one, or is of the other kind.
    """
    role: Role = "write" if write else "read"
    hub.database.write(lambda connection: add_member(connection, org, user, role=role))
