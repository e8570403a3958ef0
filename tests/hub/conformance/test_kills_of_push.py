"""kill -9 of `kp-data push` and of the hub beneath it: a version is published as a whole, once, or not at all."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conformance.hub_process import HubProcess
from conformance.made_up import edited, purified, write_folder
from conformance.moments import INTO_THE_COMMIT_S, MOMENTS, fault_of_hub
from conformance.official import Official
from conformance.wire import COMMIT, UPLOADS, Fault, Wire

pytestmark = pytest.mark.slow

NAME = "ada/science"
TAG = r"POST /api/datasets/[^/]+/[^/]+/tag/"
OURS = {
    **MOMENTS,
    "while it commits": Fault(COMMIT, passing=True),
    "in the middle of the upload": Fault(UPLOADS, after=200_000),
    "between the commit and the tag": Fault(TAG),
    "while it tags": Fault(TAG, passing=True),
}


@pytest.fixture
def author(own_hub: HubProcess, own_wire: Wire, python: str, tmp_path: Path) -> Official:
    """Whoever publishes; version 1.0.0 stands already."""
    author = Official(python, own_wire.url, own_hub.token("ada"), tmp_path / "author")
    table = purified(3_000, 1)
    write_folder(table, tmp_path / "one")
    # As many new rows as old ones, so that there is something to send.
    write_folder(edited(table, rows=3, appended=3_000), tmp_path / "two")
    author.kp_data("push", str(tmp_path / "one"), NAME)
    return author


@pytest.mark.parametrize("moment", OURS)
def test_a_push_killed_is_finished_by_the_next_one(
    author: Official, own_hub: HubProcess, own_wire: Wire, tmp_path: Path, moment: str
) -> None:
    dying: list[subprocess.Popen[str]] = []
    own_wire.clear()
    own_wire.faults.append(replace(OURS[moment], act=lambda: dying[0].kill()))
    before = own_hub.stored_bytes()
    dying.append(author.start_kp_data("push", str(tmp_path / "two"), NAME))
    dying[0].communicate()
    assert dying[0].returncode == -signal.SIGKILL
    assert_finished_by_the_next(author, own_hub, own_wire, tmp_path / "two", before)


@pytest.mark.parametrize("line", [COMMIT, TAG], ids=["commit", "tag"])
@pytest.mark.parametrize("moment", INTO_THE_COMMIT_S)
def test_a_push_whose_hub_was_killed_is_finished_by_the_next_one(
    author: Official, own_hub: HubProcess, own_wire: Wire, tmp_path: Path, moment: str, line: str
) -> None:
    own_wire.clear()
    own_wire.faults.append(fault_of_hub(own_hub, moment, line))
    before = own_hub.stored_bytes()
    dying = author.start_kp_data("push", str(tmp_path / "two"), NAME)
    own_hub.wait_killed()
    dying.kill()
    dying.communicate()
    own_hub.start()
    assert_finished_by_the_next(author, own_hub, own_wire, tmp_path / "two", before)


def test_a_push_whose_hub_comes_back_in_time_ends_well(
    author: Official, own_hub: HubProcess, own_wire: Wire, tmp_path: Path
) -> None:
    """The commit was made and its answer lost: the push finds it and does not make it again."""
    own_wire.clear()
    own_wire.faults.append(Fault(COMMIT, lose_answer=True))
    process = author.start_kp_data("push", str(tmp_path / "two"), NAME)
    process.communicate()
    again = author.kp_data("push", str(tmp_path / "two"), NAME)
    assert again["unchanged"] or process.returncode != 0
    assert len(own_hub.commits(NAME)) == 3
    assert_versions(own_hub, 2)


def assert_finished_by_the_next(author: Official, hub: HubProcess, wire: Wire, folder: Path, before: int) -> None:
    """What stands now is a whole version; the next push ends with two of them, and sends no stored byte again."""
    assert_whole(hub)
    stored = hub.stored_bytes() - before
    wire.clear()
    report = author.kp_data("push", str(folder), NAME)
    size = sum(entry["size"] for entry in hub.api(f"{NAME}/tree/main?recursive=true") if entry["type"] == "file")
    assert wire.sent(UPLOADS) <= max(0, size - stored)
    if stored > 100_000:
        assert wire.sent(UPLOADS) == 0
    assert report["version"] != "1.0.0"
    assert len(hub.commits(NAME)) == 3
    assert_whole(hub)
    assert_versions(hub, 2)


def assert_whole(hub: HubProcess) -> None:
    """Every file at the head is what the manifest beside it says, and none is missing."""
    manifest = json.loads(hub.read(NAME, "manifest.json"))
    for path, facts in manifest["files"].items():
        assert hashlib.sha256(hub.read(NAME, path)).hexdigest() == facts["sha256"]
    assert {path for path in hub.paths(NAME) if path.endswith(".parquet")} <= set(manifest["files"])


def assert_versions(hub: HubProcess, count: int) -> None:
    """So many tags, each on a commit of its own, the last on the head."""
    tags: list[dict[str, Any]] = hub.api(f"{NAME}/refs")["tags"]
    commits = [tag["targetCommit"] for tag in tags]
    assert len(set(commits)) == len(tags) == count
    assert hub.commits(NAME)[0] in commits
