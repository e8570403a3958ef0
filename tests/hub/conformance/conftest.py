"""A hub that serves all conformance tests, and whoever comes to it: each test takes names and machines of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.hub_process import HubProcess, served
from conformance.official import PYTHONS, Machine, Official, versions
from conformance.wire import Wire, wired

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub that is never killed."""
    with served(tmp_path_factory.mktemp("conformance") / "hub") as found:
        yield found
        assert "Traceback" not in found.log.read_text()


@pytest.fixture(scope="session")
def session_wire(hub: HubProcess) -> Iterator[Wire]:
    with wired(hub.url) as found:
        yield found


@pytest.fixture
def wire(session_wire: Wire) -> Wire:
    """A wire to the hub, with nothing counted and no fault."""
    session_wire.clear()
    return session_wire


@pytest.fixture(params=PYTHONS, ids=lambda python: "hub{}-datasets{}".format(*versions(python)))
def python(request: pytest.FixtureRequest) -> str:
    """The interpreter of the clients under test."""
    return str(request.param)


@pytest.fixture
def machine(hub: HubProcess, wire: Wire, python: str, tmp_path: Path) -> Machine:
    """Makes a user on a machine; the same name is the same machine."""

    def make(name: str = "one", *, user: str | None = "ada", at: str | None = None, **more: str) -> Official:
        token = hub.token(user, write=user != "eve") if user else None
        return Official(python, at or wire.url, token, tmp_path / name, more)

    return make


@pytest.fixture
def name() -> str:
    """A dataset of Ada's that nobody else uses."""
    return f"ada/set-{next(_NUMBERS)}"


@pytest.fixture
def own_hub(tmp_path: Path) -> Iterator[HubProcess]:
    """A hub that may be killed."""
    with served(tmp_path / "own" / "hub") as found:
        yield found


@pytest.fixture
def own_wire(own_hub: HubProcess) -> Iterator[Wire]:
    with wired(own_hub.url) as found:
        yield found
