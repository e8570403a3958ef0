"""One hub for all tests that do not need one of their own: each takes a repository of its own on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from served_hub import Served, serve_for_test

from kp_data.hub.server import HubSettings, Limits

SMALL = Limits(
    json_bytes=64_000, commit_bytes=200_000, inline_bytes=50_000, part_bytes=100_000, shard_bytes=100_000, page=4
)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A hub with small limits, so that tests can reach them."""
    with serve_for_test(HubSettings(tmp_path_factory.mktemp("hub"), port=0, limits=SMALL)) as found:
        yield found


@pytest.fixture
def own_hub(tmp_path: Path) -> Iterator[Served]:
    """A hub that nobody else uses, with a quota and links that last an hour."""
    limits = replace(SMALL, quota_bytes=1_000_000)
    with serve_for_test(HubSettings(tmp_path / "hub", port=0, limits=limits)) as found:
        yield found
