"""Every address with whatever anybody may send: answered, never with 500, never with what is not the caller's."""

from __future__ import annotations

import json
from urllib.parse import quote

import httpx
import pytest
from by_hand import Storage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served_hub import Repo, Served, large
from starlette.routing import Route

from kp_data.hub.server.routes import files, large_objects, lfs, repos, webhooks, xet

ADDRESSES = [
    (method, route.path)
    for route in (*repos.ROUTES, *files.ROUTES, *large_objects.ROUTES, *lfs.ROUTES, *webhooks.ROUTES, *xet.ROUTES)
    for method in sorted((route.methods or set()) - {"HEAD"})
    if isinstance(route, Route)
]
SECRET = b"what nobody else may read"
ODD = st.sampled_from(["", "..", "%2e%2e", "%00", "%ff", "é", "a/b", "main", "v1", "0" * 40, "0" * 64, "x" * 300, "-"])
TEXT = ODD | st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
KNOWN = (
    *("name", "organization", "type", "visibility", "gated", "fromRepo", "toRepo", "files", "operation", "objects"),
    *("oid", "size", "tag", "message", "startingPoint", "content", "user", "status", "parts", "path", "sample"),
)
BODIES = st.dictionaries(st.sampled_from(KNOWN), JSON, max_size=6)
OBJECTS = st.fixed_dictionaries({"operation": st.just("upload"), "objects": st.lists(JSON | BODIES, max_size=3)})
LINES = st.lists(st.fixed_dictionaries({"key": TEXT | st.just("file"), "value": JSON | BODIES}), max_size=3)


@pytest.fixture(scope="module")
def prey(served: Served) -> Repo:
    """A private repository of somebody else's."""
    repo = served.make("bo", private=True)
    repo.commit(large("secret.bin", repo.send(SECRET), len(SECRET))).raise_for_status()
    return repo


@pytest.fixture(scope="module")
def mine(served: Served) -> Repo:
    return served.make()


def filled(path: str, values: list[str], repo: str) -> str:
    """A route's path with values for its parameters; namespace and name mostly lead somewhere."""
    parts, rest = [], iter(values)
    namespace, name = repo.split("/")
    for part in path.split("/"):
        if "{" not in part:
            parts.append(part)
            continue
        known = {"{types:types}": "datasets", "{namespace}": namespace, "{name}": name, "{name}.git": f"{name}.git"}
        value = next(rest, "x")
        parts.append(known.get(part) or value or quote(part))
    return "/".join(parts)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), ADDRESSES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(TEXT.map(lambda text: quote(text, safe="%")), min_size=4, max_size=4),
    body=BODIES | OBJECTS | JSON,
    query=st.dictionaries(st.sampled_from(["cursor", "limit", "expand", "size", "expires", "signature"]), TEXT),
    span=st.sampled_from(["bytes=0-", "bytes=-1", "bytes=9-1", "bytes=99999999999999999999-", "é", "bytes=a-b"]),
    on_prey=st.booleans(),
)
def test_nothing_sent_makes_the_hub_fail(
    served: Served,
    prey: Repo,
    mine: Repo,
    method: str,
    path: str,
    values: list[str],
    body: object,
    query: dict[str, str],
    span: str,
    on_prey: bool,
) -> None:
    address = filled(path, values, (prey if on_prey else mine).name)
    safe = {name: value.encode("utf-8", "replace").decode() for name, value in query.items()}
    headers = {"Range": span.encode().decode("latin-1")}
    try:
        found = served.client().request(method, address, params=safe, json=body, headers=headers)
    except (httpx.InvalidURL, UnicodeEncodeError, httpx.LocalProtocolError):
        return
    assert found.status_code < 500, found.text
    assert "Traceback" not in found.text
    assert SECRET not in found.content


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, raw=st.binary(max_size=100))
def test_any_commit_is_made_or_refused(mine: Repo, lines: list[dict[str, object]], raw: bytes) -> None:
    assert mine.commit(*lines).status_code < 500  # type: ignore[arg-type]
    assert mine.client.post(f"{mine.api}/commit/main", content=raw).status_code < 500


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_any_xorb_or_shard_is_taken_or_refused(storage: Storage, data: bytes) -> None:
    assert storage.put_xorb("0" * 64, data).status_code in (400, 413)
    assert storage.put_shard(data).status_code == 400


@pytest.fixture(scope="module")
def storage(mine: Repo) -> Storage:
    return Storage.of(mine)


def test_what_is_private_was_still_there_to_be_found(prey: Repo) -> None:
    assert prey.read("secret.bin").content == SECRET


@pytest.mark.parametrize("odd", ['"\\ud800"', '"\\u0000"', "Infinity", "NaN", "1e999", "-1", "9" * 400, "[" * 5_000])
def test_what_json_can_say_and_no_database_can_keep_is_refused(mine: Repo, odd: str) -> None:
    def status(address: str, body: str) -> int:
        return mine.client.post(address, content=body).status_code

    file = {"path": "x", "content": "aGk="}
    assert status(f"{mine.api}/tag/main", f'{{"tag": "t", "message": {odd}}}') == 400
    assert status(f"{mine.api}/preupload/main", f'{{"files": [{{"path": {odd}, "size": 1}}]}}') == 400
    assert status(f"{mine.api}/preupload/main", f'{{"files": [{{"path": "x", "size": {odd}}}]}}') in (200, 400)
    header = f'{{"key": "header", "value": {{"summary": {odd}}}}}\n'
    assert status(f"{mine.api}/commit/main", header + json.dumps({"key": "file", "value": file})) in (200, 400)
    large_one = f'{{"key": "lfsFile", "value": {{"path": "x", "oid": "{"0" * 64}", "size": {odd}}}}}'
    assert status(f"{mine.api}/commit/main", large_one) == 400
    assert mine.client.get("/api/datasets", params={"search": "\0", "author": "\0"}).status_code == 400
