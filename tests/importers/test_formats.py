"""Each format as people publish it: small files of the same layout, made up here."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from kp_data.errors import ConfigError, DataError
from kp_data.importers import ImportOptions, ImportReport, import_panel
from kp_data.panel import Panel
from kp_data.tables import read_questions, read_responses

COLD = {"id": "7-1", "question": "What is ice?", "choices": ["hot", "cold", "loud", "old"], "answer": "cold"}
LOUD = {"id": "7-2", "question": "What is thunder?", "choices": ["hot", "cold", "loud", "old"], "answer": "loud"}


def write_lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_array(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")


def responses_of(report: ImportReport) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_responses(report.out / "responses.parquet").to_pylist()
    return rows


def questions_of(report: ImportReport) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_questions(report.out / "questions.parquet").to_pylist()
    return rows


def tinyllm(folder: Path) -> Path:
    source = folder / "datasets" / "obqa"
    write_lines(source / "obqa_train.json", [COLD, LOUD])
    write_lines(source / "obqa_test.json", [LOUD])
    said = [
        "Water freezes. Thus, the answer is (b) cold. llama rationale: Let's think step by step.\nIce is wat",
        "Thunder booms. So it is heard. Thus, the answer is (c) loud.\nllama rationale: The answer is (c) loud.",
    ]
    write_array(source / "llm" / "train_CoT_0.json", said[:1])
    write_array(source / "llm" / "train_CoT_1.json", said[1:])
    write_array(source / "llm" / "test_CoT_0.json", said[1:])
    return source


def test_tinyllm_texts_are_told_apart_and_are_teacher_forced(tmp_path: Path) -> None:
    report = import_panel("tinyllm", [tinyllm(tmp_path)], tmp_path / "panel")
    assert report.questions == {"train": 2, "test": 1}
    first, second = responses_of(report)[:2]
    assert (first["teacher"], first["rationale"], first["answer"]) == ("flan-t5-xl", "Water freezes.", "cold")
    assert (first["mode"], first["correct"]) == ("teacher_forced", None)
    assert (second["teacher"], second["answer"]) == ("llama-2-7b-chat", None)
    assert second["rationale"] == "Let's think step by step.\nIce is wat"
    assert report.teachers["llama-2-7b-chat"].unparsed == 1


def test_an_imported_panel_is_read_like_any_other(tmp_path: Path) -> None:
    panel = Panel.read(import_panel("tinyllm", [tinyllm(tmp_path)], tmp_path / "panel").out)
    assert panel.teachers == ("flan-t5-xl", "llama-2-7b-chat")
    assert panel.gold_Q.tolist() == [1, 2, 2]
    assert panel.stated_QT.tolist() == [[1, -1], [2, 2], [2, 2]]
    assert panel.rationale_mode == "teacher_forced"


def test_texts_stay_beside_their_questions_when_one_of_them_is_bad(tmp_path: Path) -> None:
    source = tinyllm(tmp_path)
    (source / "obqa_train.json").write_text("{broken\n" + json.dumps(LOUD) + "\n", encoding="utf-8")
    report = import_panel("tinyllm", [source], tmp_path / "panel")
    assert [row["id"] for row in questions_of(report)] == ["obqa/train/00001", "obqa/test/00000"]
    assert responses_of(report)[0]["rationale"] == "Thunder booms. So it is heard."
    assert report.left_out["is no JSON"].places == [f"{source / 'obqa_train.json'}, line 1"]


def test_questions_and_texts_without_their_other_half_are_named(tmp_path: Path) -> None:
    source = tinyllm(tmp_path)
    write_array(source / "llm" / "test_CoT_0.json", [])
    write_array(source / "llm" / "train_CoT_1.json", ["Thunder booms. Thus, the answer is (c) loud.", "Too many."])
    report = import_panel("tinyllm", [source], tmp_path / "panel")
    assert report.left_out["nothing was written to this question"].count == 1
    assert report.left_out["there is no question for this text in obqa_train.json"].count == 1
    assert sum(report.questions.values()) == 3


def test_a_missing_batch_is_refused_because_later_texts_would_move(tmp_path: Path) -> None:
    source = tinyllm(tmp_path)
    (source / "llm" / "train_CoT_0.json").unlink()
    with pytest.raises(DataError, match=r"train_CoT_0\.json is missing"):
        import_panel("tinyllm", [source], tmp_path / "panel")
    assert not (tmp_path / "panel").exists()


def test_batches_are_read_by_number_not_by_name(tmp_path: Path) -> None:
    source = tmp_path / "many"
    rows = [{**COLD, "question": f"What is ice number {number}?"} for number in range(11)]
    write_lines(source / "many_train.json", rows)
    for number in range(11):
        write_array(source / "llm" / f"train_CoT_{number}.json", [f"Reason {number}. Thus, the answer is (b) cold"])
    report = import_panel("tinyllm", [source], tmp_path / "panel")
    assert [row["rationale"] for row in responses_of(report)] == [f"Reason {number}." for number in range(11)]


def test_step_by_step_reads_choices_relations_and_equations(tmp_path: Path) -> None:
    root = tmp_path / "datasets"
    write_lines(root / "cqa" / "cqa_train.json", [COLD])
    write_array(root / "cqa" / "llm" / "train_CoT_0.json", ["Ice is frozen. So the answer is (b) cold.\n\nQ: More?"])
    write_array(root / "gpt-neox" / "cqa" / "train.json", ["It burns. So the answer is (a) hot."])
    nli = {"uid": "1", "premise": "It rains.", "hypothesis": "It is wet.", "label": 0, "reason": ""}
    write_lines(root / "anli1" / "anli1_train.json", [nli])
    write_array(
        root / "anli1" / "llm" / "train_CoT_0.json",
        ["Rain is wet. So the answer is entailment.\nPremise: A cat sat.\nSo the answer is neutral."],
    )
    write_lines(root / "esnli" / "esnli_valid.json", [{**nli, "label": 1}, {**nli, "label": -1}])
    write_lines(root / "esnli" / "esnli_test.json", [{**nli, "label": 7}])
    write_array(
        root / "esnli" / "llm" / "valid_CoT_0.json",
        ["Rain is wet. Answer: entailment Premise: A cat sat. Answer: neutral", "Nothing is said"],
    )
    write_lines(root / "svamp" / "svamp_train.json", [{"input": "8 less 3?", "label": "( 8.0 - 3.0 )"}])
    write_array(root / "svamp" / "llm" / "train_CoT_0.json", ["Take away. The answer is ( 8.0 - 3.0 ).\nQ: x"])
    names = ("cqa", "anli1", "svamp", "esnli")
    report = import_panel("step-by-step", [root / name for name in names], tmp_path / "panel")
    assert [(row["teacher"], row["answer"], row["correct"]) for row in responses_of(report)] == [
        ("palm-540b", "cold", True),
        ("gpt-neox-20b", "hot", False),
        ("palm-540b", "entailment", True),
        ("palm-540b", "( 8.0 - 3.0 )", True),
        ("palm-540b", "entailment", False),
        ("palm-540b", None, None),
    ]
    assert [row["rationale"] for row in responses_of(report)][::2] == ["Ice is frozen.", "Rain is wet.", "Rain is wet."]
    assert report.left_out["field 'label' is none of 0, 1, 2 and -1"].count == 1
    assert report.questions == {"train": 3, "validation": 2}
    assert {row["mode"] for row in responses_of(report)} == {"blind"}


def mmlu(number: int, **more: Any) -> dict[str, Any]:
    options = ["hot", "cold", "loud", "N/A"]
    item = {"question_id": number, "question": f"What is ice, {number}?", "options": options, "answer": "B"}
    return {**item, "answer_index": 1, "category": "physics", "pred": "B", **more}


def test_mmlu_pro_folders_are_teachers_and_shared_questions_stand_once(tmp_path: Path) -> None:
    root = tmp_path / "eval_results"
    write_array(root / "one" / "physics_result.json", [mmlu(1, model_outputs="It freezes. The answer is (B).")])
    write_array(root / "two" / "physics_result.json", [mmlu(1, response="It burns. The answer is (A).", pred="A")])
    write_array(root / "two" / "physics_summary.json", [{"corr": 1}])
    report = import_panel("mmlu-pro", [root], tmp_path / "panel")
    question = questions_of(report)[0]
    assert (question["id"], question["choices"], question["subject"]) == (
        "mmlu-pro/1",
        ["hot", "cold", "loud"],
        "physics",
    )
    assert [(row["teacher"], row["correct"]) for row in responses_of(report)] == [("one", True), ("two", False)]
    assert responses_of(report)[0]["rationale"] == "It freezes."
    assert len(questions_of(report)) == 1
    assert not report.left_out


def test_mmlu_pro_archives_name_the_model_and_what_nobody_could_read_stays_unread(tmp_path: Path) -> None:
    archive = tmp_path / "model_outputs_Some-Model-7B_5shots.zip"
    items = [
        mmlu(1, generated_text="It melts and then I lost my way", pred=None),
        mmlu(2, generated_text="x", pred="D"),
    ]
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("out/all.json", json.dumps(items))
    report = import_panel("mmlu-pro", [archive], tmp_path / "panel")
    assert report.teachers["Some-Model-7B"].unparsed == 2  # D is the filler that no model saw
    assert [row["answer_index"] for row in responses_of(report)] == [None, None]
    assert responses_of(report)[0]["rationale"] == "It melts and then I lost my way"


def test_mmlu_pro_keeps_the_whole_text_where_the_benchmark_read_another_answer(tmp_path: Path) -> None:
    text = "Not that the answer is (A). I say B"
    write_array(tmp_path / "one" / "r.json", [mmlu(1, model_outputs=text, pred="C")])
    (row,) = responses_of(import_panel("mmlu-pro", [tmp_path / "one"], tmp_path / "panel"))
    assert (row["rationale"], row["answer"]) == (text, "loud")


def test_a_file_beside_no_model_folder_needs_a_teacher(tmp_path: Path) -> None:
    write_array(tmp_path / "eval_results" / "business_result.json", [mmlu(1, response="The answer is (B).")])
    source = [tmp_path / "eval_results"]
    with pytest.raises(ConfigError, match="give --teacher NAME"):
        import_panel("mmlu-pro", source, tmp_path / "panel")
    options = ImportOptions(teachers={"": "someone"})
    assert list(import_panel("mmlu-pro", source, tmp_path / "panel", options=options).teachers) == ["someone"]


def test_gsm8k_models_are_teachers_without_calculator_marks(tmp_path: Path) -> None:
    row = {
        "question": "3 hens lay 2 eggs each. How many?",
        "ground_truth": "3 * 2 = <<3*2=6>>6\nA: 6",
        "small": {"is_correct": False, "solution": "3 + 2 = <<3+2=5>>5\nA: 5"},
        "large": {"is_correct": True, "solution": "It is 3*2 = <<3*2=6.0>>6.0\nA: 6.0"},
        "lost": {"is_correct": False, "solution": "3 hens, 3 hens, 3 he"},
    }
    source = tmp_path / "example_model_solutions.jsonl"
    write_lines(source, [row])
    report = import_panel("gsm8k", [source], tmp_path / "panel")
    assert questions_of(report)[0]["answer"] == "6"
    assert questions_of(report)[0]["split"] == "test"
    assert [(row["teacher"], row["rationale"], row["answer"], row["correct"]) for row in responses_of(report)] == [
        ("small", "3 + 2 = 5", "5", False),
        ("large", "It is 3*2 = 6.0", "6.0", True),
        ("lost", "3 hens, 3 hens, 3 he", None, None),
    ]


def test_jsonl_takes_fields_by_path_one_response_a_row(tmp_path: Path) -> None:
    rows = [
        {
            "meta": {"qid": number, "who": who},
            "q": f"What is ice {number}?",
            "opts": ["hot", "cold"],
            "key": "B",
            "out": text,
        }
        for number in (1, 2)
        for who, text in (("ada", "It freezes. The answer is (B)."), ("bob", "The answer is hot."))
    ]
    write_lines(tmp_path / "rows.jsonl", rows)
    fields = {"id": "meta.qid", "teacher": "meta.who", "question": "q", "choices": "opts", "answer": "key"}
    options = ImportOptions(fields={**fields, "response": "out"}, mode="blind")
    report = import_panel("jsonl", [tmp_path / "rows.jsonl"], tmp_path / "panel", options=options)
    assert [row["id"] for row in questions_of(report)] == ["1", "2"]
    assert [row["correct"] for row in responses_of(report)] == [True, False, True, False]
    assert (report.teachers["ada"].right, report.teachers["ada"].judged) == (2, 2)


def test_jsonl_takes_a_field_for_each_teacher_and_lists_as_samples(tmp_path: Path) -> None:
    row = {
        "question": "6 times 7?",
        "answer": "42",
        "gpt": ["It is so. The answer is 42.", "The answer is 41."],
        "own": None,
    }
    write_lines(tmp_path / "rows.jsonl", [row])
    options = ImportOptions(teachers={"gpt-x": "gpt", "own-x": "own"})
    report = import_panel("jsonl", [tmp_path / "rows.jsonl"], tmp_path / "panel", options=options)
    assert [(row["sample"], row["correct"]) for row in responses_of(report)] == [(0, True), (1, False)]


def test_tables_keep_mode_sample_and_provenance(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_lines(
        source / "questions.jsonl",
        [{"id": "a", "question": "Is ice cold?", "choices": ["yes", "no"], "answer_index": 0}],
    )
    said = {"question_id": "a", "teacher": "ada", "rationale": "It is frozen.", "answer_index": 0, "sample": 3}
    lost = {"question_id": "b", "teacher": "ada", "rationale": "Whose?", "mode": "blind"}
    write_lines(source / "responses.jsonl", [{**said, "mode": "teacher_forced", "cost_usd": 0.5}, lost])
    report = import_panel("tables", [source], tmp_path / "panel")
    (row,) = responses_of(report)
    assert (row["mode"], row["sample"], row["cost_usd"], row["correct"]) == ("teacher_forced", 3, 0.5, None)
    assert report.left_out["the response belongs to no question"].places == [f"{source / 'responses.jsonl'}, row 2"]


def test_what_was_imported_can_be_imported_again(tmp_path: Path) -> None:
    first = import_panel("tinyllm", [tinyllm(tmp_path)], tmp_path / "panel")
    again = import_panel("tables", [first.out], tmp_path / "again")
    for name in ("questions.parquet", "responses.parquet"):
        assert (first.out / name).read_bytes() == (again.out / name).read_bytes()
