"""A purified folder made by hand, and a small hub on loopback that speaks just what the official client needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from purified_folder import write_purified
from small_hub import SmallHub

Maker = Callable[..., Path]


@pytest.fixture
def make_purified(tmp_path: Path) -> Maker:
    """Writes a purified folder under a name; the same arguments give the same folder."""

    def make(name: str = "purified", num: int = 10, **options: object) -> Path:
        return write_purified(tmp_path / name, num, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    """A running hub; the client keeps its cache apart, uploads by LFS and takes its token from HF_TOKEN."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", SmallHub.token)
    with SmallHub().running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def read_front(text: str) -> dict[str, object]:
    import yaml

    return dict(yaml.safe_load(text.split("---\n")[1]))


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)
