"""Whatever a server, a disk, a clock or a database does: nothing lost, nothing paid twice, no hang, one message."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from practice_runs import at, change_faults, command, finish, reset, run, stats, steady, stored, wait_for

from kp_data.config import Generate, Teacher
from kp_data.errors import StoreError
from kp_data.generate import generate_panel
from kp_data.generate import run as run_module
from kp_data.practice import practice_server
from kp_data.store import Store

EVERY_FAULT = "500,cut,html,broken,disconnect,429,504,hang"


def one_message(complaints: str) -> str:
    """The last line, after a look that there is one message and no traceback."""
    assert "Traceback" not in complaints
    lines = [line for line in complaints.splitlines() if line.strip()]
    assert sum(line.startswith(("error:", "interrupted")) for line in lines) <= 1
    return lines[-1]


# The server


def test_every_fault_of_a_call_is_retried_until_the_panel_is_that_of_a_calm_run(tmp_path: Path) -> None:
    with practice_server() as url:
        run(tmp_path / "calm", url)
    with practice_server(faults=EVERY_FAULT) as url:
        summary = run(tmp_path / "stormy", url, timeout_s=1.0)
        assert sum(stats(url)["faults"].values()) == 8
    assert summary.left == 0
    assert steady(tmp_path / "stormy").equals(steady(tmp_path / "calm"))


def test_without_retries_each_fault_is_data_of_its_class_and_the_next_run_asks_exactly_those(tmp_path: Path) -> None:
    with practice_server(faults=EVERY_FAULT) as url:
        failed = run(tmp_path, url, names="ada", retries=0, concurrency=1, timeout_s=0.7)
        assert failed.tallies[0].failed == {"bad_response": 5, "rate_limited": 1, "timeout": 2}
        assert failed.left == 8
        errors = Counter(pq.read_table(tmp_path / "responses.parquet")["error"].to_pylist())
        assert (errors["bad_response"], errors["rate_limited"], errors["timeout"]) == (5, 1, 2)
        reset(url)
        again = run(tmp_path, url, names="ada")
        assert stats(url)["requests"] == 8
    assert again.left == 0


def test_replies_that_came_but_are_odd_are_kept_and_named_for_what_they_are(tmp_path: Path) -> None:
    with practice_server(faults="empty,truncated,huge,mislabelled,other-model") as url:
        summary = run(tmp_path, url, "practice:5", names="ada", concurrency=1)
        assert summary.left == 0
        assert stats(url)["requests"] == 5
    assert summary.unusable["ada"] == {"empty": 1, "truncated": 1}
    rows = pq.read_table(tmp_path / "responses.parquet").to_pylist()
    assert [row["error"] for row in rows] == ["empty", "truncated", None, None, None]
    assert len(rows[2]["rationale"]) > 10_000_000
    assert all(row["answer_index"] is not None for row in rows[2:])
    assert [row["model"] for row in rows[3:]] == ["ada", "ada-of-another-kind"]


def test_a_key_that_expires_stops_its_teacher_alone_and_the_rest_is_for_the_next_run(tmp_path: Path) -> None:
    with practice_server(faults="ok*20,401*") as expiring, practice_server(latency_s=0.01) as steady_one:
        teachers = [*at(expiring, "ada"), *at(steady_one, "bruno")]
        code, printed, complaints = finish(command(tmp_path, teachers, "practice:60", "--concurrency", "4"))
        assert code == 3
        assert "Traceback" not in complaints
        ada, bruno = printed["teachers"]
        assert ada["stopped"].startswith("auth: HTTP 401")
        assert ada["answered"] == 20
        assert ada["left"] == 40
        # Cells that met the refusal stay open: they are no failures.
        assert ada["failed"] == {}
        assert (bruno["answered"], bruno["left"]) == (60, 0)
        change_faults(expiring, None)
        code, printed, _ = finish(command(tmp_path, teachers, "practice:60"))
        assert code == 0
        assert [teacher["answered"] for teacher in printed["teachers"]] == [40, 0]
        assert stats(expiring)["repeated"] == stats(steady_one)["repeated"] == 0


def test_a_model_that_is_taken_away_stops_its_teacher_with_what_the_server_said(tmp_path: Path) -> None:
    with practice_server(faults="ok*3,404*") as url:
        summary = run(tmp_path, url, names="ada", concurrency=1)
    assert summary.tallies[0].stopped == "bad_response: HTTP 404: a fault that was asked for: HTTP 404"
    assert (summary.tallies[0].answered, summary.left) == (3, 17)


@pytest.mark.slow
def test_a_server_that_is_down_is_given_up_after_a_while_and_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "Limits", partial(run_module.Limits, patience_s=2.0))
    with practice_server(faults="500*") as down, practice_server(faults="ok*10,500*") as failing:
        with practice_server() as well:
            teachers = [
                Teacher(name=name, model=f"practice/{name}", api_base=url)
                for name, url in (("ada", down), ("bruno", failing), ("clara", well))
            ]
            summary = generate_panel(
                "practice:40", out=tmp_path, teachers=teachers, options=Generate(retries=100, concurrency=8)
            )
        ada, bruno, clara = summary.tallies
        assert [tally.answered for tally in (ada, clara)] == [0, 40]
        assert 10 <= bruno.answered < 20
        assert "no answer for" in (ada.stopped or "")
        assert "no answer for" in (bruno.stopped or "")
        # The breaker: a dead server gets a handful of tries, not a storm of them.
        assert stats(down)["requests"] < 40
        assert summary.left == ada.left + bruno.left == 80 - bruno.answered


@pytest.mark.slow
def test_a_server_that_goes_away_for_a_while_is_found_again_and_nothing_is_paid_twice(tmp_path: Path) -> None:
    with practice_server(latency_s=0.05) as url:
        port = int(url.rsplit(":", 1)[1].removesuffix("/v1"))
        process = command(tmp_path, at(url, "ada"), "practice:80", "--concurrency", "4", "--retries", "20")
        wait_for(lambda: stored(tmp_path) >= 10, process)
        answered = stats(url)["completed"]
    time.sleep(1.0)
    with practice_server(port=port) as url:
        code, printed, complaints = finish(process)
        # Only answers that were on their way when the server went are asked again.
        assert abs(stats(url)["completed"] - (80 - answered)) <= 4
    assert code == 0, complaints
    assert printed["teachers"][0]["answered"] == 80


def test_a_storm_of_refusals_passes_and_every_cell_is_answered(tmp_path: Path) -> None:
    with practice_server() as url:
        run(tmp_path / "calm", url, "practice:60")
    with practice_server(faults="429:0.9", retry_after_s=0.7, latency_s=0.005) as url:
        over = threading.Timer(2.0, change_faults, (url, None))
        over.start()
        summary = run(tmp_path / "stormy", url, "practice:60")
        over.join()
        assert stats(url)["faults"]["429"] > 0
        assert stats(url)["repeated"] == 0
    assert summary.left == 0
    assert steady(tmp_path / "stormy").equals(steady(tmp_path / "calm"))


# The disk and the store


def test_a_store_that_cannot_be_read_ends_the_run_at_once_although_no_call_is_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def states(store: Store, keys: Sequence[str]) -> dict[str, str | None]:
        raise StoreError("cannot be read (disk I/O error)", place="cells.sqlite")

    monkeypatch.setattr(Store, "states", states)
    # No sign of life that would find the fault later.
    monkeypatch.setattr("kp_data.generate.clerk.BEAT_S", 1e9)
    with practice_server() as url:
        with pytest.raises(StoreError, match=r"cells\.sqlite: cannot be read"):
            run(tmp_path, url, names="ada")
        assert stats(url)["requests"] == 0


SMALL_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes}, {bytes}))"
NO_ROOM_TO_EXPORT = f"""
import kp_data.generate.run as module

def export_panel(*args, _export=module.export_panel, **options):
    {SMALL_FILES.format(bytes=2_000)}
    _export(*args, **options)

module.export_panel = export_panel
"""


def test_a_full_disk_at_the_export_loses_no_answer(tmp_path: Path) -> None:
    with practice_server() as url:
        process = command(tmp_path, at(url), "practice:50", prelude=NO_ROOM_TO_EXPORT)
        code, _, complaints = finish(process)
        assert code == 2
        assert one_message(complaints).startswith(f"error: {tmp_path / 'responses.parquet'}: cannot be written (")
        assert not list(tmp_path.glob(".*.tmp"))
        assert not (tmp_path / "responses.parquet").exists()
        reset(url)
        assert run(tmp_path, url, "practice:50").left == 0
        assert stats(url)["requests"] == 0


def test_a_full_disk_while_asking_is_one_message_and_what_is_written_stays(tmp_path: Path) -> None:
    with practice_server(latency_s=0.01) as url:
        small = SMALL_FILES.format(bytes=150_000)
        process = command(tmp_path, at(url, "ada"), "practice:300", "--concurrency", "4", prelude=small)
        code, _, complaints = finish(process)
        assert code == 2
        assert "cells.sqlite: cannot be written (" in one_message(complaints)
        kept = stored(tmp_path)
        assert 0 < kept < 300
        lost = stats(url)["completed"] - kept
        assert lost <= 4
        assert run(tmp_path, url, "practice:300", names="ada").left == 0
        assert stats(url)["completed"] == 300 + lost


def test_a_store_of_another_version_is_left_as_it_is(tmp_path: Path) -> None:
    with practice_server() as url:
        run(tmp_path, url)
        with sqlite3.connect(tmp_path / "cells.sqlite") as connection:
            connection.execute("UPDATE about SET value = '99' WHERE name = 'version'")
        connection.close()
        reset(url)
        code, _, complaints = finish(command(tmp_path, at(url), "practice:20"))
        assert code == 2
        assert "written by store version 99, this program knows 1" in one_message(complaints)
        assert stats(url)["requests"] == 0
    assert stored(tmp_path) == 40


def test_a_store_that_is_no_database_is_one_message(tmp_path: Path) -> None:
    with practice_server() as url:
        run(tmp_path, url, names="ada")
        for path in tmp_path.glob("cells.sqlite*"):
            path.unlink()
        (tmp_path / "cells.sqlite").write_bytes(b"no database at all " * 300)
        with pytest.raises(StoreError, match=r"cells.sqlite: cannot be opened \(file is not a database\)"):
            run(tmp_path, url, names="ada")


BARE_ROOT = """
import ctypes

# Version 3 of the interface, this process; then two times effective, permitted and inheritable: none.
header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None, use_errno=True).capset(header, none) == 0
"""
"""To root no folder is read-only, unless it gives up its capabilities."""


@pytest.mark.parametrize("name", ["new", "old"])
def test_a_folder_that_may_only_be_read_is_one_message_and_nothing_is_asked(tmp_path: Path, name: str) -> None:
    out = tmp_path / "parent" / name
    prelude = BARE_ROOT if os.geteuid() == 0 else ""
    with practice_server() as url:
        if name == "old":
            run(out, url, "practice:5", names="ada")
        out.parent.mkdir(exist_ok=True)
        locked = [path for path in (out.parent, out) if path.is_dir()]
        for path in locked:
            path.chmod(0o555)
        reset(url)
        code, _, complaints = finish(command(out, at(url), "practice:5", prelude=prelude))
        for path in locked:
            path.chmod(0o755)
        assert code == 2, complaints
        place = out if name == "new" else out / "questions.parquet"
        assert f"{place}: cannot be written (Permission denied)" in one_message(complaints)
        assert stats(url)["requests"] == 0


# The clock

CLOCK = """
import threading, time
real, jump_s = time.time, [0.0]
time.time = lambda: real() + jump_s[0]
threading.Timer({after}, jump_s.__setitem__, (0, {by})).start()
"""


@pytest.mark.slow
@pytest.mark.parametrize("by_s", [86_400.0, -86_400.0])
def test_a_clock_that_jumps_by_a_day_costs_no_call_and_no_lease(tmp_path: Path, by_s: float) -> None:
    with practice_server(latency_s=0.05) as url:
        prelude = CLOCK.format(after=2.0, by=by_s)
        source, few = "practice:150", ("--concurrency", "2")
        jumping = command(tmp_path, at(url), source, *few, prelude=prelude)
        wait_for(lambda: stored(tmp_path) > 0, jumping)
        other = command(tmp_path, at(url), source, *few)
        for process in (jumping, other):
            code, printed, complaints = finish(process)
            assert code == 0, complaints
            assert all(teacher["left"] == 0 for teacher in printed["teachers"])
        assert (stats(url)["completed"], stats(url)["repeated"]) == (300, 0)


# The person and the system


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_ends_the_run_with_one_message_and_no_call_is_lost(
    tmp_path: Path, number: signal.Signals
) -> None:
    draw, done, ended = random.Random(int(number)), 0, 0
    with practice_server(latency_s=0.05) as url:
        while done < 200:
            before = stats(url)["requests"]
            process = command(tmp_path, at(url), "practice:100", "--concurrency", "4")
            wait_for(lambda before=before: stats(url)["requests"] > before, process)
            time.sleep(draw.uniform(0.0, 1.0))
            process.send_signal(number)
            code, printed, complaints = finish(process)
            done = stats(url)["completed"]
            # Calls in flight were let finish: every one that the server answered is on disk.
            assert stored(tmp_path) == done
            if printed:
                # It had done all there was to do, and the signal came too late.
                assert code in (0, -number)
                break
            assert code == 130, complaints
            assert "interrupted; what is done is saved" in one_message(complaints)
            ended += 1
        assert ended > 0
        assert run(tmp_path, url, "practice:100").left == 0
        assert (stats(url)["completed"], stats(url)["begun_again"]) == (200, 0)
