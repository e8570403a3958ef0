"""The page of a comparison: what it shows of two files, and what it refuses."""

from html.parser import HTMLParser

import pytest

from kp_data.errors import DataError
from kp_data.report import page_of_folder, print_comparison, print_page, render_html
from kp_data.tables import read_json, write_json

EVIL = '</style></p><script>alert("x")</script><img src=x onerror=alert(1)>'
USAGE = {
    "prior": "the question",
    "training": "labelled questions",
    "extra_parameters": 22_000_000,
    "seconds_fit": 12.5,
    "transferable": True,
    "seconds_a_question": 0.0312,
    "teacher_calls": 1.0,
    "teacher_seconds": 1.75,
    "cost_usd": 0.004,
}


def entry(method, accuracy, *, kind="router", gain=0.1, **rest):
    differences = {"majority": {"value": gain, "ci95": [gain - 0.05, gain + 0.05], "num": 90}}
    subjects = {
        name: {"teacher_share": {"ada": share, "bo": 1 - share}, "purified_accuracy": share, "n_questions": 45}
        for name, share in (("law", 0.25), ("art", 0.75))
    }
    return {
        "method": method,
        "kind": kind,
        "split": "test",
        "n_questions": 90,
        "purified_accuracy": accuracy,
        "best_single_accuracy": 0.4,
        "best_single_teacher": "ada",
        "oracle_accuracy": 0.8,
        "conflict_rate": 0.6,
        "gap_closed": (accuracy - 0.4) / 0.4,
        "gain": accuracy - 0.4,
        "ci95": {"purified_accuracy": [accuracy - 0.1, accuracy + 0.1], "gain": [-0.05, 0.25]},
        "calls_per_question": 1.0 if kind == "router" else 2.0,
        "teacher_share": {"ada": 0.5, "bo": 0.5},
        "practicality": USAGE,
        "differences": differences if method != "majority" else {},
        "subjects": subjects,
        "notes": [],
        **rest,
    }


@pytest.fixture
def folder(tmp_path):
    bins = [{"predicted": 0.3, "observed": 0.25, "low": 0.1, "high": 0.4, "num": 45}]
    write_json(
        [
            entry("router" + EVIL, 0.55),
            entry("majority", 0.45, kind="baseline"),
            entry("verifier", 0.6, kind="selector", gain=0.02, reliability={"ece": 0.05, "num": 45, "bins": bins}),
            entry("oracle", 0.8, kind="baseline"),
        ],
        tmp_path / "compare.json",
    )
    voices = [
        {"teacher": "ada", "conclusion": EVIL, "right": True, "rationale": EVIL * 20, "kept_by": ["verifier", EVIL]},
        {"teacher": "bo", "conclusion": None, "right": None, "rationale": None, "kept_by": []},
    ]
    example = {"id": "q1", "split": "test", "question": EVIL, "choices": [EVIL, "b"], "gold": EVIL, "voices": voices}
    facts = {
        "teachers": ["ada", "bo" + EVIL],
        "agreement": [[1.0, 0.5], [0.5, 1.0]],
        "kappa": [[1.0, 0.25], [0.25, None]],
        "both_answered": [[90, 80], [80, 85]],
        "examples": [{**example, "written": {"writer": EVIL}}],
    }
    write_json(facts, tmp_path / "split.json")
    return tmp_path


class Tags(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.text += data


def headings(page):
    return [section.heading for section in page.sections]


def test_a_comparison_shows_accuracy_cost_differences_shares_reliability_agreement_and_examples(folder):
    page = page_of_folder(folder)
    assert headings(page) == [
        "Accuracy by method",
        "Accuracy against cost",
        "Against majority",
        "What each method takes",
        "Whose rationales verifier keeps",
        f"Whose rationales router{EVIL} keeps",
        "By subject",
        "Does the score of verifier mean what it says?",
        "Who agrees with whom",
        "Where they contradict one another, and what is kept",
    ]
    text = Tags(render_html(page)).text
    for shown in ("31 ms", "$0.0040", "22.0 M", "+2.0 (−3.0 to +7.0)", "0.25", "kept by verifier", "5.0 %"):
        assert shown in text


def test_the_best_method_opens_the_page_and_the_oracle_is_none(folder):
    facts = {fact.label: (fact.value, fact.note) for fact in page_of_folder(folder).facts}
    assert facts["best method"] == ("60.0 %", "verifier")
    assert facts["gap closed"][0] == "50.0 %"


def test_nothing_in_a_comparison_can_become_markup(folder):
    page = Tags(render_html(page_of_folder(folder)))
    assert EVIL in page.text
    assert not {"script", "img", "iframe", "link", "object", "form"} & set(page.tags)
    assert not {name for name in page.attributes if name.startswith("on")} | {"src", "href"} & set(page.attributes)


def test_calls_stand_in_for_cost_where_a_price_is_unknown(folder):
    entries = read_json(folder / "compare.json")
    entries[0]["practicality"] = {**USAGE, "cost_usd": None}
    write_json(entries, folder / "compare.json")
    assert "Accuracy against calls" in headings(page_of_folder(folder))


def test_the_terminal_says_in_tables_what_the_page_draws(folder, capsys):
    print_page(page_of_folder(folder))
    page = capsys.readouterr().out
    print_comparison(read_json(folder / "compare.json"), title="methods on test")
    compared = capsys.readouterr().out
    for words in ("methods on test", "What each method takes", "Against majority", "−3.0 to +7.0", "all", "1.8 s"):
        assert words in compared
    for words in ("κ", "ada (kept by verifier", "mean what it says", "25.0 %"):
        assert words in page
    assert "\x1b" not in page + compared


def test_a_comparison_of_an_earlier_version_is_still_shown(folder):
    (folder / "split.json").unlink()
    old = [
        {key: value for key, value in one.items() if key not in ("practicality", "differences", "kind", "reliability")}
        for one in read_json(folder / "compare.json")
    ]
    write_json(old, folder / "compare.json")
    assert headings(page_of_folder(folder))[:2] == ["Accuracy by method", "Accuracy against calls"]


def test_a_list_that_is_none_is_left_out(folder):
    facts = read_json(folder / "split.json")
    example = {**facts["examples"][0], "voices": 3, "choices": "many"}
    write_json({**facts, "teachers": 3, "examples": [example]}, folder / "split.json")
    assert "Who agrees with whom" not in headings(page_of_folder(folder))
    assert "q1 · test" in Tags(render_html(page_of_folder(folder))).text


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("split.json", {"agreement": [[1.0]]}, r"split\.json: 'agreement' is no table of 2 by 2"),
        ("split.json", {"kappa": [["high", 1], [1, 1]]}, r"split\.json: 'kappa' is 'high'"),
        ("split.json", {"examples": 3}, r"split\.json: 'examples' is no list"),
        ("compare.json", {"practicality": {"cost_usd": "cheap"}}, r"compare\.json: 'cost_usd' is 'cheap'"),
        ("compare.json", {"differences": {"majority": {"value": "more"}}}, r"compare\.json: 'differences' is 'more'"),
        ("compare.json", {"teacher_share": {"ada": "all"}}, r"compare\.json: 'teacher_share' is 'all'"),
        ("compare.json", {"reliability": {"bins": [{"predicted": "x"}]}}, r"compare\.json: 'predicted' is 'x'"),
    ],
)
def test_text_for_a_number_is_refused_by_name(folder, name, change, message):
    found = read_json(folder / name)
    changed = found | change if isinstance(found, dict) else [found[0] | change, *found[1:]]
    write_json(changed, folder / name)
    with pytest.raises(DataError, match=message):
        page_of_folder(folder)
