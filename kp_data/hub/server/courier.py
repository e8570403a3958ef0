"""Carries the messages of webhooks, beside the server and not in its way."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from kp_data.hub.server.database import MetadataError
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.settings import WebhookReach
from kp_data.hub.server.webhooks import Delivery, delivered, has_deliveries, take_deliveries

AGAIN_S: Final = (30.0, 60.0, 300.0, 900.0, 3_600.0, 3 * 3_600.0, 12 * 3_600.0)
"""How long to wait after each attempt, the last one included; then a message is given up."""
_LOOK_EVERY_S: Final = 0.5
_PATIENCE_S: Final = 15.0
_LOG = logging.getLogger(__name__)


class Unreachable(OSError):
    """An address that this hub does not ask."""


@contextmanager
def courier(hub: Hub) -> Iterator[None]:
    """A thread that carries messages until the end of the block; what is on its way then is carried the next time."""
    if hub.settings.webhooks == "off":
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_carry(hub, stop)), name="courier", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def _carry(hub: Hub, stop: threading.Event) -> None:
    resolver = _Resolver(hub.settings.webhooks)
    timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
    connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
        while not stop.is_set():
            try:
                due = await asyncio.to_thread(_due, hub)
                await asyncio.gather(*(_deliver(hub, session, item) for item in due))
            except MetadataError as error:
                _LOG.error("webhooks wait: %s", error)
            await asyncio.to_thread(stop.wait, _LOOK_EVERY_S)


def _due(hub: Hub) -> list[Delivery]:
    if not hub.database.read(has_deliveries):
        return []
    return hub.database.write(lambda connection: take_deliveries(connection, again_s=AGAIN_S))


async def _deliver(hub: Hub, session: aiohttp.ClientSession, item: Delivery) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": "kp-hub"}
    headers |= {"X-Webhook-Secret": item.secret} if item.secret else {}
    try:
        check_reach(item.url, hub.settings.webhooks)
        # Its answer is nobody's business: what is not read cannot hurt.
        async with session.post(item.url, data=item.body, headers=headers, allow_redirects=False) as response:
            arrived = 200 <= response.status < 300
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        _LOG.info("a webhook could not be told (attempt %d): %s", item.attempts, type(error).__name__)
        return
    if arrived:
        await asyncio.to_thread(hub.database.write, lambda connection: delivered(connection, item))


def check_reach(url: str, reach: WebhookReach) -> None:
    """Refuse an address that is written as a number and leads into the hub's own network.

    Raises:
        Unreachable: it does; names are looked at when they are resolved.
    """
    try:
        ip = ipaddress.ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return
    if reach != "any" and not is_public(ip):
        raise Unreachable(f"{ip} is no address of the public internet")


def is_public(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address lies in the public internet.

    >>> [is_public(ipaddress.ip_address(text)) for text in ("8.8.8.8", "10.0.0.1", "::ffff:127.0.0.1", "fe80::1")]
    [True, False, False, False]
    """
    mapped = getattr(ip, "ipv4_mapped", None)
    return bool((mapped or ip).is_global and not (mapped or ip).is_multicast)


class _Resolver(AbstractResolver):
    """Names to addresses, without those that the hub does not ask; what is connected to is what was looked at."""

    def __init__(self, reach: WebhookReach) -> None:
        self._inner, self._reach = aiohttp.ThreadedResolver(), reach

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if self._reach != "any":
            found = [one for one in found if is_public(ipaddress.ip_address(one["host"].partition("%")[0]))]
        if not found:
            raise Unreachable("the name leads to no address of the public internet")
        return found

    async def close(self) -> Any:
        await self._inner.close()
