"""Encoder students: score every pair of question and choice, and answer with the highest.

Mean pooling over the pair's tokens and one linear layer. Such a student reads but cannot write, so it learns labels
alone. With a retriever it also reads rationales of other questions: as vectors, which it looks up by what it makes of
the pair (`kp_train.students.recall`), or as text after the pair, to which the pair's tokens attend; only these are
pooled, so that what does not help can be passed over.
Axes: N questions in a batch, R pairs of all of them in one row, S input positions, C choices (padded), D size.
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
from kp_train.batches import MAX_INPUT_TOKENS, Example, Item, flat_targets, pad, portions
from kp_train.students.recall import Recall
from kp_train.students.retrieval import RationaleStore, Reading, Retriever, load_retriever
from kp_train.students.retrieval_embedding import mean_over, padded_width, sentence_embedder
from kp_train.students.student import STUDENT_FILE, Recipe, Student, read_limit
from kp_train.views import LABEL, Labels, Row, Target

HEAD_FILE: Final = "head.safetensors"
RECALL: Final = "recall."
"""What the names of `Recall`'s weights begin with there."""
HEAD_LR_FACTOR: Final = 20
"""The fresh head learns at this multiple of the encoder's rate: 1e-3 beside 5e-5."""

READ: Final = ("input_ids", "attention_mask", "token_type_ids", "pooled", "apart")
"""What of a batch the model reads."""
PASSAGE_TOKENS: Final = 48
"""Where a retrieved rationale is cut; most of them end earlier."""
RECIPE: Final = Recipe(lr=5e-5, batch=16, epochs=3, schedule="linear", warmup=0.06, weight_decay=0.01, bf16=True)


Pair = tuple[tuple[int, ...], int]
"""Tokens of a question, a choice and the rationales read with them; and the position where the choice begins."""


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
        self.recall: Recall | None = None
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the encoder comes with its weights, and the head's are set by nn.Linear."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        pooled: Tensor | None = None,
        apart: Tensor | None = None,
    ) -> Tensor:
        """(R,) float32 scores of pairs.

        `pooled` (R, S) marks the pair's own tokens, where rationales follow them; `apart` (R, B) says which rationales
        a pair must not look up.
        """
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden_RSD = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **segments).last_hidden_state
        pooled_RD = mean_over(hidden_RSD, attention_mask if pooled is None else pooled)
        score_R: Tensor = self.head(pooled_RD)[:, 0].float()
        if self.recall is not None and apart is not None:
            score_R = score_R + self.recall(pooled_RD, apart)
        return score_R


class EncoderStudent:
    """An encoder that scores question and choice together."""

    kind = "encoder"
    writes_text = False
    packs = False
    recipe = RECIPE

    def __init__(self, model: PairScorer, tokenizer: PreTrainedTokenizerBase, *, max_input: int = 256) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._reach = _positions(model, tokenizer)
        self.max_input = min(max_input, MAX_INPUT_TOKENS, self._reach)
        self.segments = _knows_segments(model, tokenizer)
        self.retriever: Retriever | None = None
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
            DataError: the head's weights or the retrieved rationales are missing, or student.json lacks the limit.
        """
        student = cls.from_checkpoint(str(folder), seed=0)
        if not (folder / HEAD_FILE).is_file():
            raise DataError("the weights of the student's head are missing", place=folder / HEAD_FILE)
        weights = load_file(folder / HEAD_FILE)
        student.model.head.load_state_dict({name: weights[name] for name in ("weight", "bias")})
        student.max_input = min(read_limit(described, "max_input", folder), student._reach)
        # Students saved before segments were told apart have learned without them.
        student.segments = described.get("segments") is True
        if isinstance(retrieval := described.get("retrieval"), Mapping):
            student.read(load_retriever(folder, retrieval))
        if student.model.recall is not None:
            learned = {name.removeprefix(RECALL): tensor for name, tensor in weights.items() if RECALL in name}
            student.model.recall.load_state_dict(learned)
        return student

    def read(self, retriever: Retriever) -> None:
        """Read what a retriever finds from now on."""
        self.retriever = retriever
        if retriever.reading == "vectors":
            known, size = retriever.store.passage_KD, int(self.model.config.hidden_size)
            self.model.recall = Recall(known, hidden_size=size, count=retriever.count).to(self.model.device)

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
        right = question.choices.index(target.text)
        return Example(tokens, (right,), task, target.weight, second, self._apart(question))

    def tokens_of(self, example: Example) -> int:
        """Tokens of all its pairs; its label is a choice and costs none."""
        return sum(map(len, example.inputs))

    def positions(self, batch: Mapping[str, Tensor]) -> tuple[int, int]:
        """Positions with a token, and all."""
        return int(batch["attention_mask"].sum()), batch["attention_mask"].numel()

    def collate(self, items: Sequence[Item], *, packed: bool = False) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` (R, S); `pairs` (N, C), the row of each choice, R where there is none.

        One learned index a target. `token_type_ids` (R, S), 1 from the choice on, where the encoder tells segments
        apart; `pooled` (R, S), 1 at the pair's own tokens, where rationales follow it; `apart` (R, B), the rationales
        that a pair must not look up, where it looks up any.
        """
        examples = [example for item in items for example in item]
        batch = self._padded([pair for each in examples for pair in zip(each.inputs, each.second, strict=True)])
        batch |= self._kept_apart([example.apart for example in examples for _ in example.inputs])
        batch["pairs"] = _rows_of_choices([len(example.inputs) for example in examples])
        return batch | flat_targets(examples)

    def token_losses(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(N,) float32, negative log-probability of the right choice among the question's, in nats."""
        score_R = self.model(**{name: batch[name] for name in READ if name in batch})
        # By index, not by lists: those would wait for the device at every step.
        score_NC = torch.cat([score_R, score_R.new_full((1,), -torch.inf)])[batch["pairs"]]
        return functional.cross_entropy(score_NC, batch["learned"], reduction="none")

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """The encoder at the given rate, the fresh head at a higher one."""
        return [
            {"params": list(self.model.encoder.parameters()), "lr": lr, "weight_decay": weight_decay},
            {"params": self._fresh_parameters(), "lr": lr * HEAD_LR_FACTOR, "weight_decay": weight_decay},
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
        if self.retriever is not None:
            self.retriever.prepare(questions)
        pairs = [self._pairs(question) for question in questions]
        apart = [self._apart(question) for question in questions]
        longest = [max((tokens for tokens, _ in row), key=len) for row in pairs]
        scores: list[list[float]] = [[] for _ in questions]
        for rows in portions(longest):
            batch = self._padded([pair for row in rows for pair in pairs[row]])
            batch |= self._kept_apart([apart[row] for row in rows for _ in pairs[row]])
            batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
            flat = self.model(**batch)
            for row, score in zip(rows, flat.split([len(pairs[row]) for row in rows]), strict=True):
                scores[row] = score.log_softmax(dim=0).tolist()
        return scores

    def generate_all(self, questions: Sequence[Question], prefix: str) -> list[str]:
        """Refused: an encoder cannot write."""
        raise MethodError("an encoder scores choices and cannot write")

    def save(self, folder: Path) -> None:
        """An encoder that AutoModel and AutoTokenizer load, the head beside it, and student.json."""
        self.model.encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        weights = dict(self.model.head.state_dict())
        if self.model.recall is not None:
            weights |= {f"{RECALL}{name}": tensor for name, tensor in self.model.recall.state_dict().items()}
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / HEAD_FILE)
        described = {
            "kind": self.kind,
            "pooling": "mean",
            "head": HEAD_FILE,
            "max_input": self.max_input,
            "segments": self.segments,
        }
        if self.retriever is not None:
            self.retriever.store.save(folder)
            described["retrieval"] = self.retriever.described()
        write_json(described, folder / STUDENT_FILE)

    def _pairs(self, question: Question) -> list[Pair]:
        """Context and question with each choice; a context too long loses its beginning.

        Retrieved rationales follow in what room is left.
        """
        start, middle, end = self._marks
        text = f"{question.context}\n{question.question}" if question.context else question.question
        asked = self._tokens(text)
        found = [[] for _ in question.choices] if self.retriever is None else self.retriever.passages(question)
        pairs = []
        for choice, passages in zip(question.choices, found, strict=True):
            answer = self._tokens(choice)[: self.max_input // 2]
            room = self.max_input - len(answer) - len(start) - len(middle) - len(end)
            self.truncated += len(asked) > room
            first = (*start, *asked[-room:], *middle)
            pair = (*first, *answer, *end)
            read = [token for text in passages for token in (*self._tokens(text)[:PASSAGE_TOKENS], *end)]
            pairs.append(((*pair, *read[: self.max_input - len(pair)]), len(first)))
        return pairs

    def _reads(self, reading: Reading) -> bool:
        return self.retriever is not None and self.retriever.reading == reading

    def _apart(self, question: Question) -> tuple[int, ...]:
        """What a question must not look up; where text is read, the retriever leaves it out itself."""
        if self.retriever is None or self.retriever.reading == "text":
            return ()
        return self.retriever.apart(question)

    def _kept_apart(self, apart: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        if self.retriever is None or self.retriever.reading == "text":
            return {}
        return {"apart": torch.tensor(pad([*apart, ()], len(self.retriever.store.passages)))[:-1]}

    def _fresh_parameters(self) -> list[nn.Parameter]:
        """What no pretraining has seen, and so learns faster."""
        parts = (self.model.head, self.model.recall)
        return [parameter for part in parts if part is not None for parameter in part.parameters()]

    def _tokens(self, text: str) -> tuple[int, ...]:
        # What others wrote holds no tokens of control, whatever it looks like.
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return tuple(encoded["input_ids"])

    @property
    def _marks(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """What this encoder's tokenizer puts before, between and after the two texts of a pair."""
        first, last = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        if first is None or last is None:
            raise ConfigError("the encoder's tokenizer has no classification and separation tokens", place="--student")
        return (first,), (last,), (last,)

    def _padded(self, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        # A few widths again and again: kernels and memory of one batch serve the next.
        width = min(padded_width(max(len(tokens) for tokens, _ in pairs)), self._reach)
        filler = int(self.tokenizer.pad_token_id or 0)
        place_S = torch.arange(width)
        inside_RS = place_S < torch.tensor([len(tokens) for tokens, _ in pairs])[:, None]
        batch = {
            "input_ids": torch.tensor([[*tokens, *[filler] * (width - len(tokens))] for tokens, _ in pairs]),
            "attention_mask": inside_RS.long(),
        }
        if self.segments:
            second_RS = place_S >= torch.tensor([second for _, second in pairs])[:, None]
            batch["token_type_ids"] = (inside_RS & second_RS).long()
        if self._reads("text"):
            (end,) = self._marks[2]
            batch["pooled"] = (place_S <= torch.tensor([_next(end, *pair) for pair in pairs])[:, None]).long()
        return batch


def read_rationales(
    student: Student, rows: Sequence[Row], *, count: int, reading: Reading = "vectors", labels: Labels = "gold"
) -> None:
    """Give an untrained student the rationales of its training rows to read, `count` a choice.

    Args:
        student: an encoder student, changed in place.
        rows: the rows it will learn from; no others may be in the store.
        count: rationales read with each choice.
        reading: as vectors or as text.
        labels: which answers of the rows are learned.

    Raises:
        MethodError: the student is no encoder, or no row has a rationale.
    """
    if not isinstance(student, EncoderStudent):
        raise MethodError(
            "--retrieve is for students that score choices, such as minilm; a student that writes learns rationales "
            "by its objective, such as purified"
        )
    embed = sentence_embedder()
    store = RationaleStore.build(rows, embed, labels=labels)
    retriever = Retriever(store, count=count, reading=reading, embed=embed)
    learned = [row.question for row in rows]
    retriever.leave_out(learned)
    retriever.prepare(learned)
    student.read(retriever)


def _positions(model: PairScorer, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many positions an encoder has; some count fewer in their tokenizer, because they begin at another number."""
    known = getattr(model.config, "max_position_embeddings", None) or MAX_INPUT_TOKENS
    return int(min(known, tokenizer.model_max_length))


def _rows_of_choices(counts: Sequence[int]) -> Tensor:
    """(N, C) int64, which of R pairs a question's choice is; R where a question has fewer choices than another."""
    start_N = torch.tensor([0, *counts[:-1]]).cumsum(0)
    choice_C = torch.arange(max(counts))
    return torch.where(choice_C < torch.tensor(counts)[:, None], start_N[:, None] + choice_C, sum(counts))


def _next(mark: int, tokens: Sequence[int], start: int) -> int:
    """Position of the first such token from `start` on: there a pair ends, and what is read with it begins."""
    return tokens.index(mark, start) if mark in tokens[start:] else len(tokens) - 1


def _knows_segments(model: PairScorer, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the encoder has embeddings that tell the second text of a pair from the first."""
    named = "token_type_ids" in tokenizer.model_input_names
    return named and getattr(model.config, "type_vocab_size", 0) > 1
