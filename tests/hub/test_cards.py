"""The card: numbers from the data, hostile text kept harmless, what people wrote kept."""

import html
import shutil

import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from kp_data.errors import DataError
from kp_data.hub import CardSettings, build_release
from kp_data.hub.front_matter import split_card
from kp_data.hub.markdown import _UNPRINTABLE, escape
from kp_data.hub.release import Previous
from kp_data.hub.sections import BEGIN, END, template_folder
from kp_data.hub.terms import terms_of
from kp_data.tables import read_responses, write_json, write_parquet

HOSTILE = (
    "<script>alert(1)</script> ```\n---\n# Head | cell\n" + END + "\n[x](javascript:alert(2)) ![i](http://evil/x.png) "
    "<img src=x onerror=y> {{ 7*7 }} {% raw %} **bold** www.evil.com \u202eabc"
)


def card_of(folder, **options) -> str:
    return build_release(folder, version="1.0.0", name="me/things", **options).files["README.md"].decode()


def hostile(folder):
    table = read_responses(folder / "responses.parquet")
    texts = pa.array([None if text is None else HOSTILE for text in table["rationale"].to_pylist()])
    table = table.set_column(table.column_names.index("rationale"), "rationale", texts)
    models = pa.array([HOSTILE] * table.num_rows)
    write_parquet(table.set_column(table.column_names.index("model"), "model", models), folder / "responses.parquet")
    return folder


def test_the_front_matter_says_what_the_data_is(make_purified):
    front, body = split_card(card_of(make_purified()))
    assert front["license"] == "unknown"
    assert "language" not in front
    assert front["annotations_creators"] == ["machine-generated"]
    assert front["size_categories"] == ["n<1K"]
    assert {"synthetic", "knowledge-distillation", "kp-data"} <= set(front["tags"])
    assert front["configs"][0] == {
        "config_name": "purified",
        "data_files": [
            {"split": split, "path": f"purified/{split}-*"} for split in ("train", "validation", "test", "ood")
        ],
        "default": True,
    }
    features = {feature["name"]: feature for feature in front["dataset_info"][0]["features"]}
    assert features["scores"] == {"name": "scores", "list": "float64"}
    assert front["kp_data"]["parameters"] == {"labels": "gold"}
    assert front["kp_data"]["seed"] == 3
    assert body.startswith("# things\n")


def test_every_number_comes_from_the_folder(make_purified):
    text = card_of(make_purified())
    front, _ = split_card(text)
    # By hand: ada is right, bo right on even questions, cy wrong; cy is silent on 0 and 5. Only on question 0 do all
    # who speak agree.
    assert [teacher["accuracy"] for teacher in front["kp_data"]["teachers"]] == [1.0, 0.5, 0.0]
    assert [teacher["failed"] for teacher in front["kp_data"]["teachers"]] == [0, 0, 2]
    assert front["kp_data"]["metrics"]["gap_closed"] == 0.5
    assert "contradict one another on 90.0 % of the questions" in text
    assert (
        "| cy | lab/cy-7b | unknown | unknown | unknown | blind | 10 | 2 (2 timeout) | 0.0 % | 0.0 % | unknown |"
        in text
    )
    assert "| test | 10 | 62.5 % | 50.0 % | 25.0 % | 100.0 % | 50.0 % |" in text
    assert 'load_dataset("me/things", revision="v1.0.0")' in text
    assert "`kp-data purify PANEL --method best-single --seed 3 --out FOLDER`" in text


def test_a_listed_licence_stands_as_it_is_and_another_gets_a_name(make_purified):
    folder = make_purified()
    front, _ = split_card(card_of(folder, settings=CardSettings(license="CC-BY-4.0", language=("en", "no"))))
    assert (front["license"], front["language"]) == ("cc-by-4.0", ["en", "no"])
    front, _ = split_card(card_of(folder, settings=CardSettings(license="Our lab's own terms")))
    assert (front["license"], front["license_name"]) == ("other", "Our lab's own terms")


def test_hostile_text_breaks_neither_yaml_nor_markdown_nor_the_marked_section(make_purified):
    text = card_of(hostile(make_purified()))
    front, body = split_card(text)
    assert front["kp_data"]["teachers"][0]["models"] == [HOSTILE]
    assert yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n")) == front
    assert (body.count(BEGIN), body.count(END)) == (1, 1)
    assert body.endswith(END + "\n")
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    for opened in ("<script", "<img", "<a ", "<strong>bold", "<h1>Head"):
        assert opened not in page
    assert "{{ 7*7 }}" in page
    # Splits, scores, conflicts, agreement, teachers, two samples, terms.
    tables = [4, 2, 2, 3, 3, 3, 3, 3]
    assert page.count("<tr>") == page.count("\n<tr>") == sum(1 + rows for rows in tables)


@given(st.text())
def test_escaped_text_renders_as_exactly_itself(text):
    shown = MarkdownIt("commonmark", {"html": True}).render(f"x{escape(text)}x")
    clean = _UNPRINTABLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).strip("\n")
    assert html.unescape(shown.removeprefix("<p>x").removesuffix("x</p>\n").replace("<br>", "\n")) == clean


def test_prose_and_foreign_keys_around_ours_survive_and_ours_are_rewritten(make_purified):
    first = card_of(make_purified())
    mine = first.replace("tags:\n", "doi: 10/abc\nlanguage: no\ntags:\n- mine\n").replace(BEGIN, f"Before.\n\n{BEGIN}")
    mine = mine.rstrip() + "\n\nAfter.\n"
    second = card_of(make_purified("next", num=12), parent=Previous(card=mine))
    front, body = split_card(second)
    assert (front["doi"], front["language"]) == ("10/abc", "no")
    assert front["tags"][:2] == ["mine", "synthetic"]
    assert body.startswith("# things\n\nBefore.\n")
    assert body.endswith("After.\n")
    assert body.count(BEGIN) == 1
    assert "12 questions" in body


def test_a_card_that_people_wrote_alone_gets_our_section_at_its_end(make_purified):
    theirs = "---\nconfigs:\n- config_name: extra\n  data_files: extra/*\n  default: true\n---\r\n# Theirs\n\nProse."
    front, body = split_card(card_of(make_purified(), parent=Previous(card=theirs)))
    assert body.startswith("# Theirs\n\nProse.\n\n" + BEGIN)
    assert [config["config_name"] for config in front["configs"]] == ["purified", "panel", "extra"]
    assert [config.get("default") for config in front["configs"]] == [True, None, None]


def test_a_foreign_config_called_default_stays_the_only_default(make_purified):
    theirs = "---\nconfigs:\n- config_name: default\n  data_files: data/*\n---\n"
    front, _ = split_card(card_of(make_purified(), parent=Previous(card=theirs)))
    assert not any(config.get("default") for config in front["configs"])


@pytest.mark.parametrize("front", ["a: [", "- just\n- a list", "a: !!python/object:os.system x"])
def test_front_matter_that_cannot_be_read_is_refused_and_not_overwritten(make_purified, front):
    with pytest.raises(DataError, match=r"README\.md: its front matter"):
        card_of(make_purified(), parent=Previous(card=f"---\n{front}\n---\n# Theirs\n"))


def test_writing_a_card_again_changes_nothing(make_purified):
    folder = make_purified()
    first = card_of(folder)
    assert card_of(folder, parent=Previous(card=first)).split("---\n", 2)[1] == first.split("---\n", 2)[1]


def test_the_templates_are_found_inside_an_installed_package(tmp_path, monkeypatch):
    import kp_data

    installed = tmp_path / "kp_data"
    shutil.copytree(template_folder(), installed / "cards")
    monkeypatch.setattr(kp_data, "__file__", str(installed / "__init__.py"))
    assert template_folder() == installed / "cards"
    shutil.rmtree(installed / "cards")
    with pytest.raises(DataError, match="install the package again"):
        template_folder()


def test_a_folder_without_report_or_responses_still_gets_an_honest_card(make_purified):
    folder = make_purified(panel=False)
    (folder / "report.json").unlink()
    (folder / "run.json").unlink()
    text = card_of(folder)
    assert "| all | – | unknown | unknown | unknown | unknown | unknown |" in text
    assert "| ada | " + "unknown | " * 8 + "100.0 % | unknown |" in text


def test_how_teachers_were_asked_comes_from_the_panel_and_no_address_does(make_purified, tmp_path):
    folder = make_purified()
    panel = tmp_path / "panel"
    shutil.copytree(folder, panel)
    teachers = [
        {"name": "ada", "model": "openai/gpt-4o-mini", "temperature": 0.7, "max_tokens": 512},
        {"name": "bo", "model": "openai/qwen", "api_base": "http://secret.host:8000/v1", "temperature": None},
    ]
    write_json({"kind": "panel", "teachers": teachers}, panel / "run.json")
    text = card_of(folder, panel=panel)
    front, _ = split_card(text)
    entries = {entry["name"]: (entry["endpoint"], entry["temperature"]) for entry in front["kp_data"]["teachers"]}
    assert entries == {"ada": ("openai", 0.7), "bo": ("url", None), "cy": (None, None)}
    assert "| ada | openai/gpt-4o-mini | [OpenAI terms and policies](https://openai.com/policies/) |" in text
    assert "| cy | lab/cy-7b | unknown | unknown |" in text
    assert "secret" not in text


def test_another_panel_than_the_purified_one_is_refused(make_purified, tmp_path):
    folder = make_purified()
    write_json({"method": "best-single", "inputs": {"responses.parquet": "0" * 64}}, folder / "run.json")
    with pytest.raises(DataError, match="does not say how the teachers were asked"):
        card_of(folder, panel=folder)
    panel = tmp_path / "panel"
    panel.mkdir()
    write_json({"kind": "panel", "teachers": []}, panel / "run.json")
    with pytest.raises(DataError, match="not the panel that this folder was purified from"):
        card_of(folder, panel=panel)


def test_the_front_matter_is_what_the_official_reader_reads(make_purified, tmp_path):
    from huggingface_hub import DatasetCard

    path = tmp_path / "README.md"
    path.write_text(card_of(make_purified(), settings=CardSettings(license="mit", language=("no",))))
    data = DatasetCard.load(path).data
    assert (data.license, data.language, data.size_categories) == ("mit", ["no"], ["n<1K"])
    assert {info["config_name"] for info in data.dataset_info} == {"purified", "panel"}
    assert data.kp_data["version"] == "1.0.0"


def test_an_end_mark_that_somebody_quotes_further_down_loses_no_prose(make_purified):
    mine = card_of(make_purified()) + f"\nOurs ends with {END}, and so says this line.\n"
    assert card_of(make_purified(), parent=Previous(card=mine)).count("and so says this line.") == 1


def test_lists_that_people_added_to_keep_what_they_added(make_purified):
    mine = card_of(make_purified()).replace("- machine-generated\n", "- expert-generated\n", 1)
    front, _ = split_card(card_of(make_purified(), parent=Previous(card=mine)))
    assert front["annotations_creators"] == ["expert-generated", "machine-generated"]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o-mini", "OpenAI terms and policies"),
        ("openai/gpt-oss-20b", "Apache-2.0"),
        ("ollama/llama3.1:8b", "Llama 3.1 Community License"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "Llama 3 Community License"),
        ("Qwen/Qwen2.5-7B-Instruct", "Apache-2.0"),
        ("Qwen/Qwen2.5-72B-Instruct", "Qwen License"),
        ("google/gemma-2-9b-it", "Gemma Terms of Use"),
        ("google/flan-t5-xl", "Apache-2.0"),
        ("practice/ada", "Apache-2.0 (a program, not a model)"),
        ("DeepSeek-R1-Distill-Llama-70B", "unknown"),
        ("BioMistral/BioMistral-7B", "unknown"),
        ("my-own-model", "unknown"),
    ],
)
def test_terms_are_told_by_the_family_and_unknown_where_the_name_does_not_tell(model, name):
    assert terms_of(model).name == name
