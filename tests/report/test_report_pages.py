"""Pages and tables: what they say of a folder, and that nothing in the data can become markup."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kp_data.errors import DataError
from kp_data.report import (
    Column,
    StudentRow,
    page_of_folder,
    print_page,
    print_table,
    read_students,
    render_html,
    render_table,
    write_html,
)
from kp_data.schema import PURIFIED, Question, Response
from kp_data.summary import summarise
from kp_data.tables import table_of_questions, table_of_responses, write_json, write_parquet

EVIL = '</style></p><script>alert("x")</script><img src=x onerror=alert(1)>'
STUDENTS = [
    {"name": "gold only", "split": "test", "accuracy": 0.5, "ci95": [0.4, 0.6], "n": 80},
    {"name": "purified", "split": "test", "accuracy": 0.625, "ci95": [0.5, 0.7], "n": 80},
]


class Tags(HTMLParser):
    """Every tag and attribute of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def asked(rationale: str = "because of {}") -> tuple[list[Question], list[Response]]:
    """Four questions, gold always the first choice: ada right on all, bo on the first two, cy silent on the last."""
    questions = [
        Question(f"q{n}", f"Which {n}?", ("yes", "no"), "yes", 0, "test" if n > 1 else "train") for n in range(4)
    ]
    answers = {"ada": (0, 0, 0, 0), "bo": (0, 0, 1, 1), "cy": (0, 1, 1, None)}
    rows = []
    for teacher, given in answers.items():
        for question, index in zip(questions, given, strict=True):
            text = None if index is None else rationale.format(question.id)
            error = "timeout" if index is None else None
            rows.append(Response(question.id, teacher, "blind", 0, text, None, index, error=error, cost_usd=0.25))
    return questions, rows


@pytest.fixture
def panel(tmp_path: Path) -> Path:
    questions, rows = asked()
    write_parquet(table_of_questions(questions), tmp_path / "panel" / "questions.parquet")
    write_parquet(table_of_responses(rows), tmp_path / "panel" / "responses.parquet")
    return tmp_path / "panel"


@pytest.fixture
def purified(tmp_path: Path) -> Path:
    import pyarrow as pa

    questions, rows = asked(EVIL)
    kept = [
        {
            "id": question.id,
            "question": question.question + EVIL,
            "choices": list(question.choices),
            "answer": "yes",
            "answer_index": 0,
            "split": question.split,
            "rationale": EVIL,
            "teacher": "ada" if number < 3 else "bo",
            "method": "similarity-router",
            "conflict": number > 0,
        }
        for number, question in enumerate(questions)
    ]
    folder = tmp_path / "purified"
    write_parquet(pa.Table.from_pylist(kept, schema=PURIFIED), folder / "purified.parquet")
    write_parquet(table_of_responses(rows), folder / "responses.parquet")
    scores = {"purified_accuracy": 0.75, "best_single_accuracy": 0.5, "oracle_accuracy": 1.0, "gap_closed": 0.5}
    report = {"method": "similarity-router", **scores, "splits": {"test": {**scores, "purified_accuracy": 0.25}}}
    write_json(report, folder / "report.json")
    return folder


def test_the_facts_of_a_panel_are_what_a_hand_counts(panel):
    summary = summarise(panel)
    # The call to cy that failed on the way says nothing about cy: one of three.
    assert [teacher.accuracy for teacher in summary.teachers] == [1.0, 0.5, 1 / 3]
    assert summary.notes == ("panel unfinished for cy: 3 of 4 questions",)
    assert summary.conflict_rate == 0.75
    assert summary.oracle_accuracy == 1.0
    assert summary.cost_usd == 3.0
    assert summary.teachers[2].failures == {"timeout": 1}
    # ada and cy agree on q0 of the three questions that cy answered.
    assert summary.agreement_TT[0].round(3).tolist() == [1.0, 0.5, 0.333]


def test_the_page_of_a_panel_shows_its_numbers(panel):
    text = Tags(render_html(page_of_folder(panel))).text
    for shown in (
        "75.0 %",
        "100.0 %",
        "$3.00",
        "50.0 (15.0–85.0)",
        "ada",
        "Furthest apart: ada and cy, 33 %.",
        "panel unfinished for cy: 3 of 4",
    ):
        assert shown in text


def test_the_page_of_a_purified_folder_opens_with_the_test_split(purified):
    page = page_of_folder(purified, STUDENTS)
    facts = {fact.label: (fact.value, fact.note) for fact in page.facts}
    assert facts["kept one is right on"] == ("25.0 %", "on test")
    text = Tags(render_html(page)).text
    assert "purified by similarity-router" in text
    assert "test 62.5 (50.0–70.0)" in text
    assert "75.0 %" in text


def test_what_teachers_and_questions_say_is_shown_and_never_run(purified):
    page = Tags(render_html(page_of_folder(purified)))
    assert EVIL in page.text
    assert not {"script", "img", "iframe", "link", "object", "form"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {name for name in names if name.startswith("on")} | {"src", "href", "style"} & names


def test_the_policy_of_a_page_allows_its_own_style_and_nothing_else(panel):
    page = render_html(page_of_folder(panel))
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = dict(Tags(page).attributes)
    assert (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'" in policy.values()
        or (digest in page)
    )
    assert "url(" not in style
    assert "@import" not in style


def test_the_same_folder_gives_the_same_bytes(panel, tmp_path):
    write_html(page_of_folder(panel), tmp_path / "one.html")
    write_html(page_of_folder(panel), tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_comparison_is_shown_best_first_with_its_intervals(tmp_path):
    rows = [
        {"method": "majority", "split": "test", "purified_accuracy": 0.5, "ci95": {"purified_accuracy": [0.4, 0.6]}},
        {"method": "oracle", "split": "test", "purified_accuracy": 0.9, "ci95": {"purified_accuracy": None}},
    ]
    write_json(rows, tmp_path / "compare.json")
    text = Tags(render_html(page_of_folder(tmp_path))).text
    assert "2 ways to choose one rationale a question, compared on test." in text
    chart = text[text.index("Accuracy by method") :]
    assert chart.index("oracle") < chart.index("majority")
    assert "50.0 (40.0–60.0)" in text
    assert page_of_folder(tmp_path / "compare.json") == page_of_folder(tmp_path)


def test_a_comparison_of_another_shape_is_refused(tmp_path):
    write_json({"a": 1}, tmp_path / "compare.json")
    with pytest.raises(DataError, match="write it with `kp-data compare`"):
        page_of_folder(tmp_path)


def test_a_folder_with_nothing_to_show_says_what_it_should_hold(tmp_path):
    with pytest.raises(DataError, match="neither a panel"):
        page_of_folder(tmp_path)


def test_a_missing_field_of_a_student_is_named():
    assert StudentRow.of(STUDENTS[0]).ci95 == (0.4, 0.6)
    with pytest.raises(DataError, match="without 'accuracy'"):
        StudentRow.of({"name": "x", "split": "test"})


@pytest.mark.parametrize(
    ("field", "value"), [("ci95", ["low", 0.5]), ("accuracy", "high"), ("n", "many"), ("accuracy", True), ("n", [1])]
)
def test_a_student_result_that_is_no_number_is_refused(tmp_path, field, value):
    write_json({"split": "test", "accuracy": 0.5, field: value}, tmp_path / "bad.json")
    with pytest.raises(DataError, match=f"bad.json: '{field}' is .* no number"):
        read_students({"x": tmp_path / "bad.json"})


@pytest.mark.parametrize(
    ("field", "value"), [("purified_accuracy", "high"), ("ci95", {"purified_accuracy": ["a", 1]}), ("notes", 3)]
)
def test_a_comparison_with_text_for_a_number_is_refused(tmp_path, field, value):
    write_json([{"method": "random", "purified_accuracy": 0.5, field: value}], tmp_path / "compare.json")
    with pytest.raises(DataError, match=r"compare\.json: "):
        page_of_folder(tmp_path)


def test_a_report_with_text_for_a_number_is_refused(purified):
    write_json({"splits": {"test": {"oracle_accuracy": "high"}}}, purified / "report.json")
    with pytest.raises(DataError, match=r"report\.json: 'oracle_accuracy' is 'high'"):
        page_of_folder(purified)


def test_a_page_is_never_written_over_data(panel):
    before = (panel / "questions.parquet").read_bytes()
    with pytest.raises(DataError, match=r"questions\.parquet: a report is a file that ends in \.html"):
        write_html(page_of_folder(panel), panel / "questions.parquet")
    assert (panel / "questions.parquet").read_bytes() == before


def test_a_table_for_a_pipe_is_plain_and_whole(capsys):
    rows = [{"name": "a" * 150, "right": 0.5, "cost": None}, {"name": "[red]bo[/red]\x1b[31m", "right": 1.0}]
    columns = [Column("name", "teacher"), Column("right", "right", "percent"), Column("cost", "cost", "money")]
    print_table(rows, columns)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "a" * 150 in lines[2]
    assert "[red]bo[/red] [31m" in lines[3]
    assert lines[3].endswith("100.0 %      –")


def test_a_terminal_gets_its_table_folded_to_its_width(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    print_table(
        [{"name": "b" * 100, "right": 0.5}], [Column("name", "n"), Column("right", "r", "percent")], stream=stream
    )
    shown = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert max(map(len, shown.splitlines())) <= 40
    assert "50.0 %" in shown


def test_an_empty_table_has_its_headings():
    assert "teacher" in render_table([], [Column("name", "teacher")])


def test_the_terminal_says_what_the_page_says_without_control_characters(purified, capsys):
    print_page(page_of_folder(purified, STUDENTS))
    shown = capsys.readouterr().out
    for words in (
        "kept one is right on: 25.0 % (on test)",
        "62.5 %",
        "50.0–70.0 %",
        "ada (kept): yes, right",
        "Furthest",
    ):
        assert words in shown
    assert "\x1b" not in shown


def test_results_of_evaluation_are_read_split_by_split(tmp_path):
    write_json({"splits": {"test": {"accuracy": 0.5, "ci95": [0.4, 0.6], "n": 80}}}, tmp_path / "many.json")
    write_json({"split": "ood", "accuracy": 0.25, "n": 9}, tmp_path / "one.json")
    rows = read_students({"gold": tmp_path / "many.json", "purified": str(tmp_path / "one.json")})
    assert rows == [StudentRow("gold", "test", 0.5, (0.4, 0.6), 80), StudentRow("purified", "ood", 0.25, None, 9)]
    write_json({"splits": {"test": {}}}, tmp_path / "none.json")
    with pytest.raises(DataError, match="holds no accuracy"):
        read_students({"x": tmp_path / "none.json"})
