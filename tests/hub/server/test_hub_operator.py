"""What an operator sees who gives the hub what it cannot work with: one sentence, exit code 2, nothing destroyed."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from by_hand import Storage
from served_hub import deleted, large, serve_for_test

from kp_data.errors import HubError
from kp_data.hub.server import HubSettings, collect_garbage, issue_token, open_hub
from kp_data.hub.server.serve import listening


def kp_data(*arguments: str, code: int = 2, most_bytes: int | None = None, **env: str) -> str:
    """Run a command; what it says."""

    def limit() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    program = "import sys; from kp_data.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | env,
        preexec_fn=limit,
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    return " ".join(said.split())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a hub that is not running."""
    found = tmp_path_factory.mktemp("operated") / "hub"
    with open_hub(HubSettings(found)) as hub:
        issue_token(hub, "ada", write=True)
    return found


@pytest.mark.slow
def test_a_folder_that_holds_no_hub_is_not_made_into_one_by_looking(tmp_path: Path) -> None:
    missing = tmp_path / "typo"
    for command in (
        ["gc"],
        ["token", "list"],
        ["token", "revoke", "x"],
        ["export", "a/b", "--out", str(tmp_path / "o")],
    ):
        assert "no hub has been served from this folder" in kp_data("hub", *command, "--root", str(missing))
    assert not missing.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--port", "99999"], "99999 is no port"),
        (["serve", "--quota", "-1"], "-1 is no quota"),
        (["serve", "--quota", "nan"], "nan is no quota"),
        (["serve", "--webhooks", "all"], "none of public, any, off"),
        (["serve", "--public-url", "hub.example.org"], "no URL such as"),
        (["serve", "--host", "no.such.host.invalid"], "cannot listen"),
        (["serve", "--database", "mysql://u:secret@h/d"], "mysql is not supported"),
        (["serve", "--database", "postgresql://u:secret@127.0.0.1:1/d"], "cannot be opened"),
        (["serve", "--objects", "nonsense://u:secret@h/x"], "cannot keep objects there"),
        (["token", "create", "--user", "a/b"], "cannot be a name"),
        (["token", "create", "--user", "ada", "--days", "0"], "no number of days"),
        (["token", "revoke", "nothing"], "no token has the id"),
    ],
)
def test_wrong_options_are_named_and_passwords_are_not_repeated(root: Path, arguments: list[str], said: str) -> None:
    found = kp_data("hub", *arguments, "--root", str(root))
    assert said in found
    assert "secret" not in found


@pytest.mark.slow
def test_what_the_machine_refuses_is_said_plainly(root: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "choose another --port" in kp_data("hub", "serve", "--root", str(root), "--port", port)
    (tmp_path / "file").write_text("")
    assert "cannot be used as the hub's folder" in kp_data("hub", "serve", "--root", str(tmp_path / "file"))
    assert "cannot be used as the hub's folder" in kp_data("hub", "serve", "--root", "/proc/hub")
    full = kp_data("hub", "token", "create", "--user", "ada", "--root", str(tmp_path / "new"), most_bytes=4_096)
    assert "cannot be opened" in full or "cannot be used" in full


@pytest.mark.slow
def test_a_damaged_a_newer_and_a_locked_database_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged, newer, locked = (tmp_path / name for name in ("damaged", "newer", "locked"))
    damaged.mkdir()
    (damaged / "hub.sqlite").write_bytes(b"no database at all " * 100)
    assert "file is not a database" in kp_data("hub", "token", "list", "--root", str(damaged))
    for root in (newer, locked):
        with open_hub(HubSettings(root)):
            pass
    connection = sqlite3.connect(newer / "hub.sqlite")
    connection.execute("UPDATE about SET value = '99' WHERE name = 'version'")
    connection.commit()
    connection.execute("DROP TABLE tokens")
    connection.close()
    assert "written by hub version 99, this program knows 1" in kp_data("hub", "gc", "--root", str(newer))
    # It was left as it was found.
    connection = sqlite3.connect(newer / "hub.sqlite")
    assert connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'tokens'").fetchone() is None
    connection.close()
    monkeypatch.setattr("kp_data.engine.BUSY_TIMEOUT_S", 0.2)
    connection = sqlite3.connect(locked / "hub.sqlite", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(HubError, match="database is locked"), open_hub(HubSettings(locked)):
        pass
    connection.close()


def test_a_database_and_objects_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    place = f"file://{tmp_path}/bucket"
    with serve_for_test(HubSettings(tmp_path / "one", port=0, objects=place)) as served:
        served.make()
    # The database of another hub, such as a new one because --database was forgotten: all objects would be strays.
    with pytest.raises(HubError, match="of another hub"), open_hub(HubSettings(tmp_path / "two", objects=place)):
        pass
    with pytest.raises(HubError, match="does not hold this hub's objects"), open_hub(HubSettings(tmp_path / "one")):
        pass
    (tmp_path / "bucket/hub-id").unlink()
    with pytest.raises(HubError, match="knows nothing of"), open_hub(HubSettings(tmp_path / "three", objects=place)):
        pass
    # Tokens need no objects, and nobody needs to say where they are.
    with open_hub(HubSettings(tmp_path / "one"), create=False, with_objects=False) as hub:
        issue_token(hub, "ada")


def test_a_new_hub_may_change_its_mind_about_where_objects_go(tmp_path: Path) -> None:
    with open_hub(HubSettings(tmp_path / "hub")) as hub:
        issue_token(hub, "ada")
    with serve_for_test(HubSettings(tmp_path / "hub", port=0, objects="memory://hub")) as served:
        repo = served.make()
        repo.commit(large("x.bin", repo.send(b"in memory"), 9)).raise_for_status()
        assert repo.read("x.bin").content == b"in memory"
        repo.commit(deleted("x.bin")).raise_for_status()
        repo.client.post(f"{repo.api}/super-squash/main", json={}).raise_for_status()
        assert collect_garbage(served.hub, grace_s=-1).files == 1


COLLECT = """
import sys
from pathlib import Path
from kp_data.hub.server import HubSettings, collect_garbage, open_hub
from kp_data.hub.server.objects import FolderObjects
delete = FolderObjects.delete
def slowly(self, location):
    delete(self, location)
    print("deleted", flush=True)
FolderObjects.delete = slowly
with open_hub(HubSettings(Path(sys.argv[1]))) as hub:
    print("begun", flush=True)
    collect_garbage(hub, grace_s=-1)
"""


@pytest.mark.slow
def test_a_garbage_collection_that_is_killed_at_any_moment_is_finished_by_the_next(tmp_path: Path) -> None:
    root, texts = tmp_path / "hub", [b"kept %d" % n * 99 for n in range(3)]
    for attempt in range(4):
        with serve_for_test(HubSettings(root, port=0)) as served:
            repo = served.make()
            for number in range(12):
                _, oid = Storage.of(repo).send([b"%d %d" % (attempt, number) * 99])
                size = len(b"%d %d" % (attempt, number) * 99)
                repo.commit(
                    large(f"{number}.x", oid, size), large(f"{number}.bin", repo.send(b"%d" % number), size > 0)
                )
            for number, text in enumerate(texts):
                repo.commit(large(f"kept{number}.bin", repo.send(text), len(text))).raise_for_status()
            gone = [deleted(path) for path in repo.paths() if not path.startswith("kept")]
            repo.commit(*gone).raise_for_status()
            repo.client.post(f"{repo.api}/super-squash/main", json={}).raise_for_status()
            process = subprocess.Popen([sys.executable, "-c", COLLECT, str(root)], stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            for _ in range(1 + 3 * attempt):
                process.stdout.readline()
            time.sleep(0.005 * attempt)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            for number, text in enumerate(texts):
                assert repo.read(f"kept{number}.bin").content == text
            collect_garbage(served.hub, grace_s=-1)
            again = collect_garbage(served.hub, grace_s=-1)
            assert (again.files, again.xorbs, again.strays, again.bytes) == (0, 0, 0, 0)
            for number, text in enumerate(texts):
                assert repo.read(f"kept{number}.bin").content == text
            # The kept files and .gitattributes, which all repositories share; nothing else.
            assert len(list(served.hub.objects.locations())) == len(texts) + 1
            assert httpx.get(f"{served.url}/health").status_code == 200


def test_a_body_never_waits_for_the_reader_to_acknowledge_its_headers() -> None:
    # asyncio switches Nagle's algorithm off where an accepted socket says that it is TCP, and nowhere else.
    with listening("127.0.0.1", 0) as bound, socket.create_connection(bound.getsockname()):
        accepted, _ = bound.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP
