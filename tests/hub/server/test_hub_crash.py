"""A server that dies without warning, at any moment, leaves every repository as it was or as it should be."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from served_hub import Repo, Served, inline, large

from kp_data.hub.server import HubSettings, collect_garbage, issue_token, open_hub

SERVER = """
import sys
from pathlib import Path
from kp_data.hub.server import HubSettings, serve
serve(HubSettings(Path(sys.argv[1]), port=int(sys.argv[2])), lambda url: print(url, flush=True))
"""


@contextmanager
def server(root: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(root), str(port)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def large_data(number: int) -> bytes:
    return random.Random(number).randbytes(300_000)


def write_until_it_dies(repo: Repo, number: int, acknowledged: list[str]) -> None:
    """Commits a small and a large file at a time, over and over."""
    while True:
        number += 1
        data = large_data(number)
        try:
            oid = repo.send(data)
            made = repo.commit(inline(f"{number}.txt", data[:100]), large(f"{number}.bin", oid, len(data)))
            acknowledged.append(made.raise_for_status().json()["commitOid"])
        except httpx.HTTPError:
            return


@pytest.mark.slow
def test_a_server_killed_at_any_moment_keeps_what_it_acknowledged_and_nothing_by_halves(tmp_path: Path) -> None:
    root, acknowledged = tmp_path / "hub", list[str]()
    settings = HubSettings(root)
    with open_hub(settings) as hub:
        token, _ = issue_token(hub, "ada", write=True)
    with server(root) as (_, url):
        first = {"name": "x", "organization": "ada", "type": "dataset"}
        httpx.post(f"{url}/api/repos/create", json=first, headers={"Authorization": f"Bearer {token}"})
    for attempt in range(4):
        with server(root) as (process, url), open_hub(settings) as hub:
            served = Served(hub, url, {"ada": token})
            repo = Repo(served, "ada/x", served.client())
            writers = [
                threading.Thread(target=write_until_it_dies, args=(repo, 1_000 * (2 * attempt + half), acknowledged))
                for half in range(2)
            ]
            for writer in writers:
                writer.start()
            while len(acknowledged) < 3 * (attempt + 1):
                time.sleep(0.01)
            # Somewhere within the next commit.
            time.sleep(random.Random(attempt).uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            for writer in writers:
                writer.join()
            served.client().close()
    with server(root) as (_, url), open_hub(settings) as hub:
        served = Served(hub, url, {"ada": token})
        repo = Repo(served, "ada/x", served.client())
        collect_garbage(hub, grace_s=-1)
        history, address = [], f"{repo.api}/commits/main"
        while address:
            page = repo.client.get(address).raise_for_status()
            history += [commit["id"] for commit in page.json()]
            address = page.links.get("next", {}).get("url", "")
        paths = set(repo.paths())
        for path in paths:
            number = int(path.partition(".")[0])
            data = large_data(number)
            assert repo.read(path).content == (data if path.endswith(".bin") else data[:100])
            # A commit's files come together.
            assert {f"{number}.bin", f"{number}.txt"} <= paths
        assert repo.send(large_data(number)) == hashlib.sha256(large_data(number)).hexdigest()
        served.client().close()
    assert len(acknowledged) >= 12
    assert set(acknowledged) <= set(history)
    # At most the commit in flight, of each writer, was made and not acknowledged.
    assert len(history) - 1 - len(acknowledged) <= 2 * 4
    assert len(paths) == 2 * (len(history) - 1)


@pytest.mark.slow
def test_a_client_that_dies_in_the_middle_sends_the_rest_and_no_more(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    with open_hub(HubSettings(root)) as hub:
        token, _ = issue_token(hub, "ada", write=True)
    data = tmp_path / "in"
    data.mkdir()
    for number in range(12):
        (data / f"{number:02}.parquet").write_bytes(random.Random(number).randbytes(4_000_000))
    script = f"""
from huggingface_hub import HfApi
HfApi().create_repo("ada/x", repo_type="dataset", exist_ok=True)
HfApi().upload_folder(folder_path={str(data)!r}, repo_id="ada/x", repo_type="dataset")
"""
    with server(root) as (_, url):
        own = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": url, "HF_TOKEN": token, "HF_HUB_DISABLE_TELEMETRY": "1"}
        own |= {"HF_XET_CLIENT_AC_INITIAL_UPLOAD_CONCURRENCY": "1"}
        client = subprocess.Popen([sys.executable, "-c", script], env=os.environ | own, stderr=subprocess.DEVNULL)
        objects = root / "objects"
        while sum(path.stat().st_size for path in objects.rglob("*-*")) < 10_000_000 and client.poll() is None:
            time.sleep(0.005)
        client.kill()
        client.wait()
        authorization = {"Authorization": f"Bearer {token}"}
        listing = f"{url}/api/datasets/ada/x/tree/main"
        before = [entry["path"] for entry in httpx.get(listing, headers=authorization).json()]
        subprocess.run([sys.executable, "-c", script], env=os.environ | own, check=True, stderr=subprocess.DEVNULL)
        after = [entry["path"] for entry in httpx.get(listing, headers=authorization).json()]
    assert before in ([".gitattributes"], after)
    assert len(after) == 13
    # What had arrived was not kept a second time.
    assert sum(path.stat().st_size for path in (root / "objects").rglob("*-*")) < 12 * 4_000_000 * 1.3
