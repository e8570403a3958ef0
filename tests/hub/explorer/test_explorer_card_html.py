"""A card's Markdown: what stays, where links lead, and what is left out."""

from __future__ import annotations

import pytest

from kp_data.hub.explorer.card_html import card_html, markdown_html
from kp_data.hub.explorer.dataset import Dataset

SET = Dataset("ada/set", "v1.0.0", "c0ffee", ())


def html(text: str) -> str:
    return str(markdown_html(text, SET))


@pytest.mark.parametrize(
    ("link", "to"),
    [
        ("report.json", "/datasets/ada/set/download/c0ffee/report.json"),
        ("./purified/train.parquet", "/datasets/ada/set/download/c0ffee/purified/train.parquet"),
        ("my%20file.json", "/datasets/ada/set/download/c0ffee/my%20file.json"),
        ("<my file.json>", "/datasets/ada/set/download/c0ffee/my%20file.json"),
        ("%2e%2e/%2e%2e/x", "/datasets/ada/set/download/c0ffee/x"),
        ("../../etc/passwd", "/datasets/ada/set/download/c0ffee/etc/passwd"),
        ("https://arxiv.org/abs/2602.01064", "https://arxiv.org/abs/2602.01064"),
    ],
)
def test_links_lead_to_files_of_this_version_or_to_the_web(link: str, to: str) -> None:
    found = html(f"[x]({link})")
    assert f'href="{to}"' in found
    assert 'rel="nofollow noopener noreferrer ugc"' in found


@pytest.mark.parametrize("link", ["javascript:alert(1)", "//evil.example", "/login", "data:text/html,x", "file:///x"])
def test_other_links_lead_nowhere(link: str) -> None:
    assert "href" not in html(f"[x]({link})")


def test_images_are_not_loaded() -> None:
    found = html("![seen](https://evil.example/pixel.png)")
    assert "<img" not in found
    assert "seen" in found


def test_tables_can_be_moved_by_keys_and_are_numbered() -> None:
    table = "| a | |\n|---|---|\n| 1 | 2 |\n"
    found = html(f"{table}\n\ntext\n\n{table}")
    assert found.count("<table>") == 2
    assert 'aria-label="Table 1"' in found
    assert 'aria-label="Table 2"' in found
    assert "<th></th>" not in found


def test_headings_stand_below_the_pages_own() -> None:
    found = html("# One\n\n## Two\n\n###### Six")
    assert "<h2>One</h2>" in found
    assert "<h3>Two</h3>" in found
    assert "<h1" not in found


def test_the_metadata_block_is_not_shown_even_when_it_is_broken() -> None:
    for block in ("license: mit", "license: [unclosed"):
        made = Dataset("ada/set", "main", "c0", (), {"README.md": f"---\n{block}\n---\n# Hello".encode()})
        assert "license" not in card_html(made)
        assert "Hello" in card_html(made)


def test_markup_is_text() -> None:
    assert "&lt;b&gt;" in html("<b>bold</b>")
