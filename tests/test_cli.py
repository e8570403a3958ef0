"""The program kp-data as a user meets it: help, exit codes, one message an error."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kp_data.practice import practice_server

ROOT = Path(__file__).parent.parent
HEAVY = {
    "torch",
    "litellm",
    "datasets",
    "transformers",
    "sentence_transformers",
    "pandas",
    "faiss",
    "sklearn",
    "sqlalchemy",
}


def kp_data(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-c", "from kp_data.cli import main; main()", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, timeout=120)


@pytest.mark.parametrize("module", ["kp_data.cli", "kp_train.cli"])
def test_help_loads_none_of_the_heavy_libraries(module: str) -> None:
    program = f"import sys; sys.argv[1:] = ['--help']\nfrom {module} import main\n"
    program += "try:\n    main()\nfinally:\n    print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Usage" in done.stdout
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not loaded & HEAVY


def test_version_is_printed() -> None:
    assert kp_data("--version").stdout.startswith("kp-data 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "nowhere.parquet", "--out", "p"], "no such file"),
        (["generate", "practice:5", "--out", "p", "--teacher", "gpt"], "write NAME=MODEL"),
        (["generate", "practice:5", "--out", "p", "--teacher", "practice/nobody"], "no practice teacher 'nobody'"),
        (["generate", "practice:5", "--out", "p", "--teacher", "a=m@http://127.0.0.1:9/v1"], "cannot be reached"),
        (["generate", "practice:5", "--out", "p", "--mode", "loud"], "--mode loud"),
        (["generate", "practice:5", "--out", "p", "--config", "none.yaml"], "none.yaml"),
        (["generate", "practice:5", "--out", "p", "--retry-failed", "odd"], "no such class"),
        (["generate", "practice:5", "--out", "p", "--split", "holdout"], "splits there"),
        (["generate", "practice:5", "--out", "p", "--budget", "-1"], "--budget"),
        (
            ["generate", "practice:5", "--out", "p", "--teacher", "a=m@http://127.0.0.1:9/v1", "--budget", "1"],
            "price of a",
        ),
        (["generate", "practice:5", "--out", "p", "--router", "nowhere"], "no fitted router"),
        (["generate", "practice:5", "--out", "p", "--map", "id"], "write COLUMN=FIELD"),
        (["generate", "practice:5", "--out", "p", "--concurrency", "many"], "Invalid value"),
        (["generate", "practice:5"], "Missing option"),
        (["purify", "nowhere", "--method", "random", "--out", "o"], "no panel here"),
        (["compare", "nowhere", "--methods", "random"], "no panel here"),
        (["push", "nowhere", "me/data", "--dry-run", "--to", "t"], "nowhere"),
        (["push", "nowhere", "me/data", "--to", "t"], "goes together with --dry-run"),
        (["report", "nowhere"], "nowhere"),
        (["practice", "serve", "--replay", "nowhere"], "nowhere"),
        (["nonsense"], "No such command"),
    ],
)
def test_what_the_user_can_mend_is_one_message_and_exit_code_2(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = kp_data(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_debug_adds_the_traceback(tmp_path: Path) -> None:
    done = kp_data("generate", "nowhere.parquet", "--out", "p", "--debug", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_init_writes_a_file_that_generate_takes_and_never_overwrites_one(tmp_path: Path) -> None:
    assert kp_data("init", cwd=tmp_path).returncode == 0
    done = kp_data("generate", "practice:5", "--config", "kp.yaml", "--out", "panel", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["left"] == 0
    assert done.returncode == 0
    (tmp_path / "kp.yaml").write_text("mine")
    assert kp_data("init", cwd=tmp_path).returncode == 2
    assert (tmp_path / "kp.yaml").read_text() == "mine"


def test_work_that_is_left_ends_with_exit_code_3_and_what_is_done_is_kept(tmp_path: Path) -> None:
    with practice_server(faults="500,500") as url:
        arguments = ["generate", "practice:5", "--out", "p", "--teacher", f"ada=ada@{url}", "--retries", "0", "--json"]
        first = kp_data(*arguments, cwd=tmp_path)
        assert first.returncode == 3
        assert json.loads(first.stdout)["left"] == 2
        assert "run the same command again" in first.stderr
        again = kp_data(*arguments, cwd=tmp_path)
    assert again.returncode == 0
    assert json.loads(again.stdout)["teachers"][0]["answered"] == 2


def test_quiet_says_nothing(tmp_path: Path) -> None:
    done = kp_data("generate", "practice:5", "--out", "p", "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_imports_point_one_way() -> None:
    for path in (ROOT / "kp_data").rglob("*.py"):
        # What a purifier needs of a student is a Protocol; the command line brings the two together.
        assert path.parent.name == "cli" or not any(name.startswith("kp_train") for name in imports(path)), path
        if path.parent.name != "cli" and path.name != "console.py":
            assert not any(name.startswith("kp_data.cli") for name in imports(path)), path
            assert "typer" not in imports(path), path
    # Beside the tables: one definition, for teachers and students, of which answers are the same, what a text
    # concludes, and how far two answerers agree.
    allowed = {"errors", "schema", "tables", "panel", "console", "learner", "answers", "measures", "teachers.parsing"}
    # And of publishing: students' cards are escaped, and their hubs spoken to, as those of datasets are.
    allowed |= {f"hub.{name}" for name in ("front_matter", "markdown", "sections", "terms", "publishable", "remote")}
    allowed |= {"hub.versions", "hub.publish", "hub.words"}
    # Rooms that ask, purify and train in turn stand above both packages, as the command line does.
    above = {"cli", "experiments", "assistant"}
    for path in (ROOT / "kp_train").rglob("*.py"):
        if path.relative_to(ROOT / "kp_train").parts[0] not in above:
            modules = {name.removeprefix("kp_data.") for name in imports(path) if name.startswith("kp_data.")}
            assert modules <= allowed, path


def test_litellm_is_imported_in_one_file() -> None:
    files = [path.name for path in (ROOT / "kp_data").rglob("*.py") if "litellm" in imports(path)]
    assert files == ["litellm_carrier.py"]
