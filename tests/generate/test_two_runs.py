"""Several processes fill one panel, on SQLite and on PostgreSQL: no cell is paid twice, and all end with everything."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from practice_runs import at, command, finish, opened, rows, run, stats, steady, wait_for

from kp_data.practice import practice_server
from kp_data.store.database import CELLS, LEASES, OWNERS

SLOW_ENOUGH = ("--concurrency", "2")


def started(out: Path, url: str, store_url: str, *more: str, names: str = "ada bruno") -> subprocess.Popen[str]:
    return command(out, at(url, names), "practice:60", "--store", store_url, *SLOW_ENOUGH, *more)


def ended(*processes: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What each process printed, after a look that it had done all of its own."""
    printed = []
    for process in processes:
        code, said, complaints = finish(process)
        assert code == 0, complaints
        assert "Traceback" not in complaints
        assert said["left"] == 0
        printed.append(said)
    return printed


def answered(printed: dict[str, Any]) -> int:
    return sum(teacher["answered"] for teacher in printed["teachers"])


def alone(tmp_path: Path, url: str, **options: Any) -> pa.Table:
    """The panel of a single run."""
    run(tmp_path / "alone", url, "practice:60", **options)
    return steady(tmp_path / "alone")


@pytest.mark.slow
def test_two_runs_of_the_same_teachers_share_the_cells_and_none_is_paid_twice(tmp_path: Path, store_url: str) -> None:
    with practice_server() as url:
        calm = alone(tmp_path, url)
    with practice_server(latency_s=0.05) as url, opened(store_url) as store:
        first = started(tmp_path / "panel", url, store_url)
        # In the other order: both then meet in the middle of the same cells.
        second = started(tmp_path / "panel", url, store_url, names="bruno ada")
        shares = [answered(printed) for printed in ended(first, second)]
        assert (stats(url)["completed"], stats(url)["begun_again"]) == (120, 0)
        assert (rows(store, CELLS), rows(store, LEASES), rows(store, OWNERS)) == (120, 0, 0)
    assert sum(shares) == 120
    assert steady(tmp_path / "panel").num_rows == 120
    by_cell = [("question_id", "ascending"), ("teacher", "ascending")]
    assert steady(tmp_path / "panel").sort_by(by_cell).equals(calm.sort_by(by_cell))


@pytest.mark.slow
def test_runs_of_other_teachers_and_fewer_questions_make_one_whole_panel(tmp_path: Path, store_url: str) -> None:
    with practice_server() as url:
        calm = alone(tmp_path, url, names="ada bruno clara")
    with practice_server(latency_s=0.03) as url:
        first = started(tmp_path / "panel", url, store_url)
        wait_for(lambda: stats(url)["requests"] > 0, first)
        second = started(tmp_path / "panel", url, store_url, names="clara bruno")
        fewer = started(tmp_path / "panel", url, store_url, "--limit", "20", names="ada clara")
        ended(first, second, fewer)
        assert stats(url)["completed_per_model"] == {"ada": 60, "bruno": 60, "clara": 60}
        assert stats(url)["begun_again"] == 0
        # A run that looks once more finds nothing to ask.
        assert answered(ended(started(tmp_path / "panel", url, store_url, names="ada bruno clara"))[0]) == 0
    assert steady(tmp_path / "panel").equals(calm)


@pytest.mark.slow
def test_a_killed_run_leaves_its_cells_to_the_other_and_a_third_joins_late(tmp_path: Path, store_url: str) -> None:
    with practice_server() as url:
        calm = alone(tmp_path, url)
    with practice_server(latency_s=0.1) as url, opened(store_url) as store:
        first, second = (started(tmp_path / "panel", url, store_url) for _ in range(2))
        wait_for(lambda: rows(store, OWNERS) == 2 and rows(store, CELLS) >= 10, first, second)
        first.kill()
        first.communicate()
        time.sleep(0.3)
        seen = stats(url)
        third = started(tmp_path / "panel", url, store_url)
        shares = [answered(printed) for printed in ended(second, third)]
        # What the dead one had in flight is asked again, and nothing else.
        assert stats(url)["begun_again"] <= 2
        assert stats(url)["abandoned"] <= 2
        assert stats(url)["completed"] >= seen["completed"]
        assert (rows(store, CELLS), rows(store, LEASES), rows(store, OWNERS)) == (120, 0, 0)
    assert all(share > 0 for share in shares)
    assert steady(tmp_path / "panel").equals(calm)
