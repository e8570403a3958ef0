"""The official clients, unmodified, as processes with a home of their own, and our own publishing client."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from served_hub import Served, serve_for_test

from kp_data.hub import diff, pull, push, versions
from kp_data.hub.server import HubSettings
from kp_data.hub.server.database import REPO_XORBS, REPOS

Client = Callable[..., dict[str, Any]]

PYTHON = os.environ.get("KP_HUB_CLIENT_PYTHON", sys.executable)
"""Name the interpreter of an environment with other versions of the clients to test those."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With limits as they are when people run it."""
    with serve_for_test(HubSettings(tmp_path_factory.mktemp("hub"), port=0)) as found:
        yield found


@pytest.fixture
def client(hub: Served, tmp_path: Path) -> Client:
    """Runs a script that fills `found`, and gives what it found."""

    def run(script: str, *, user: str | None = "ada", machine: str = "one", **more: str) -> dict[str, Any]:
        home = tmp_path / machine
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        own = {"HOME": str(home), "HF_HOME": str(home / "hf"), "HF_ENDPOINT": hub.url, "OMP_NUM_THREADS": "1"}
        token = {"HF_TOKEN": hub.tokens[user]} if user else {}
        program = f"import json\nfound = {{}}\n{script}\nprint('FOUND' + json.dumps(found))"
        home.mkdir(exist_ok=True)
        done = subprocess.run(
            [PYTHON, "-c", program],
            env=kept | quiet | own | token | more,
            cwd=home,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3_000:]
        return dict(json.loads(done.stdout.rpartition("FOUND")[2]))

    return run


LIFE = """
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, EntryNotFoundError, RevisionNotFoundError, RepositoryNotFoundError
api, repo = HfApi(), dict(repo_id="{name}", repo_type="dataset")
api.create_repo(**repo)
api.create_repo(**repo, exist_ok=True)
Path("in/sub dir").mkdir(parents=True)
Path("in/é ü.txt").write_text("unicode")
Path("in/empty.txt").write_bytes(b"")
Path("in/sub dir/data.parquet").write_bytes(b"PAR1" * 50_000)
api.upload_folder(folder_path="in", **repo)
head = api.repo_info(**repo).sha
api.upload_folder(folder_path="in", **repo)
found["unchanged"] = api.repo_info(**repo).sha == head
found["files"] = sorted(api.list_repo_files(**repo))
api.create_tag(tag="v1", **repo)
api.create_branch(branch="feat/x", **repo)
operations = [
    CommitOperationAdd("new.txt", b"new"),
    CommitOperationCopy("sub dir/data.parquet", "copy.parquet"),
    CommitOperationDelete("sub dir/", is_folder=True),
]
api.create_commit(operations=operations, commit_message="several", parent_commit=head, **repo)
try:
    late = [CommitOperationAdd("late.txt", b"late")]
    api.create_commit(operations=late, commit_message="stale", parent_commit=head, **repo)
except HfHubHTTPError as error:
    found["stale"] = error.response.status_code
found["after"] = sorted(entry.path for entry in api.list_repo_tree(recursive=True, **repo))
found["at tag"] = sorted(api.list_repo_files(revision="v1", **repo))
refs = api.list_repo_refs(**repo)
found["refs"] = [ref.name for ref in refs.branches + refs.tags]
found["titles"] = [commit.title for commit in api.list_repo_commits(**repo)]
found["copy"] = Path(hf_hub_download(filename="copy.parquet", **repo)).read_bytes() == b"PAR1" * 50_000
found["old"] = Path(hf_hub_download(filename="sub dir/data.parquet", revision="v1", **repo)).stat().st_size
found["info"] = [info.path for info in api.get_paths_info(paths=["new.txt", "no"], **repo)]
found["exists"] = [api.file_exists(filename=name, **repo) for name in ("new.txt", "no")]
found["errors"] = []
for call in (
    lambda: hf_hub_download(filename="no", **repo),
    lambda: api.repo_info(revision="no", **repo),
    lambda: api.repo_info("ada/never", repo_type="dataset"),
    lambda: api.delete_file("no", **repo),
):
    try:
        call()
    except Exception as error:
        found["errors"].append(type(error).__name__.removeprefix("Remote"))
api.super_squash_history(**repo)
api.update_repo_settings(private=True, **repo)
found["private"] = api.repo_info(**repo).private
api.delete_tag(tag="v1", **repo)
api.delete_branch(branch="feat/x", **repo)
api.move_repo("{name}", "{name}-moved", repo_type="dataset")
api.delete_repo("{name}-moved", repo_type="dataset")
found["gone"] = not api.repo_exists("{name}-moved", repo_type="dataset")
"""


@pytest.mark.slow
@pytest.mark.parametrize("xet", ["", "1"], ids=["xet", "lfs"])
def test_a_repository_lives_its_life_through_the_official_client(client: Client, xet: str) -> None:
    found = client(LIFE.replace("{name}", f"ada/life{xet}"), HF_HUB_DISABLE_XET=xet)
    files = [".gitattributes", "empty.txt", "sub dir/data.parquet", "é ü.txt"]
    assert found.pop("files") == found.pop("at tag") == files
    assert found.pop("after") == [".gitattributes", "copy.parquet", "empty.txt", "new.txt", "é ü.txt"]
    assert found.pop("errors") == [
        "EntryNotFoundError",
        "RevisionNotFoundError",
        "RepositoryNotFoundError",
        "EntryNotFoundError",
    ]
    assert found.pop("titles")[0] == "several"
    assert found == {
        "unchanged": True,
        "stale": 412,
        "refs": ["feat/x", "main", "v1"],
        "copy": True,
        "old": 200_000,
        "info": ["new.txt"],
        "exists": [True, False],
        "private": True,
        "gone": True,
    }


DATASETS = """
import datasets, pandas
from huggingface_hub import HfApi
name = "ada/sets"
def rows(num):
    texts = ["t" * (n % 50) for n in range(num)]
    return datasets.Dataset.from_dict({"id": [f"q{n}" for n in range(num)], "text": texts})
rows(500).push_to_hub(name)
HfApi().create_tag(name, tag="v1.0.0", repo_type="dataset")
datasets.DatasetDict(train=rows(700), test=rows(70)).push_to_hub(name, "other")
rows(800).push_to_hub(name)
found["main"] = datasets.load_dataset(name, split="train").num_rows
found["tag"] = datasets.load_dataset(name, revision="v1.0.0", split="train").num_rows
found["config"] = {split: part.num_rows for split, part in datasets.load_dataset(name, "other").items()}
stream = datasets.load_dataset(name, "other", split="test", streaming=True, columns=["text"])
found["streamed"] = [len(list(stream)), list(next(iter(stream)))]
found["configs"] = datasets.get_dataset_config_names(name)
path = next(path for path in HfApi().list_repo_files(name, repo_type="dataset") if path.startswith("other/test"))
found["pandas"] = len(pandas.read_parquet(f"hf://datasets/{name}/{path}"))
rows(9).push_to_hub("ada/secret", private=True)
found["private"] = datasets.load_dataset("ada/secret", split="train").num_rows
"""


@pytest.mark.slow
def test_datasets_are_pushed_loaded_and_streamed(client: Client) -> None:
    assert client(DATASETS) == {
        "main": 800,
        "tag": 500,
        "config": {"train": 700, "test": 70},
        "streamed": [70, ["text"]],
        "configs": ["default", "other"],
        "pandas": 70,
        "private": 9,
    }
    script = """
import datasets
try:
    datasets.load_dataset("ada/secret")
except Exception as error:
    found["error"] = type(error).__name__
"""
    assert client(script, user=None, machine="two") == {"error": "DatasetNotFoundError"}


@pytest.mark.slow
def test_the_command_line_uploads_and_downloads(hub: Served, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.parquet").write_bytes(os.urandom(300_000))
    own = {
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.tokens["ada"],
    }
    program = str(Path(PYTHON).with_name("hf"))

    def hf(*arguments: str) -> str:
        done = subprocess.run(
            [program, *arguments], env=os.environ | own, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr[-2_000:]
        return done.stdout

    assert "ada" in hf("auth", "whoami")
    hf("upload", "ada/cli", "in", ".", "--repo-type", "dataset")
    hf("download", "ada/cli", "--repo-type", "dataset", "--local-dir", "out")
    assert (tmp_path / "out/x.parquet").read_bytes() == (tmp_path / "in/x.parquet").read_bytes()


SEND = """
from pathlib import Path
from huggingface_hub import HfApi
HfApi().create_repo("{name}", repo_type="dataset", exist_ok=True)
HfApi().upload_file(path_or_fileobj="{file}", path_in_repo="x.parquet", repo_id="{name}", repo_type="dataset")
"""


def write_version(path: Path, *, edited: bool) -> Path:
    """Ten megabytes that do not compress; the other version differs at its beginning, in its middle and at its end."""
    data = bytearray(random.Random(1).randbytes(10_000_000))
    if edited:
        data[100:110], data[5_000_000:5_000_003] = b"edited here", b"and here, too"
        data += b"more" * 1_000
    path.write_bytes(bytes(data))
    return path


@pytest.mark.slow
def test_a_new_version_costs_what_changed_from_this_machine_and_from_a_fresh_one(
    client: Client, hub: Served, tmp_path: Path
) -> None:
    old, new = (write_version(tmp_path / name, edited=name == "new") for name in ("old", "new"))
    costs = {}
    for number, machine in enumerate(("one", "fresh")):
        name = f"ada/dedup{number}"
        client(SEND.format(name=name, file=old))
        before = sent_bytes(hub, name)
        client(SEND.format(name=name, file=new), machine=machine)
        costs[machine] = (sent_bytes(hub, name) - before) / new.stat().st_size
    assert costs["one"] < 0.1
    assert costs["fresh"] < 0.1


def sent_bytes(hub: Served, name: str) -> int:
    """Of all xorbs that a repository was sent."""
    query = sa.select(sa.func.coalesce(sa.func.sum(REPO_XORBS.c.size), 0)).join(REPOS)
    namespace, short = name.split("/")
    mine = query.where(REPOS.c.namespace == namespace, REPOS.c.name == short)
    return int(hub.hub.database.read(lambda connection: connection.execute(mine).scalar_one()))


@pytest.mark.slow
def test_the_same_data_goes_to_a_second_and_a_recreated_repository_from_one_machine(
    client: Client, tmp_path: Path
) -> None:
    file = write_version(tmp_path / "old", edited=False)
    script = "".join(SEND.format(name=f"ada/{name}", file=file) for name in ("twin1", "twin2"))
    script += 'HfApi().delete_repo("ada/twin1", repo_type="dataset")\n' + SEND.format(name="ada/twin1", file=file)
    script += 'found["size"] = HfApi().get_paths_info("ada/twin1", "x.parquet", repo_type="dataset")[0].size'
    assert client(script) == {"size": 10_000_000}


@pytest.fixture
def published(hub: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    """The hub for clients in this process, which keep their cache apart and upload by LFS."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", hub.tokens["ada"])
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    return hub


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_our_own_push_publishes_versions_that_pull_and_diff_find(
    published: Served, make_purified: Callable[..., Path], tmp_path: Path
) -> None:
    first = push(make_purified("a", 10), "lab/science", private=True)
    assert (first.version, first.unchanged) == ("1.0.0", False)
    assert push(make_purified("a", 10), "lab/science").unchanged
    second = push(make_purified("b", 12), "lab/science", bump="minor")
    assert (second.version, second.rows_added) == ("1.1.0", 2)
    assert [found.version for found in versions("lab/science")] == ["1.1.0", "1.0.0"]
    assert len(diff("lab/science", "1.0.0", "1.1.0").added) == 2
    pull("lab/science@1.0.0", tmp_path / "pulled")
    assert len(list((tmp_path / "pulled/purified").glob("*.parquet"))) == 4
    assert published.client("bo").get("/api/datasets/lab/science").status_code == 404


def test_a_hub_behind_a_proxy_names_its_public_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = HubSettings(tmp_path / "hub", port=port, public_url="https://hub.example.org/kp")
    with serve_for_test(settings) as found:
        direct = replace(found, url=f"http://127.0.0.1:{port}", clients={})
        body = {"name": "x", "organization": "ada", "type": "dataset"}
        made = direct.client().post("/api/repos/create", json=body).json()
        token = direct.client().get("/api/datasets/ada/x/xet-read-token/main").json()
        direct.client().close()
    assert made["url"] == "https://hub.example.org/kp/datasets/ada/x"
    assert token["casUrl"].startswith("https://hub.example.org/kp/xet/")
