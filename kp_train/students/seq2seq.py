"""Encoder-decoder students: T5 and its relatives.

Axes: N targets in a micro-batch, T learned tokens of all of them, S input positions, L label positions, V vocabulary,
Q questions or different inputs, R choices of all questions of a batch in one row, D model size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from kp_data.errors import ConfigError
from kp_data.schema import Question
from kp_data.tables import write_json
from kp_train.batches import IGNORED, MAX_INPUT_TOKENS, MAX_TARGET_TOKENS, Example, Item, flat_targets, pad, portions
from kp_train.losses import head_losses
from kp_train.packing import PACKED_MODELS, PackedBlocks, lay_out, use_block_attention
from kp_train.students.checkpoint import read_checkpoint
from kp_train.students.student import STUDENT_FILE, Recipe, read_limit, tokenizer_identity
from kp_train.views import LABEL_PREFIX, Target, question_input

CHECKPOINT_RECIPE: Final = Recipe(
    lr=5e-5, batch=16, epochs=3, schedule="constant", warmup=0.0, weight_decay=0.0, bf16=False
)
"""TinyLLM's learning rate and batch; the number of epochs is ours."""


_PLAIN_HEADS: Final = frozenset({"bart", "mbart", "pegasus", "marian"})
"""Model types whose logits are output embedding times last hidden state, plus `final_logits_bias`."""


class Seq2SeqStudent:
    """An encoder-decoder model that learns label and rationales as tasks with different prefixes."""

    kind = "seq2seq"
    writes_text = True

    # `model` is Any: encoder-decoder methods of transformers are untyped, or typed as tensors.
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
        self.recipe = recipe
        self.max_input = max_input
        self.max_target = max_target
        self.truncated = 0
        self.packs = model.config.model_type in PACKED_MODELS
        self._reaches_head = model.config.model_type in PACKED_MODELS | _PLAIN_HEADS
        if self.packs:
            use_block_attention(model)

    @classmethod
    def from_checkpoint(cls, name: str) -> Seq2SeqStudent:
        """A pretrained student.

        Raises:
            ConfigError: the checkpoint cannot be loaded.
        """
        return cls(*read_checkpoint(AutoModelForSeq2SeqLM, name))

    @classmethod
    def load(cls, folder: Path, described: Mapping[str, Any]) -> Seq2SeqStudent:
        """A student that was saved here; `described` is its student.json.

        Raises:
            DataError: student.json lacks a limit.
        """
        student = cls.from_checkpoint(str(folder))
        student.max_input = read_limit(described, "max_input", folder)
        student.max_target = read_limit(described, "max_target", folder)
        return student

    def encode(self, question: Question, target: Target, *, task: int) -> Example:
        """One target, tokenised; an input that is too long loses its beginning, never its prefix or its choices."""
        label = self._target(target.text)
        return Example((self._input(target.prefix, question),), label, task, target.weight)

    def encoding_identity(self) -> str | None:
        """Class, tokenizer and limits."""
        tokenizer = tokenizer_identity(self.tokenizer)
        return None if tokenizer is None else f"{type(self).__name__} {self.max_input} {self.max_target} {tokenizer}"

    def tokens_of(self, example: Example) -> int:
        """Input and label tokens."""
        return len(example.inputs[0]) + len(example.label)

    def collate(self, items: Sequence[Item], *, packed: bool = False) -> dict[str, Tensor]:
        """A micro-batch; targets that stand side by side in an item and read the same share one encoded input.

        Padded: `input_ids`, `attention_mask` (Q, S); `decoder_input_ids` (N, L); `reads` (N,), the input of each
        target; `learned_at` (T,), where in (N x L) each learned token is predicted.
        Packed: what `kp_train.packing.lay_out` makes of inputs and labels.
        """
        examples = [example for item in items for example in item]
        inputs, reads = _shared_inputs(items)
        labels = [example.label for example in examples]
        batch = flat_targets(examples)
        if packed:
            written = [(self._start, *label[:-1]) for label in labels]
            return batch | lay_out(inputs, written, reads, filler=self._pad)
        return batch | {"reads": torch.tensor(reads)} | self._side_by_side(inputs, labels)

    def _side_by_side(self, inputs: Sequence[tuple[int, ...]], labels: Sequence[tuple[int, ...]]) -> dict[str, Tensor]:
        batch = self._padded(inputs)
        labels_NL = torch.tensor(pad(labels, IGNORED))
        batch["decoder_input_ids"] = self._shifted(labels_NL)
        batch["learned_at"] = (labels_NL != IGNORED).flatten().nonzero()[:, 0]
        return batch

    def positions(self, batch: Mapping[str, Tensor]) -> tuple[int, int]:
        """Positions of encoder and decoder with a token, and all that are computed."""
        if "input_rows" in batch:
            read = sum(lengths.sum() for name, lengths in batch.items() if name.startswith("input_length"))
            computed = batch["input_rows"].numel() + batch["label_rows"].numel()
        else:
            read, computed = batch["attention_mask"].sum(), batch["input_ids"].numel()
            computed += batch["decoder_input_ids"].numel()
        return int(read) + len(batch["learned"]), computed

    def token_losses(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(T,) float32, negative log-likelihood of each learned token in nats."""
        if not self._reaches_head:
            return self._losses_of_logits(batch)
        hidden_TD = self._hidden_packed(batch) if "input_rows" in batch else self._hidden_padded(batch)
        head = self.model.get_output_embeddings()
        bias_V = getattr(self.model, "final_logits_bias", None)
        bias_V = head.bias if bias_V is None else bias_V[0]
        return head_losses(hidden_TD * _head_scale(self.model), head.weight, batch["learned"], bias_V)

    def _hidden_packed(self, batch: Mapping[str, Tensor]) -> Tensor:
        blocks = PackedBlocks.of_batch(batch)
        read = self.model.get_encoder()(input_ids=batch["input_rows"], packed_blocks=blocks).last_hidden_state
        written = self.model.get_decoder()(
            input_ids=batch["label_rows"], encoder_hidden_states=read, use_cache=False, packed_blocks=blocks
        ).last_hidden_state
        # Labels stand one after another, so the flat rows begin with exactly the learned positions.
        hidden_TD: Tensor = written.flatten(0, 1)[: len(batch["learned"])]
        return hidden_TD

    def _hidden_padded(self, batch: Mapping[str, Tensor]) -> Tensor:
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        read_QSD = self.model.get_encoder()(**inputs).last_hidden_state
        written_NLD = self.model.get_decoder()(
            input_ids=batch["decoder_input_ids"],
            encoder_hidden_states=read_QSD[batch["reads"]],
            encoder_attention_mask=batch["attention_mask"][batch["reads"]],
            use_cache=False,
        ).last_hidden_state
        hidden_TD: Tensor = written_NLD.flatten(0, 1)[batch["learned_at"]]
        return hidden_TD

    def _losses_of_logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """For models whose head we do not know: their own forward pass, all logits included."""
        reads_N = batch["reads"]
        logits_NLV = self.model(
            input_ids=batch["input_ids"][reads_N],
            attention_mask=batch["attention_mask"][reads_N],
            decoder_input_ids=batch["decoder_input_ids"],
            use_cache=False,
        ).logits
        logits_TV = logits_NLV.flatten(0, 1)[batch["learned_at"]]
        wide_TV = logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))
        return functional.cross_entropy(wide_TV, batch["learned"], reduction="none")

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """One group of everything."""
        return [{"params": list(self.model.parameters()), "lr": lr, "weight_decay": weight_decay}]

    def training_flops(self, batch: Mapping[str, Tensor]) -> float:
        """6 x parameters x tokens, the encoder's for input tokens and the decoder's, with the head, for label tokens.

        Source: the usual 6 N D estimate (arXiv:2001.08361), attention left out.
        """
        written = len(batch["learned"])
        read = self.positions(batch)[0] - written
        inside = _own_parameters(self.model.get_encoder())
        head = self.model.get_output_embeddings()
        outside = _own_parameters(self.model.get_decoder()) + (head.weight.numel() if head is not None else 0)
        return 6.0 * (inside * read + outside * written)

    @torch.inference_mode()
    def choice_log_probs(self, questions: Sequence[Question], *, per_token: bool = False) -> list[list[float]]:
        """For each question, log p(choice text | question, label prefix) of each choice in nats, or that per token."""
        self.model.eval()
        inputs = [self._input(LABEL_PREFIX, question) for question in questions]
        scores: list[list[float]] = [[] for _ in questions]
        for rows in portions(inputs):
            chunk = [questions[row] for row in rows]
            flat = self._score([inputs[row] for row in rows], chunk, per_token)
            for row, question in zip(rows, chunk, strict=True):
                scores[row] = [next(flat) for _ in question.choices]
        return scores

    @torch.inference_mode()
    def generate_all(self, questions: Sequence[Question], prefix: str, *, max_new_tokens: int = 128) -> list[str]:
        """What the student writes about each question under a prefix, greedily; many at once."""
        self.model.eval()
        inputs = [self._input(prefix, question) for question in questions]
        texts = [""] * len(questions)
        for rows in portions(inputs):
            batch = self._to_device(self._padded([inputs[row] for row in rows]))
            written = self.model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
            for row, text in zip(rows, self.tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
                texts[row] = text.strip()
        return texts

    def save(self, folder: Path) -> None:
        """A checkpoint that AutoModelForSeq2SeqLM and AutoTokenizer load, and student.json."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        described = {"kind": self.kind, "max_input": self.max_input, "max_target": self.max_target}
        write_json(described, folder / STUDENT_FILE)

    def _score(
        self, inputs: Sequence[tuple[int, ...]], questions: Sequence[Question], per_token: bool
    ) -> Iterator[float]:
        """Scores of all choices of some questions, one after the other."""
        batch = self._to_device(self._padded(inputs))
        hidden_QSD = self.model.get_encoder()(**batch).last_hidden_state
        owner_R = [row for row, question in enumerate(questions) for _ in question.choices]
        choices = [self._target(choice) for question in questions for choice in question.choices]
        labels_RL = torch.tensor(pad(choices, IGNORED), device=self.model.device)
        logits_RLV = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden_QSD[owner_R]),
            attention_mask=batch["attention_mask"][owner_R],
            decoder_input_ids=self._shifted(labels_RL),
        ).logits
        score_R = -_negative_log_likelihood(logits_RLV, labels_RL).sum(dim=1)
        if per_token:
            score_R = score_R / (labels_RL != IGNORED).sum(dim=1)
        return iter(score_R.tolist())

    def _input(self, prefix: str, question: Question) -> tuple[int, ...]:
        text = question_input(question)
        tokens = self._tokens(prefix + text)
        if len(tokens) + 1 > self.max_input:
            self.truncated += 1
            head = self._tokens(prefix)
            tokens = head + self._tokens(text)[-(self.max_input - 1 - len(head)) :]
        return (*tokens, self._end)

    def _target(self, text: str) -> tuple[int, ...]:
        tokens = (*self._tokens(text), self._end)
        if len(tokens) <= self.max_target:
            return tokens
        self.truncated += 1
        # Without the end token: a student must not learn to stop in mid-sentence.
        return tokens[: self.max_target]

    def _tokens(self, text: str) -> tuple[int, ...]:
        # `verbose` would warn of inputs beyond the tokenizer's nominal length, which are cut here.
        # What others wrote holds no tokens of control, whatever it looks like.
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return tuple(encoded["input_ids"])

    def _shifted(self, labels_NL: Tensor) -> Tensor:
        """What the decoder reads: mostly the labels behind a start token, but mBART has a rule of its own."""
        if hasattr(self.model, "prepare_decoder_input_ids_from_labels"):
            shifted: Tensor = self.model.prepare_decoder_input_ids_from_labels(labels=labels_NL)
            return shifted
        return functional.pad(
            labels_NL[:, :-1].masked_fill(labels_NL[:, :-1] == IGNORED, self._pad), (1, 0), value=self._start
        )

    @property
    def _start(self) -> int:
        start = self.model.config.decoder_start_token_id
        return self._pad if start is None else int(start)

    @property
    def _end(self) -> int:
        end = self.tokenizer.eos_token_id
        if not isinstance(end, int):
            raise ConfigError("the checkpoint's tokenizer has no end token", place="--student")
        return end

    def _padded(self, inputs: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        tokens = torch.tensor(pad(inputs, self._pad))
        lengths = torch.tensor([len(sequence) for sequence in inputs])
        return {"input_ids": tokens, "attention_mask": (torch.arange(tokens.shape[1]) < lengths[:, None]).long()}

    @property
    def _pad(self) -> int:
        # Padding is masked, so any token will do where a tokenizer names none.
        token = self.tokenizer.pad_token_id
        return token if isinstance(token, int) else 0

    def _to_device(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}


def _negative_log_likelihood(logits_NLV: Tensor, labels_NL: Tensor) -> Tensor:
    # In float32 whatever the model computes in: a log-softmax over a vocabulary loses too much in bfloat16.
    return functional.cross_entropy(
        logits_NLV.float().transpose(1, 2), labels_NL, ignore_index=IGNORED, reduction="none"
    )


def _shared_inputs(items: Sequence[Item]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Inputs without the repetitions inside an item, and for each target the number of the one it reads."""
    inputs: list[tuple[int, ...]] = []
    reads: list[int] = []
    for item in items:
        known: dict[tuple[int, ...], int] = {}
        for example in item:
            if example.inputs[0] not in known:
                known[example.inputs[0]] = len(inputs)
                inputs.append(example.inputs[0])
            reads.append(known[example.inputs[0]])
    return inputs, reads


def _head_scale(model: Any) -> float:
    """What T5 and UMT5 with tied embeddings multiply the last hidden state by before the head."""
    scaled = {"t5": "scale_decoder_outputs", "umt5": "tie_word_embeddings"}.get(model.config.model_type)
    return float(model.config.d_model**-0.5) if scaled and getattr(model.config, scaled) else 1.0


def _own_parameters(module: torch.nn.Module) -> int:
    """Parameters of a stack without its embeddings, which are looked up, not multiplied."""
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)}
    return sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in embeddings)
