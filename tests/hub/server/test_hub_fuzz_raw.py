"""Requests as no client would write them: JSON with values that no database keeps, paths without end, broken HTTP."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator

import httpx
import pytest
from served_hub import Repo, Served, inline, large, serve_for_test
from starlette.routing import Route

from kp_data.hub.server import HubSettings
from kp_data.hub.server.routes import files, large_objects, lfs, repos, webhooks, xet

ADDRESSES = sorted(
    {
        (method, route.path)
        for route in (*repos.ROUTES, *files.ROUTES, *large_objects.ROUTES, *lfs.ROUTES, *webhooks.ROUTES, *xet.ROUTES)
        for method in (route.methods or set()) - {"HEAD"}
        if isinstance(route, Route)
    }
)
SECRET = b"what nobody else may read"
LITERALS = (
    *('"\\ud800"', '"\\u0000"', '"x"', '""', "-1", "1.5", "1e999", "NaN", "9" * 400, "9" * 5_000, "true", "null"),
    *("[]", "{}", "[" * 3_000, '["x"]', '[{"path": "x", "size": 1}]', f'"{"y" * 3_000}"', '"a/b"', '"dataset"'),
)
KEYS = (
    *("name", "organization", "type", "visibility", "private", "gated", "fromRepo", "toRepo", "files", "operation"),
    *("objects", "oid", "size", "tag", "message", "startingPoint", "content", "user", "status", "parts", "transfers"),
    *("deletions", "sha", "target", "paths", "watched", "url", "secret", "domains"),
)
SEGMENTS = (
    *("main", "0" * 40, "0" * 64, "9" * 5_000, "x" * 300, "a%2Fb", "..", "%2e%2e", "%00", "%ff", "%ed%a0%80", "-", "%"),
    *("refs%2Fheads%2Fmain", "HEAD", "pending", "%2F".join("a" * 500), "a..b", "é".encode().decode("latin-1")),
)
QUERIES = (
    "",
    "cursor=9" + "9" * 30,
    "limit=-1&author=%00",
    "expand=true&recursive=true&cursor=..",
    "size=x&expires=-1",
)
SPANS = ("bytes=0-", "bytes=-0", "bytes=9-1", "bytes=" + "9" * 400 + "-", "bytes=a", "items=0-1", "bytes=0-1,3-4")
TOKENS = ("Bearer", "Basic eDp4", "Bearer é", "Bearer " + "x" * 5_000, "bearer kp_", ".")


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def stormy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("stormy")
    database = None
    if request.param == "postgres":
        database = request.getfixturevalue("postgres_server")
    with serve_for_test(HubSettings(root, port=0, database=database)) as found:
        yield found


@pytest.fixture(scope="module")
def repos_of(stormy: Served) -> tuple[Repo, Repo]:
    """One's own, and a private one of somebody else's."""
    mine, prey = stormy.make(), stormy.make("bo", private=True)
    for repo in (mine, prey):
        repo.commit(inline("README.md", b"---\nlicense: mit\n---\n" + SECRET)).raise_for_status()
    prey.commit(large("secret.bin", prey.send(SECRET), len(SECRET))).raise_for_status()
    return mine, prey


def paths(route: str, name: str) -> Iterator[str]:
    """The route with every odd segment in every one of its places."""
    namespace, short = name.split("/")
    usual = {"{types:types}": "datasets", "{namespace}": namespace, "{name}": short, "{name}.git": f"{short}.git"}
    parts = route.split("/")
    for odd in SEGMENTS:
        filled = [usual.get(part, odd) if "{" in part else part for part in parts]
        yield "/".join(filled)
    yield "/".join(SEGMENTS[3] if "{" in part and part not in usual else usual.get(part, part) for part in parts)


def bodies(number: int) -> Iterator[bytes]:
    """JSON objects in which some value is odd, as their text; and what is no JSON."""
    for key, literal in itertools.product(KEYS, LITERALS):
        others = {name: "x" for name in KEYS if name != key and (len(name) + number) % 3}
        text = json.dumps(others | {"type": "dataset"})[:-1]
        yield f'{text}, "{key}": {literal}}}'.encode()
    for key, literal in itertools.product(("file", "lfsFile", "deletedFile", "header"), LITERALS):
        for name in ("path", "content", "oid", "size", "summary", "parentCommit"):
            value = f'{{"path": "x", "content": "aGk=", "oid": "{"0" * 64}", "{name}": {literal}}}'
            yield f'{{"key": "{key}", "value": {value}}}\n'.encode()
    yield from (b"", b"{", b"\xff" * 9, b"[" * 100_000, b"null", b"\n" * 5_000, b'{"deletions": {"sha": [null]}}')


def failures(found: httpx.Response) -> bool:
    return found.status_code >= 500 or SECRET in found.content or b"Traceback" in found.content


@pytest.mark.slow
@pytest.mark.parametrize(("method", "route"), ADDRESSES)
def test_no_request_makes_the_hub_fail_or_tell(
    stormy: Served, repos_of: tuple[Repo, Repo], method: str, route: str
) -> None:
    mine, prey = repos_of
    choose = random.Random(f"{method} {route}")
    texts = list(bodies(len(route)))
    bad = []
    with httpx.Client(base_url=stormy.url, headers=mine.client.headers, timeout=60.0) as client:
        for repo in (mine, prey):
            for path in choose.sample(list(paths(route, repo.name)), 9):
                for body in choose.sample(texts, 2) if method != "GET" else [b""]:
                    headers = {"Range": choose.choice(SPANS)}
                    if choose.random() < 0.2:
                        headers["Authorization"] = choose.choice(TOKENS).encode()
                    address = f"{path}?{choose.choice(QUERIES)}"
                    found = client.request(method, address, content=body, headers=headers)
                    own = repo is mine and b"license: mit" in found.content
                    if failures(found) and not own:
                        bad.append((found.status_code, address[:300], body[:300], found.text[:200]))
            if method != "GET":
                for body in choose.sample(texts, 60):
                    path = next(iter(paths(route, repo.name)))
                    found = client.request(method, path, content=body)
                    if failures(found):
                        bad.append((found.status_code, path, body[:300], found.text[:200]))
    assert not bad, bad[:3]
    # Still there, still working, whatever was done to it.
    assert httpx.get(f"{stormy.url}/health").status_code == 200
