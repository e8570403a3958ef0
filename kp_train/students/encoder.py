"""Encoder students: score every pair of question and choice, and answer with the highest.

Mean pooling over the pair's tokens and one linear layer. Such a student reads but cannot write, so it learns labels
alone. Axes: N questions in a batch, R pairs of all of them in one row, S input positions, C choices (padded), D size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.schema import Question
from kp_data.tables import write_json
from kp_train.batches import MAX_INPUT_TOKENS, Example, Item, pad
from kp_train.students.student import STUDENT_FILE, Recipe, read_limit
from kp_train.views import LABEL, Target

HEAD_FILE: Final = "head.safetensors"
HEAD_LR_FACTOR: Final = 20
"""The fresh head learns at this multiple of the encoder's rate: 1e-3 beside 5e-5."""

SCORED_AT_ONCE: Final = 32
RECIPE: Final = Recipe(lr=5e-5, batch=16, epochs=3, schedule="linear", warmup=0.06, weight_decay=0.01, bf16=True)


Pair = tuple[tuple[int, ...], int]
"""Tokens of a question and a choice, and the position where the choice begins."""


class PairScorer(PreTrainedModel):  # type: ignore[no-untyped-call]
    """An encoder with mean pooling and a linear head: (R, S) tokens to (R,) scores."""

    # The attention is the encoder's own, which was checked when it was made.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__(encoder.config)
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, 1)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the encoder comes with its weights, and the head's are set by nn.Linear."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """(R,) float32 scores of pairs."""
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden_RSD = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **segments).last_hidden_state
        mask_RS = attention_mask[:, :, None].to(hidden_RSD.dtype)
        pooled_RD = (hidden_RSD * mask_RS).sum(dim=1) / mask_RS.sum(dim=1)
        scores: Tensor = self.head(pooled_RD)[:, 0].float()
        return scores


class EncoderStudent:
    """An encoder that scores question and choice together."""

    kind = "encoder"
    writes_text = False
    recipe = RECIPE

    def __init__(self, model: PairScorer, tokenizer: PreTrainedTokenizerBase, *, max_input: int = 256) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_input = min(max_input, MAX_INPUT_TOKENS)
        self.segments = _knows_segments(model, tokenizer)
        self.truncated = 0

    @classmethod
    def from_checkpoint(cls, name: str, *, seed: int) -> EncoderStudent:
        """A pretrained encoder with a fresh head.

        Raises:
            ConfigError: the checkpoint cannot be loaded.
        """
        try:
            encoder = AutoModel.from_pretrained(name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise ConfigError(f"checkpoint {name!r} cannot be loaded ({first})", place="--student") from error
        torch.manual_seed(seed)
        return cls(PairScorer(encoder), tokenizer)

    @classmethod
    def load(cls, folder: Path, described: Mapping[str, Any]) -> EncoderStudent:
        """A student that was saved here; `described` is its student.json.

        Raises:
            DataError: the head's weights are missing, or student.json lacks the limit.
        """
        student = cls.from_checkpoint(str(folder), seed=0)
        if not (folder / HEAD_FILE).is_file():
            raise DataError("the weights of the student's head are missing", place=folder / HEAD_FILE)
        student.model.head.load_state_dict(load_file(folder / HEAD_FILE))
        student.max_input = read_limit(described, "max_input", folder)
        # Students saved before segments were told apart have learned without them.
        student.segments = described.get("segments") is True
        return student

    def encode(self, question: Question, target: Target, *, task: int) -> Example:
        """One question with all its choices.

        Raises:
            MethodError: a rationale, or a question without choices.
        """
        if target.task != LABEL:
            raise MethodError("an encoder scores choices and cannot write rationales; use --objective fine-tune")
        if target.text not in question.choices:
            raise MethodError(f"question {question.id} has no choices to score; take an encoder-decoder student")
        tokens, second = zip(*self._pairs(question), strict=True)
        return Example(tokens, (question.choices.index(target.text),), task, target.weight, second)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` (R, S); `num_choices`, `task`, `weight` (N,); `labels` (N, 1).

        `token_type_ids` (R, S), 1 at the choice, where the encoder tells segments apart.
        """
        examples = [example for item in items for example in item]
        batch = self._padded([pair for each in examples for pair in zip(each.inputs, each.second, strict=True)])
        batch["num_choices"] = torch.tensor([len(example.inputs) for example in examples])
        batch["labels"] = torch.tensor([example.label for example in examples])
        batch["task"] = torch.tensor([example.task for example in examples])
        batch["weight"] = torch.tensor([example.weight for example in examples])
        return batch

    def token_losses(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(N, 1) float32, negative log-probability of the right choice among the question's, in nats."""
        score_R = self.model(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
        counts = batch["num_choices"].tolist()
        score_NC = nn.utils.rnn.pad_sequence(score_R.split(counts), batch_first=True, padding_value=float("-inf"))
        return functional.cross_entropy(score_NC, batch["labels"][:, 0], reduction="none")[:, None]

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """The encoder at the given rate, the fresh head at a higher one."""
        return [
            {"params": list(self.model.encoder.parameters()), "lr": lr, "weight_decay": weight_decay},
            {"params": list(self.model.head.parameters()), "lr": lr * HEAD_LR_FACTOR, "weight_decay": weight_decay},
        ]

    def training_flops(self, batch: Mapping[str, Tensor]) -> float:
        """6 x parameters without embeddings x tokens (arXiv:2001.08361), attention left out."""
        inside = sum(parameter.numel() for parameter in self.model.encoder.parameters())
        looked_up = sum(part.weight.numel() for part in self.model.encoder.modules() if isinstance(part, nn.Embedding))
        return 6.0 * (inside - looked_up) * int(batch["attention_mask"].sum())

    @torch.inference_mode()
    def choice_log_probs(self, questions: Sequence[Question], *, per_token: bool = False) -> list[list[float]]:
        """For each question, log-probability of each choice among them, in nats; `per_token` changes nothing here."""
        self.model.train(False)
        pairs = [self._pairs(question) for question in questions]
        order = sorted(range(len(questions)), key=lambda row: max(len(tokens) for tokens, _ in pairs[row]))
        scores: list[list[float]] = [[] for _ in questions]
        for start in range(0, len(order), SCORED_AT_ONCE):
            rows = order[start : start + SCORED_AT_ONCE]
            batch = self._padded([pair for row in rows for pair in pairs[row]])
            batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
            flat = self.model(**batch)
            for row, score in zip(rows, flat.split([len(pairs[row]) for row in rows]), strict=True):
                scores[row] = score.log_softmax(dim=0).tolist()
        return scores

    def generate(self, question: Question, prefix: str) -> str:
        """Refused: an encoder cannot write."""
        raise MethodError("an encoder scores choices and cannot write")

    def save(self, folder: Path) -> None:
        """An encoder that AutoModel and AutoTokenizer load, the head beside it, and student.json."""
        self.model.encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_file(
            {name: tensor.contiguous() for name, tensor in self.model.head.state_dict().items()}, folder / HEAD_FILE
        )
        described = {
            "kind": self.kind,
            "pooling": "mean",
            "head": HEAD_FILE,
            "max_input": self.max_input,
            "segments": self.segments,
        }
        write_json(described, folder / STUDENT_FILE)

    def _pairs(self, question: Question) -> list[Pair]:
        """Context and question with each choice; a context too long loses its beginning."""
        start, middle, end = self._marks
        text = f"{question.context}\n{question.question}" if question.context else question.question
        asked = self._tokens(text)
        pairs = []
        for choice in question.choices:
            answer = self._tokens(choice)[: self.max_input // 2]
            room = self.max_input - len(answer) - len(start) - len(middle) - len(end)
            self.truncated += len(asked) > room
            first = (*start, *asked[-room:], *middle)
            pairs.append(((*first, *answer, *end), len(first)))
        return pairs

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @property
    def _marks(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """What this encoder's tokenizer puts before, between and after the two texts of a pair."""
        first, last = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        if first is None or last is None:
            raise ConfigError("the encoder's tokenizer has no classification and separation tokens", place="--student")
        return (first,), (last,), (last,)

    def _padded(self, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        tokens = torch.tensor(pad([pair for pair, _ in pairs], int(self.tokenizer.pad_token_id or 0)))
        place_S = torch.arange(tokens.shape[1])
        inside_RS = place_S < torch.tensor([len(pair) for pair, _ in pairs])[:, None]
        batch = {"input_ids": tokens, "attention_mask": inside_RS.long()}
        if self.segments:
            second_RS = place_S >= torch.tensor([second for _, second in pairs])[:, None]
            batch["token_type_ids"] = (inside_RS & second_RS).long()
        return batch


def _knows_segments(model: PairScorer, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the encoder has embeddings that tell the second text of a pair from the first."""
    named = "token_type_ids" in tokenizer.model_input_names
    return named and getattr(model.config, "type_vocab_size", 0) > 1
