"""Texts that try to become markup, script or addresses, and what a page must look like whatever they tried."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

PAYLOADS = (
    "<script>alert(1)</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<script\x00>alert(1)</script>",
    "<script >alert(1)</script >",
    "</script><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</option></select><script>alert(1)</script>",
    "--><script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<img src='https://evil.example/pixel.png'>",
    "<image src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<svg><a xlink:href='javascript:alert(1)'><text y=20>x</text></a></svg>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "<body onload=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data=javascript:alert(1)></object>",
    "<embed src=javascript:alert(1)>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<meta http-equiv=refresh content='0;url=javascript:alert(1)'>",
    "<base href=//evil.example/>",
    "<form action=//evil.example><input name=token><button>Sign in</button></form>",
    "<input onfocus=alert(1) autofocus>",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)></video>",
    "<audio src=x onerror=alert(1)>",
    "<marquee onstart=alert(1)>x</marquee>",
    "<template><script>alert(1)</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<style>*{background:url(//evil.example)}</style>",
    "<div style='background:url(javascript:alert(1))'>x</div>",
    "<a href=javascript:alert(1)>x</a>",
    "<a href='java\tscript:alert(1)'>x</a>",
    "<a href='&#106;avascript:alert(1)'>x</a>",
    "<a href=data:text/html,<script>alert(1)</script>>x</a>",
    "<a href=//evil.example>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](//evil.example/)",
    "[x](vbscript:msgbox(1))",
    "![x](https://evil.example/pixel.png)",
    "![x](javascript:alert(1))",
    "<javascript:alert(1)>",
    "[x]: javascript:alert(1)\n\n[x]",
    '[x](https://ok.example "><script>alert(1)</script>")',
    "```html\n<script>alert(1)</script>\n```",
    '" onmouseover=alert(1) x="',
    "' onmouseover=alert(1) x='",
    '"><script>alert(1)</script>',
    "'><img src=x onerror=alert(1)>",
    "` onmouseover=alert(1) `",
    "{{ 7 * 7 }}{% import os %}",
    "${alert(1)} #{alert(1)}",
    "\u202e<script>alert(1)</script>",
    "\ufeff<script>alert(1)</script>",
    "＜script＞alert(1)＜/script＞",
    "+ADw-script+AD4-alert(1)+ADw-/script+AD4-",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
)

_ELEMENTS = frozenset(
    """
    html head meta title link body header footer main nav aside section article div span p a b br hr h1
    h2 h3 h4 h5 h6 ul ol li dl dt dd table thead tbody tr th td form label input button select option
    fieldset legend details summary pre code small time meter em strong s del ins blockquote figure svg
    desc rect text line circle path g
    """.split()  # noqa: SIM905 -- a list of so many names reads worse
)
_ADDRESSES = frozenset({"href", "src", "action", "formaction", "poster", "data", "xlink:href", "srcset", "ping"})


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self._drawing = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        drawing = tag == "svg" and (of.get("class") == "chart" or self._drawing > 0)
        self._drawing += drawing
        if tag not in _ELEMENTS or (tag == "svg" and not drawing):
            self.faults.append(f"element <{tag}>")
        for name, value in attrs:
            self._check(tag, name, value or "", of)

    def handle_endtag(self, tag: str) -> None:
        self._drawing -= tag == "svg"

    def _check(self, tag: str, name: str, value: str, of: dict[str, str | None]) -> None:
        if name.startswith("on") or name in ("style", "srcdoc", "autofocus"):
            self.faults.append(f"attribute {name} of <{tag}>")
        if name == "http-equiv" and value != "refresh":
            self.faults.append(f"http-equiv {value}")
        if name == "content" and "url" in value.lower():
            self.faults.append(f"refresh to {value}")
        if name in _ADDRESSES and not _is_harmless(value, str(of.get("rel") or "")):
            self.faults.append(f"{name}={value!r} of <{tag}>")


def _is_harmless(address: str, rel: str) -> bool:
    """Within this site; or to another one by http, and then without trust."""
    if re.match(r"[\x00-\x20]", address) or re.search(r"[\t\r\n]", address):
        return False
    if address.startswith(("/", "#", "?")):
        return not address.startswith(("//", "/\\"))
    return urlsplit(address).scheme in ("http", "https") and "nofollow" in rel and "noopener" in rel


def faults_of(html: str) -> list[str]:
    """What a page holds that none of our pages has."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.faults
