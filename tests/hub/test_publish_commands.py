"""What the publishing commands print, to a person and to a program."""

import json

import pytest
from small_hub import SmallHub
from typer.testing import CliRunner

from kp_data.cli.app import app
from kp_data.console import set_quiet
from kp_data.errors import ConfigError
from kp_data.hub import LeakError, push
from kp_data.hub.shown import show_push
from kp_data.tables import read_purified, write_parquet

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "me/things"
ESCAPE = "\x1b[31m"


@pytest.fixture(autouse=True)
def loud():
    set_quiet(False)


def kp_data(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_dry_run_lists_the_files_and_a_push_says_what_it_did(hub: SmallHub, make_purified):
    folder = make_purified()
    would = kp_data("push", folder, NAME, "--dry-run").stderr
    assert would.startswith("me/things v1.0.0: 10 rows would be added, 0 removed, 0 changed; ")
    assert "  new" in would
    assert "purified/train-00000-of-00001.parquet" in would
    done = kp_data("push", folder, NAME, "--licence", "mit").stderr
    assert done.splitlines()[0].startswith("me/things v1.0.0: 10 rows added, 0 removed, 0 changed; ")
    assert done.splitlines()[-1] == f"{hub.url}/datasets/{NAME}"
    assert "nothing to publish" in kp_data("push", folder, NAME).stderr
    assert "license: mit" in hub.repositories[NAME].files["README.md"].decode()


def test_a_bump_below_what_the_rows_say_is_hinted_at_and_a_chosen_version_is_not(make_purified, tmp_path):
    out = tmp_path / "out"
    push(make_purified(), NAME, dry_run_to=out)
    result = push(make_purified("less", num=9), NAME, dry_run_to=out)
    hint = "by its rows this is a major version, not a patch one; --bump auto goes by the rows"
    assert hint in list(show_push(result, forced=False))
    assert hint not in list(show_push(result, forced=True))


def test_push_json_is_one_object_and_leaks_are_in_it(hub: SmallHub, make_purified, tmp_path):
    bench = tmp_path / "bench.jsonl"
    bench.write_text(json.dumps({"id": "b7", "question": "What does item 0 do?", "choices": ["rise", "fall", "stay"]}))
    refused = kp_data("push", make_purified(), NAME, "--json", "--benchmark", bench)
    assert isinstance(refused.exception, LeakError)
    (leak,) = json.loads(refused.stdout)["leaks"]["bench.jsonl"]
    assert (leak["train_id"], leak["test_id"], leak["exact"]) == ("q000", "b7", True)
    done = json.loads(kp_data("push", make_purified(), NAME, "--json", "--benchmark", bench, "--allow-leaks").stdout)
    assert (done["repo"], done["version"], done["rows_added"]) == (NAME, "1.0.0", 10)
    assert done["commit"] == hub.repositories[NAME].head


def test_versions_shows_what_changed_in_each_and_diff_marks_the_words(hub: SmallHub, make_purified):
    kp_data("push", make_purified(), NAME, "-q")
    kp_data("push", make_purified("next", rationale="ada knew of item {}."), NAME, "-q", "--bump", "auto")
    shown = kp_data("versions", NAME).stdout
    assert [line.split()[0] for line in shown.splitlines() if not line.startswith(" ")] == ["1.1.0", "1.0.0"]
    assert "    * 10 rows changed in rationale (10): q000, q001," in shown
    found = kp_data("diff", NAME, "1.0.0", "1.1.0", "--limit", 1).stdout
    assert found.splitlines() == [
        "0 added, 0 removed, 10 changed in rationale (10)",
        "~ q000",
        "    rationale: ada [-thinks-]{+knew+} of item 0.",
        "~ and 9 more; --limit shows more",
    ]


def test_diff_compares_folders_and_prints_nothing_that_moves_a_cursor(make_purified):
    old, new = make_purified(), make_purified("new", num=11, rationale=f"{ESCAPE}other {{}}.")
    table = read_purified(new / "purified.parquet")
    ids = [f"{row}{ESCAPE}" if row == "q010" else row for row in table["id"].to_pylist()]
    write_parquet(table.set_column(0, table.schema.field("id"), [ids]), new / "purified.parquet")
    shown = kp_data("diff", old, new).stdout
    assert "+ q010[31m" in shown
    assert "\x1b" not in shown
    assert json.loads(kp_data("diff", old, new, "--json").stdout)["added"] == [f"q010{ESCAPE}"]


def test_to_without_dry_run_is_refused(make_purified, tmp_path):
    done = kp_data("push", make_purified(), NAME, "--to", tmp_path / "out")
    assert isinstance(done.exception, ConfigError)
