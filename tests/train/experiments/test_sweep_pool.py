from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_sweep import plan_of, write_sweep

from kp_data.errors import ConfigError
from kp_train.experiments.pool import local_pool, places, pool_named
from kp_train.experiments.run import sweep_folder


def test_places_share_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kp_train.experiments.pool._cores", lambda: 8)
    monkeypatch.setattr("kp_train.experiments.pool._devices", list)
    assert [(place.device, place.threads) for place in places(2)] == [(None, 4)] * 2
    assert len(places(None)) == 8


def test_every_device_has_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kp_train.experiments.pool._cores", lambda: 8)
    monkeypatch.setattr("kp_train.experiments.pool._devices", lambda: ["0", "1"])
    assert [place.device for place in places(None)] == ["0", "1"]
    assert [(place.device, place.threads) for place in places(4)] == [("0", 2), ("0", 2), ("1", 2), ("1", 2)]


@pytest.mark.parametrize(
    ("engine", "jobs", "message"),
    [("spark", 1, "--engine: 'spark' is neither local nor ray"), ("local", 0, "--jobs: 0 is not 1 or above")],
)
def test_workers_that_cannot_be_are_refused(tmp_path: Path, engine: str, jobs: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pool_named(engine, tmp_path, tmp_path, jobs)


def test_a_worker_that_is_killed_takes_one_task_with_it_and_its_place_is_free_again(tmp_path: Path) -> None:
    path, out = write_sweep(tmp_path), tmp_path / "out"
    task = plan_of(path).tasks[0]
    with sweep_folder(out, path), local_pool(out, tmp_path, 1) as pool:
        pool.submit(task)
        assert (pool.free, pool.running) == (0, (task,))
        for worker in multiprocessing.active_children():
            worker.kill()
        (outcome,) = pool.wait(60)
        assert outcome.error is not None
        assert "its process was killed, most likely for want of memory" in outcome.error
        assert (pool.free, pool.running) == (1, ())


@pytest.mark.slow
def test_a_sweep_that_is_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    path, out = write_sweep(tmp_path), tmp_path / "out"
    command = [sys.executable, "-m", "kp_train", "sweep", str(path), "--out", str(out), "--json", "--jobs", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    while not list(out.glob("cells/*/done.json")):
        assert first.poll() is None
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate()
    assert first.returncode == 130
    assert "interrupted; what is done is saved" in said
    assert "leaked" not in said
    done = {file: file.stat().st_mtime_ns for file in out.glob("cells/*/done.json")}
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert json.loads(again.stdout)["students"] == 8
    assert {file: file.stat().st_mtime_ns for file in done} == done


@pytest.mark.slow
def test_a_ray_cluster_does_the_same_tasks(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    path, out = write_sweep(tmp_path, methods=["fine-tune"], counts=[2], seeds=[0]), tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "kp_train",
        "sweep",
        str(path),
        "--out",
        str(out),
        "--engine",
        "ray",
        "--jobs",
        "1",
    ]
    ended = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["students"] == 1
