"""Pushing a student to a real hub on loopback, fetching it again, and everything that goes wrong on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small_rows import small_questions, write_panel, write_tiny_t5_checkpoint
from typer.testing import CliRunner

from kp_data.errors import DataError, HubError, KpError
from kp_data.hub.front_matter import CardSettings, split_card
from kp_data.hub.remote import Overtaken, Remote
from kp_data.hub.sections import BEGIN
from kp_data.hub.server import HubSettings, issue_token, running
from kp_data.tables import read_json, write_json
from kp_train import publish as publish_module
from kp_train.cli import app
from kp_train.dataset import gold_dataset
from kp_train.fit import fit
from kp_train.fit_options import FitOptions
from kp_train.publish import fetch_student, push_student
from kp_train.students import load_student

# The official client uploads in a way that its own HTTP library has come to advise against.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "ada/student"
OURS = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "run.json",
    "student.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@dataclass(frozen=True)
class Served:
    """A hub. Ada may write to her namespace; Eve only reads."""

    url: str
    tokens: dict[str, str]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(publish_module.time, "sleep", lambda seconds: None)
    with running(HubSettings(tmp_path / "hub", port=0)) as (served, url):
        tokens = {user: issue_token(served, user, write=user != "eve")[0] for user in ("ada", "eve")}
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_TOKEN", tokens["ada"])
        yield Served(url, tokens)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fitted student, made once."""
    home = tmp_path_factory.mktemp("home")
    start = write_tiny_t5_checkpoint(home / "secret-place" / "t5")
    options = FitOptions(str(start), "fine-tune", steps=1, batch=4, eval_steps=1, choice_orders=1)
    fit(gold_dataset(small_questions(), str(home / "secret-place" / "data")), options, home / "out")
    return home / "out"


@pytest.fixture
def student(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    import shutil

    return Path(shutil.copytree(made, tmp_path / "student"))


def files_of(name: str = NAME, revision: str = "main") -> set[str]:
    return set(Remote.at(name, kind="model").files(revision)) - {".gitattributes"}


def read(path: str, revision: str = "main") -> str:
    return Remote.at(NAME, kind="model")._get(path, revision).decode()


def num_commits() -> int:
    return len(Remote.at(NAME, kind="model").api.list_repo_commits(NAME))


def edit_on_hub(path: str, text: str) -> None:
    Remote.at(NAME, kind="model").commit({path: text.encode()}, [], message="by hand", parent=None)


def kp_train(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_push_is_one_commit_with_the_students_files_and_no_paths_of_this_machine(hub: Served, student: Path) -> None:
    (student / "logs").mkdir(exist_ok=True)
    (student / "notes.txt").write_text("mine")
    result = push_student(student, NAME)
    assert (result.unchanged, result.version, result.url) == (False, None, f"{hub.url}/{NAME}")
    assert files_of() == OURS
    assert num_commits() == 2  # the hub's own first one, and ours
    for path in OURS - {"model.safetensors"}:
        assert "secret-place" not in read(path)
    record = json.loads(read("run.json"))
    assert "out" not in record
    assert "dataset_path" not in record
    assert record["identity"]["student"] == "t5"
    _, body = split_card(read("README.md"))
    assert body.startswith("# student\n")
    assert f'AutoModelForSeq2SeqLM.from_pretrained("{NAME}")' in body


def test_where_teachers_were_asked_is_not_pushed(hub: Served, student: Path) -> None:
    run = read_json(student / "run.json")
    address = "http://10.1.2.3:8000/v1"
    asked = {"bo": {"model": "lab/x", "api_base": address}}
    run["identity"] |= {"asked": asked, "assistant": {"assistant": f"judge=lab/y@{address}"}}
    write_json({**run, "assistant": f"judge=lab/y@{address}"}, student / "run.json")
    push_student(student, NAME)
    assert not [path for path in OURS - {"model.safetensors"} if "10.1.2.3" in read(path)]
    record = json.loads(read("run.json"))
    assert (record["assistant"], record["identity"]["asked"]) == ("judge=lab/y", {"bo": {"model": "lab/x"}})
    assert "| bo | lab/x | yes |" in read("README.md")


def test_an_unchanged_student_makes_no_commit_and_new_figures_send_no_weights(hub: Served, student: Path) -> None:
    push_student(student, NAME)
    again = push_student(student, NAME)
    assert (again.unchanged, again.uploaded_bytes, again.files, num_commits()) == (True, 0, (), 2)
    panel = write_panel(student.parent / "panel")
    assert kp_train("evaluate", student, panel, "--json").exit_code == 0
    more = push_student(student, NAME)
    assert {(each.path, each.change) for each in more.files} == {("README.md", "changed"), ("evaluations.json", "new")}
    front, _ = split_card(read("README.md"))
    assert front["model-index"][0]["name"] == "student"
    assert not (student / "checkpoints").exists()


def test_a_version_is_a_tag_that_stays_where_it_is(hub: Served, student: Path) -> None:
    first = push_student(student, NAME, version="1.0.0")
    assert push_student(student, NAME, version="1.0.0").commit == first.commit
    (student / "generation_config.json").write_text("{}")
    with pytest.raises(HubError, match=r"version 1\.0\.0 exists already; give a higher one"):
        push_student(student, NAME, version="1.0.0")
    second = push_student(student, NAME, version="v1.1.0")
    tags = Remote.at(NAME, kind="model").tags()
    assert {str(version): commit for version, commit in tags.items()} == {
        "1.0.0": first.commit,
        "1.1.0": second.commit,
    }
    assert (fetch_student(f"{NAME}@1.0.0") / "generation_config.json").read_text() != "{}"
    assert (fetch_student(NAME) / "generation_config.json").read_text() == "{}"
    with pytest.raises(HubError, match=r"no version 2\.0\.0; there is 1\.1\.0, 1\.0\.0"):
        fetch_student(f"{NAME}@2.0.0")


def test_what_stands_around_our_section_on_the_hub_stays(hub: Served, student: Path) -> None:
    card = (student / "README.md").read_text().replace(BEGIN, f"From the folder.\n\n{BEGIN}")
    (student / "README.md").write_text(card)
    push_student(student, NAME, settings=CardSettings(license="mit"))
    assert "From the folder." in read("README.md")
    edit_on_hub("README.md", read("README.md").replace("From the folder.", "From the hub."))
    edit_on_hub("picture.svg", "<svg/>")
    result = push_student(student, NAME)
    assert result.unchanged
    assert result.notes == (
        "the card on the hub keeps the text that stands there; what you wrote into README.md here is not sent",
    )
    (student / "generation_config.json").unlink()
    removed = push_student(student, NAME)
    assert [(each.path, each.change) for each in removed.files] == [("generation_config.json", "removed")]
    assert files_of() == OURS - {"generation_config.json"} | {"picture.svg"}
    assert "From the hub." in read("README.md")
    assert split_card(read("README.md"))[0]["license"] == "mit"


def test_another_model_under_that_name_is_not_overwritten(hub: Served, student: Path) -> None:
    remote = Remote.at(NAME, kind="model")
    remote.create(private=False)
    edit_on_hub("config.json", "{}")
    with pytest.raises(HubError, match=r"another model stands there \(config.json\)"):
        push_student(student, NAME)
    assert files_of() == {"config.json"}


def test_after_an_interrupted_push_the_same_command_goes_on(
    hub: Served, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as before_the_commit:
        before_the_commit.setattr("huggingface_hub.HfApi.create_commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            push_student(student, NAME, version="1.0.0")
    with monkeypatch.context() as before_the_tag:
        before_the_tag.setattr(Remote, "tag", interrupted)
        with pytest.raises(KeyboardInterrupt):
            push_student(student, NAME, version="1.0.0")
    done = push_student(student, NAME, version="1.0.0")
    assert (done.unchanged, num_commits()) == (True, 2)
    assert list(Remote.at(NAME, kind="model").tags().values()) == [done.commit]


def test_overtaken_it_reads_again_and_gives_up_at_last(
    hub: Served, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    commit = Remote.commit

    def overtaken_once(self: Remote, *arguments: Any, **named: Any) -> str:
        calls.append(named["parent"])
        if len(calls) == 1:
            raise Overtaken("HTTP 412")
        return commit(self, *arguments, **named)

    monkeypatch.setattr(Remote, "commit", overtaken_once)
    assert not push_student(student, NAME).unchanged
    assert len(calls) == 2
    (student / "generation_config.json").write_text("{}")
    monkeypatch.setattr(publish_module, "MAX_ATTEMPTS", 2)
    monkeypatch.setattr(Remote, "commit", lambda *_, **__: calls.clear() or overtaken_once(*_, **__))
    with pytest.raises(HubError, match="gave up after 2 attempts"):
        push_student(student, NAME)


def test_what_does_not_read_back_is_told_and_not_tagged(
    hub: Served, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Remote, "first_wrong", lambda *_: "config.json")
    with pytest.raises(HubError, match=r"config\.json does not read back as pushed"):
        push_student(student, NAME, version="1.0.0")
    assert Remote.at(NAME, kind="model").tags() == {}


def test_a_dry_run_writes_nothing_anywhere(hub: Served, student: Path) -> None:
    before = sorted(path.name for path in student.iterdir())
    shown = kp_train("push", student, NAME, "--dry-run")
    assert shown.stderr.splitlines()[0].startswith(f"{NAME}: ")
    assert "model.safetensors" in shown.stderr
    assert not Remote.at(NAME, kind="model").exists()
    assert sorted(path.name for path in student.iterdir()) == before


def test_what_the_user_can_mend_is_one_message_without_the_token(
    hub: Served, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> str:
        error = kp_train("push", *arguments).exception
        assert isinstance(error, KpError)
        assert error.exit_code == 2
        assert not any(token in str(error) for token in hub.tokens.values())
        assert "\n" not in str(error)
        return str(error)

    assert "cannot be the name of a model" in refused(student, "no name")
    assert "the hub cannot be reached" in refused(student, NAME, "--endpoint", "http://127.0.0.1:9")
    assert "is not a URL" in refused(student, NAME, "--endpoint", "here")
    assert "not of the form X.Y.Z" in refused(student, NAME, "--version", "new")
    assert "no run.json here" in refused(student / "nowhere", NAME)
    assert "may not write there" in refused(student, "bo/student")
    monkeypatch.setenv("HF_TOKEN", hub.tokens["eve"])
    assert "this token may only read" in refused(student, NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_unknown_to_this_hub")
    assert "the hub does not know this token" in refused(student, NAME)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "no token to push with" in refused(student, NAME)


def test_an_unfinished_run_and_an_adapter_on_a_folder_are_refused(student: Path) -> None:
    record = read_json(student / "run.json")
    write_json({**record, "state": "running"}, student / "run.json")
    with pytest.raises(DataError, match="not finished"):
        push_student(student, NAME, dry_run=True)
    write_json(record, student / "run.json")
    write_json({"base_model_name_or_path": "/home/me/t5"}, student / "adapter_config.json")
    with pytest.raises(DataError, match="nobody else could load it"):
        push_student(student, NAME, dry_run=True)


def test_a_pushed_student_is_evaluated_by_name_and_its_copy_is_not_written(hub: Served, student: Path) -> None:
    panel = write_panel(student.parent / "panel")
    push_student(student, NAME, version="1.0.0")
    here = json.loads(kp_train("evaluate", student, panel, "--json").stdout)
    there = json.loads(kp_train("evaluate", f"{NAME}@1.0.0", panel, "--json").stdout)
    assert replace_seconds(there) == replace_seconds(here)
    assert not (fetch_student(NAME) / "evaluations.json").exists()
    asked = student.parent / "asked.jsonl"
    asked.write_text('{"id": "1", "question": "Is ice cold?", "choices": ["yes", "no"]}\n')
    assert json.loads(kp_train("predict", NAME, asked).stdout)["id"] == "1"
    missing = kp_train("evaluate", "ada/nothing", panel).exception
    assert isinstance(missing, HubError)
    assert "no such folder, and as the name of a model on a hub" in str(missing)


def replace_seconds(figures: dict[str, Any]) -> dict[str, Any]:
    return {**figures, "seconds": 0}


def test_plain_transformers_loads_it_by_name_from_this_hub(hub: Served, student: Path, tmp_path: Path) -> None:
    push_student(student, NAME, private=True)
    program = f"""
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained("{NAME}"), AutoTokenizer.from_pretrained("{NAME}")
print(model.num_parameters(), len(tokenizer))
"""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    env = {**kept, "HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "HF_TOKEN": hub.tokens["ada"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=300)
    ours: Any = load_student(student)
    assert done.stdout.split() == [str(ours.model.num_parameters()), str(len(ours.tokenizer))], done.stderr
    refused = subprocess.run(
        [sys.executable, "-c", program], env={**env, "HF_TOKEN": ""}, capture_output=True, text=True, timeout=300
    )
    assert refused.returncode != 0
