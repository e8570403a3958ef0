"""Pushing to a real hub on loopback, with the official client, and with everything that goes wrong on the way."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_hub import Repository, SmallHub

from kp_data.errors import DataError, HubError
from kp_data.hub import CardSettings, LeakError, diff, fetch, pull, push, read_rows, versions
from kp_data.hub import publish as publish_module
from kp_data.hub import release as release_module
from kp_data.hub import remote as remote_module
from kp_data.hub.remote import Remote, WantedFile
from kp_data.tables import write_json

# The official client uploads in a way that its own HTTP library has come to advise against.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "me/things"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    # The retries' waits are for busy hubs; the client's own back-off waits too, once, where a test injects a 500.
    monkeypatch.setattr(publish_module.time, "sleep", lambda seconds: None)


def repository(hub: SmallHub) -> Repository:
    return hub.repositories[NAME]


def test_a_push_is_one_commit_and_one_tag_and_reads_back(hub, make_purified):
    result = push(make_purified(), NAME)
    assert (result.version, result.rows_added, result.unchanged) == ("1.0.0", 10, False)
    assert len(repository(hub).commits) == 2
    assert repository(hub).tags == {"v1.0.0": result.commit}
    assert set(repository(hub).files) >= {"README.md", "manifest.json", "purified/train-00000-of-00001.parquet"}
    assert [version.version for version in versions(NAME)] == ["1.0.0"]


def test_unchanged_data_makes_neither_commit_nor_tag(hub, make_purified):
    push(make_purified(), NAME)
    result = push(make_purified("again"), NAME)
    assert (result.unchanged, result.uploaded_bytes, result.version) == (True, 0, "1.0.0")
    assert len(repository(hub).commits) == 2
    assert list(repository(hub).tags) == ["v1.0.0"]


def test_what_differs_between_equal_runs_is_no_change(hub, make_purified):
    push(make_purified(), NAME)
    folder = make_purified("slower")
    table = pq.read_table(folder / "responses.parquet")
    seconds = [9.0] * table.num_rows
    pq.write_table(
        table.set_column(table.column_names.index("latency_s"), "latency_s", [seconds]), folder / "responses.parquet"
    )
    assert push(folder, NAME).unchanged


def test_the_next_version_counts_rows_by_id_and_drops_stale_files(hub, make_purified):
    push(make_purified(num=10), NAME)
    result = push(make_purified("next", num=8, panel=False, rationale="ada says {}."), NAME, bump="minor")
    assert (result.version, result.rows_added, result.rows_removed, result.rows_changed) == ("1.1.0", 0, 2, 8)
    assert not [path for path in repository(hub).files if path.startswith("panel/")]
    assert json.loads(repository(hub).files["manifest.json"])["parent"] == "1.0.0"
    assert diff(NAME, "1.0.0", "1.1.0").removed == ("q008", "q009")
    assert diff(NAME, "v1.1.0", "v1.0.0").changed_columns == {"rationale": 8}


def test_a_new_licence_alone_is_a_new_version_and_silence_keeps_it(hub, make_purified):
    push(make_purified(), NAME)
    assert push(make_purified(), NAME, settings=CardSettings(license="cc-by-4.0")).version == "1.0.1"
    assert push(make_purified(), NAME).unchanged
    push(make_purified("more", num=11), NAME)
    assert "license: cc-by-4.0" in repository(hub).files["README.md"].decode()


def test_what_people_wrote_into_the_card_survives(hub, make_purified):
    push(make_purified(), NAME)
    card = repository(hub).files["README.md"].decode()
    card = card.replace("# things\n", "# Things we asked\n\nWritten by hand.\n").replace(
        "---\npretty", "---\nmine: 7\npretty"
    )
    repository(hub).commit({**repository(hub).files, "README.md": card.encode(), "notes.txt": b"mine"}, "by hand")
    push(make_purified("next", num=12), NAME)
    after = repository(hub).files["README.md"].decode()
    assert "# Things we asked\n\nWritten by hand." in after
    assert "mine: 7" in after
    assert "Version 1.0.1, after 1.0.0. 12 questions" in after
    assert repository(hub).files["notes.txt"] == b"mine"


@pytest.mark.parametrize("status", [412, 409, 500])
def test_a_commit_refused_once_is_made_again(hub, make_purified, status):
    hub.faults = {"commit": [status]}
    assert push(make_purified(), NAME).version == "1.0.0"
    assert len(repository(hub).commits) == 2


def test_a_commit_that_overtakes_ours_is_kept(hub, make_purified):
    push(make_purified(), NAME)
    hub.before_commit = lambda repository: repository.commit({**repository.files, "theirs.txt": b"x"}, "theirs")
    assert push(make_purified("next", num=11), NAME).version == "1.0.1"
    assert repository(hub).files["theirs.txt"] == b"x"
    assert repository(hub).messages[-2:] == ["theirs", "Version 1.0.1: 1 rows added, 0 removed, 0 changed"]


def test_a_commit_that_was_made_though_the_answer_was_lost_is_not_made_twice(hub, make_purified):
    from aiohttp import web

    hub.after_commit = lambda repository: web.Response(status=503)
    result = push(make_purified(), NAME)
    assert (result.version, result.rows_added) == ("1.0.0", 10)
    assert len(repository(hub).commits) == 2
    assert repository(hub).tags["v1.0.0"] == repository(hub).head


def test_retries_end(hub, make_purified, monkeypatch):
    monkeypatch.setattr(publish_module, "MAX_ATTEMPTS", 3)
    hub.faults = {"commit": [412] * 100}
    with pytest.raises(HubError, match="gave up after 3 attempts"):
        push(make_purified(), NAME)


def test_an_upload_that_fails_once_is_sent_again(hub, make_purified):
    hub.faults = {"put": [500]}
    assert push(make_purified(num=3, panel=False), NAME).version == "1.0.0"


def test_killed_between_commit_and_tag_the_next_push_finishes_the_tag(hub, make_purified, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    folder = make_purified()
    with monkeypatch.context() as patch:
        patch.setattr(publish_module.Remote, "tag", die)
        with pytest.raises(Killed):
            push(folder, NAME)
    assert repository(hub).tags == {}
    result = push(make_purified(), NAME)
    assert (result.version, result.rows_added, result.unchanged) == ("1.0.0", 10, False)
    assert repository(hub).tags == {"v1.0.0": repository(hub).head}
    assert len(repository(hub).commits) == 2


def test_a_hub_that_stores_something_else_is_found_out(hub, make_purified):
    hub.corrupt = True
    with pytest.raises(HubError, match="does not read back as pushed, so it was not tagged"):
        push(make_purified(), NAME)
    assert repository(hub).tags == {}
    hub.corrupt = False
    result = push(make_purified("again"), NAME)
    assert (result.version, result.unchanged) == ("1.0.1", False)
    assert list(repository(hub).tags) == ["v1.0.1"]


def test_row_counts_are_read_back_from_the_end_of_the_files(hub, make_purified):
    result = push(make_purified(), NAME)
    remote, path = Remote.at(NAME), "purified/train-00000-of-00001.parquet"
    listed = remote.files(result.commit)[path]
    assert remote.first_wrong(result.commit, {path: WantedFile(listed.sha256, listed.size, 4)}, ()) is None
    assert remote.first_wrong(result.commit, {path: WantedFile(listed.sha256, listed.size, 5)}, ()) == path
    assert remote.first_wrong(result.commit, {}, ["README.md"]) == "README.md"


def test_large_tables_are_split_into_files_that_begin_at_fixed_rows(hub, make_purified, monkeypatch):
    monkeypatch.setattr(release_module, "ROWS_A_FILE", 3)
    monkeypatch.setattr(remote_module, "_BATCH_BYTES", 1)
    push(make_purified(num=20), NAME)
    files = repository(hub).files
    shards = sorted(path for path in files if path.startswith("purified/train"))
    assert shards == [f"purified/train-0000{number}-of-00003.parquet" for number in range(3)]
    assert [pq.read_metadata(pa.BufferReader(files[path])).num_rows for path in shards] == [3, 3, 2]
    push(make_purified("more", num=30), NAME)
    after = repository(hub).files
    assert after["purified/train-00000-of-00004.parquet"] == files[shards[0]]
    assert not set(shards) & set(after)
    assert len(pq.read_table(fetch(NAME) / "purified")) == 30


def test_a_dry_run_says_what_a_push_would_do_and_does_nothing(hub, make_purified):
    first = push(make_purified(), NAME, dry_run=True)
    assert (first.version, first.commit, NAME in hub.repositories) == ("1.0.0", None, False)
    assert {entry.change for entry in first.files} == {"new"}
    made = push(make_purified(), NAME)
    assert made.files == first.files
    assert push(make_purified(), NAME, dry_run=True).unchanged
    would = push(make_purified("next", num=8, panel=False), NAME, dry_run=True, bump="auto")
    assert (would.version, would.rows_removed, would.suggested_bump) == ("2.0.0", 2, "major")
    assert {entry.path for entry in would.files if entry.change == "removed"} == {
        f"panel/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test", "ood")
    }
    assert len(repository(hub).commits) == 2


def test_the_changelog_of_all_versions_is_listed_with_them(hub, make_purified):
    push(make_purified(), NAME)
    push(make_purified("next", num=11), NAME, bump="auto", message="One more")
    newest, first = versions(NAME)
    assert (newest.version, newest.changes.splitlines()[0]) == ("1.1.0", "One more")
    assert "* 1 row added: q010" in newest.changes
    assert (first.version, first.changes) == ("1.0.0", "* First version: 10 rows.")


def test_a_card_that_learns_how_teachers_were_asked_is_a_new_version_once(hub, make_purified, tmp_path):
    push(make_purified(), NAME)
    panel = tmp_path / "panel"
    panel.mkdir()
    write_json({"teachers": [{"name": "ada", "model": "openai/gpt-4o", "temperature": 0.5}]}, panel / "run.json")
    assert push(make_purified(), NAME, panel=panel).version == "1.0.1"
    assert "temperature: 0.5" in repository(hub).files["README.md"].decode()
    assert push(make_purified(), NAME, panel=panel).unchanged
    assert push(make_purified(), NAME).unchanged


def test_a_leak_is_refused_before_any_request(hub, make_purified, tmp_path):
    bench = tmp_path / "bench.jsonl"
    bench.write_text(json.dumps({"question": "What does item 0 do?", "choices": ["rise", "fall", "stay"]}))
    with pytest.raises(LeakError, match="1 test question stands in"):
        push(make_purified(), NAME, benchmarks=[str(bench)])
    assert hub.requests == []
    result = push(make_purified(), NAME, benchmarks=[str(bench)], allow_leaks=True)
    assert result.benchmarks_checked == ({"benchmark": "bench.jsonl", "questions": 1, "exact": 1, "near": 0},)


def test_a_broken_table_where_a_release_would_be_written_is_one_message(make_purified, tmp_path):
    push(make_purified(), NAME, dry_run_to=tmp_path / "release")
    shard = next((tmp_path / "release" / "purified").glob("*.parquet"))
    shard.write_bytes(b"PAR1 broken")
    with pytest.raises(DataError, match=f"{shard.name}: not a readable Parquet file"):
        push(make_purified("next", num=11), NAME, dry_run_to=tmp_path / "release")
    assert shard.read_bytes() == b"PAR1 broken"


def test_a_version_that_exists_is_refused_with_the_next_one_named(hub, make_purified):
    push(make_purified(), NAME, version="1.2.0")
    with pytest.raises(HubError, match=r"1\.2\.0 exists already.*publish 1\.2\.1"):
        push(make_purified("next", num=11), NAME, version="v1.2.0")
    with pytest.raises(HubError, match=r"below the last one"):
        push(make_purified("next", num=11), NAME, version="1.0.0")


def test_a_private_push_to_a_public_dataset_is_refused(hub, make_purified):
    push(make_purified(), NAME)
    with pytest.raises(HubError, match="public already"):
        push(make_purified("next", num=11), NAME, private=True)
    push(make_purified(), "me/secret", private=True)
    assert hub.repositories["me/secret"].private


def test_a_wrong_token_is_said_and_never_shown(hub, make_purified):
    with pytest.raises(HubError, match="does not know this token") as caught:
        push(make_purified(), NAME, token="hf_wrongtoken99999")
    assert "hf_wrong" not in str(caught.value)


def test_no_token_is_said_before_any_request(hub, make_purified, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(HubError, match=r"no token.*HF_TOKEN to a token with write access to this hub"):
        push(make_purified(), NAME)
    assert hub.requests == []


def test_a_token_that_may_only_read_is_said(hub, make_purified):
    hub.readers_only = True
    with pytest.raises(HubError, match="may not do that"):
        push(make_purified(), NAME)


def test_a_hub_that_is_not_there_is_said_with_its_address(hub, make_purified):
    with pytest.raises(HubError, match=r"http://127\.0\.0\.1:9: .*cannot be reached"):
        push(make_purified(), NAME, endpoint="http://127.0.0.1:9/")


@pytest.mark.parametrize("name", ["things", "a/b/c", "me/th--ings", "me/..", "me/x.git", "me/ü", ""])
def test_names_that_no_hub_takes_are_refused_before_any_request(hub, make_purified, name):
    with pytest.raises(HubError, match="cannot be the name"):
        push(make_purified(), name)
    assert hub.requests == []


def test_fetch_gives_the_version_asked_for_and_by_default_the_newest(hub, make_purified):
    push(make_purified(), NAME)
    push(make_purified("next", num=12), NAME)
    assert len(pq.read_table(fetch(f"{NAME}@1.0.0") / "purified")) == 10
    assert len(pq.read_table(fetch(f"{NAME}@v1.0.1") / "purified")) == 12
    assert len(pq.read_table(fetch(NAME) / "purified")) == 12
    with pytest.raises(HubError, match=r"no version 3\.0\.0; there is 1\.0\.1, 1\.0\.0"):
        fetch(f"{NAME}@3.0.0")
    with pytest.raises(HubError, match="no such dataset"):
        fetch("me/nothing")


def test_pull_copies_once_and_never_over_something_else(hub, make_purified, tmp_path):
    push(make_purified(), NAME)
    out = pull(NAME, tmp_path / "mine")
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert pull(NAME, out) == out
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("keep me")
    with pytest.raises(DataError, match="holds something else"):
        pull(NAME, tmp_path / "other")
    assert (tmp_path / "other" / "file").read_text() == "keep me"


def test_pull_finds_a_file_that_is_not_what_the_manifest_says(hub, make_purified, tmp_path):
    push(make_purified(), NAME)
    broken = {**repository(hub).files, "report.json": b"{}"}
    repository(hub).tags["v1.0.0"] = repository(hub).commit(broken, "broken")
    with pytest.raises(DataError, match=r"report\.json: missing, or not what manifest\.json says"):
        pull(NAME, tmp_path / "mine")
    assert not Path(tmp_path / "mine").exists()


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/nowhere"])
def test_rows_of_a_folder_that_is_not_there_are_not_looked_for_on_a_hub(hub, name):
    with pytest.raises(DataError, match="no such folder"):
        read_rows(name)
    assert hub.requests == []


def test_a_folder_that_cannot_hold_a_pull_is_one_message(hub, make_purified, tmp_path):
    push(make_purified(), NAME)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be written \(.*\); free space or choose another --out"):
        pull(NAME, tmp_path / "file" / "out")
