"""What a repository's README says about itself in YAML, read as the untrusted text that it is."""

from __future__ import annotations

import re
from datetime import date
from typing import Any, Final

import yaml

MAX_CARD_BYTES: Final = 2**20
_FRONT: Final = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_MAX_DEPTH: Final = 30
# Ten times as fast, where PyYAML was built with it.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_YAML_CHARS: Final = 2**19
_MAX_INTEGER: Final = 2**63
_LONG_NUMBER: Final = re.compile(r"[-+0-9A-Fa-fxX_:.]{100,}")


def read_card(text: str) -> dict[str, Any]:
    """The metadata of a README, as JSON knows values.

    Raises:
        ValueError: it is not valid YAML, or no mapping; the message is for the user.
    """
    found: dict[str, Any] = _as_json(split_card(text)[0])
    return found


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """The metadata of a README, as YAML knows values, and its text.

    Raises:
        ValueError: see `read_card`.
    """
    found = _FRONT.match(text)
    if found is None:
        return {}, text
    if len(found.group(1)) > _MAX_YAML_CHARS:
        raise ValueError(f"the metadata at the top of README.md is longer than {_MAX_YAML_CHARS} characters")
    try:
        _check_shape(found.group(1))
        data = yaml.load(found.group(1), Loader=_SafeLoader)  # noqa: S506 - it is the safe one
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # PyYAML stumbles over values that do not fit their tag, such as `!!bool maybe`, with errors of many kinds.
        raise ValueError(f"the metadata at the top of README.md is not valid YAML: {error}") from error
    if data is not None and not isinstance(data, dict):
        raise ValueError("the metadata at the top of README.md must be a mapping")
    return data or {}, text[found.end() :]


def _check_shape(text: str) -> None:
    """Refuse what grows when it is read: a few lines of aliases can stand for gigabytes, and depth for a full stack.

    Raises:
        YAMLError: the text has aliases, is nested too deeply, or is no YAML.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed in a card")
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and _LONG_NUMBER.fullmatch(event.value):
            # YAML counts in sixties, too, and takes quadratic time for it.
            raise yaml.YAMLError("a number of too many digits")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise yaml.YAMLError("nested too deeply")


def _as_json(value: Any) -> Any:
    """YAML knows dates and keys that are no text; JSON does not."""
    if isinstance(value, dict):
        return {str(_as_json(key)): _as_json(item) for key, item in value.items()}
    if isinstance(value, list | set | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, str):
        # YAML can spell half characters, which no JSON can be written with.
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise ValueError("the metadata at the top of README.md holds a number of too many digits")
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return str(value)
    return value
