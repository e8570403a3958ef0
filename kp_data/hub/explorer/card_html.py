"""A card's Markdown as HTML that can do no harm: no markup of its own, no images, links that say what they are."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import cache
from typing import Final
from urllib.parse import unquote, urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token
from markupsafe import Markup

from kp_data.hub.explorer.dataset import CARD, Dataset
from kp_data.hub.explorer.render import url
from kp_data.hub.server.card_data import split_card

CHANGES: Final = "CHANGELOG.md"

_TAGS: Final = {
    *("p", "br", "hr", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "em", "strong"),
    *("s", "a", "table", "thead", "tbody", "tr", "th", "td"),
}
_ATTRIBUTES: Final = {"a": {"href", "title"}, "ol": {"start"}}
_COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)
_MAX_CHARS: Final = 500_000
_TABLE: Final = '<div class="scroll" tabindex="0" role="region" aria-label="Table {}"><table>'


def card_html(dataset: Dataset) -> Markup:
    """The text of a dataset's README; empty where there is none."""
    text = dataset.document(CARD)
    try:
        text = split_card(text)[1]
    except ValueError:
        text = text.partition("\n---")[2] if text.startswith("---") else text
    return markdown_html(text, dataset)


def changelog_html(dataset: Dataset) -> Markup:
    """What its versions changed; empty where nobody wrote it down."""
    return markdown_html(dataset.document(CHANGES), dataset)


def markdown_html(text: str, dataset: Dataset) -> Markup:
    """Markdown as HTML; links to files of the dataset lead to them, others to http and https alone."""
    html = _parser().render(text[:_MAX_CHARS])
    # One page has one heading of the first level, and it is ours.
    for level in (5, 4, 3, 2, 1):
        html = html.replace(f"<h{level}>", f"<h{level + 1}>").replace(f"</h{level}>", f"</h{level + 1}>")

    def attribute(tag: str, name: str, value: str) -> str | None:
        return _link(value, dataset) if (tag, name) == ("a", "href") else value

    clean = nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=attribute,
        link_rel="nofollow noopener noreferrer ugc",
        url_schemes={"http", "https"},
    )
    # A wide table moves under the reader's keys and not the page; a heading that says nothing is no heading.
    numbers = itertools.count(1)
    clean = re.sub("<table>", lambda _: _TABLE.format(next(numbers)), clean)
    clean = clean.replace("</table>", "</table></div>").replace("<th></th>", "<td></td>")
    clean = clean.replace("<pre>", '<pre tabindex="0">')
    return Markup(clean)  # noqa: S704 -- sanitised just above


def _link(value: str, dataset: Dataset) -> str | None:
    """Where a link of a card leads; None: nowhere."""
    try:
        parts = urlsplit(value)
    except ValueError:
        return None
    if parts.scheme in ("http", "https"):
        return value
    if parts.scheme or parts.netloc or value.startswith(("/", "\\")) or not parts.path:
        return None
    # The parser has encoded what it found; a name is encoded once.
    named = (unquote(segment) for segment in parts.path.split("/"))
    segments = [segment for segment in named if segment not in ("", ".", "..")]
    return url("datasets", *dataset.name.split("/"), "download", dataset.commit, *segments)


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"linkify": False}).enable(["table", "strikethrough"]).disable("image")
    for kind in ("html_block", "html_inline"):
        parser.add_render_rule(kind, _as_text)
    return parser


def _as_text(renderer: object, tokens: Sequence[Token], place: int, *others: object) -> str:
    """Markup of the card's own stands there as text; what it says in comments is for programs."""
    return escapeHtml(_COMMENT.sub("", tokens[place].content))
