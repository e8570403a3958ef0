"""What clients meet when something goes wrong, or when others push: E8 to E13, and E9 as `kp-data push` does it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from conformance.hub_process import HubProcess, served
from conformance.official import Machine
from conformance.wire import COMMIT, UPLOADS, Fault, Wire, wired
from kp_data.hub.server import HubSettings, Limits, issue_token, running

pytestmark = pytest.mark.slow

ROWS = """
import datasets
from huggingface_hub import HfApi
name = "{name}"
def rows(num):
    return datasets.Dataset.from_dict({"id": [f"q{n:05}" for n in range(num)], "text": ["text" * 9] * num})
"""


def script(name: str, text: str) -> str:
    return ROWS.replace("{name}", name) + text


@pytest.mark.parametrize("status", [409, 412])
def test_e8_a_refused_commit_raises_at_once_and_changes_nothing(
    machine: Machine, wire: Wire, hub: HubProcess, name: str, status: int
) -> None:
    machine().run(script(name, "rows(9).push_to_hub(name)"))
    before = hub.commits(name)
    wire.clear()
    wire.faults.append(Fault(COMMIT, status=status, times=99))
    raised = """
try:
    rows(20).push_to_hub(name)
except Exception as error:
    found["error"] = type(error).__name__
"""
    assert machine().run(script(name, raised))["error"] in ("HfHubHTTPError", "RuntimeError")
    assert hub.commits(name) == before
    wire.clear()
    again = 'rows(20).push_to_hub(name); found["n"] = datasets.load_dataset(name, split="train").num_rows'
    assert machine().run(script(name, again)) == {"n": 20}


PUSH_FIVE = """
from huggingface_hub.errors import HfHubHTTPError
found["refused"] = 0
for number in range(5):
    try:
        rows(9).push_to_hub(name, f"config{process}{number}")
    except HfHubHTTPError as error:
        assert error.response.status_code == 412, error
        found["refused"] += 1
found["done"] = 5 - found["refused"]
"""


def test_e9_pushes_of_different_configs_that_meet_are_refused_or_whole(
    machine: Machine, hub: HubProcess, name: str
) -> None:
    """As on huggingface.co: whoever comes second gets 412. What was accepted is all there."""
    machine().run(script(name, 'rows(9).push_to_hub(name, "first")'))
    pushed = push_in_three(machine, name)
    listed = machine().run(script(name, 'found["configs"] = datasets.get_dataset_config_names(name)'))["configs"]
    assert len(listed) == 1 + pushed
    assert len(hub.commits(name)) == 2 + pushed


def test_e9_a_hub_that_merges_cards_refuses_none_of_them(
    machine: Machine, hub: HubProcess, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with served(tmp_path_factory.mktemp("merging") / "hub", "--merge-cards") as merging, wired(merging.url) as wire:
        token = merging.token("ada")
        at = {"at": wire.url, "HF_TOKEN": token}
        machine(**at).run(script(name, 'rows(9).push_to_hub(name, "first")'))
        assert push_in_three(machine, name, **at) == 15
        listed = machine(**at).run(script(name, 'found["configs"] = datasets.get_dataset_config_names(name)'))
        assert len(listed["configs"]) == 16


def push_in_three(machine: Machine, name: str, **at: str) -> int:
    """Three machines push five configs each at once; how many pushes succeeded."""
    texts = [script(name, f"process = {number}\n{PUSH_FIVE}") for number in range(3)]
    programs = [f"import json\nfound = {{}}\n{text}\nprint('FOUND' + json.dumps(found))" for text in texts]
    running = [machine(f"machine{n}", **at).start(program) for n, program in enumerate(programs)]
    done = 0
    for process in running:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2_000:]
        done += int(out.partition('"done": ')[2].partition("}")[0])
    return done


UPLOAD = """
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("{name}", repo_type="dataset", exist_ok=True)
api.upload_file(path_or_fileobj="x.bin", path_in_repo="x.bin", repo_id="{name}", repo_type="dataset")
"""


@pytest.mark.parametrize("transport", ["xet", "lfs"])
def test_e11_uploads_survive_a_hub_that_falters(
    machine: Machine, wire: Wire, hub: HubProcess, name: str, transport: str
) -> None:
    user = machine(**({"HF_HUB_DISABLE_XET": "1"} if transport == "lfs" else {}))
    user.home.mkdir(exist_ok=True)
    (user.home / "x.bin").write_bytes(bytes(range(256)) * 4_000)
    wire.faults.append(Fault(UPLOADS, status=500, times=2))
    user.run(UPLOAD.replace("{name}", name))
    assert sum(exchange.status == 500 for exchange in wire.exchanges) == 2
    assert hub.paths(name) == ["x.bin"]


def test_e11_a_large_file_goes_by_lfs_in_parts_and_past_errors(machine: Machine, name: str, tmp_path: Path) -> None:
    limits = replace(Limits(), part_bytes=1_000_000)
    with running(HubSettings(tmp_path / "parts", port=0, limits=limits)) as (hub, url), wired(url) as wire:
        token, _ = issue_token(hub, "ada", write=True)
        user = machine(at=wire.url, HF_TOKEN=token, HF_HUB_DISABLE_XET="1")
        user.home.mkdir(exist_ok=True)
        (user.home / "x.bin").write_bytes(random.Random(1).randbytes(3_500_000))
        part = r"PUT /objects/[^/]+/[^/]+/\d"
        wire.faults.append(Fault(part, status=500, times=2))
        user.run(UPLOAD.replace("{name}", name))
        user.hf("download", name, "x.bin", "--repo-type", "dataset", "--local-dir", "out")
        assert wire.count(part) == 4 + 2
    assert (user.home / "out/x.bin").read_bytes() == (user.home / "x.bin").read_bytes()


def test_e12_streaming_reads_ranges_and_nothing_else(machine: Machine, wire: Wire, name: str) -> None:
    """E12 saw streaming fail where ranges are not answered as such."""
    big = """
import random
texts = [random.Random(n).randbytes(500).hex() for n in range(20_000)]
datasets.Dataset.from_dict({"id": [f"q{n:05}" for n in range(20_000)], "text": texts}).push_to_hub(name)
"""
    machine().run(script(name, big))
    size = max(exchange.sent for exchange in wire.exchanges)
    wire.clear()
    ids = 'found["n"] = len(list(datasets.load_dataset(name, split="train", streaming=True, columns=["id"])))'
    assert machine("reader").run(script(name, ids)) == {"n": 20_000}
    parts = [
        exchange
        for exchange in wire.exchanges
        if ".parquet" in exchange.line and exchange.line.startswith("GET /datasets")
    ]
    assert parts
    assert {exchange.status for exchange in parts} == {206}
    assert sum(exchange.received for exchange in parts) < 0.5 * size


def test_e12_a_client_that_loses_its_range_header_gets_the_whole_file(machine: Machine, wire: Wire, name: str) -> None:
    machine().run(script(name, "rows(9).push_to_hub(name)"))
    wire.faults.append(Fault(r"GET /datasets/.*\.parquet", without="range", times=99))
    found = machine("reader").run(script(name, 'found["n"] = datasets.load_dataset(name, split="train").num_rows'))
    assert found == {"n": 9}


def test_e13_a_long_listing_comes_in_pages(machine: Machine, wire: Wire, name: str) -> None:
    many = """
from huggingface_hub import CommitOperationAdd, HfApi
api, repo = HfApi(), dict(repo_id="{name}", repo_type="dataset")
api.create_repo(**repo)
operations = [CommitOperationAdd(f"folder/{n:04}.txt", b"x") for n in range(1_500)]
api.create_commit(operations=operations, commit_message="many", **repo)
found["n"] = len({entry.path for entry in api.list_repo_tree(recursive=True, **repo)})
"""
    # The folder and the file that every repository begins with stand in the listing, too.
    assert machine().run(many.replace("{name}", name)) == {"n": 1_502}
    assert wire.count(r"GET /api/datasets/[^/]+/[^/]+/tree/.*cursor=") >= 1
