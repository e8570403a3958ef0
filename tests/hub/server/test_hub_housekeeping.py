"""Garbage collection frees what nothing reaches and touches nothing else; folders out and in."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from by_hand import Storage, fetched, xorb
from served_hub import Repo, Served, deleted, inline, large

from kp_data.errors import DataError, HubError
from kp_data.hub.server import Hub, collect_garbage, export_repo, import_folder

RANDOM = random.Random(3)


def locations(hub: Hub) -> set[str]:
    return {location for location, _ in hub.objects.locations()}


def filled(own_hub: Served) -> Repo:
    """A tagged version, then everything in it replaced."""
    repo = own_hub.make()
    oid = repo.send(b"by lfs")
    _, xet = Storage.of(repo).send([b"by", b" xet"])
    repo.commit(inline("x.txt", b"inline"), large("l.bin", oid, 6), large("x.bin", xet, 6)).raise_for_status()
    return repo


def test_nothing_that_a_tag_reaches_is_freed(own_hub: Served) -> None:
    repo = filled(own_hub)
    repo.client.post(f"{repo.api}/tag/main", json={"tag": "v1"}).raise_for_status()
    repo.commit(deleted("x.txt"), deleted("l.bin"), deleted("x.bin")).raise_for_status()
    before = locations(own_hub.hub)
    found = collect_garbage(own_hub.hub, grace_s=-1)
    assert (found.files, found.xorbs, found.strays, found.commits) == (0, 0, 0, 0)
    assert locations(own_hub.hub) == before
    assert [repo.read(path, "v1").content for path in ("x.txt", "l.bin", "x.bin")] == [b"inline", b"by lfs", b"by xet"]


def test_what_nothing_reaches_is_freed_and_only_that(own_hub: Served) -> None:
    repo = filled(own_hub)
    kept = own_hub.make("bo")
    kept.commit(large("l.bin", kept.send(b"by lfs"), 6)).raise_for_status()
    repo.commit(deleted("x.txt"), deleted("l.bin"), deleted("x.bin")).raise_for_status()
    repo.client.post(f"{repo.api}/super-squash/main", json={"message": "gone"}).raise_for_status()
    planned = collect_garbage(own_hub.hub, dry_run=True, grace_s=-1)
    before = locations(own_hub.hub)
    found = collect_garbage(own_hub.hub, grace_s=-1)
    assert planned.as_dict() == found.as_dict()
    # x.txt, x.bin and its xorb; what Bo holds, too, stays.
    assert (found.files, found.xorbs, found.commits) == (2, 1, 3)
    assert len(before - locations(own_hub.hub)) == 2
    assert kept.read("l.bin").content == b"by lfs"
    assert repo.paths() == []
    assert collect_garbage(own_hub.hub, grace_s=-1).files == 0


def test_what_was_sent_a_moment_ago_is_left_alone(own_hub: Served) -> None:
    repo = own_hub.make()
    oid = repo.send(b"about to be committed")
    Storage.of(repo).put_xorb(*xorb([b"about to be described"]))
    assert collect_garbage(own_hub.hub).bytes == 0
    repo.commit(large("x.bin", oid, 21)).raise_for_status()
    assert repo.read("x.bin").content == b"about to be committed"


def test_after_chunks_were_freed_clients_are_told_a_new_storage_address(own_hub: Served) -> None:
    repo = own_hub.make()
    before = Storage.of(repo)
    before.put_xorb(*xorb([b"never used"]))
    assert Storage.of(repo).url == before.url
    collect_garbage(own_hub.hub, grace_s=-1)
    after = Storage.of(repo)
    assert after.url != before.url
    digest, _ = after.send([b"never used"])
    assert fetched(after.layout(digest).json(), {xorb([b"never used"])[0]: [b"never used"]}) == b"never used"


def test_deleting_a_repository_frees_what_only_it_held(own_hub: Served) -> None:
    repo = filled(own_hub)
    keep = locations(own_hub.hub)
    second = own_hub.make()
    second.commit(large("x.bin", second.send(b"only here"), 9)).raise_for_status()
    namespace, name = second.name.split("/")
    body = {"name": name, "organization": namespace, "type": "dataset"}
    second.client.request("DELETE", "/api/repos/delete", json=body).raise_for_status()
    collect_garbage(own_hub.hub, grace_s=-1)
    assert locations(own_hub.hub) == keep
    assert repo.read("x.bin").content == b"by xet"


def test_strays_of_a_crash_and_half_uploads_are_swept(own_hub: Served, tmp_path: Path) -> None:
    hub = own_hub.hub
    stray = tmp_path / "stray"
    stray.write_bytes(b"12345")
    location = hub.objects.put("0" * 64, stray)
    (hub.spool.root / "half").write_bytes(b"x")
    assert collect_garbage(hub).strays == 0
    found = collect_garbage(hub, grace_s=-1)
    assert (found.strays, found.bytes, found.uploads) == (1, 5, 1)
    assert location not in locations(hub)


def test_a_repository_goes_out_as_a_folder_and_comes_in_again(own_hub: Served, tmp_path: Path) -> None:
    repo = filled(own_hub)
    repo.client.post(f"{repo.api}/tag/main", json={"tag": "v1"}).raise_for_status()
    repo.write({"x.txt": b"later"})
    found = export_repo(own_hub.hub, repo.name, tmp_path / "out", revision="v1")
    assert (found.files, (tmp_path / "out/x.bin").read_bytes()) == (4, b"by xet")
    assert (tmp_path / "out/x.txt").read_bytes() == b"inline"
    import_folder(own_hub.hub, tmp_path / "out", "new-owner/copy", private=True)
    assert own_hub.client().get("/api/datasets/new-owner/copy").status_code == 404
    export_repo(own_hub.hub, "new-owner/copy", tmp_path / "back")
    names = sorted(path.name for path in (tmp_path / "back").iterdir())
    assert names == [".gitattributes", "l.bin", "x.bin", "x.txt"]
    assert (tmp_path / "back/l.bin").read_bytes() == b"by lfs"


def test_an_import_makes_the_repository_hold_just_what_the_folder_holds(own_hub: Served, tmp_path: Path) -> None:
    repo = own_hub.make()
    repo.write({"old.txt": b"1", "same.txt": b"2"})
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/same.txt").write_bytes(b"2")
    (tmp_path / "in/sub/x.parquet").write_bytes(b"PAR1")
    (tmp_path / "in/.cache").write_bytes(b"hidden")
    (tmp_path / "in/link").symlink_to("/etc/passwd")
    import_folder(own_hub.hub, tmp_path / "in", repo.name)
    assert repo.paths() == ["same.txt", "sub/x.parquet"]
    head = repo.head
    assert import_folder(own_hub.hub, tmp_path / "in", repo.name) == head


def test_a_folder_that_cannot_be_written_or_read_is_said_so(own_hub: Served, tmp_path: Path) -> None:
    repo = own_hub.make()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_bytes(b"")
    with pytest.raises(DataError, match="new folder"):
        export_repo(own_hub.hub, repo.name, tmp_path / "full")
    for name, revision in (("ada/never", "main"), (repo.name, "v9"), ("nonsense", "main")):
        with pytest.raises(HubError):
            export_repo(own_hub.hub, name, tmp_path / "out", revision=revision)
    for folder in (tmp_path / "missing", tmp_path / "empty"):
        with pytest.raises(DataError):
            import_folder(own_hub.hub, folder, repo.name)
