"""kill -9 of a client and of the hub, at every step of an upload and of a commit: E10, for every way to publish.

After each kill the dataset is as it was, or as it should be, and nothing between. Then the same thing is done again
from the same machine. Bytes are counted on the wire: what was stored when the process died does not travel again.
"""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from conformance.hub_process import HubProcess
from conformance.moments import INTO_THE_COMMIT_S, MOMENTS, fault_of_hub
from conformance.official import Machine, Official
from conformance.wire import COMMIT, UPLOADS, Fault, Wire

pytestmark = pytest.mark.slow

FILES, FILE_BYTES = 12, 1_500_000
WHOLE = FILES * FILE_BYTES

MAKE = """
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
api.create_repo("{name}", repo_type="dataset", exist_ok=True)
"""
COMMIT_ALL = """
from pathlib import Path
files = sorted(Path("{folder}").iterdir())
operations = [CommitOperationAdd(file.name, str(file)) for file in files]
for operation in operations:
    api.preupload_lfs_files("{name}", [operation], repo_type="dataset")
api.create_commit("{name}", operations, commit_message="all", repo_type="dataset")
"""


@pytest.fixture(params=["xet", "lfs"])
def user(request: pytest.FixtureRequest, machine: Machine, own_hub: HubProcess, own_wire: Wire) -> Official:
    """Whoever publishes, one file after another, so that there is a moment when some have been sent."""
    transport = {"HF_HUB_DISABLE_XET": "1"} if request.param == "lfs" else {}
    slowly = {"HF_XET_CLIENT_AC_INITIAL_UPLOAD_CONCURRENCY": "1", "HF_XET_CLIENT_AC_MAX_UPLOAD_CONCURRENCY": "1"}
    more = {"HF_TOKEN": own_hub.token("ada"), **slowly, **transport}
    return machine("killed", at=own_wire.url, **more)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of files that do not compress."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number:02}.parquet").write_bytes(random.Random(number).randbytes(FILE_BYTES))
    return folder


@pytest.mark.parametrize("moment", [*MOMENTS, "while it commits"])
def test_e10_a_client_killed_sends_the_rest_and_no_more(
    user: Official, own_hub: HubProcess, own_wire: Wire, name: str, files: Path, moment: str
) -> None:
    user.run(MAKE.replace("{name}", name))
    program = (MAKE + COMMIT_ALL).replace("{name}", name).replace("{folder}", str(files))
    dying: list[subprocess.Popen[str]] = []
    fault = MOMENTS.get(moment, Fault(COMMIT, passing=True))
    own_wire.faults.append(replace(fault, act=lambda: dying[0].kill()))
    dying.append(user.start(program))
    dying[0].communicate()
    assert dying[0].returncode == -signal.SIGKILL
    stored = own_hub.stored_bytes()
    assert_whole_or_untouched(own_hub, name, files)
    assert_finishes(user, own_hub, own_wire, name, files, program, stored)


@pytest.mark.parametrize("moment", [*MOMENTS, *INTO_THE_COMMIT_S])
def test_e10_a_hub_killed_keeps_what_it_took_and_is_asked_for_no_more(
    user: Official, own_hub: HubProcess, own_wire: Wire, name: str, files: Path, moment: str
) -> None:
    user.run(MAKE.replace("{name}", name))
    program = (MAKE + COMMIT_ALL).replace("{name}", name).replace("{folder}", str(files))
    own_wire.faults.append(fault_of_hub(own_hub, moment))
    dying = user.start(program)
    own_hub.wait_killed()
    dying.kill()
    dying.communicate()
    stored = own_hub.stored_bytes()
    own_hub.start()
    assert_whole_or_untouched(own_hub, name, files)
    assert_finishes(user, own_hub, own_wire, name, files, program, stored)


def assert_finishes(
    user: Official, hub: HubProcess, wire: Wire, name: str, files: Path, program: str, stored: int
) -> None:
    """The same program succeeds, sends no stored byte, and leaves one commit more than a new dataset has."""
    wire.clear()
    user.run(program)
    # Of a file in flight nothing is stored; what is stored of the others does not travel again.
    assert wire.sent(UPLOADS) <= WHOLE * 1.02 - stored + 1_000
    assert sorted(hub.paths(name)) == sorted(path.name for path in files.iterdir())
    assert_whole_or_untouched(hub, name, files)
    assert len(hub.commits(name)) == 2


def assert_whole_or_untouched(hub: HubProcess, name: str, files: Path) -> None:
    """All files with the bytes they should have, or none; and no traceback in the hub's log."""
    entries = {entry["path"]: entry for entry in hub.api(f"{name}/tree/main") if entry["path"] != ".gitattributes"}
    assert len(entries) in (0, FILES)
    for path, entry in entries.items():
        assert entry["lfs"]["oid"] == hashlib.sha256((files / path).read_bytes()).hexdigest()
    assert "Traceback" not in hub.log.read_text()
