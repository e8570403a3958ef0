"""Causal students: Llama, Qwen, GPT-2 and their relatives.

Axes: N targets in a micro-batch, T learned tokens, B rows, S positions of a row, P positions of all rows one after
another, D model size, R choices of several questions in one list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from kp_data.errors import ConfigError, MethodError
from kp_data.schema import Question
from kp_data.tables import write_json
from kp_train.batches import MAX_INPUT_TOKENS, MAX_TARGET_TOKENS, Example, Item, flat_targets, portions
from kp_train.losses import head_losses
from kp_train.quiet import quiet_transformers
from kp_train.students.causal_checks import (
    PromptCache,
    all_logits,
    can_pack,
    can_share_prompts,
    has_plain_head,
    hidden_states,
)
from kp_train.students.checkpoint import read_checkpoint
from kp_train.students.prompts import Prompts
from kp_train.students.student import STUDENT_FILE, Recipe, read_limit, tokenizer_identity
from kp_train.views import LABEL_PREFIX, Target, question_input

ROW_WIDTHS: Final = (256, 2048)
"""A packed row holds as many tokens as the model is wide, within these bounds: masked attention computes a whole row
for every token, which then costs about a tenth of the layers' other products."""

_SLACKS: Final = (1.0, 1.02, 1.05, 1.1)
"""How much wider than the mean a row is tried."""

CHECKPOINT_RECIPE: Final = Recipe(
    lr=2e-5, batch=16, epochs=3, schedule="linear", warmup=0.03, weight_decay=0.0, bf16=False
)
"""What is usual for fine-tuning pretrained causal models of this size; not tuned here."""


class CausalStudent:
    """A decoder-only model that learns label and rationales as answers to differently prefixed questions."""

    kind = "causal"
    writes_text = True

    # `model` is Any: methods of transformers models are untyped, or typed as tensors.
    model: Any

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        recipe: Recipe = CHECKPOINT_RECIPE,
        max_input: int = MAX_INPUT_TOKENS,
        max_target: int = MAX_TARGET_TOKENS,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.prompts = Prompts.of(tokenizer)
        self.recipe = recipe
        self.max_input, self.max_target = _fit_positions(model, max_input, max_target)
        self.truncated = 0
        _stop_at(model, self.prompts.end, self._filler)

    @classmethod
    def from_checkpoint(cls, name: str) -> CausalStudent:
        """A pretrained student, in float32.

        Raises:
            ConfigError: the checkpoint cannot be loaded, or its tokenizer cannot ask questions.
        """
        return cls(*read_checkpoint(AutoModelForCausalLM, name))

    @classmethod
    def load(cls, folder: Path, described: Mapping[str, Any]) -> CausalStudent:
        """A student that was saved here; `described` is its student.json.

        Raises:
            DataError: student.json lacks a limit.
        """
        student = cls.from_checkpoint(str(folder))
        student.max_input = read_limit(described, "max_input", folder)
        student.max_target = read_limit(described, "max_target", folder)
        return student

    @cached_property
    def packs(self) -> bool:
        """Whether packing was found exact for this model."""
        return can_pack(self.model)

    def encode(self, question: Question, target: Target, *, task: int) -> Example:
        """One target, tokenised; an input that is too long loses its beginning, never its prefix or its choices.

        Raises:
            ConfigError: the tokenizer is of another model.
        """
        label, cut = self.prompts.answer(target.text, self.max_target)
        self.truncated += cut
        prompt = self._prompt(target.prefix, question)
        known = self.model.get_input_embeddings().weight.shape[0]
        if max(*prompt, *label) >= known:
            raise ConfigError(
                f"the checkpoint's model knows {known} tokens and its tokenizer makes others; they do not belong "
                "together",
                place="--student",
            )
        return Example((prompt,), label, task, target.weight)

    def encoding_identity(self) -> str | None:
        """What decides about an encoded row; None where that cannot be told."""
        tokenizer = tokenizer_identity(self.tokenizer)
        # The layout is made from the tokenizer by rules of ours, which may change.
        layout = self.prompts
        parts = (layout.head, layout.tail, layout.tail_tokens, layout.lead, layout.end, self.max_input, self.max_target)
        return None if tokenizer is None else f"{type(self).__name__} {parts} {tokenizer}"

    def tokens_of(self, example: Example) -> int:
        """Positions of prompt and label; the label's last token is foretold and never read."""
        return len(example.inputs[0]) + len(example.label) - 1

    def collate(self, items: Sequence[Item], *, packed: bool = False) -> dict[str, Tensor]:
        """`input_ids` (B, S); `at` (T,), which of the P positions foretells each learned token; `lengths` (N,).

        Packed, also `position_ids` (B, S), which begin again with each target. Otherwise a row is a target, filled up
        on the right, where causal attention needs no mask.
        """
        examples = [example for item in items for example in item]
        lengths = [self.tokens_of(example) for example in examples]
        rows = pack_rows(lengths, self._row_width()) if packed else [[number] for number in range(len(examples))]
        width = max(sum(lengths[number] for number in row) for row in rows)
        tokens_BS = torch.full((len(rows), width), self._filler)
        positions_BS = torch.arange(width).repeat(len(rows), 1)
        at: list[Tensor] = [torch.empty(0)] * len(examples)
        for row, numbers in enumerate(rows):
            start = 0
            for number in numbers:
                example, end = examples[number], start + lengths[number]
                tokens_BS[row, start:end] = torch.tensor([*example.inputs[0], *example.label[:-1]])
                positions_BS[row, start:end] = torch.arange(lengths[number])
                first = row * width + start + len(example.inputs[0]) - 1
                at[number] = torch.arange(first, first + len(example.label))
                start = end
            positions_BS[row, start:] = torch.arange(width - start)
        batch = {"input_ids": tokens_BS, "at": torch.cat(at), "lengths": torch.tensor(lengths)}
        return {**batch, **({"position_ids": positions_BS} if packed else {}), **flat_targets(examples)}

    def positions(self, batch: Mapping[str, Tensor]) -> tuple[int, int]:
        """Positions of a micro-batch that hold a token, and positions that are computed, padding included."""
        return int(batch["lengths"].sum()), batch["input_ids"].numel()

    def token_losses(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(T,) float32, negative log-likelihood of each learned token in nats."""
        places = {name: batch[name] for name in ("position_ids",) if name in batch}
        if not self._plain_head:
            logits_TV = all_logits(self.model, batch["input_ids"], **places).flatten(0, 1)[batch["at"]]
            wide_TV = logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))
            return functional.cross_entropy(wide_TV, batch["learned"], reduction="none")
        hidden_PD = hidden_states(self.model, batch["input_ids"], **places).flatten(0, 1)
        return self._head_losses(hidden_PD[batch["at"]], batch["learned"])

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """One group of everything that learns."""
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return [{"params": learning, "lr": lr, "weight_decay": weight_decay}]

    def training_flops(self, batch: Mapping[str, Tensor]) -> float:
        """6 x parameters x tokens: the layers for every token, the head for learned ones; frozen weights count 4 x.

        Source: the usual 6 N D estimate (arXiv:2001.08361), attention left out.
        """
        inside = _products(self.model.base_model)
        head = self.model.get_output_embeddings().weight
        outside = head.numel() * (6 if head.requires_grad else 4)
        return float(inside * int(batch["lengths"].sum()) + outside * len(batch["learned"]))

    @torch.no_grad()
    def choice_log_probs(self, questions: Sequence[Question], *, per_token: bool = False) -> list[list[float]]:
        """For each question, log p(choice text | question, label prefix) of each choice in nats, or that per token."""
        self.model.eval()
        prompts = [self._prompt(LABEL_PREFIX, question) for question in questions]
        scores: list[list[float]] = [[] for _ in questions]
        for rows in portions(prompts):
            flat = self._score([prompts[row] for row in rows], [questions[row] for row in rows], per_token)
            for row in rows:
                scores[row] = [next(flat) for _ in questions[row].choices]
        return scores

    @torch.no_grad()
    def generate_all(self, questions: Sequence[Question], prefix: str, *, max_new_tokens: int = 128) -> list[str]:
        """What the student writes about each question under a prefix, greedily; many at once."""
        self.model.eval()
        prompts = [self._prompt(prefix, question) for question in questions]
        texts = [""] * len(questions)
        for rows in portions(prompts):
            written = self._write([prompts[row] for row in rows], max_new_tokens)
            for row, text in zip(rows, written, strict=True):
                texts[row] = text
        return texts

    def save(self, folder: Path) -> None:
        """A checkpoint that AutoModelForCausalLM and AutoTokenizer load, and student.json."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        described = {"kind": self.kind, "max_input": self.max_input, "max_target": self.max_target}
        write_json(described, folder / STUDENT_FILE)

    def _prompt(self, prefix: str, question: Question) -> tuple[int, ...]:
        prompt, cut = self.prompts.question(prefix, question_input(question), self.max_input)
        self.truncated += cut
        return prompt

    def _score(self, prompts: list[tuple[int, ...]], questions: Sequence[Question], per_token: bool) -> Iterator[float]:
        """Scores of all choices of some questions, one after the other."""
        owner = [row for row, question in enumerate(questions) for _ in question.choices]
        if not owner:
            return iter(())
        choices = [
            self.prompts.answer(choice, self.max_target)[0] for question in questions for choice in question.choices
        ]
        lengths = torch.tensor([len(choice) for choice in choices], device=self.model.device)
        loss_T = (
            self._shared_losses(prompts, owner, choices)
            if self._shares
            else self._whole_losses(prompts, owner, choices)
        )
        score_R = -torch.stack([part.sum() for part in torch.split(loss_T, lengths.tolist())])
        return iter((score_R / lengths if per_token else score_R).tolist())

    def _shared_losses(
        self, prompts: list[tuple[int, ...]], owner: list[int], choices: list[tuple[int, ...]]
    ) -> Tensor:
        """(T,) losses of the choices' tokens, each prompt read once."""
        read = PromptCache.of(self.model, prompts)
        first_R1D = read.last_ND[owner][:, None]
        later_RLD = read.continued(self.model, owner, [choice[:-1] for choice in choices])
        hidden_RLD = torch.cat([first_R1D, later_RLD], dim=1)
        hidden_TD = torch.cat([states[: len(choice)] for states, choice in zip(hidden_RLD, choices, strict=True)])
        learned_T = torch.tensor([token for choice in choices for token in choice], device=self.model.device)
        return self._head_losses(hidden_TD, learned_T)

    def _whole_losses(self, prompts: list[tuple[int, ...]], owner: list[int], choices: list[tuple[int, ...]]) -> Tensor:
        """The same for architectures whose cache cannot be shared: every prompt is read once a choice."""
        examples = [Example((prompts[row],), choice, 0, 1.0) for row, choice in zip(owner, choices, strict=True)]
        batch = self.collate([tuple(examples)])
        return self.token_losses({name: tensor.to(self.model.device) for name, tensor in batch.items()})

    def _write(self, prompts: Sequence[tuple[int, ...]], max_new_tokens: int) -> list[str]:
        """Continuations of prompts that are filled up on the left, where generation needs it."""
        width = max(len(prompt) for prompt in prompts)
        tokens = torch.tensor([[self._filler] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with quiet_transformers():  # a checkpoint's own sampling settings are set aside, of which it would warn
            out = self.model.generate(
                input_ids=tokens.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
            )
        texts = self.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        return [str(text).strip() for text in texts]

    def _head_losses(self, hidden_TD: Tensor, learned_T: Tensor) -> Tensor:
        head = self.model.get_output_embeddings()
        return head_losses(hidden_TD, head.weight, learned_T, getattr(head, "bias", None))

    @cached_property
    def _plain_head(self) -> bool:
        return has_plain_head(self.model)

    @cached_property
    def _shares(self) -> bool:
        return self._plain_head and can_share_prompts(self.model, longest=self.max_input + self.max_target)

    @property
    def _filler(self) -> int:
        # What fills a row up is never looked at, so any token will do where a tokenizer names none.
        token = self.tokenizer.pad_token_id
        return token if isinstance(token, int) else self.prompts.end

    def _row_width(self) -> int:
        low, high = ROW_WIDTHS
        return min(max(int(self.model.config.get_text_config().hidden_size), low), high)


def pack_rows(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Sequences in rows of about the same length, so that little has to be filled up.

    As few rows as the width asks for, or one more, are made as narrow as first-fit decreasing can still fill.

    Args:
        lengths: tokens of each sequence.
        width: tokens of a row at most; a longer sequence widens all.

    Returns: for each row, the numbers of its sequences.

    >>> pack_rows([5, 3, 4, 2], 7)
    [[0, 3], [2, 1]]
    """
    total, widest = sum(lengths), max(width, *lengths)
    counts = {-(-total // widest) + more for more in (0, 1)}
    narrow = {min(widest, max(*lengths, int(total / count * slack) + 1)) for count in counts for slack in _SLACKS}
    # As narrow as the longest, rows are never worse than one for each sequence.
    tries = [_first_fit(lengths, room) for room in sorted({*narrow, max(lengths), widest})]
    return min(tries, key=lambda rows: len(rows) * max(sum(lengths[number] for number in row) for row in rows))


def _first_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        row = next((row for row, left in enumerate(room) if left >= lengths[number]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(number)
        room[row] -= lengths[number]
    return rows


def _fit_positions(model: PreTrainedModel, max_input: int, max_target: int) -> tuple[int, int]:
    """The limits within the positions that the model was made for: two thirds for the prompt."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or max_input + max_target <= positions:
        return max_input, max_target
    if positions < 3:
        raise MethodError(f"the student reads {positions} tokens at most; take one with more positions")
    target = min(max_target, positions // 3)
    return min(max_input, positions - target), target


def _stop_at(model: Any, end: int, filler: int) -> None:
    """Let generation stop where this student learns to stop, also after plain `from_pretrained`."""
    known = model.generation_config.eos_token_id
    ends = [known] if isinstance(known, int) else list(known or [])
    model.generation_config.eos_token_id = [*ends, end] if end not in ends else ends
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = filler


def _products(stack: torch.nn.Module) -> int:
    """Operations of a token: 6 for each weight it is multiplied with, 4 where that is frozen; embeddings are read."""
    looked_up = {id(part.weight) for part in stack.modules() if isinstance(part, torch.nn.Embedding)}
    used = (parameter for parameter in stack.parameters() if id(parameter) not in looked_up)
    return sum(parameter.numel() * (6 if parameter.requires_grad else 4) for parameter in used)
