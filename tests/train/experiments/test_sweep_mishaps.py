"""What goes wrong around a sweep: killed workers, killed sweeps, the copy of the file given as the file."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_sweep import plan_of, write_sweep

from kp_train.cli import main
from kp_train.experiments.pool import Outcome, Pool, local_pool
from kp_train.experiments.run import sweep_folder
from kp_train.experiments.work import _is_of

HELD = """
import sys, time
from pathlib import Path
from kp_train.experiments.pool import Place, _LocalPool
if __name__ == "__main__":
    root = Path(sys.argv[1])
    worker = _LocalPool(root, root, [])._start(Place(None, 1))
    print(worker.process.pid, flush=True)
    time.sleep(60)
"""


def waited(pool: Pool) -> list[Outcome]:
    while not (ended := pool.wait(60)):
        pass
    return ended


def test_a_teacher_whose_name_begins_like_anothers_is_not_taken_for_it() -> None:
    assert _is_of("north", "teachers/north-0123456789ab")
    assert not _is_of("north", "teachers/north-east-0123456789ab")
    assert _is_of("north-east", "teachers/north-east-0123456789ab")


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_rests_is_replaced(tmp_path: Path) -> None:
    path, out = write_sweep(tmp_path), tmp_path / "out"
    task = plan_of(path).tasks[0]
    with sweep_folder(out, path), local_pool(out, tmp_path, 1) as pool:
        pool.submit(task)
        assert [outcome.error for outcome in waited(pool)] == [None]
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()
        pool.submit(task)
        assert [outcome.error for outcome in waited(pool)] == [None]
        assert pool.free == 1


@pytest.mark.slow
def test_a_sweep_that_is_killed_leaves_no_worker_behind(tmp_path: Path) -> None:
    script = tmp_path / "held.py"
    script.write_text(HELD, encoding="utf-8")
    with sweep_folder(tmp_path / "out", write_sweep(tmp_path)):
        sweep = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert sweep.stdout is not None
        with sweep, sweep.stdout:
            worker = int(sweep.stdout.readline())
            time.sleep(1.0)
            sweep.kill()
    # An adopted process is gone once its new parent has taken note of its end.
    for _ in range(300):
        if not _lives(worker):
            return
        time.sleep(0.1)
    os.kill(worker, 9)
    pytest.fail("the worker outlived its sweep")


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_the_copy_in_the_folder_may_be_given_as_the_file(tmp_path: Path) -> None:
    path = write_sweep(tmp_path)
    with sweep_folder(tmp_path / "out", path):
        pass
    copy = tmp_path / "out" / "sweep.yaml"
    with sweep_folder(tmp_path / "out", copy):
        assert copy.read_bytes() == path.read_bytes()


def test_a_folder_in_which_a_sweep_got_no_further_than_its_lock_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    with sweep_folder(tmp_path / "out", write_sweep(tmp_path)):
        assert (tmp_path / "out" / "sweep.yaml").is_file()


def test_a_report_of_a_folder_without_a_sweep_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_sweep(tmp_path), tmp_path / "elsewhere"
    monkeypatch.setattr(sys, "argv", ["kp-train", "sweep", str(path), "--out", str(out), "--report-only"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "no sweep was begun here" in capsys.readouterr().err
    assert not out.exists()
