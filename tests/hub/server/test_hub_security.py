"""What the hub must never do: open what is private, leave a repository, believe a client, or fall over."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from by_hand import Storage, xorb
from served_hub import Repo, Served, inline, large, serve_for_test

from kp_data.errors import ConfigError, HubError
from kp_data.hub.server import HubSettings, issue_token, join, revoke, tokens
from kp_data.hub.server.card_data import read_card
from kp_data.hub.server.refusals import Refusal
from kp_data.hub.server.signing import Signer


def test_a_private_repository_looks_as_if_it_were_not_there(served: Served) -> None:
    repo = served.make(private=True)
    repo.write({"secret.txt": b"s"})
    ways = (repo.api, f"{repo.api}/tree/main", f"{repo.api}/refs", f"/datasets/{repo.name}/resolve/main/secret.txt")
    for way in ways:
        stranger, nobody = served.client("bo").get(way), served.client(None).get(way)
        assert (stranger.status_code, stranger.headers["x-error-code"]) == (404, "RepoNotFound")
        assert (nobody.status_code, nobody.headers["x-error-code"]) == (401, "RepoNotFound")
        unknown = served.client("bo").get(way.replace(repo.name, "ada/never-was"))
        assert unknown.json() == stranger.json()
    for way, status in ((f"{repo.api}/xet-read-token/main", 404), (f"{repo.api}/auth-check", 404)):
        assert served.client("bo").get(way).status_code == status


def test_an_older_clients_way_to_say_private_is_understood(served: Served) -> None:
    assert served.client("bo").get(served.make(visibility="private").api).status_code == 404
    repo = served.make()
    repo.client.put(f"{repo.api}/settings", json={"private": True}).raise_for_status()
    assert served.client("bo").get(repo.api).status_code == 404


def test_a_wrong_a_revoked_and_an_expired_token_are_refused_in_the_words_clients_know(served: Served) -> None:
    revoked, info = issue_token(served.hub, "ada", write=True)
    revoke(served.hub, info.id)
    expired, _ = issue_token(served.hub, "ada", days=1e-9)
    time.sleep(0.01)
    for token in ("kp_wrong", revoked, expired):
        found = httpx.get(f"{served.url}/api/whoami-v2", headers={"Authorization": f"Bearer {token}"})
        assert (found.status_code, found.json()["error"]) == (401, "Invalid credentials in Authorization header")
        assert "x-error-code" not in found.headers


def test_only_hashes_of_tokens_are_kept(served: Served) -> None:
    token, info = issue_token(served.hub, "ada")
    assert info.id in [found.id for found in tokens(served.hub)]
    for file in served.hub.settings.root.glob("hub.sqlite*"):
        assert token.removeprefix("kp_").encode() not in file.read_bytes()
    assert (served.hub.settings.root / "secret").stat().st_mode & 0o077 == 0


def test_a_read_token_and_a_stranger_write_nothing(served: Served) -> None:
    mine = served.make()
    reader, _ = issue_token(served.hub, "ada")
    for client in (
        served.client("bo"),
        served.client("eve"),
        httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {reader}"}),
    ):
        with contextlib.ExitStack() as stack:
            if client not in served.clients.values():
                stack.enter_context(client)
            other = replace(mine, client=client)
            assert other.commit(inline("x", b"1")).status_code == 403
            assert client.post(f"{mine.api}/tag/main", json={"tag": "t"}).status_code == 403
            assert client.get(f"{mine.api}/xet-write-token/main").status_code == 403
            assert client.put(f"{mine.api}/settings", json={"private": True}).status_code == 403
            body = {"name": "x", "organization": "ada", "type": "dataset"}
            assert client.post("/api/repos/create", json=body).status_code == 403
    assert replace(mine, client=served.client(None)).commit(inline("x", b"1")).status_code == 401
    assert mine.paths() == []


def test_members_of_an_organisation_share_what_it_owns(served: Served) -> None:
    repo = Repo.create(served, "lab/shared", "ada", private=True)
    repo.write({"x": b"1"})
    assert served.client("eve").get(repo.api).status_code == 404
    join(served.hub, "lab", "eve", write=False)
    assert served.client("eve").get(repo.api).status_code == 200
    assert replace(repo, client=served.client("eve")).commit(inline("y", b"1")).status_code == 403


def test_a_gated_repository_opens_to_those_who_were_let_in(served: Served) -> None:
    repo, bo = served.make(), served.client("bo")
    repo.write({"x": b"1"})
    repo.client.put(f"{repo.api}/settings", json={"gated": "manual"}).raise_for_status()
    read = f"/datasets/{repo.name}/resolve/main/x"
    assert bo.get(repo.api).status_code == 200
    for client, status in ((bo, 403), (served.client(None), 401)):
        found = client.get(read)
        assert (found.status_code, found.headers["x-error-code"]) == (status, "GatedRepo")
    assert bo.post(f"{repo.api}/ask-access").json() == {"status": "pending"}
    assert bo.get(read).status_code == 403
    waiting = repo.client.get(f"{repo.api}/user-access-request/pending").json()
    assert [entry["user"]["user"] for entry in waiting] == ["bo"]
    assert bo.post(f"{repo.api}/user-access-request/grant", json={"user": "bo"}).status_code == 403
    decision = {"user": "bo", "status": "accepted"}
    repo.client.post(f"{repo.api}/user-access-request/handle", json=decision).raise_for_status()
    assert bo.get(read).content == b"1"


def test_knowing_a_hash_opens_nothing(served: Served) -> None:
    private, thief = served.make(private=True), served.make("bo")
    data = b"a secret of some length"
    oid = private.send(data)
    private.commit(large("x.bin", oid, len(data))).raise_for_status()
    assert "actions" in thief.batch(oid, len(data))[0]
    assert "error" in thief.batch(oid, len(data), "download")[0]
    assert thief.commit(large("x.bin", oid, len(data))).status_code == 400
    assert thief.commit(large("x.bin", oid, None)).status_code == 400
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n".encode()
    thief.write({"x.bin": pointer})
    assert thief.read("x.bin").content == pointer
    # What one may read, one may copy.
    public = served.make()
    public.send(data)
    assert thief.commit(large("y.bin", oid, None)).status_code == 200
    assert thief.read("y.bin").content == data


def test_a_private_file_stored_as_chunks_is_not_laid_out_for_another_repository(served: Served) -> None:
    digest, oid = Storage.of(served.make(private=True)).send([b"private chunk", b"another"])
    thief = served.make("bo")
    assert Storage.of(thief).layout(digest).status_code == 404
    assert thief.commit(large("x.bin", oid, 20)).status_code == 400


def test_a_signed_address_is_good_for_one_thing(served: Served) -> None:
    repo, other = served.make(), served.make("bo")
    data, evil = b"signed for this", b"not this, alas!"
    oid = hashlib.sha256(data).hexdigest()
    href = repo.batch(oid, len(data))[0]["actions"]["upload"]["href"]
    bo_id = served.client("bo").get(other.api).json()["_id"]
    ada_id = served.client().get(repo.api).json()["_id"]
    for forged in (
        href.replace(oid, hashlib.sha256(evil).hexdigest()),
        href.replace(ada_id, bo_id),
        href.replace("size=15", "size=99"),
        href.replace("expires=1", "expires=2"),
        href[:-1] + ("0" if href[-1] != "0" else "1"),
        href.partition("?")[0],
        href.replace("signature=", "signature=%C3%A9"),
    ):
        assert forged != href
        assert httpx.put(forged, content=data).status_code == 403
    assert httpx.get(href).status_code == 403
    assert httpx.put(href, content=data).status_code == 200


def test_what_was_signed_expires_and_is_bound_to_its_purpose() -> None:
    signer, claims = Signer(b"k" * 32), {"repo": "r"}

    def query(purpose: str, lasts_s: float) -> dict[str, str]:
        return dict(pair.split("=") for pair in signer.query(purpose, claims, lasts_s=lasts_s).split("&"))

    signer.check("put", claims, query("put", 60))
    for purpose, lasts_s in (("put", -2), ("get", 60)):
        with pytest.raises(Refusal):
            signer.check("put", claims, query(purpose, lasts_s))
    token = signer.token("xet", claims, expires=int(time.time()) - 1)
    with pytest.raises(Refusal, match="expired"):
        signer.read("xet", token)
    with pytest.raises(Refusal):
        Signer(b"x" * 32).read("xet", signer.token("xet", claims, expires=2**40))


@pytest.mark.parametrize(
    "path",
    [
        *("../x", "/etc/passwd", "a/../../x", "a//b", ".", "a/.", ".git/config", "a/.GIT/x", "a\\b", "a\nb", "a\0b"),
        *("", "a/", "x" * 1_100, "\ud800"),
    ],
)
def test_no_path_leaves_its_repository(served: Served, path: str) -> None:
    repo = served.make()
    head = repo.head
    assert repo.commit(inline(path, b"x")).status_code == 400
    assert repo.head == head


@pytest.mark.parametrize("path", ["../../hub.sqlite", "..%2f..%2fsecret", "%2e%2e/secret", "a%00b", "%ff", "a%0d%0ab"])
def test_no_address_reads_outside(served: Served, path: str) -> None:
    repo = served.make()
    with socket.create_connection(served.url.removeprefix("http://").split(":")) as raw:  # type: ignore[arg-type]
        line = f"GET /datasets/{repo.name}/resolve/main/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        raw.sendall(line.encode())
        answered = b"".join(iter(lambda: raw.recv(65_536), b""))
    assert answered.split()[1] in (b"400", b"404")
    assert b"SQLite" not in answered


def test_stored_text_breaks_out_of_no_header(served: Served) -> None:
    repo = served.make()
    name = 'a";x=é.txt'
    repo.write({name: b"<script>alert(1)</script>"})
    found = repo.read(name)
    assert found.headers["content-disposition"] == 'inline; filename="a\';x=?.txt"'
    assert found.headers["content-type"].startswith("text/plain")
    assert found.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in found.headers["content-security-policy"]
    missing = repo.read("no\r\nSet-Cookie: a=b")
    assert "set-cookie" not in missing.headers


@pytest.mark.parametrize("revision", ["x ", " x", "x\n", "\tx", "\r\n", "x" * 499 + " y"])
def test_a_refusal_may_quote_whatever_was_asked_for(served: Served, revision: str) -> None:
    found = served.make().read("x", revision)
    assert (found.status_code, found.headers["x-error-code"]) == (404, "RevisionNotFound")


def test_a_strange_host_is_not_repeated(served: Served) -> None:
    body = {"name": "hosted", "organization": "ada", "type": "dataset"}
    found = served.client().post("/api/repos/create", json=body, headers={"Host": "evil.example/x?"})
    assert found.status_code == 400


def test_bodies_that_are_too_large_are_cut_off(served: Served) -> None:
    repo = served.make()
    assert repo.client.post("/api/validate-yaml", json={"content": "x" * 70_000}).status_code == 413
    assert repo.commit(inline("x", b"x" * 60_000)).status_code == 413
    assert repo.commit(*(inline(f"{n}", b"x" * 30_000) for n in range(6))).status_code == 413

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 10_000

    with contextlib.suppress(httpx.TransportError):
        assert httpx.put(repo.batch("0" * 64, 50)[0]["actions"]["upload"]["href"], content=endless()).status_code == 413


def test_a_silent_client_is_cut_off(tmp_path: Path) -> None:
    settings = HubSettings(tmp_path / "hub", port=0)
    with serve_for_test(replace(settings, limits=replace(settings.limits, idle_s=0.2))) as served:
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as raw:
            head = f"POST /api/validate-yaml HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n{{"
            raw.sendall(head.encode())
            assert raw.recv(4_096).split()[1] == b"408"


def test_a_quota_is_kept_whichever_way_bytes_come(own_hub: Served) -> None:
    repo, data = own_hub.make(), b"x" * 400_000
    repo.commit(large("a.bin", repo.send(data), len(data))).raise_for_status()
    assert "413" in str(repo.batch("0" * 64, 700_000)[0]["error"])
    assert "actions" not in repo.batch(hashlib.sha256(data).hexdigest(), len(data))[0]
    storage = Storage.of(repo)
    half = [b"%08d" % n * 4_000 for n in range(16)]
    storage.send(half)
    with pytest.raises(httpx.HTTPStatusError, match="413"):
        storage.send([chunk[::-1] for chunk in half])
    again = own_hub.make("bo")
    assert "actions" in again.batch("0" * 64, 700_000)[0]


def test_chunks_that_no_file_speaks_of_count_too(own_hub: Served) -> None:
    storage = Storage.of(own_hub.make())
    codes = [storage.put_xorb(*xorb([os.urandom(90_000)])).status_code for n in range(14)]
    assert codes == [200] * 11 + [413] * 3


def test_cards_cannot_blow_up() -> None:
    bomb = "---\na: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n---\n"
    with pytest.raises(ValueError, match="aliases"):
        read_card(bomb)
    with pytest.raises(ValueError, match="YAML"):
        read_card("---\na: !!python/object/apply:os.system [ls]\n---\n")
    with pytest.raises(ValueError, match="nested too deeply"):
        read_card("---\na: " + "[" * 500 + "]" * 500 + "\n---\n")
    with pytest.raises(ValueError, match="mapping"):
        read_card("---\n- a\n---\n")
    assert read_card("# no metadata") == {}


def test_users_and_organisations_cannot_pose_as_one_another(served: Served) -> None:
    for name in ("Ada", "lab", "datasets", "a/b", "..", "x--y"):
        with pytest.raises(HubError):
            issue_token(served.hub, name)
    with pytest.raises(HubError, match="no token has the id"):
        revoke(served.hub, "nothing")


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for url in ("hub.example.org", "https://hub.example.org/", "https://user:pass@hub.example.org"):
        with pytest.raises(ConfigError):
            HubSettings(tmp_path, public_url=url)
    with pytest.raises(ConfigError):
        HubSettings(tmp_path, port=70_000)


def test_a_port_that_is_taken_is_said_so(served: Served, tmp_path: Path) -> None:
    port = int(served.url.rpartition(":")[2])
    with pytest.raises(HubError, match="cannot listen"), serve_for_test(HubSettings(tmp_path, port=port)):
        pass


def test_a_name_that_hides_a_slash_is_no_name(served: Served) -> None:
    found = served.client().get(f"/api/datasets/{quote('ada/x', safe='')}/y")
    assert found.status_code == 400


@pytest.mark.parametrize(
    "line",
    [
        *("x: !!bool maybe", "x: !!timestamp soon", "x: 0x" + "f" * 5_000, "x: " + ":".join(["59"] * 9_000)),
        *('x: "\\ud800"', "x: " + "9" * 5_000, "x: 2001-13-45", "? [1, 2]\n: 3", "x: .nan", "x: !!set {a}"),
    ],
)
def test_no_value_in_a_card_makes_listings_fail(served: Served, line: str) -> None:
    repo = served.make()
    repo.write({"README.md": f"---\n{line}\n---\n# Text\n".encode()})
    assert repo.client.get(repo.api).raise_for_status().json()["sha"] == repo.head
    assert repo.client.get("/api/datasets", params={"author": "ada", "limit": 3}).status_code == 200
    found = repo.client.post("/api/validate-yaml", json={"content": f"---\n{line}\n---\n"})
    assert found.status_code in (200, 400)


def test_a_card_that_would_take_minutes_to_read_is_not_read() -> None:
    many = "---\n" + "".join(f"k{number}: [a, b]\n" for number in range(60_000)) + "---\n"
    with pytest.raises(ValueError, match="longer than"):
        read_card(many)


def test_numbers_in_addresses_are_no_longer_than_numbers_are(served: Served) -> None:
    for address in (f"/xorbs/{'0' * 64}/0-{'9' * 5_000}", f"/objects/x/{'0' * 64}/{'9' * 5_000}"):
        assert served.client().get(address).status_code == 404
        assert served.client().put(address).status_code in (404, 405)


def test_what_only_some_may_see_is_kept_by_no_cache(served: Served) -> None:
    repo = served.make(private=True)
    repo.commit(large("x.bin", repo.send(b"private"), 7), inline("y", b"1")).raise_for_status()
    assert repo.read("x.bin").headers["cache-control"] == "private, no-cache"
    storage = Storage.of(repo)
    digest, _ = storage.send([b"chunk"])
    ((fetch,),) = storage.layout(digest).json()["fetch_info"].values()
    span = {"Range": f"bytes={fetch['url_range']['start']}-{fetch['url_range']['end']}"}
    assert httpx.get(fetch["url"], headers=span).headers["cache-control"] == "private"
    (item,) = repo.batch(repo.send(b"private"), 7, "download")
    assert httpx.get(item["actions"]["download"]["href"]).headers["cache-control"] == "private"
    told = repo.client.get(f"{repo.api}/tree/main"), storage.layout(digest), Storage.of(repo).known(b"chunk")
    batch = repo.client.post(
        f"/datasets/{repo.name}.git/info/lfs/objects/batch", json={"operation": "upload", "objects": []}
    )
    assert {found.headers["cache-control"] for found in (*told, batch)} == {"no-store"}
    assert "access-control-allow-origin" not in repo.read("y").headers


def test_readers_learn_nothing_of_chunks(served: Served) -> None:
    repo = served.make()
    Storage.of(repo).send([b"only in an old version"])
    reader = replace(repo, client=served.client("bo"))
    assert Storage.of(reader, "read").known(b"only in an old version").status_code == 403


def test_only_names_of_users_are_let_into_a_gated_repository(served: Served) -> None:
    repo = served.make()
    for user in ("x" * 400, "a/b", "\0"):
        assert repo.client.post(f"{repo.api}/user-access-request/grant", json={"user": user}).status_code == 400
