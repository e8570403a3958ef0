"""A new version costs what changed, from the machine that sent the one before and from one that never did: E5 to E7."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from conformance.hub_process import HubProcess
from conformance.official import Machine, asks_how
from conformance.wire import UPLOADS, Wire

pytestmark = pytest.mark.slow

SIZE = 10_000_000

SEND = """
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("{name}", repo_type="dataset", exist_ok=True)
api.upload_file(path_or_fileobj="{file}", path_in_repo="x.parquet", repo_id="{name}", repo_type="dataset")
"""


def write_version(path: Path, *, edited: str = "") -> Path:
    """Ten megabytes that do not compress; edited in the middle and at the end, and perhaps at its very beginning."""
    data = bytearray(random.Random(1).randbytes(SIZE))
    if edited:
        data[SIZE // 2 : SIZE // 2 + 3] = b"and here, too"
        data += b"more" * 1_000
    if edited == "from the first byte on":
        data[100:110] = b"edited here"
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("edited", ["after the first chunk", "from the first byte on"])
@pytest.mark.parametrize("second", ["one", "fresh"])
def test_e5_e6_e7_a_new_version_costs_what_changed(
    machine: Machine, wire: Wire, name: str, tmp_path: Path, edited: str, second: str
) -> None:
    """E7 saw no help on a fresh machine when the first chunk had changed; this hub tells of what was sent last, too."""
    user = machine()
    if asks_how(user.python):
        pytest.skip("this version goes by LFS, which sends whole files")
    user.run(SEND.format(name=name, file=write_version(tmp_path / "old")))
    whole = wire.sent(UPLOADS)
    wire.clear()
    machine(second).run(SEND.format(name=name, file=write_version(tmp_path / "new", edited=edited)))
    assert whole >= SIZE
    assert wire.sent(UPLOADS) < 0.1 * SIZE


def test_e5_the_old_version_still_reads_back(machine: Machine, name: str, tmp_path: Path) -> None:
    user, old = machine(), write_version(tmp_path / "old")
    user.run(SEND.format(name=name, file=old) + f'api.create_tag("{name}", tag="v1", repo_type="dataset")')
    user.run(SEND.format(name=name, file=write_version(tmp_path / "new", edited="from the first byte on")))
    reader = machine("reader")
    reader.hf("download", name, "x.parquet", "--repo-type", "dataset", "--revision", "v1", "--local-dir", "v1")
    reader.hf("download", name, "x.parquet", "--repo-type", "dataset", "--local-dir", "main")
    assert (reader.home / "v1/x.parquet").read_bytes() == old.read_bytes()
    assert (reader.home / "main/x.parquet").read_bytes() == (tmp_path / "new").read_bytes()


def test_e6_the_same_file_goes_to_a_second_and_a_recreated_dataset(
    machine: Machine, hub: HubProcess, name: str, tmp_path: Path
) -> None:
    """A client believes to know what is stored; what it knows of one dataset must not keep it from filling another."""
    file = write_version(tmp_path / "old")
    sends = [SEND.format(name=f"{name}{twin}", file=file) for twin in ("a", "b")]
    script = "".join(sends) + f'api.delete_repo("{name}a", repo_type="dataset")\n' + sends[0]
    machine().run(script)
    for twin in ("a", "b"):
        (entry,) = [entry for entry in hub.api(f"{name}{twin}/tree/main") if entry["path"] == "x.parquet"]
        assert entry["size"] == SIZE


def test_a_file_that_repeats_itself_comes_back_as_it_was(machine: Machine, name: str, tmp_path: Path) -> None:
    """Its parts are the same chunks over and over, some of them within longer runs of chunks."""
    file = tmp_path / "repeating"
    once = random.Random(2).randbytes(300_000)
    file.write_bytes(bytes(range(256)) * 2_000 + once * 3 + once[:100_000] * 2)
    machine().run(SEND.format(name=name, file=file))
    reader = machine("reader")
    reader.hf("download", name, "x.parquet", "--repo-type", "dataset", "--local-dir", "out")
    assert (reader.home / "out/x.parquet").read_bytes() == file.read_bytes()
