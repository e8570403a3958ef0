"""What the cards of datasets and of students share: templates that escape, and a section of a README.md that is ours.

Everything that a template prints is escaped unless it is marked `Safe`. Prose around the two marks, and front-matter
keys that we do not write, belong to the owner and survive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2

import kp_data
from kp_data.errors import DataError
from kp_data.hub.markdown import Safe, escape, excerpt, money, percent

BEGIN: Final = "<!-- kp-data:begin -->"
END: Final = "<!-- kp-data:end -->"


def template_folder() -> Path:
    """Where the card templates are: `cards/` of the repository, or inside the installed package.

    Raises:
        DataError: in neither place.
    """
    package = Path(kp_data.__file__).resolve().parent
    for folder in (package / "cards", package.parent / "cards"):
        if (folder / "dataset_card.md.j2").is_file():
            return folder
    raise DataError("the card templates are missing; install the package again", place=package / "cards")


@cache
def card_template(name: str) -> jinja2.Template:
    """The template of that name, escaping whatever it prints and refusing names that were not given."""
    # What a template prints is escaped unless it is marked Safe: forgetting a filter cannot open a hole.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_folder()),
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  Markdown, not HTML: `finalize` does the escaping.
    )
    environment.filters |= {"percent": percent, "money": money, "excerpt": excerpt, "safe": Safe}
    return environment.get_template(name)


def with_section(body: str, section: str) -> str:
    """A README's body with our section in place of the one it holds, or at its end.

    >>> with_section(f"Mine.\\n\\n{BEGIN}\\nold\\n{END}\\nMine too.\\n", "new").splitlines()
    ['Mine.', '', '<!-- kp-data:begin -->', 'new', '<!-- kp-data:end -->', 'Mine too.']
    """
    before, after = around_section(body)
    if after is None:
        separator = "" if not body or body.endswith("\n\n") else "\n" if body.endswith("\n") else "\n\n"
        before, after = body + separator, "\n"
    return f"{before}{BEGIN}\n{section.strip()}\n{END}{after}"


def around_section(body: str) -> tuple[str, str | None]:
    """What stands before and after our section of a README's body; all of it and None where it holds none."""
    begin = body.find(BEGIN)
    end = body.find(END, begin)
    return (body[:begin], body[end + len(END) :]) if 0 <= begin < end else (body, None)


def fenced_json(value: Mapping[str, Any]) -> str:
    """A document for a fenced code block, which it cannot leave."""
    # "<" as an escape, so that no string can hold our end mark or a tag; JSON has no line starting with a fence.
    return (
        json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True).replace("<", "\\u003c").replace("`", "\\u0060")
    )


def _finalize(value: Any) -> Any:
    # Numbers have nothing to escape, and macros return text that was finalised inside.
    return value if isinstance(value, int | float | Safe) else "unknown" if value is None else escape(value)
