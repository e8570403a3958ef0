from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_rows import small_questions, write_panel, write_tiny_t5_checkpoint

from kp_data.tables import table_of_questions, write_parquet
from kp_train.cli import main

HEAVY = ("torch", "transformers", "datasets", "litellm", "sentence_transformers", "sklearn", "numpy", "pyarrow")
TINY = ("--student", "tiny-t5", "--objective", "fine-tune", "--out", "out")


def _run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["kp-train", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom kp_train.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "fit" in ended.stdout
    assert ended.stderr.strip() == "[]"


def test_fit_evaluate_and_predict_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    panel = str(write_panel(tmp_path / "panel"))
    checkpoint = str(write_tiny_t5_checkpoint(tmp_path / "t5"))
    capsys.readouterr()
    out = str(tmp_path / "out")
    fitted = ["fit", panel, "--student", checkpoint, "--objective", "tinyllm", "--out", out, "--steps", "2", "--json"]
    assert _run(fitted, monkeypatch) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record) == {"out", "steps", "seconds", "tokens", "flops", "validation_accuracy", "teacher_calls"}

    predictions = tmp_path / "predictions.jsonl"
    assert _run(["evaluate", out, panel, "--json", "--out", str(predictions)], monkeypatch) == 0
    evaluation = json.loads(capsys.readouterr().out)
    assert evaluation["n"] == 4
    assert set(evaluation["agreement"]) == {"ada", "bruno"}
    assert len(predictions.read_text(encoding="utf-8").splitlines()) == 4

    questions = tmp_path / "questions.parquet"
    write_parquet(table_of_questions(small_questions(2, 0, 0)), questions)
    assert _run(["predict", out, str(questions), "--teacher", "ada"], monkeypatch) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["id"] for answer in answers] == ["q0", "q1"]
    assert all("rationale" in answer for answer in answers)


def test_what_is_said_of_the_learning_rate_is_what_the_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = ["fit", str(write_panel(tmp_path / "panel")), "--student", str(write_tiny_t5_checkpoint(tmp_path / "t5"))]
    fitted += ["--objective", "fine-tune", "--out", str(tmp_path / "out"), "--steps", "2", "--quiet"]
    told = ["--lr-schedule", "cosine", "--lr-warmup", "0.25", "--weight-decay", "0.125"]
    assert _run([*fitted, *told], monkeypatch) == 0
    recipe = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["schedule"]["recipe"]
    assert (recipe["schedule"], recipe["warmup"], recipe["weight_decay"]) == ("cosine", 0.25, 0.125)


def test_evaluate_prints_a_table_for_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    panel = write_panel(tmp_path / "panel")
    checkpoint = write_tiny_t5_checkpoint(tmp_path / "t5")
    assert _run(["evaluate", str(checkpoint), str(panel)], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "agrees with ada" in shown
    assert "even" in shown


def test_practice_questions_are_a_dataset_of_gold_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_tiny_t5_checkpoint(tmp_path / "t5")
    arguments = ["--student", str(checkpoint), "--out", str(tmp_path / "out"), "--steps", "1", "--json"]
    assert _run(["fit", "practice:40", "--objective", "fine-tune", *arguments], monkeypatch) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "absent", "--student", "tiny-t5", "--objective", "purified", "--out", "out"], "no such folder"),
        (["fit", "practice:x", "--student", "tiny-t5", "--objective", "fine-tune", "--out", "out"], "practice:x"),
        (["fit", "practice:9", "--student", "tiny-t5", "--objective", "magic", "--out", "out"], "no objective 'magic'"),
        (["fit", "practice:9", "--student", "tiny-t5", "--objective", "purified", "--out", "out"], "kp-data purify"),
        (["fit", "practice:9", "--student", "minilm", "--objective", "tinyllm", "--out", "out"], "fine-tune"),
        (["evaluate", "absent", "practice:9"], "no such folder"),
        (["fit"], "DATASET"),
        (["fit", "runs/panell", *TINY], "no such folder"),
        (["evaluate", "absent", "practice:9", "--seed", "-1"], "--seed"),
        (["fit", "practice:9", *TINY, "--seed", "4294967296"], "--seed"),
        (["fit", "practice:9", *TINY, "--lambda", "1"], "--lambda has no effect"),
        (["fit", "absent", *TINY, "--teachers", "ada"], "--teachers has no effect"),
        (["fit", "practice:9", *TINY, "--validation-split", "test"], "never selected on"),
        (["fit", "practice:9", *TINY, "--lr-schedule", "sudden"], "--lr-schedule: 'sudden' is none of linear, cosine"),
        (["fit", "practice:9", *TINY, "--lr-warmup", "1"], "--lr-warmup: 1.0 is not from 0 to below 1"),
        (["fit", "practice:9", *TINY, "--weight-decay", "-1"], "--weight-decay: -1.0 is not from 0 to below 1"),
        (["fit", "practice:9", *TINY, "--log-to", "excel"], "'excel' is none of tensorboard, wandb"),
        (["fit", "practice:9", *TINY, "--log-to", "tensorboard,trackio"], "pip install trackio"),
        (
            ["fit", "practice:9", "--student", "minilmm", "--objective", "fine-tune", "--out", "out"],
            "tiny-t5, tiny-llama, minilm",
        ),
    ],
)
def test_what_the_user_can_mend_is_one_message_and_exit_code_2(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert _run(arguments, monkeypatch) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["objectives", "students"])
def test_what_there_is_comes_as_a_table_or_as_json(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run([command], monkeypatch) == 0
    assert "arXiv" in capsys.readouterr().out
    assert _run([command, "--json"], monkeypatch) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)[command]} >= (
        {"tinyllm", "purified"} if command == "objectives" else {"tiny-t5", "minilm"}
    )


def test_quiet_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    panel = write_panel(tmp_path / "panel")
    checkpoint = write_tiny_t5_checkpoint(tmp_path / "t5")
    capsys.readouterr()
    arguments = ["--student", str(checkpoint), "--objective", "fine-tune", "--steps", "1", "--quiet"]
    assert _run(["fit", str(panel), *arguments, "--out", str(tmp_path / "out")], monkeypatch) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")
