"""Whole runs on Ray clusters of local nodes: the same panel, nothing twice, and nothing lost with a worker."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kp_data.config import Generate, Price, Teacher
from kp_data.errors import ConfigError, TeacherError
from kp_data.generate import Summary, generate_panel
from kp_data.generate.cluster import Cluster, how_many, joined_cluster
from kp_data.practice import practice_server
from kp_data.schema import MEASURED_COLUMNS
from kp_data.store import Store

KP_DATA = [sys.executable, "-c", "from kp_data.cli import main; main()"]


def test_one_worker_a_node_and_two_on_a_single_one() -> None:
    assert how_many([("a", 8.0)], None, at_most=64) == 2
    assert how_many([("a", 1.0)], None, at_most=64) == 1
    assert how_many([("a", 8.0), ("b", 8.0), ("c", 1.0)], None, at_most=64) == 3
    assert how_many([("a", 8.0)], 5, at_most=64) == 5
    assert how_many([("a", 8.0)], 5, at_most=2) == 2
    with pytest.raises(ConfigError, match="--workers 9: the Ray cluster has 8 CPUs"):
        how_many([("a", 8.0)], 9, at_most=64)


def test_a_cluster_of_several_machines_needs_a_store_and_teachers_that_all_reach() -> None:
    here = Cluster((("10.0.0.1", 4.0),), ())
    here.check_reach(store_url=None, practice=True)
    both = Cluster((("10.0.0.1", 4.0), ("10.0.0.2", 4.0)), ("10.0.0.2",))
    both.check_reach(store_url="postgresql://db/kp", practice=False)
    with pytest.raises(ConfigError, match=r"other nodes \(10.0.0.2\) cannot share; give --store postgresql://"):
        both.check_reach(store_url="sqlite:///here.sqlite", practice=False)
    with pytest.raises(ConfigError, match="practice teachers run on this machine alone"):
        both.check_reach(store_url="postgresql://db/kp", practice=True)


def test_without_ray_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "knowledge-purification\[ray\]"'):
        generate_panel(
            "practice:5",
            out=tmp_path / "p",
            teachers=[Teacher(name="ada", model="practice/ada")],
            options=Generate(engine="ray"),
        )
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9"),
        ("somewhere", "write HOST:PORT"),
        ("ray://127.0.0.1:10001", "run this command on a node of the cluster"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, address: str, message: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=message), joined_cluster(None):
        pass


def test_workers_without_a_cluster_are_a_mistake(tmp_path: Path) -> None:
    line = [*KP_DATA, "generate", "practice:5", "--out", str(tmp_path / "p"), "--workers", "2"]
    ended = subprocess.run(line, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "--workers is for --engine ray" in ended.stderr


class Nodes:
    """A Ray cluster of local nodes with one CPU each, so that two workers come to two nodes."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as LocalNodes

        self.small = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        self.all = LocalNodes(initialize_head=True, head_node_args={**self.small, "include_dashboard": False})
        self.all.add_node(**self.small)

    @property
    def address(self) -> str:
        return str(self.all.address)

    @property
    def logs(self) -> Path:
        return Path(self.all.head_node.get_session_dir_path()) / "logs"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("OPENAI_API_KEY", raising=False)
        started = Nodes()
        try:
            yield started
        finally:
            started.all.shutdown()


@pytest.fixture
def cluster(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    try:
        yield nodes
    finally:
        ray.shutdown()


def run(out: Path, url: str, source: str = "practice:60", *, engine: str = "ray", **options: Any) -> Summary:
    about = options.pop("about", {})
    teachers = [Teacher(name=name, model=f"practice/{name}", api_base=url, **about) for name in ("ada", "bruno")]
    return generate_panel(source, out=out, teachers=teachers, options=Generate(engine=engine, **options))


def command(out: Path, url: str, source: str, *more: str) -> "subprocess.Popen[str]":
    teachers = [option for name in ("ada", "bruno") for option in ("--teacher", f"{name}=practice/{name}@{url}")]
    line = [*KP_DATA, "generate", source, "--out", str(out), *teachers, "--engine", "ray", "--json", *more]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats?brief") as answer:
        return dict(json.load(answer))


def steady(out: Path) -> pa.Table:
    """The responses without what was measured."""
    return pq.read_table(out / "responses.parquet").drop_columns(list(MEASURED_COLUMNS))


def query(out: Path, sql: str) -> list[Any]:
    """Rows of a run's store; none while there is none."""
    if not (out / "cells.sqlite").exists():
        return []
    with closing(sqlite3.connect(out / "cells.sqlite", timeout=30)) as connection:
        try:
            return connection.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []


def asking_workers(out: Path, process: "subprocess.Popen[str]", *, workers: int = 2, cells: int = 40) -> list[int]:
    """The process ids of a run's workers, when all of them ask and so many cells are stored."""
    deadline = time.monotonic() + 120
    while True:
        owners = query(out, "SELECT DISTINCT process FROM owners WHERE owner IN (SELECT owner FROM leases)")
        if len(owners) >= workers and query(out, "SELECT count(*) FROM cells")[0][0] >= cells:
            return [int(mark.partition("@")[0]) for (mark,) in owners]
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.slow
def test_the_ray_run_equals_the_local_run_cell_by_cell_and_asks_nothing_twice(cluster: Nodes, tmp_path: Path) -> None:
    with practice_server() as url:
        local = run(tmp_path / "local", url, engine="local", mode="both", samples=2)
    with practice_server() as url:
        there = run(tmp_path / "ray", url, mode="both", samples=2)
        assert stats(url)["completed"] == 480
        assert stats(url)["repeated"] == 0
        assert steady(tmp_path / "ray").equals(steady(tmp_path / "local"))
        assert [vars(replace(tally, account=None)) for tally in there.tallies] == [
            vars(replace(tally, account=None)) for tally in local.tallies
        ]
        again = run(tmp_path / "ray", url, mode="both", samples=2)
        assert stats(url)["completed"] == 480
    assert [(tally.reused, tally.answered, tally.left) for tally in again.tallies] == [(240, 0, 0)] * 2


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing_and_the_others_ask_its_cells(cluster: Nodes, tmp_path: Path) -> None:
    with practice_server() as url:
        run(tmp_path / "calm", url, "practice:200", engine="local")
    with practice_server(latency_s=0.05) as url:
        process = command(tmp_path / "ray", url, "practice:200", "--concurrency", "4")
        victim, *_ = asking_workers(tmp_path / "ray", process)
        os.kill(victim, signal.SIGKILL)
        printed, complaints = process.communicate(timeout=120)
        assert process.returncode == 0, complaints
        # Two calls of its own were in flight at most.
        assert stats(url)["completed"] + stats(url)["abandoned"] <= 400 + 2
    assert json.loads(printed)["left"] == 0
    assert "was lost; the others go on" in complaints
    assert "raylet" not in complaints
    assert steady(tmp_path / "ray").equals(steady(tmp_path / "calm"))


@pytest.mark.slow
def test_a_node_that_is_removed_loses_nothing(cluster: Nodes, tmp_path: Path) -> None:
    more = cluster.all.add_node(**cluster.small)
    with practice_server(latency_s=0.05) as url:
        process = command(tmp_path / "ray", url, "practice:200", "--concurrency", "6")
        asking_workers(tmp_path / "ray", process, workers=3)
        cluster.all.remove_node(more, allow_graceful=False)
        printed, complaints = process.communicate(timeout=120)
        assert process.returncode == 0, complaints
        assert stats(url)["completed"] + stats(url)["abandoned"] <= 400 + 2
    # What nodes complain about must not stand among the data.
    assert json.loads(printed)["left"] == 0
    assert "was lost; the others go on" in complaints


@pytest.mark.slow
def test_when_every_worker_is_lost_what_they_answered_is_in_the_panel(cluster: Nodes, tmp_path: Path) -> None:
    with practice_server(latency_s=0.05) as url:
        process = command(tmp_path / "ray", url, "practice:400", "--concurrency", "4")
        for worker in asking_workers(tmp_path / "ray", process):
            os.kill(worker, signal.SIGKILL)
        printed, complaints = process.communicate(timeout=120)
    assert process.returncode == 3, complaints
    kept = query(tmp_path / "ray", "SELECT count(*) FROM cells")[0][0]
    assert len(steady(tmp_path / "ray")) == kept
    assert json.loads(printed)["left"] == 800 - kept
    assert "every worker was lost" in complaints


@pytest.mark.slow
def test_when_the_command_is_killed_its_workers_end_and_the_next_run_goes_on(cluster: Nodes, tmp_path: Path) -> None:
    with practice_server(latency_s=0.05) as url:
        process = command(tmp_path / "ray", url, "practice:300", "--concurrency", "4")
        workers = asking_workers(tmp_path / "ray", process)
        process.kill()
        process.communicate()
        deadline = time.monotonic() + 60
        while not all(has_ended(worker) for worker in workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        summary = run(tmp_path / "ray", url, "practice:300")
        assert stats(url)["completed"] + stats(url)["abandoned"] <= 600 + 4
    assert summary.left == 0


@pytest.mark.slow
@pytest.mark.parametrize(("presses", "latency_s"), [(1, 0.3), (2, 3.0)])
def test_ctrl_c_ends_the_workers_too_and_nothing_is_asked_after_it(
    cluster: Nodes, tmp_path: Path, presses: int, latency_s: float
) -> None:
    with practice_server(latency_s=latency_s) as url:
        process = command(tmp_path / "ray", url, "practice:300", "--concurrency", "8")
        asking_workers(tmp_path / "ray", process, cells=4)
        process.send_signal(signal.SIGINT)
        if presses == 2:
            time.sleep(0.7)
            process.send_signal(signal.SIGINT)
        printed, complaints = process.communicate(timeout=60)
        assert (process.returncode, printed) == (130, ""), complaints
        seen = stats(url)
        assert seen["requests"] < 600
        # After the first press calls in flight are waited for, after the second they are not.
        kept = query(tmp_path / "ray", "SELECT count(*) FROM cells")[0][0]
        assert kept == seen["completed"]
        assert (seen["abandoned"] > 0) == (presses == 2)
    assert query(tmp_path / "ray", "SELECT * FROM leases") == []


@pytest.mark.slow
def test_a_budget_holds_over_all_workers_to_the_last_digit(cluster: Nodes, tmp_path: Path) -> None:
    price = Price(input=0, output=0, request=0.01)
    with practice_server(latency_s=0.02) as url:
        summary = run(tmp_path, url, about={"price": price}, budget=0.37)
        assert stats(url)["completed"] == 37
    store = Store.of_folder(tmp_path)
    assert store.ledger().spent_usd == pytest.approx(0.37)
    assert store.ledger().reserved_usd == 0
    store.close()
    assert summary.left == 120 - 37
    assert {tally.stopped for tally in summary.tallies} == {"the budget is used up"}


@pytest.mark.slow
def test_a_key_reaches_the_workers_and_none_of_their_files(
    cluster: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_SECRET", "other-key-67890")
    with practice_server(api_key="other-key-67890") as url:
        summary = run(tmp_path, url, "practice:10", about={"api_key_env": "OTHER_SECRET"})
    assert summary.left == 0
    for path in (*tmp_path.iterdir(), *cluster.logs.rglob("*")):
        assert not path.is_file() or b"other-key-67890" not in path.read_bytes()


@pytest.mark.slow
def test_a_teacher_that_only_the_workers_cannot_ask_is_named_with_where(
    cluster: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The nodes were started without it.
    monkeypatch.setenv("OPENAI_API_KEY", "any-key-12345")
    teacher = Teacher(name="gpt", model="openai/gpt-4o-mini")
    with pytest.raises(TeacherError, match=r"worker on \S+: .*OPENAI_API_KEY not set.*api_key_env"):
        generate_panel("practice:5", out=tmp_path, teachers=[teacher], options=Generate(engine="ray"))


@pytest.mark.slow
def test_nodes_on_other_machines_need_postgresql_and_then_work(cluster: Nodes, tmp_path: Path, postgres: str) -> None:
    # To Ray another address is another machine.
    other = cluster.all.add_node(**cluster.small, node_ip_address="127.0.0.2")
    try:
        with practice_server() as url:
            with pytest.raises(ConfigError, match=r"other nodes \(127.0.0.2\) cannot share"):
                run(tmp_path / "sqlite", url)
            assert not (tmp_path / "sqlite").exists()
            assert stats(url)["requests"] == 0
            summary = run(tmp_path / "ray", url, store=postgres, workers=3)
            assert stats(url)["completed"] == 120
            assert stats(url)["repeated"] == 0
            run(tmp_path / "local", url, engine="local")
    finally:
        cluster.all.remove_node(other)
    assert summary.left == 0
    assert steady(tmp_path / "ray").equals(steady(tmp_path / "local"))


@pytest.mark.slow
def test_without_a_cluster_one_is_started_for_the_run_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("TMPDIR", str(home := Path("/tmp") / f"kp{os.getpid()}"))
    home.mkdir()
    try:
        with practice_server() as url:
            printed, complaints = command(tmp_path / "ray", url, "practice:20").communicate(timeout=120)
            assert json.loads(printed)["left"] == 0
            assert complaints == "writing the panel\n"
        assert list(home.iterdir()) == []
    finally:
        shutil.rmtree(home, ignore_errors=True)
