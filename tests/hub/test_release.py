"""Releases as files: what they hold, that they load, and that equal input gives equal bytes."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from purified_folder import write_purified

from kp_data.errors import DataError, HubError
from kp_data.hub import build_release, push
from kp_data.tables import read_purified, write_parquet

NAME = "me/things"


def with_splits(folder: Path, names: dict[str, str]) -> Path:
    table = read_purified(folder / "purified.parquet")
    splits = pa.array([names.get(split, split) for split in table["split"].to_pylist()])
    write_parquet(table.set_column(table.column_names.index("split"), "split", splits), folder / "purified.parquet")
    return folder


def written(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_folder_and_version_give_the_same_bytes(make_purified):
    one = build_release(make_purified("one"), version="1.0.0", name=NAME)
    other = build_release(make_purified("other"), version="1.0.0", name=NAME)
    assert one.files == other.files


def test_the_manifest_names_every_file_with_its_hash_and_rows(make_purified):
    import hashlib

    files = build_release(make_purified(), version="2.1.0", name=NAME).files
    manifest = json.loads(files["manifest.json"])
    assert (manifest["version"], manifest["parent"], manifest["tag"]) == ("2.1.0", None, "v2.1.0")
    assert set(manifest["files"]) == set(files) - {"README.md", "CHANGELOG.md", "manifest.json"}
    for path, facts in manifest["files"].items():
        assert facts["sha256"] == hashlib.sha256(files[path]).hexdigest()
    assert manifest["rows"] == {
        "purified": {"train": 4, "validation": 2, "test": 2, "ood": 2},
        "panel": {"train": 12, "validation": 6, "test": 6, "ood": 6},
    }


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_dry_run_loads_with_the_datasets_library_config_by_config(make_purified, tmp_path, monkeypatch):
    from datasets import load_dataset

    out = tmp_path / "out"
    push(make_purified(), NAME, dry_run_to=out)
    cache = str(tmp_path / "datasets")
    purified = load_dataset(str(out), cache_dir=cache)
    assert {split: rows.num_rows for split, rows in purified.items()} == {
        "train": 4,
        "validation": 2,
        "test": 2,
        "ood": 2,
    }
    assert purified["test"][0]["rationale"].startswith("ada thinks")
    panel = load_dataset(str(out), "panel", split="ood", cache_dir=cache)
    assert panel.num_rows == 6
    assert panel["split"] == ["ood"] * 6


def test_a_dry_run_over_a_release_is_its_next_version(make_purified, tmp_path):
    out = tmp_path / "out"
    assert push(make_purified(), NAME, dry_run_to=out).version == "1.0.0"
    before = written(out)
    assert push(make_purified(), NAME, dry_run_to=out).unchanged
    assert written(out) == before
    result = push(make_purified("next", num=12, panel=False), NAME, dry_run_to=out, bump="major")
    assert (result.version, result.rows_added, result.rows_changed, result.commit) == ("2.0.0", 2, 0, None)
    assert not (out / "panel" / "test-00000-of-00001.parquet").exists()
    with pytest.raises(HubError, match="exists already"):
        push(make_purified("more", num=13), NAME, dry_run_to=out, version="2.0.0")


def test_a_dry_run_says_how_many_bytes_differ_from_the_version_before(make_purified, tmp_path):
    out = tmp_path / "out"
    first = push(make_purified(), NAME, dry_run_to=out)
    assert first.uploaded_bytes == sum(map(len, written(out).values()))
    before = written(out)
    second = push(make_purified("next", rationale="other {}."), NAME, dry_run_to=out)
    after = written(out)
    assert second.uploaded_bytes == sum(len(data) for path, data in after.items() if before.get(path) != data)
    assert after["panel/test-00000-of-00001.parquet"] == before["panel/test-00000-of-00001.parquet"]


def test_a_dry_run_never_writes_into_a_folder_that_is_no_release(make_purified, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("keep me")
    with pytest.raises(DataError, match="not a release"):
        push(make_purified(), NAME, dry_run_to=tmp_path / "mine")
    assert written(tmp_path / "mine") == {"file": b"keep me"}


def test_a_split_with_a_dash_is_published_under_a_name_that_hubs_take(make_purified):
    files = build_release(with_splits(make_purified(), {"ood": "held-out"}), version="1.0.0", name=NAME).files
    table = pq.read_table(pa.BufferReader(files["purified/held_out-00000-of-00001.parquet"]))
    assert set(table["split"].to_pylist()) == {"held-out"}


@pytest.mark.parametrize("name", ["all", "a/b", "é…", "../x"])
def test_a_split_that_no_hub_takes_is_refused(make_purified, name):
    with pytest.raises(DataError, match="cannot be the name of a split"):
        build_release(with_splits(make_purified(), {"ood": name}), version="1.0.0")


def test_two_splits_that_would_become_one_are_refused(make_purified):
    with pytest.raises(DataError, match="both be called 'a_b'"):
        build_release(with_splits(make_purified(), {"ood": "a-b", "test": "a_b"}), version="1.0.0")


def test_one_row_a_teacher_is_joined_to_its_question(make_purified):
    folder = make_purified()
    table = read_purified(folder / "purified.parquet")
    rows = [
        {**row, "id": f"{row['id']}#{teacher}", "teacher": teacher, "method": "all"}
        for row in table.to_pylist()
        for teacher in ("ada", "bo")
    ]
    write_parquet(pa.Table.from_pylist(rows, schema=table.schema), folder / "purified.parquet")
    files = build_release(folder, version="1.0.0", name=NAME).files
    assert pq.read_table(pa.BufferReader(files["panel/train-00000-of-00001.parquet"])).num_rows == 12
    assert "10 questions were put to 3 teachers" in files["README.md"].decode()


def test_local_paths_stay_at_home(make_purified):
    files = build_release(make_purified(), version="1.0.0", name=NAME).files
    assert not [path for path, data in files.items() if b"/home/someone" in data]
    assert json.loads(files["run.json"])["panel"] == "mine"


def test_rows_stand_in_the_order_of_their_ids_and_responses_by_teacher_whatever_order_they_came_in(make_purified):
    folder = make_purified(num=20)
    for name in ("purified", "responses"):
        table = pq.read_table(folder / f"{name}.parquet")
        # Backwards, but with the teachers in the order they have.
        ranks = [-row for row in range(table.num_rows)]
        turned = table.append_column("#", pa.array(ranks)).sort_by("#").drop_columns("#")
        write_parquet(turned, folder / f"{name}.parquet")
    files = build_release(folder, version="1.0.0", name=NAME).files
    purified, panel = (
        pq.read_table(pa.BufferReader(files[f"{config}/train-00000-of-00001.parquet"]))
        for config in ("purified", "panel")
    )
    assert purified["id"].to_pylist() == sorted(purified["id"].to_pylist())
    keys = list(zip(panel["teacher"].to_pylist(), panel["question_id"].to_pylist(), strict=True))
    assert keys == sorted(keys, key=lambda key: (["cy", "bo", "ada"].index(key[0]), key[1]))
    assert (purified.column_names[0], panel.column_names[:2]) == ("id", ["question_id", "teacher"])


def test_the_order_of_the_rows_alone_is_no_change(make_purified, tmp_path):
    folder = make_purified()
    push(folder, NAME, dry_run_to=tmp_path / "out")
    table = pq.read_table(folder / "purified.parquet")
    write_parquet(table.take(list(reversed(range(table.num_rows)))), folder / "purified.parquet")
    assert push(folder, NAME, dry_run_to=tmp_path / "out").unchanged


def test_the_changelog_grows_and_what_people_wrote_into_it_stays(make_purified, tmp_path):
    out = tmp_path / "out"
    push(make_purified(), NAME, dry_run_to=out)
    (out / "CHANGELOG.md").write_text((out / "CHANGELOG.md").read_text() + "\nA note by hand.\n")
    push(make_purified("two", num=12), NAME, dry_run_to=out, bump="auto", message="Two more # things")
    text = (out / "CHANGELOG.md").read_text()
    assert text.index("## 1.1.0, after 1.0.0") < text.index("## 1.0.0\n") < text.index("A note by hand.")
    assert "Two more \\# things" in text
    assert "* 2 rows added: q010, q011" in text


def test_a_panel_is_not_pushed_and_the_remedy_is_named(make_purified, tmp_path):
    folder = make_purified()
    (folder / "purified.parquet").rename(folder / "questions.parquet")
    with pytest.raises(DataError, match="run `kp-data purify` first"):
        push(folder, NAME, dry_run_to=tmp_path / "out")
    with pytest.raises(DataError, match="neither a panel"):
        push(tmp_path, NAME, dry_run_to=tmp_path / "out")


def test_a_router_is_published_byte_by_byte(make_purified):
    folder = make_purified()
    (folder / "router").mkdir()
    (folder / "router" / "router.safetensors").write_bytes(b"\x00\x01")
    files = build_release(folder, version="1.0.0", name=NAME).files
    assert files["router/router.safetensors"] == b"\x00\x01"
    assert json.loads(files["manifest.json"])["content"]["router"] is not None


def test_entering_the_room_loads_nothing_heavy():
    heavy = ("datasets", "huggingface_hub", "pandas", "torch", "rich")
    code = f"import sys, kp_data.hub, kp_data.report; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_release_folder_can_be_released_again(make_purified, tmp_path):
    push(make_purified(), NAME, dry_run_to=tmp_path / "one")
    push(tmp_path / "one", "you/copy", dry_run_to=tmp_path / "two")
    for path in ("purified/test-00000-of-00001.parquet", "panel/ood-00000-of-00001.parquet", "report.json"):
        assert (tmp_path / "two" / path).read_bytes() == (tmp_path / "one" / path).read_bytes()


def test_an_empty_table_is_not_published(make_purified, tmp_path):
    folder = write_purified(tmp_path / "none", 0, panel=False)
    with pytest.raises(DataError, match="no rows to publish"):
        build_release(folder, version="1.0.0")
