"""Repositories, commits and files over HTTP, as the protocol says."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from served_hub import Served, deleted, inline, large, serve_for_test

from kp_data.hub.server import HubSettings


def test_a_new_repository_has_a_commit_and_a_second_create_says_where_it_is(served: Served) -> None:
    repo = served.make()
    assert len(repo.head) == 40
    namespace, name = repo.name.split("/")
    again = repo.client.post("/api/repos/create", json={"name": name, "organization": namespace, "type": "dataset"})
    assert (again.status_code, again.json()["url"]) == (409, f"{served.url}/datasets/{repo.name}")


def test_a_name_without_namespace_is_the_callers_own(served: Served) -> None:
    made = served.client().post("/api/repos/create", json={"name": "short", "type": "model", "organization": None})
    assert made.json()["url"] == f"{served.url}/ada/short"


def test_who_am_i_tells_name_role_and_organisations(served: Served) -> None:
    found = served.client().get("/api/whoami-v2").json()
    assert (found["name"], found["auth"]["accessToken"]["role"]) == ("ada", "write")
    assert [org["name"] for org in found["orgs"]] == ["lab"]


def test_a_commit_adds_changes_and_deletes_at_once(served: Served) -> None:
    repo = served.make()
    before = repo.write({"a.txt": b"one", "dir/b.txt": b"two", "dir/deep/c.txt": b"three"})
    made = repo.commit(inline("a.txt", b"other"), deleted("dir/deep/"), inline("new.txt", b"4"), parent=before)
    after = made.json()["commitOid"]
    assert repo.paths() == ["a.txt", "dir/b.txt", "new.txt"]
    assert repo.paths(before) == ["a.txt", "dir/b.txt", "dir/deep/c.txt"]
    assert (repo.read("a.txt").content, repo.read("a.txt", before).content) == (b"other", b"one")
    spans = repo.client.get(f"{repo.api}/compare/{before}..{after}").json()
    assert (spans["added"], spans["removed"], spans["changed"]) == (["new.txt"], ["dir/deep/c.txt"], ["a.txt"])


def test_a_stale_parent_is_refused_and_nothing_changes(served: Served) -> None:
    repo = served.make()
    stale = repo.head
    current = repo.write({"a.txt": b"one"})
    assert repo.commit(inline("b.txt", b"two"), parent=stale).status_code == 412
    assert (repo.head, repo.paths()) == (current, ["a.txt"])


def test_of_commits_that_race_for_one_parent_exactly_one_wins(served: Served) -> None:
    repo = served.make()
    parent = repo.head
    with ThreadPoolExecutor(6) as pool:
        codes = list(pool.map(lambda n: repo.commit(inline(f"{n}.txt", b"x"), parent=parent).status_code, range(6)))
    assert sorted(codes) == [200, 412, 412, 412, 412, 412]
    assert len(repo.paths()) == 1


def test_commits_without_a_parent_all_land_in_one_line(served: Served) -> None:
    repo = served.make()
    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda n: repo.commit(inline(f"{n}.txt", b"x")).status_code, range(8)))
    assert codes == [200] * 8
    history = repo.client.get(f"{repo.api}/commits/main").json()
    assert len(history) == 9
    assert len(repo.paths()) == 8


def test_a_commit_that_changes_nothing_is_not_made(served: Served) -> None:
    repo = served.make()
    first = repo.write({"a.txt": b"one"})
    assert repo.write({"a.txt": b"one"}) == first


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (deleted("nothing.txt"), 404),
        (deleted("nothing/"), 404),
        (inline("a.txt/b", b"a file as a folder"), 400),
        (inline("dir", b"a folder as a file"), 400),
        (large("x.parquet", "0" * 64, 3), 400),
        ({"key": "file", "value": {"path": "x", "content": "%%%"}}, 400),
        ({"key": "file", "value": {"path": "x", "content": "aGk=", "encoding": "utf-8"}}, 400),
        ({"key": "fly", "value": {"path": "x"}}, 400),
        ({"key": "file"}, 400),
        ([1, 2], 400),
        ({"key": "file", "value": {"path": 7, "content": "aGk="}}, 400),
        ({"key": "lfsFile", "value": {"path": "x", "algo": "md5", "oid": "0" * 64, "size": 1}}, 400),
    ],
)
def test_an_impossible_operation_fails_the_whole_commit(served: Served, line: dict[str, object], status: int) -> None:
    repo = served.make()
    head = repo.write({"a.txt": b"one", "dir/b.txt": b"two"})
    assert repo.commit(inline("good.txt", b"x"), line).status_code == status
    assert repo.head == head


def test_a_folder_may_become_a_file_when_it_is_deleted_in_the_same_commit(served: Served) -> None:
    repo = served.make()
    repo.write({"thing/a": b"1", "thing/b": b"2"})
    repo.commit(deleted("thing/a"), deleted("thing/b"), inline("thing", b"now a file")).raise_for_status()
    assert repo.paths() == ["thing"]


def test_a_large_file_is_sent_once_committed_and_read_back(served: Served) -> None:
    repo, data = served.make(), b"PAR1" * 1000
    oid = repo.send(data)
    assert "actions" not in repo.batch(oid, len(data))[0]
    repo.commit(large("data/x.parquet", oid, len(data))).raise_for_status()
    found = repo.read("data/x.parquet")
    assert (found.content, found.headers["etag"], found.headers["x-repo-commit"]) == (data, f'"{oid}"', repo.head)


def test_an_upload_in_parts_is_joined_in_order(served: Served) -> None:
    repo = served.make()
    data = bytes(range(256)) * 1_000
    oid = hashlib.sha256(data).hexdigest()
    upload = repo.batch(oid, len(data))[0]["actions"]["upload"]
    size = int(upload["header"].pop("chunk_size"))
    done = []
    for number, address in reversed(upload["header"].items()):
        at = (int(number) - 1) * size
        etag = httpx.put(address, content=data[at : at + size]).raise_for_status().headers["etag"]
        done.insert(0, {"partNumber": int(number), "etag": etag})
    missing = httpx.post(upload["href"], json={"oid": oid, "parts": done[1:]})
    assert missing.status_code == 400
    httpx.post(upload["href"], json={"oid": oid, "parts": done}).raise_for_status()
    repo.commit(large("x.bin", oid, len(data))).raise_for_status()
    assert repo.read("x.bin").content == data


def test_bytes_that_are_not_what_was_announced_are_refused(served: Served) -> None:
    repo = served.make()
    href = repo.batch(hashlib.sha256(b"right").hexdigest(), 5)[0]["actions"]["upload"]["href"]
    assert httpx.put(href, content=b"wrong").status_code == 400
    assert httpx.put(href, content=b"righ").status_code == 400
    assert httpx.put(href, content=b"right and more").status_code == 413
    assert httpx.put(href, content=b"right").status_code == 200


def test_ranges_are_exact(served: Served) -> None:
    repo, data = served.make(), bytes(range(200))
    repo.write({"x.txt": data})
    for header, expected in (("bytes=0-9", data[:10]), ("bytes=190-", data[190:]), ("bytes=-7", data[-7:])):
        found = repo.read("x.txt", Range=header)
        assert (found.status_code, found.content) == (206, expected)
    assert repo.read("x.txt", Range="bytes=5-8").headers["content-range"] == "bytes 5-8/200"
    assert repo.read("x.txt", Range="bytes=200-").status_code == 416
    assert repo.read("x.txt", Range="lines=1-2").content == data


def test_head_tells_all_and_sends_nothing(served: Served) -> None:
    repo = served.make()
    repo.write({"x.txt": b"12345"})
    found = repo.client.head(f"/datasets/{repo.name}/resolve/main/x.txt")
    assert (found.headers["content-length"], found.content) == ("5", b"")
    assert found.headers["etag"] == f'"{hashlib.sha1(b"blob 5" + bytes(1) + b"12345").hexdigest()}"'
    again = repo.read("x.txt", **{"If-None-Match": found.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_missing_file_names_the_commit_that_lacks_it(served: Served) -> None:
    repo = served.make()
    found = repo.read("nothing.txt")
    assert (found.status_code, found.headers["x-error-code"]) == (404, "EntryNotFound")
    assert found.headers["x-repo-commit"] == repo.head


def test_branches_and_tags_with_slashes_work_everywhere(served: Served) -> None:
    repo = served.make()
    repo.write({"dir/x.txt": b"main"})
    assert repo.client.post(f"{repo.api}/branch/feat%2Fx", json={}).status_code == 200
    assert repo.client.post(f"{repo.api}/branch/feat%2Fx", json={}).status_code == 409
    repo.commit(inline("dir/x.txt", b"branch"), branch="feat/x").raise_for_status()
    repo.client.post(f"{repo.api}/tag/feat%2Fx", json={"tag": "v1.0/rc"}).raise_for_status()
    for revision in ("feat/x", "refs/heads/feat/x", "v1.0/rc", "refs/tags/v1.0/rc"):
        assert repo.read("dir/x.txt", revision).content == b"branch"
    assert repo.read("dir/x.txt").content == b"main"
    tree = repo.client.get(f"{repo.api}/tree/feat%2Fx/dir").json()
    assert [entry["path"] for entry in tree] == ["dir/x.txt"]
    repo.client.delete(f"{repo.api}/branch/feat%2Fx").raise_for_status()
    assert repo.read("dir/x.txt", "v1.0/rc").content == b"branch"
    assert repo.read("dir/x.txt", "feat/x").headers["x-error-code"] == "RevisionNotFound"
    assert repo.client.delete(f"{repo.api}/tag/unknown").headers["x-error-code"] == "RevisionNotFound"
    assert repo.client.delete(f"{repo.api}/branch/main").status_code == 403


def test_a_short_commit_id_is_enough(served: Served) -> None:
    repo = served.make()
    repo.write({"x.txt": b"1"})
    assert repo.read("x.txt", repo.head[:9]).content == b"1"
    assert repo.read("x.txt", "0" * 40).status_code == 404


@pytest.mark.parametrize("name", ["", "a..b", "-x", "a//b", "x.lock", "refs/heads/x", "0" * 40, "a b", "a~1", "é"])
def test_a_name_that_git_would_not_take_is_refused(served: Served, name: str) -> None:
    repo = served.make()
    assert repo.client.post(f"{repo.api}/tag/main", json={"tag": name}).status_code == 400


def test_listings_come_in_pages_and_miss_nothing(served: Served) -> None:
    repo = served.make()
    names = [f"{folder}/{number}.txt" for folder in ("a", "a.b", "z") for number in range(3)]
    repo.write(dict.fromkeys(names, b"x"))
    found, address = [], f"{repo.api}/tree/main?recursive=true"
    while address:
        page = repo.client.get(address).raise_for_status()
        assert len(page.json()) <= 4
        found += [entry["path"] for entry in page.json()]
        address = page.links.get("next", {}).get("url", "")
    assert found == [".gitattributes", "a", *names[:3], "a.b", *names[3:6], "z", *names[6:]]


def test_an_expanded_listing_names_the_commit_that_last_changed_each_file(served: Served) -> None:
    repo = served.make()
    first = repo.write({"old.txt": b"1", "new.txt": b"1"})
    second = repo.write({"new.txt": b"2"})
    tree = repo.client.get(f"{repo.api}/tree/main?expand=True").json()
    last = {entry["path"]: entry["lastCommit"]["id"] for entry in tree}
    assert (last["old.txt"], last["new.txt"]) == (first, second)


def test_paths_info_leaves_out_what_is_not_there(served: Served) -> None:
    repo = served.make()
    repo.write({"dir/x.txt": b"1"})
    found = repo.client.post(f"{repo.api}/paths-info/main", data={"paths": ["dir", "dir/x.txt", "no"], "expand": True})
    assert [(entry["path"], entry["type"]) for entry in found.json()] == [("dir", "directory"), ("dir/x.txt", "file")]


def test_preupload_says_how_to_send_and_what_is_there(served: Served) -> None:
    repo = served.make()
    oid = repo.send(b"PAR1")
    repo.commit(large("x.parquet", oid, 4), inline("y.txt", b"1")).raise_for_status()
    files = [
        {"path": "x.parquet", "size": 9, "sample": ""},
        {"path": "y.txt", "size": 9, "sample": "MQ=="},
        {"path": "z.parquet", "size": 0, "sample": ""},
        {"path": "binary", "size": 3, "sample": "AAAA"},
    ]
    found = repo.client.post(f"{repo.api}/preupload/main", json={"files": files}).json()["files"]
    assert [entry["uploadMode"] for entry in found] == ["lfs", "regular", "regular", "lfs"]
    assert (found[0]["oid"], found[1]["oid"]) == (oid, hashlib.sha1(b"blob 1\x001").hexdigest())


def test_a_squash_keeps_the_files_and_ends_the_history(served: Served) -> None:
    repo = served.make()
    repo.write({"a": b"1"})
    repo.write({"b": b"2"})
    repo.client.post(f"{repo.api}/super-squash/main", json={"message": "one"}).raise_for_status()
    assert repo.paths() == ["a", "b"]
    assert [commit["title"] for commit in repo.client.get(f"{repo.api}/commits/main").json()] == ["one"]


def test_a_repository_moves_with_all_that_is_in_it_and_can_be_deleted(served: Served) -> None:
    repo = served.make()
    repo.write({"a": b"1"})
    body = {"fromRepo": repo.name, "toRepo": "lab/moved", "type": "dataset"}
    repo.client.post("/api/repos/move", json=body).raise_for_status()
    assert repo.client.get("/datasets/lab/moved/resolve/main/a").content == b"1"
    assert repo.client.get(repo.api).status_code == 404
    gone = {"name": "moved", "organization": "lab", "type": "dataset"}
    assert repo.client.request("DELETE", "/api/repos/delete", json=gone).status_code == 200
    assert repo.client.request("DELETE", "/api/repos/delete", json=gone).headers["x-error-code"] == "RepoNotFound"


def test_the_card_is_part_of_what_is_told_of_a_repository(served: Served) -> None:
    repo = served.make()
    repo.write({"README.md": b"---\nlicense: mit\ntags: [a, 1]\ndate: 2026-01-02\n---\n# Hi"})
    found = repo.client.get(repo.api).json()
    assert (found["cardData"]["license"], found["tags"], found["cardData"]["date"]) == ("mit", ["a", "1"], "2026-01-02")


def test_yaml_is_checked_before_a_commit(served: Served) -> None:
    client = served.client()
    good = client.post("/api/validate-yaml", json={"content": "---\na: 1\n---\n", "repoType": "dataset"})
    bad = client.post("/api/validate-yaml", json={"content": "---\na: [\n---\n", "repoType": "dataset"})
    assert (good.status_code, good.json()["errors"]) == (200, [])
    assert bad.status_code == 400
    assert "YAML" in bad.json()["errors"][0]["message"]


def test_the_list_shows_what_the_caller_may_see(served: Served) -> None:
    repo = served.make("bo", private=True)
    name = repo.name

    def listed(user: str | None) -> bool:
        found = served.client(user).get("/api/datasets", params={"author": "bo", "search": name.split("/")[1].upper()})
        return any(entry["id"] == name for entry in found.json())

    assert (listed("bo"), listed("ada"), listed(None)) == (True, False, False)


def test_an_unknown_address_is_404_and_in_json(served: Served) -> None:
    found = served.client().get("/api/datasets/ada/x/no/such/thing")
    assert (found.status_code, list(json.loads(found.text))) == (404, ["error"])


def test_downloads_are_counted_as_clients_report_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kp_data.hub.server.routes.files._COUNT_EVERY_S", 0.0)
    with serve_for_test(HubSettings(tmp_path / "hub", port=0)) as served:
        repo = served.make()
        repo.write({"x.txt": b"1"})
        for _ in range(3):
            repo.read("x.txt", **{"X-HF-Download-Counter": "1"})
        repo.read("x.txt")
        assert repo.client.get(repo.api).json()["downloads"] == 3


def test_listings_are_sorted_and_filtered_as_asked(served: Served) -> None:
    first, second, third = (served.make("bo") for _ in range(3))
    for repo, tags in ((first, ["a", "b"]), (second, ["a"]), (third, ["b"])):
        repo.write({"README.md": f"---\ntags: {tags}\n---\n".encode()})
    second.write({"later.txt": b"1"})

    def names(query: str) -> list[str]:
        found = served.client().get(f"/api/datasets?author=bo&{query}").raise_for_status().json()
        return [item["id"] for item in found if item["id"] in (first.name, second.name, third.name)]

    assert names("") == [second.name, third.name, first.name]
    assert names("sort=createdAt") == [third.name, second.name, first.name]
    assert names("filter=a") == [second.name, first.name]
    assert names("filter=a&filter=b") == [first.name]
    assert served.client().get("/api/datasets?sort=size").status_code == 400
