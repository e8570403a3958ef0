"""Addresses and tokens that prove themselves: what they allow, for which repository and object, and until when.

Clients upload and download some things without their token (LFS parts, xorbs). Such an address carries an HMAC over
all that it allows, so it opens one object of one repository for one purpose, for a while.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from kp_data.errors import HubError
from kp_data.hub.server.refusals import Refusal

SECRET_VARIABLE: Final = "KP_HUB_SECRET"  # noqa: S105 - the name of a variable
_SECRET_BYTES: Final = 32


class Signer:
    """Signs claims, and reads back those that it signed itself.

    Args:
        secret: at least 32 random bytes; whoever knows it can make any address.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def query(self, purpose: str, claims: Mapping[str, str], *, lasts_s: float) -> str:
        """A query string that allows `purpose` with exactly these claims."""
        expires = int(time.time() + lasts_s)
        return urlencode({"expires": expires, "signature": self._signature(purpose, claims, expires)})

    def check(self, purpose: str, claims: Mapping[str, str], query: Mapping[str, str]) -> None:
        """Let a signed request pass.

        Raises:
            Refusal: 403; forged, expired, or signed for something else.
        """
        expires, signature = query.get("expires", ""), query.get("signature", "")
        known = expires.isascii() and expires.isdigit() and len(expires) < 15
        expected = self._signature(purpose, claims, int(expires)) if known else ""
        # As bytes: text with foreign characters would raise.
        if not known or not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
            raise Refusal(403, "this address was not signed for that; ask the hub for a new one")
        if int(expires) < time.time():
            raise Refusal(403, "this address has expired; ask the hub for a new one")

    def token(self, purpose: str, claims: Mapping[str, str], *, expires: int) -> str:
        """A token that carries its claims."""
        body = base64.urlsafe_b64encode(json.dumps([purpose, dict(claims), expires], sort_keys=True).encode()).decode()
        return f"{body}.{self._mac(body)}"

    def read(self, purpose: str, token: str) -> dict[str, str]:
        """The claims of a token.

        Raises:
            Refusal: 401; forged, expired, or for another purpose.
        """
        body, _, mac = token.partition(".")
        if not hmac.compare_digest(self._mac(body).encode(), mac.encode("utf-8", "replace")):
            raise Refusal(401, "unknown or damaged token")
        # Only what we signed ourselves is ever parsed.
        for_what, claims, expires = json.loads(base64.urlsafe_b64decode(body))
        if for_what != purpose or expires < time.time():
            raise Refusal(401, "this token has expired or is for something else")
        return dict(claims)

    def _signature(self, purpose: str, claims: Mapping[str, str], expires: int) -> str:
        return self._mac(json.dumps([purpose, dict(claims), expires], sort_keys=True))

    def _mac(self, text: str) -> str:
        return hmac.new(self._secret, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def find_secret(root: Path) -> bytes:
    """The secret that a hub signs with: KP_HUB_SECRET (several machines share one), else a file, made when missing.

    Raises:
        HubError: it cannot be read, or is too short.
    """
    given = os.environ.get(SECRET_VARIABLE)
    secret = given.encode() if given else _secret_of_file(root / "secret")
    if len(secret) < _SECRET_BYTES:
        raise HubError(f"{SECRET_VARIABLE} or its file is too short; it needs at least {_SECRET_BYTES} random bytes")
    return secret


def _secret_of_file(path: Path) -> bytes:
    try:
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        if not path.exists():
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_hex(_SECRET_BYTES).encode())
            try:
                # A link fails where a file stands: two processes that start at once agree on one secret.
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return path.read_bytes()
    except OSError as error:
        raise HubError(f"cannot keep the hub's secret ({error.strerror})", place=path) from error
