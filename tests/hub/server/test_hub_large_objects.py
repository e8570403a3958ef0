"""What takes up room in a repository is listed, lent and taken away for good; no file of a commit is ever missing."""

from __future__ import annotations

import hashlib

from served_hub import Repo, Served, deleted, inline, large

from kp_data.hub.server import collect_garbage


def listed(repo: Repo) -> list[dict[str, object]]:
    found, address = list[dict[str, object]](), f"{repo.api}/lfs-files"
    while address:
        page = repo.client.get(address).raise_for_status()
        found += page.json()
        address = page.links.get("next", {}).get("url", "")
    return found


def delete(repo: Repo, *digests: str, rewrite: bool = True) -> int:
    body = {"deletions": {"sha": digests, "rewriteHistory": rewrite}}
    return repo.client.post(f"{repo.api}/lfs-files/batch", json=body).status_code


def test_objects_are_listed_largest_first_over_all_pages_and_versions(served: Served) -> None:
    repo = served.make()
    oids = {name: repo.send(name.encode() * size) for size, name in enumerate("abcdef", 1)}
    for size, (name, oid) in enumerate(oids.items(), 1):
        repo.commit(large(f"dir/{name}.bin", oid, size), inline("small.txt", name.encode())).raise_for_status()
    repo.commit(deleted("dir/c.bin")).raise_for_status()
    waiting = repo.send(b"sent and not committed")
    found = listed(repo)
    assert [item["size"] for item in found] == [22, 6, 5, 4, 3, 2, 1]
    assert (found[0]["fileOid"], found[0]["filename"], found[0]["ref"]) == (waiting, "", None)
    assert (found[4]["fileOid"], found[4]["filename"], found[4]["ref"]) == (oids["c"], "dir/c.bin", "refs/heads/main")


def test_a_deleted_object_is_gone_from_every_version_and_all_else_stays(own_hub: Served) -> None:
    repo = own_hub.make()
    bad, good = repo.send(b"to be forgotten"), repo.send(b"to be kept")
    repo.write({"first.txt": b"1"})
    before = repo.head
    repo.commit(large("x/bad.bin", bad, 15), large("x/good.bin", good, 10)).raise_for_status()
    repo.client.post(f"{repo.api}/tag/main", json={"tag": "v1"}).raise_for_status()
    repo.write({"last.txt": b"2"})
    titles = [commit["title"] for commit in repo.client.get(f"{repo.api}/commits/main").json()]
    held = repo.head
    assert delete(repo, bad, rewrite=False) == 400
    assert delete(repo, bad) == 200
    assert repo.paths() == ["first.txt", "last.txt", "x/good.bin"]
    assert repo.paths("v1") == ["first.txt", "x/good.bin"]
    # What did not hold it is the same commit as before; what did is gone.
    commits = repo.client.get(f"{repo.api}/commits/main").json()
    assert [commit["title"] for commit in commits] == titles
    assert before in [commit["id"] for commit in commits]
    assert repo.read("x/bad.bin", held).status_code == 404
    collect_garbage(own_hub.hub, grace_s=-1)
    assert repo.read("x/good.bin", "v1").content == b"to be kept"
    kept = [location for location, _ in own_hub.hub.objects.locations()]
    assert not any(bad in location for location in kept)
    assert "actions" in repo.batch(bad, 15)[0]


def test_an_object_that_is_also_a_small_file_keeps_its_bytes(own_hub: Served) -> None:
    repo, data = own_hub.make(), b"the same bytes"
    oid = repo.send(data)
    repo.commit(large("x.bin", oid, len(data)), inline("x.txt", data)).raise_for_status()
    assert delete(repo, oid) == 200
    collect_garbage(own_hub.hub, grace_s=-1)
    assert repo.paths() == ["x.txt"]
    assert repo.read("x.txt").content == data


def test_only_who_may_write_sees_and_deletes_objects(served: Served) -> None:
    repo = served.make()
    oid = repo.send(b"mine")
    stranger = Repo(served, repo.name, served.client("bo"))
    assert stranger.client.get(f"{repo.api}/lfs-files").status_code == 403
    assert delete(stranger, oid) == 403
    assert repo.client.post(f"{repo.api}/lfs-files/batch", json={"deletions": {"sha": ["x"]}}).status_code == 400


def test_objects_are_lent_to_a_repository_that_one_may_write_to_and_no_other(served: Served) -> None:
    source, thief = served.make(private=True), served.make("bo")
    oid = source.send(b"lent")
    source.commit(large("x.bin", oid, 4)).raise_for_status()
    unknown = hashlib.sha256(b"unknown").hexdigest()

    def lend(client: Repo, target: Repo) -> tuple[int, object]:
        files = [{"sha256": digest, "xetHash": "x", "filename": "x.bin"} for digest in (oid, unknown)]
        body = {"target": {"type": "dataset", "name": target.name}, "files": files}
        found = client.client.post(f"{source.api}/lfs-files/duplicate", json=body)
        return found.status_code, found.json().get("failed")

    mine = served.make()
    assert lend(source, mine) == (200, [{"sha256": unknown, "error": "no such object"}])
    mine.commit(large("y.bin", oid, 4)).raise_for_status()
    assert mine.read("y.bin").content == b"lent"
    assert lend(thief, thief)[0] == 404
    assert lend(source, thief)[0] == 403


def test_what_is_not_offered_is_said_before_anything_is_sent(served: Served) -> None:
    repo = served.make()
    for address in ("preupload/main?create_pr=1", "commit/main?create_pr=1"):
        found = repo.client.post(f"{repo.api}/{address}", json={"files": []})
        assert (found.status_code, "no pull requests" in found.json()["error"]) == (400, True)
    assert repo.client.get(f"{repo.api}/xet-write-token/main?create_pr=1").status_code == 400
    assert repo.client.get(f"{repo.api}/discussions").json()["discussions"] == []
    assert repo.client.post(f"{repo.api}/discussions", json={"title": "x"}).status_code == 403
