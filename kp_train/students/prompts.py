"""How a causal student is asked and answers: by its chat template where the tokenizer has one, as plain text elsewhere.

    chat     …user turn: PREFIX QUESTION… assistant turn: | ANSWER END-OF-TURN
    plain    PREFIX QUESTION ⏎ Answer: | ANSWER END

Left of the bar is the prompt, right of it what is learned. Both are tokenised by themselves and their tokens joined:
a tokenizer may merge characters across the bar, and a student that generates continues the tokens of the prompt as
they are, so the prompt must have the same tokens whatever follows it. Questions and answers are other people's text:
what looks like a control token in them is read as ordinary characters and can neither end a turn nor open one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from kp_data.errors import ConfigError

ASK: Final = "\nAnswer:"
_QUESTION, _ANSWER = "kpquestionpk", "kpanswerpk"
"""Stand-ins that no template changes, by which its parts are found."""

_DATE: Final = {
    "%d": "26",
    "%-d": "26",
    "%m": "07",
    "%b": "Jul",
    "%B": "July",
    "%y": "24",
    "%Y": "2024",
    "%A": "Friday",
}
"""Templates that name the date get this one: a prompt of tomorrow must be that of the training."""


@dataclass(frozen=True)
class Prompts:
    """The layout of a tokenizer.

    Attributes:
        tokenizer: of the student.
        head: tokens before prefix and question.
        tail: text between the question and the answer; tokenised with the question unless it is a template's.
        tail_tokens: that as tokens, where a template has it; its control tokens are meant.
        lead: what stands before the answer's first word.
        end: the token that ends an answer.
    """

    tokenizer: PreTrainedTokenizerBase
    head: tuple[int, ...]
    tail: str
    tail_tokens: tuple[int, ...]
    lead: str
    end: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Prompts:
        """The layout that a tokenizer asks for.

        Raises:
            ConfigError: its chat template cannot be filled in with one question, or it has no end token.
        """
        return _chat(tokenizer) if getattr(tokenizer, "chat_template", None) else _plain(tokenizer)

    def question(self, prefix: str, text: str, limit: int) -> tuple[tuple[int, ...], bool]:
        """The prompt's tokens, and whether it had to be cut.

        A prompt too long loses the beginning of the question, never its prefix or its end, where the choices are.

        Raises:
            ConfigError: the template alone is as long as the limit.
        """
        whole = (*self.head, *self._text(prefix + text + self.tail), *self.tail_tokens)
        if len(whole) <= limit:
            return whole, False
        first = (*self.head, *self._text(prefix))
        if (room := limit - len(first) - len(self.tail_tokens)) < 1:
            raise ConfigError(
                f"the chat template and the prefix take {limit - room} tokens, and the student reads {limit}",
                place="--student",
            )
        return (*first, *self._text(text + self.tail)[-room:], *self.tail_tokens), True

    def answer(self, text: str, limit: int) -> tuple[tuple[int, ...], bool]:
        """The tokens of an answer and its end, and whether it had to be cut; a cut one has no end.

        A student must not learn to stop in mid-sentence.
        """
        tokens = (*self._text(self.lead + text), self.end)
        return (tokens, False) if len(tokens) <= limit else (tokens[:limit], True)

    def _text(self, text: str) -> tuple[int, ...]:
        return _tokens(self.tokenizer, text, as_text=True)


def _plain(tokenizer: PreTrainedTokenizerBase) -> Prompts:
    """Text with an end token, after a beginning token where the tokenizer puts one by itself."""
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ConfigError("the checkpoint's tokenizer has no end token", place="--student")
    begin = tokenizer.bos_token_id
    marked = list(tokenizer("a", verbose=False)["input_ids"])
    head = (begin,) if isinstance(begin, int) and marked[:1] == [begin] else ()
    # Most tokenizers keep a word and the blank before it together, and some add that blank themselves.
    adds_blank = tokenizer.convert_ids_to_tokens(_tokens(tokenizer, "a")[0]) in ("▁a", "Ġa", "▁", "Ġ")
    return Prompts(tokenizer, head, ASK, (), "" if adds_blank else " ", end)


def _chat(tokenizer: PreTrainedTokenizerBase) -> Prompts:
    """The parts of a chat template around question and answer."""
    user = {"role": "user", "content": _QUESTION}
    asked = _rendered(tokenizer, [user], add_generation_prompt=True)
    answered = _rendered(tokenizer, [user, {"role": "assistant", "content": _ANSWER}], add_generation_prompt=False)
    if asked.count(_QUESTION) != 1 or answered.count(_ANSWER) != 1:
        raise ConfigError("the chat template of the checkpoint does not show question and answer", place="--student")
    head, tail = asked.split(_QUESTION)
    before, after = answered.split(_ANSWER)
    lead = before.removeprefix(asked) if before.startswith(asked) else ""
    # Text alone in head and tail: a beginning token, where there is one, is written in the template already.
    return Prompts(tokenizer, _tokens(tokenizer, head), "", _tokens(tokenizer, tail), lead, _end(tokenizer, after))


def _end(tokenizer: PreTrainedTokenizerBase, after: str) -> int:
    """The first control token after an answer, by which its turn ends; the end token where there is none."""
    special = set(tokenizer.all_special_ids)
    special |= {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    end = next((token for token in _tokens(tokenizer, after) if token in special), tokenizer.eos_token_id)
    if not isinstance(end, int):
        raise ConfigError("the checkpoint's tokenizer has no end token", place="--student")
    return end


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool
) -> str:
    try:
        rendered = tokenizer.apply_chat_template(
            list(messages),
            chat_template=_dated(str(tokenizer.get_chat_template())),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            # Templates of models that think aloud before they answer: ours answer. Others ignore both names.
            enable_thinking=False,
            thinking=False,
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"the chat template of the checkpoint cannot be filled in ({str(error).splitlines()[0]})", place="--student"
        ) from error
    return str(rendered)


def _dated(template: str) -> str:
    """The template with a clock that stands still, where it asks for one."""
    if "strftime_now" not in template:
        return template
    told = "".join(f" | replace('{code}', '{value}')" for code, value in _DATE.items())
    return f"{{% macro strftime_now(format) %}}{{{{ format{told} }}}}{{% endmacro %}}{template}"


def _tokens(tokenizer: Any, text: str, *, as_text: bool = False) -> tuple[int, ...]:
    # `verbose` would warn of texts beyond the tokenizer's nominal length, which are cut here.
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=as_text, verbose=False)
    return tuple(encoded["input_ids"])
