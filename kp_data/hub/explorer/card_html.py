"""A card's Markdown as HTML that can do no harm: no markup of its own, no images, links that say what they are."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token
from markupsafe import Markup

from kp_data.hub.explorer.dataset import CARD
from kp_data.hub.explorer.remembered import Remembered
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


class Documented(Protocol):
    """A version of a dataset or of a model, which has documents and an address."""

    @property
    def commit(self) -> str:
        """The immutable id of its files."""

    @property
    def address(self) -> tuple[str, ...]:
        """Segments of the address of its page."""

    def document(self, path: str) -> str:
        """A document as text; empty where there is none."""


def card_html(source: Documented) -> Markup:
    """The text of a README; empty where there is none."""
    return markdown_html(_body(source), source)


def code_of(source: Documented, language: str) -> str | None:
    """The first block of code in that language in a README, as its author wrote it; None: there is none."""
    tokens = _blocks_parser().parse(_body(source)[:_MAX_CHARS])
    found = (token.content for token in tokens if token.type == "fence" and token.info.strip().lower() == language)
    return next((code.rstrip() for code in found if code.strip()), None)


def _body(source: Documented) -> str:
    text = source.document(CARD)
    try:
        return split_card(text)[1]
    except ValueError:
        return text.partition("\n---")[2] if text.startswith("---") else text


def changelog_html(source: Documented) -> Markup:
    """What its versions changed; empty where nobody wrote it down."""
    return markdown_html(source.document(CHANGES), source)


def remembered_code(documents: Remembered, source: Documented, language: str) -> str | None:
    """As `code_of`, found once."""
    key = (source.address, source.commit, CARD, language, _digest(source, CARD))
    return documents.get(key, lambda: code_of(source, language))


def remembered_html(
    documents: Remembered, source: Documented, document: str, made: Callable[[Documented], Markup]
) -> Markup:
    """A document as HTML, made once: it takes longer than the rest of a page."""
    key = (source.address, source.commit, document, _digest(source, document))
    return documents.get(key, lambda: made(source))


def _digest(source: Documented, document: str) -> bytes:
    return hashlib.sha256(source.document(document).encode()).digest()


def markdown_html(text: str, source: Documented) -> Markup:
    """Markdown as HTML; links to files of this version lead to them, others to http and https alone."""
    html = _parser().render(text[:_MAX_CHARS])
    # One page has one heading of the first level, and it is ours.
    for level in (5, 4, 3, 2, 1):
        html = html.replace(f"<h{level}>", f"<h{level + 1}>").replace(f"</h{level}>", f"</h{level + 1}>")

    def attribute(tag: str, name: str, value: str) -> str | None:
        return _link(value, source) if (tag, name) == ("a", "href") else value

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


def _link(value: str, source: Documented) -> str | None:
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
    return url(*source.address, "download", source.commit, *segments)


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"linkify": False}).enable(["table", "strikethrough"]).disable("image")
    for kind in ("html_block", "html_inline"):
        parser.add_render_rule(kind, _as_text)
    return parser


@cache
def _blocks_parser() -> MarkdownIt:
    """Finds blocks and leaves alone what stands in a line, which takes nearly all of the time."""
    return MarkdownIt("commonmark").disable("inline")


def _as_text(renderer: object, tokens: Sequence[Token], place: int, *others: object) -> str:
    """Markup of the card's own stands there as text; what it says in comments is for programs."""
    return escapeHtml(_COMMENT.sub("", tokens[place].content))
