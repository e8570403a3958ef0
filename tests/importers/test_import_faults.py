"""What goes wrong: broken files, hostile rows, folders in the way. One message each, and nothing half-written."""

import json
import os
import subprocess
import sys
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kp_data.errors import ConfigError, DataError
from kp_data.importers import ImportOptions, import_panel
from kp_data.importers.json_rows import CHUNK, documents_of, elements_of
from kp_data.importers.own_rows import NO_TIME
from kp_data.importers.writing import ERROR_LEFT_OUT, TEXT_LEFT_OUT
from kp_data.summary import summarise
from kp_data.tables import read_json, read_questions, read_responses, write_parquet

ROW = {"id": "a", "question": "Is ice cold?", "choices": ["yes", "no"], "answer": "yes", "teacher": "ada"}


def rows_file(folder: Path, *lines: str | dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def kp_data(*arguments: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-c", "from kp_data.cli import main; main()", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"question_id": 1}, {"quest', "item 2 of the JSON array is broken"),
        ('[{"question_id": 1} {"question_id": 2}]', "breaks off after item 1"),
        ('[{"question_id": 1},', "item 2 of the JSON array is broken"),
        ('[{"question_id": 1}', "breaks off after item 1"),
        ("question_id,pred\n1,B\n", "neither a JSON array nor JSON lines"),
        ("[" * 200_000, "item 1 of the JSON array is broken"),
        ("[12", "item 1 of the JSON array is broken"),
        ('[{"question_id": 1}]\n[{"question_id": 2}]\n', "more follows the end of the JSON array"),
    ],
)
def test_a_malformed_array_is_one_message_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "one").mkdir()
    source = tmp_path / "one" / "r.json"
    source.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        import_panel("mmlu-pro", [source], tmp_path / "panel")
    assert str(caught.value).startswith(str(source))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one"]


def test_text_that_is_no_utf8_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"question": "caf\xe9"}\n')
    with pytest.raises(DataError, match="is not UTF-8 text"):
        import_panel("jsonl", [tmp_path / "rows.jsonl"], tmp_path / "panel")


def test_a_damaged_archive_is_one_message(tmp_path: Path) -> None:
    archive = tmp_path / "model_outputs_x_5shots.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("all.json", json.dumps([{"question_id": number} for number in range(1000)]))
    damaged = bytearray(archive.read_bytes())
    damaged[60:120] = bytes(60)
    archive.write_bytes(bytes(damaged))
    with pytest.raises(DataError, match="cannot be read"):
        import_panel("mmlu-pro", [archive], tmp_path / "panel")
    archive.write_bytes(b"PK\x03\x04 no archive at all")
    with pytest.raises(DataError, match="cannot be read as a zip archive"):
        import_panel("mmlu-pro", [archive], tmp_path / "panel")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{no json", "is no JSON"),
        ("[1, 2]", "is no object"),
        ('{"a": ' * 100_000, "is nested too deep"),
        ({**ROW, "question": " "}, "the question has no text"),
        ({**ROW, "question": None}, "field 'question' is missing"),
        ({**ROW, "question": ["a"]}, "field 'question' is no text"),
        ({**ROW, "choices": ["yes", " "]}, "a choice is empty"),
        ({**ROW, "choices": "yes"}, "field 'choices' is no list of texts"),
        ({**ROW, "answer": "perhaps"}, "the gold answer is none of the choices"),
        ({**ROW, "answer": None, "answer_index": 2}, "the gold answer's index is no choice's"),
        ({**ROW, "answer_index": 1}, "the gold answer and its index do not agree"),
        ({**ROW, "answer_index": "1.5"}, "field 'answer_index' is no whole number"),
        ({**ROW, "teacher": None}, "no teacher is named; map one (--map teacher=FIELD), or give --teacher NAME"),
        ({**ROW, "mode": "loud"}, "field 'mode' is none of blind, teacher_forced"),
        ({**ROW, "error": "sad"}, "field 'error' is none of rate_limited"),
        ({**ROW, "id": "b", "question": "Another?"}, "another question has this id; the first one is kept"),
        ({**ROW, "id": "c", "sample": 0}, "the same teacher answers the same question once more; the first is kept"),
    ],
)
def test_a_bad_row_is_left_out_and_named(tmp_path: Path, bad: str | dict[str, Any], reason: str) -> None:
    twin = {**ROW, "id": "c", "response": "Yes."}
    source = rows_file(tmp_path, {**ROW, "id": "b", "response": "Yes."}, twin, bad, {**ROW, "response": "No."})
    report = import_panel("jsonl", [source], tmp_path / "panel")
    ((found, left_out),) = report.left_out.items()
    assert found.startswith(reason)
    assert left_out.places == [f"{source}, line 3"]
    assert read_responses(report.out / "responses.parquet").num_rows == 3
    assert read_json(report.out / "run.json")["left_out"] == {found: 1}


def test_what_a_teacher_did_not_say_is_kept_as_nothing_said(tmp_path: Path) -> None:
    options = ImportOptions(teachers={"ada": "one", "bob": "two"})
    source = rows_file(tmp_path, {**ROW, "one": "", "two": "I wonder."})
    report = import_panel("jsonl", [source], tmp_path / "panel", options=options)
    empty, unread = read_responses(report.out / "responses.parquet").to_pylist()
    assert (empty["rationale"], empty["error"], report.teachers["ada"].failed) == (None, "empty", 1)
    assert (unread["rationale"], unread["answer"], unread["error"]) == ("I wonder.", None, None)
    assert report.teachers["bob"].unparsed == 1


@pytest.mark.parametrize(
    ("said", "kept", "reason"),
    [
        ({"response": "It melts. The answer is yes.", "error": "timeout"}, (True, None), ERROR_LEFT_OUT),
        ({"stated": "yes", "error": "truncated"}, (True, None), ERROR_LEFT_OUT),
        ({"rationale": "I cannot say.", "error": "refused"}, (None, "refused"), TEXT_LEFT_OUT),
        ({"rationale": "", "stated": "nothing", "error": "truncated"}, (None, "truncated"), None),
    ],
)
def test_a_row_with_an_answer_and_an_error_means_the_same_in_the_report_and_in_the_panel(
    tmp_path: Path, said: dict[str, str], kept: tuple[bool | None, str | None], reason: str | None
) -> None:
    row = {name: value for name, value in ROW.items() if name != "response"}
    report = import_panel("jsonl", [rows_file(tmp_path, {**row, "id": "a", **said})], tmp_path / "panel")
    (response,) = read_responses(report.out / "responses.parquet").to_pylist()
    assert (response["correct"], response["error"]) == kept
    assert (response["rationale"] is None) == (kept[1] is not None)
    (count,) = report.teachers.values()
    (facts,) = summarise(report.out).teachers
    assert count.failed == facts.num_failed == (kept[1] is not None)
    assert (count.right, count.judged) == ((1, 1) if kept[0] else (0, 0))
    # The panel counts who was asked and concluded nothing as wrong.
    assert facts.accuracy == (1.0 if kept[0] else 0.0)
    assert list(report.left_out) == ([reason] if reason else [])


@pytest.mark.parametrize(
    ("said", "moment"),
    [
        ("2026-02-03T04:05:06Z", datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("2026-02-03 04:05:06.25+02:00", datetime(2026, 2, 3, 2, 5, 6, 250_000, tzinfo=UTC)),
        ("2026-02-03", datetime(2026, 2, 3, tzinfo=UTC)),
        ("", None),
        (None, None),
    ],
)
def test_a_time_as_text_is_read_as_iso_8601(tmp_path: Path, said: str | None, moment: datetime | None) -> None:
    report = import_panel("jsonl", [rows_file(tmp_path, {**ROW, "created_at": said})], tmp_path / "panel")
    (response,) = read_responses(report.out / "responses.parquet").to_pylist()
    assert response["created_at"] == moment
    assert report.num_left_out == 0


@pytest.mark.parametrize("said", ["yesterday", 1_700_000_000, "0001-01-01T00:00:00+14:00", ["2026-02-03"]])
def test_a_time_that_cannot_be_read_is_counted_and_its_response_kept(tmp_path: Path, said: object) -> None:
    source = rows_file(tmp_path, {**ROW, "when": said})
    options = ImportOptions(fields={"created_at": "when"})
    report = import_panel("jsonl", [source], tmp_path / "panel", options=options)
    (response,) = read_responses(report.out / "responses.parquet").to_pylist()
    assert response["created_at"] is None
    assert (list(report.left_out), report.left_out[NO_TIME].places) == ([NO_TIME], [f"{source}, line 1"])


def test_a_time_that_cannot_be_read_is_counted_of_responses_that_are_kept_alone(tmp_path: Path) -> None:
    row = {**ROW, "created_at": "soon"}
    report = import_panel("jsonl", [rows_file(tmp_path, row, row, {**row, "question": " "})], tmp_path / "panel")
    assert report.left_out[NO_TIME].count == 1
    assert report.num_left_out == 3


def test_rows_with_a_field_for_each_teacher_lose_no_time_that_no_response_was_to_have(tmp_path: Path) -> None:
    source = rows_file(tmp_path, {**ROW, "ada": "The answer is yes.", "created_at": 1_700_000_000})
    report = import_panel("jsonl", [source], tmp_path / "panel", options=ImportOptions(teachers={"ada": "ada"}))
    assert (report.num_left_out, report.teachers["ada"].responses) == (0, 1)


def test_a_column_of_dates_is_read_as_dates_in_text_are(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    write_parquet(
        pa.table({"id": ["a"], "question": ["Is ice cold?"], "answer": ["yes"]}), folder / "questions.parquet"
    )
    answers = {"question_id": ["a"], "teacher": ["ada"], "answer": ["yes"], "created_at": [date(2026, 2, 3)]}
    write_parquet(pa.table(answers), folder / "responses.parquet")
    report = import_panel("tables", [folder], tmp_path / "panel")
    (response,) = read_responses(report.out / "responses.parquet").to_pylist()
    assert response["created_at"] == datetime(2026, 2, 3, tzinfo=UTC)
    assert report.num_left_out == 0


def test_times_of_tables_are_read_too(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    rows_file(folder, {**ROW, "id": "a"}).rename(folder / "questions.jsonl")
    answers = [{"question_id": "a", "teacher": name, "answer": "yes"} for name in ("ada", "bob")]
    times = ("2026-02-03T04:05:06Z", "soon")
    rows_file(folder, *({**row, "created_at": at} for row, at in zip(answers, times, strict=True))).rename(
        folder / "responses.jsonl"
    )
    report = import_panel("tables", [folder], tmp_path / "panel")
    read = read_responses(report.out / "responses.parquet").to_pylist()
    assert [row["created_at"] for row in read] == [datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC), None]
    assert report.left_out[NO_TIME].count == 1


def test_half_characters_can_be_written(tmp_path: Path) -> None:
    source = rows_file(
        tmp_path, '{"question": "Is \\ud800 cold?", "teacher": "a\\udc00", "response": "\\ud83d\\ude00"}'
    )
    report = import_panel("jsonl", [source], tmp_path / "panel")
    assert read_questions(report.out / "questions.parquet")["question"].to_pylist() == ["Is \ufffd cold?"]
    assert read_responses(report.out / "responses.parquet")["rationale"].to_pylist() == ["\U0001f600"]


def test_strict_writes_nothing(tmp_path: Path) -> None:
    source = rows_file(tmp_path, {**ROW, "response": "Yes."}, "{no json")
    with pytest.raises(DataError, match=r"line 2: is no JSON; nothing is written because of --strict"):
        import_panel("jsonl", [source], tmp_path / "panel", strict=True)
    assert not (tmp_path / "panel").exists()


def test_nothing_to_import_says_what_was_wrong_first(tmp_path: Path) -> None:
    source = rows_file(tmp_path, {"q": "Is ice cold?"}, {"q": "Is fire hot?"})
    with pytest.raises(DataError, match=r"left out: 2 × field 'question' is missing \(.*line 1\)"):
        import_panel("jsonl", [source], tmp_path / "panel")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_the_same_import_finds_itself_done_and_another_is_refused(tmp_path: Path) -> None:
    source = rows_file(tmp_path, {**ROW, "response": "Yes."})
    assert not import_panel("jsonl", [source], tmp_path / "panel").unchanged
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "panel").iterdir()}
    assert import_panel("jsonl", [source], tmp_path / "panel").unchanged
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "panel").iterdir()} == before
    other = rows_file(tmp_path, {**ROW, "response": "No."})
    with pytest.raises(DataError, match="holds another imported panel"):
        import_panel("jsonl", [other], tmp_path / "panel")


def test_a_folder_that_holds_anything_else_is_left_alone(tmp_path: Path) -> None:
    source = rows_file(tmp_path, {**ROW, "response": "Yes."})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="holds something else"):
        import_panel("jsonl", [source], tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["run.json"]


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    source = rows_file(tmp_path, {**ROW, "response": "Yes."})
    with pytest.raises(DataError, match="cannot be written"):
        import_panel("jsonl", [source], source / "below" / "a" / "file")


@pytest.mark.parametrize(
    ("format_name", "options", "message"),
    [
        ("nothing", ImportOptions(), "unknown format 'nothing'; there are tinyllm"),
        ("gsm8k", ImportOptions(fields={"id": "x"}), "--map: format gsm8k knows its fields"),
        ("tinyllm", ImportOptions(teachers={"": "x"}), "--teacher: format tinyllm names its teachers itself"),
        ("mmlu-pro", ImportOptions(teachers={"x": "y"}), "NAME=FIELD is for format jsonl"),
        ("jsonl", ImportOptions(fields={"colour": "x"}), "there is no field 'colour' of ours"),
    ],
)
def test_options_without_use_are_refused(
    tmp_path: Path, format_name: str, options: ImportOptions, message: str
) -> None:
    source = rows_file(tmp_path, {**ROW, "response": "Yes."})
    with pytest.raises(ConfigError, match=message):
        import_panel(format_name, [source], tmp_path / "panel", options=options)


def test_shares_divide_by_id_and_do_not_depend_on_the_other_rows(tmp_path: Path) -> None:
    rows = [{**ROW, "id": f"q{number}", "response": "Yes."} for number in range(400)]
    split = "train:60,validation:20,test:20"
    whole = import_panel("jsonl", [rows_file(tmp_path, *rows)], tmp_path / "whole", split=split)
    assert 200 < whole.questions["train"] < 280
    half = import_panel("jsonl", [rows_file(tmp_path, *rows[::2])], tmp_path / "half", split=split)
    of_whole, of_half = (
        dict(
            zip(
                *(read_questions(report.out / "questions.parquet")[name].to_pylist() for name in ("id", "split")),
                strict=True,
            )
        )
        for report in (whole, half)
    )
    assert of_half.items() <= of_whole.items()
    for wrong in ("train:60,test", "train:0,test:1", ":5", "train:x"):
        with pytest.raises(ConfigError, match="--split"):
            import_panel("jsonl", [tmp_path / "rows.jsonl"], tmp_path / "panel", split=wrong)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(rows=st.lists(JSON_VALUES, max_size=6), indent=st.sampled_from([None, 1]), chunk=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_an_array_is_read_as_json_reads_it_whatever_the_size_of_the_parts(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: int | None, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("array") / "rows.json"
    path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kp_data.importers.json_rows.CHUNK", chunk)
        (document,) = documents_of(path)
        assert [element.value for element in elements_of(document)] == rows


@given(
    rows=st.lists(st.dictionaries(st.sampled_from([*ROW, "response", "rationale", "sample"]), JSON_VALUES), max_size=4)
)
@settings(max_examples=60, deadline=None)
def test_no_row_of_any_shape_gets_past_the_reader(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    source = rows_file(folder, {**ROW, "response": "Yes."}, *rows)
    report = import_panel("jsonl", [source], folder / "panel")
    taken = read_responses(report.out / "responses.parquet").num_rows
    assert taken + report.num_left_out == 1 + len(rows)
    read_questions(report.out / "questions.parquet")


def test_memory_is_bounded_by_the_largest_row(tmp_path: Path) -> None:
    row = {"question": "Is ice cold?", "teacher": "ada", "response": "x" * 20_000}
    path = tmp_path / "rows.json"
    with path.open("w", encoding="utf-8") as stream:
        stream.write("[")
        for number in range(4_000):
            stream.write(("," if number else "") + json.dumps({**row, "id": str(number)}))
        stream.write("]")
    assert path.stat().st_size > 50 * CHUNK
    program = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from kp_data.importers.json_rows import documents_of, elements_of\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "n = sum(1 for document in documents_of(Path(sys.argv[1])) for _ in elements_of(document))\n"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    number, kilobytes = map(int, done.stdout.split())
    assert number == 4_000
    assert kilobytes < 30_000  # of a file of 80,000


def test_the_command_tells_what_it_did_and_how_it_failed(tmp_path: Path) -> None:
    source = rows_file(tmp_path, {**ROW, "response": "It is frozen. The answer is yes."}, "{no json")
    done = kp_data("import", "jsonl", str(source), "--out", str(tmp_path / "panel"))
    assert done.returncode == 0
    assert "ada" in done.stdout
    assert "100.0 %" in done.stdout
    assert f"left out: 1 × is no JSON ({source}, line 2)" in done.stderr
    told = kp_data("import", "jsonl", str(source), "--out", str(tmp_path / "panel"), "--json")
    assert json.loads(told.stdout)["unchanged"] is True
    assert json.loads(told.stdout)["left_out"]["is no JSON"]["count"] == 1
    failed = kp_data("import", "mmlu-pro", str(tmp_path / "nowhere"), "--out", str(tmp_path / "other"))
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr == f"error: {tmp_path / 'nowhere'}: no such file or folder\n"


def test_help_lists_every_format_and_loads_nothing_heavy() -> None:
    from kp_data.importers import FORMATS

    done = kp_data("import", "--help")
    assert all(name in done.stdout for name in FORMATS)
    program = "import sys\nimport kp_data.cli\nprint(*(name for name in sys.modules if 'importers' in name))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_one_message(tmp_path: Path) -> None:
    source = rows_file(tmp_path, {**ROW, "response": "Yes."})
    source.chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        import_panel("jsonl", [source], tmp_path / "panel")


def test_status_of_an_imported_panel_is_one_sentence(tmp_path: Path) -> None:
    rows = {**ROW, "response": "It is frozen. The answer is (A)."}
    import_panel("jsonl", [rows_file(tmp_path, rows)], tmp_path / "panel", options=ImportOptions())
    done = kp_data("status", str(tmp_path / "panel"))
    assert done.returncode == 2
    assert "this panel was imported" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
