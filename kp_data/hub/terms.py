"""What is known of the terms that teachers' outputs come under, by the name of the model. No legal advice.

The table knows families, not contracts: who hosts a model, and what was agreed with them, can change what applies.
A model that no line matches is "unknown", and so is one whose family has several licences that its name does not tell
apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

AS_OF: Final = "2026-04"
"""When the lines below were last looked at; terms change without notice."""

_COMPETES: Final = "not for training models that compete with the provider's"
_NAMED: Final = "models trained on outputs carry the family's name"
_FREE: Final = "says nothing against it"


@dataclass(frozen=True, slots=True)
class Terms:
    """The licence or terms of a family of models.

    Attributes:
        name: of the licence or terms, "unknown" where it is.
        url: where they stand; None where unknown.
        training: what they say of training other models on outputs, in few words.
    """

    name: str
    url: str | None
    training: str

    @property
    def is_free(self) -> bool:
        """Whether they are known, and say nothing against training other models."""
        return self.training == _FREE


UNKNOWN: Final = Terms("unknown", None, "unknown")

_APACHE = Terms("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0", _FREE)
_MIT = Terms("MIT", "https://opensource.org/license/mit", _FREE)
_LLAMA_2 = Terms(
    "Llama 2 Community License", "https://ai.meta.com/llama/license/", "not for improving other large language models"
)


def _llama(version: str) -> Terms:
    url = f"https://www.llama.com/llama{version.replace('.', '_')}/license/"
    if version == "3":
        return Terms("Llama 3 Community License", url, "not for improving other large language models")
    return Terms(f"Llama {version} Community License", url, _NAMED)


# First match wins. A size or a version stands in a pattern where a family has more than one licence.
_FAMILIES: Final[tuple[tuple[str, Terms], ...]] = (
    (r"practice/", Terms("Apache-2.0 (a program, not a model)", _APACHE.url, _FREE)),
    (r"gpt-oss-\d+b", _APACHE),
    (
        r"(gpt-[345]|o[134](-|$)|chatgpt)",
        Terms("OpenAI terms and policies", "https://openai.com/policies/", _COMPETES),
    ),
    (
        r"claude-",
        Terms("Anthropic Commercial Terms of Service", "https://www.anthropic.com/legal/commercial-terms", _COMPETES),
    ),
    (
        r"gemini-",
        Terms("Gemini API Additional Terms of Service", "https://ai.google.dev/gemini-api/terms", _COMPETES),
    ),
    (r"deepseek-r1-distill", UNKNOWN),
    (r"deepseek-(r1|v3-0324|v3\.[12])", _MIT),
    (r"(llama-?2|llama2)", _LLAMA_2),
    (r"llama-?3\.1", _llama("3.1")),
    (r"llama-?3\.2", _llama("3.2")),
    (r"llama-?3\.3", _llama("3.3")),
    (r"llama-?3($|[-_:/])", _llama("3")),
    (r"llama-?4($|[-_:/])", _llama("4")),
    (
        r"qwen2\.5[-:]3b",
        Terms("Qwen Research License", "https://huggingface.co/Qwen/Qwen2.5-3B/blob/main/LICENSE", "non-commercial"),
    ),
    (
        r"qwen2(\.5)?[-:]72b",
        Terms("Qwen License", "https://huggingface.co/Qwen/Qwen2.5-72B-Instruct/blob/main/LICENSE", _NAMED),
    ),
    (r"qwen2\.5[-:](0\.5|1\.5|7|14|32)b", _APACHE),
    (r"qwen3[-:](0\.6|1\.7|4|8|14|32|30|235)b", _APACHE),
    (r"gemma-?4", Terms("Apache-2.0", "https://ai.google.dev/gemma/apache_2", _FREE)),
    (r"gemma-?[23]?(-|:|$)", Terms("Gemma Terms of Use", "https://ai.google.dev/gemma/terms", "see the terms")),
    (r"(mistral-7b|mixtral-8x(7|22)b|mistral-nemo)", _APACHE),
    (r"phi-?(2|3|3\.5|4)(-|:|$)", _MIT),
    (r"(flan-)?t5-(small|base|large|xl|xxl|3b|11b)($|[-:])", _APACHE),
    (r"flan-ul2", _APACHE),
    (r"olmo-?[123]?-", _APACHE),
    (r"falcon-(7|40)b", _APACHE),
    (r"zephyr-7b", _MIT),
    (
        r"bloomz?-",
        Terms("BigScience RAIL", "https://huggingface.co/spaces/bigscience/license", "see its use restrictions"),
    ),
)
_PATTERNS: Final = tuple((re.compile(rf"(?:^|[/_-]){pattern}", re.IGNORECASE), terms) for pattern, terms in _FAMILIES)


def terms_of(model: str) -> Terms:
    """The terms of a model, `UNKNOWN` where its name does not tell.

    Args:
        model: as the teacher was configured or as its endpoint named it, such as `openai/gpt-4o-mini`.

    >>> terms_of("openai/gpt-4o-mini").name, terms_of("meta-llama/Llama-3.1-8B-Instruct").name, terms_of("lab/x").name
    ('OpenAI terms and policies', 'Llama 3.1 Community License', 'unknown')
    """
    return next((terms for pattern, terms in _PATTERNS if pattern.search(model)), UNKNOWN)
