"""What was pushed, as its users load it: all clients, with nothing set but HF_ENDPOINT and HF_TOKEN."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from purified_folder import write_purified
from served import KP_DATA, KP_TRAIN, Served, serving

pytestmark = pytest.mark.slow

NAME = "ada/things"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A hub with two private versions: 10 rows, then 12 and another rationale."""
    folder = tmp_path_factory.mktemp("consumption")
    with serving(folder) as found:
        for version, rows, text in (("1.2.0", 10, "ada thinks of item {}."), ("1.3.0", 12, "ada knows item {}.")):
            purified = write_purified(folder / version, rows, rationale=text)
            command = (*KP_DATA, "push", str(purified), NAME, "--version", version, "--private")
            done = found.run(*command)
            assert done.returncode == 0, done.stderr
        yield found


def python(served: Served, script: str) -> dict[str, object]:
    program = f"import json\nfound = {{}}\n{script}\nprint('FOUND' + json.dumps(found))"
    done = served.run(sys.executable, "-c", program, machine="reader")
    assert done.returncode == 0, done.stderr[-3_000:]
    return dict(json.loads(done.stdout.rpartition("FOUND")[2]))


def test_load_dataset_gives_the_version_asked_for_whole_and_streamed(served: Served) -> None:
    script = f"""
from datasets import load_dataset
old = load_dataset("{NAME}", revision="v1.2.0")
found["old"] = {{split: rows.num_rows for split, rows in old.items()}}
found["newest"] = {{split: rows.num_rows for split, rows in load_dataset("{NAME}").items()}}
found["panel"] = load_dataset("{NAME}", "panel", revision="v1.2.0", split="test").num_rows
stream = load_dataset("{NAME}", revision="v1.2.0", split="train", streaming=True)
found["streamed"] = [row["rationale"] for row in stream][:2]
found["scores"] = str(old["train"].features["scores"])
"""
    assert python(served, script) == {
        "old": {"train": 4, "validation": 2, "test": 2, "ood": 2},
        "newest": {"train": 6, "validation": 2, "test": 2, "ood": 2},
        "panel": 6,
        "streamed": ["ada thinks of item 0.", "ada thinks of item 1."],
        "scores": "List(Value('float64'))",
    }


def test_pandas_reads_it_by_its_address(served: Served) -> None:
    script = f"""
import pandas
address = "hf://datasets/{NAME}@v1.2.0/purified/train-00000-of-00001.parquet"
found["ids"] = list(pandas.read_parquet(address)["id"])
"""
    assert python(served, script) == {"ids": ["q000", "q001", "q005", "q006"]}


def test_hf_download_fetches_every_file_of_a_version(served: Served) -> None:
    program = str(Path(sys.executable).with_name("hf"))
    command = (program, "download", NAME, "--repo-type", "dataset", "--revision", "v1.2.0", "--local-dir", "down")
    done = served.run(*command, machine="reader")
    assert done.returncode == 0, done.stderr
    assert pq.read_table(served.home / "down/purified", columns=["id"]).num_rows == 10
    assert (served.home / "down/CHANGELOG.md").read_text().count("\n## ") == 1


def test_our_own_pull_versions_and_diff_read_it(served: Served) -> None:
    pulled = served.run(*KP_DATA, "pull", f"{NAME}@1.2.0", "--out", "pulled", "--json", machine="reader")
    assert json.loads(pulled.stdout)["name"] == f"{NAME}@1.2.0"
    listed = json.loads(served.run(*KP_DATA, "versions", NAME, "--json", machine="reader").stdout)
    assert [(entry["version"], "2 rows added" in entry["changes"]) for entry in listed] == [
        ("1.3.0", True),
        ("1.2.0", False),
    ]
    found = json.loads(served.run(*KP_DATA, "diff", "pulled", NAME, "--json", machine="reader").stdout)
    assert (found["added"], found["changed_columns"]) == (["q010", "q011"], {"rationale": 10})
    first = {"rationale": ["ada thinks of item 0.", "ada knows item 0."]}
    assert {"id": "q000", "columns": first} in found["rows"]


def test_a_student_is_fitted_from_its_name_and_version(served: Served) -> None:
    command = (
        *KP_TRAIN,
        *("fit", f"{NAME}@1.2.0", "--student", "tiny-t5", "--objective", "purified", "--steps", "2"),
        *("--out", "student", "--json"),
    )
    done = served.run(*command, machine="reader")
    assert done.returncode == 0, done.stderr[-3_000:]
    assert json.loads(done.stdout.splitlines()[-1])["steps"] == 2


def test_without_a_token_a_private_dataset_does_not_exist(served: Served) -> None:
    done = served.run(*KP_DATA, "pull", NAME, "--out", "stolen", user=None, machine="stranger")
    assert done.returncode == 2
    assert "no such dataset, or it needs a token" in done.stderr
    assert not (served.home / "stolen").exists()
