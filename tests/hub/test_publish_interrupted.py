"""Pushing and pulling through what goes wrong on real machines: kills, dead hubs, full disks, impatient people."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from purified_folder import write_purified
from served import KP_DATA, Served, serving

from kp_data.tables import write_parquet

pytestmark = pytest.mark.slow

MEGABYTE = 1_000_000


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six megabytes that do not compress."""
    folder = write_purified(tmp_path / "purified", 3_000, panel=False)
    table, rng = pq.read_table(folder / "purified.parquet"), random.Random(0)
    texts = pa.array([rng.randbytes(1_500).hex() for _ in range(3_000)])
    position = table.column_names.index("rationale")
    write_parquet(table.set_column(position, "rationale", texts), folder / "purified.parquet")
    return folder


def push(served: Served, folder: Path, *, xet: bool = True) -> subprocess.Popen[str]:
    command = (*KP_DATA, "push", str(folder), "ada/things", "--json")
    return served.start(*command, HF_HUB_DISABLE_XET="" if xet else "1")


@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
def test_killed_again_and_again_a_push_ends_whole_and_what_is_a_version_is_whole_all_along(
    served: Served, folder: Path, xet: bool
) -> None:
    served.proxy.bytes_per_s = 3 * MEGABYTE
    for seconds in (0.1, 0.7, 1.3):
        before = served.proxy.sent
        process = push(served, folder, xet=xet)
        # Past the questions that come first; what a later push still has to send may be less than any size.
        while process.poll() is None and served.proxy.sent < before + 20_000:
            time.sleep(0.01)
        time.sleep(seconds)
        process.kill()
        process.communicate()
        seen = served.run(*KP_DATA, "pull", "ada/things", "--out", f"seen {seconds}", machine="two")
        assert seen.returncode == 0 or "is empty" in seen.stderr or "no such dataset" in seen.stderr, seen.stderr
    served.proxy.bytes_per_s, before = None, served.proxy.sent
    found = json.loads(push(served, folder, xet=xet).communicate()[0])
    assert (found["version"], served.proxy.sent - before < 6 * MEGABYTE) == ("1.0.0", True)
    pulled = served.run(*KP_DATA, "pull", "ada/things@1.0.0", "--out", "pulled", machine="two")
    assert pulled.returncode == 0, pulled.stderr


def test_files_that_were_stored_when_a_push_was_killed_are_not_sent_again(served: Served, folder: Path) -> None:
    served.proxy.bytes_per_s = MEGABYTE
    process = push(served, folder, xet=False)
    # By LFS four files go up side by side: the three small ones of a megabyte are there long before that of two.
    assert served.proxy.wait_for(4_200_000)
    process.kill()
    process.communicate()
    served.proxy.bytes_per_s, before = None, served.proxy.sent
    found = json.loads(push(served, folder, xet=False).communicate()[0])
    assert found["version"] == "1.0.0"
    assert served.proxy.sent - before < 0.6 * found["uploaded_bytes"]


def test_ctrl_c_ends_a_push_with_one_message_and_the_next_one_finishes_it(served: Served, folder: Path) -> None:
    served.proxy.bytes_per_s = MEGABYTE
    process = push(served, folder)
    assert served.proxy.wait_for(MEGABYTE)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.strip() == "error: interrupted; what is done is saved, the same command goes on from here"
    served.proxy.bytes_per_s = None
    assert json.loads(push(served, folder).communicate()[0])["version"] == "1.0.0"


def test_a_hub_that_dies_in_the_middle_is_one_message_and_the_next_push_finishes(served: Served, folder: Path) -> None:
    # By LFS, whose client gives up within seconds; that of Xet tries again for minutes.
    served.proxy.bytes_per_s, served.proxy.dies_after = 3 * MEGABYTE, 2 * MEGABYTE
    command = (*KP_DATA, "push", str(folder), "ada/things")
    done = served.run(*command, HF_HUB_DISABLE_XET="1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    served.proxy.bytes_per_s = served.proxy.dies_after = None
    assert json.loads(push(served, folder).communicate()[0])["version"] == "1.0.0"


@pytest.mark.parametrize("cached", [False, True], ids=["in the cache", "in the folder"])
def test_a_disk_that_is_full_is_one_message_and_leaves_nothing_half(served: Served, folder: Path, cached: bool) -> None:
    push(served, folder).communicate()
    if cached:
        assert served.run(*KP_DATA, "pull", "ada/things", "--out", "first").returncode == 0

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    machine = "one" if cached else "fresh"
    env = served.environment(machine=machine)
    command = (*KP_DATA, "pull", "ada/things", "--out", "second")
    done = subprocess.run(
        command, env=env, cwd=served.home, capture_output=True, text=True, timeout=120, preexec_fn=small_disk
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "free space" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in served.home.iterdir() if "second" in path.name] == []


def test_a_new_version_sends_a_small_part_from_this_machine_and_from_a_fresh_one(served: Served, folder: Path) -> None:
    push(served, folder).communicate()
    table = pq.read_table(folder / "purified.parquet")
    texts = table["rationale"].to_pylist()
    texts[1_500] += " edited"
    position = table.column_names.index("rationale")
    write_parquet(table.set_column(position, "rationale", pa.array(texts)), folder / "purified.parquet")
    before = served.proxy.sent
    process = served.start(*KP_DATA, "push", str(folder), "ada/things", "--json", machine="fresh")
    assert json.loads(process.communicate()[0])["rows_changed"] == 1
    # One page of one column of some dozen, where a whole file would be six megabytes.
    assert served.proxy.sent - before < 2 * MEGABYTE


def test_processes_that_push_at_once_all_get_a_version_each_after_the_other(served: Served, tmp_path: Path) -> None:
    def script(pusher: int) -> str:
        names = [
            str(write_purified(tmp_path / f"{pusher}-{number}", 8, rationale=f"{pusher} {number} {{}}"))
            for number in range(3)
        ]
        pushes = "".join(f"push({name!r}, 'ada/many')\n" for name in names)
        return f"from pathlib import Path\nfrom kp_data.hub import push\n{pushes}"

    processes = [served.start(sys.executable, "-c", script(pusher), machine=str(pusher)) for pusher in range(4)]
    for process in processes:
        assert process.communicate()[1] == ""
    listed = json.loads(served.run(*KP_DATA, "versions", "ada/many", "--json").stdout)
    assert [entry["version"] for entry in listed] == [f"1.0.{number}" for number in reversed(range(12))]
    # Every version's changelog holds those of all before it: nobody's was overwritten.
    assert all(entry["changes"] for entry in listed)
