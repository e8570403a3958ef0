"""Training on a CUDA device: exactness, speed beside other ways, model FLOP utilisation, peak memory.

    python tests/benchmarks/gpu/train_gpu.py [--data PANEL] [--out FILE.md]
    python tests/benchmarks/gpu/train_gpu.py --smoke        toy sizes, on a processor: does the script itself work

1  Exactness: packed losses and gradients of a small T5 against each target by itself, in float32 with TF32 off.
2  Matmul peak: the best bf16 rate of large square products, which is what MFU is measured against here.
3  T5-base and T5-large: answer and one purified rationale, packed, at --batch-tokens positions a micro-batch, bf16;
   beside TinyLLM's published way (8 rows, padded to 100, a forward pass a task, float32) with two teachers. Samples
   are rows learned. MFU counts 6 FLOPs a parameter and position, attention left out.
4  A causal student of 0.5 billion parameters, packed, beside TRL's SFTTrainer with packing, where trl is installed.

Every timing is the median of several steps after a warm-up, optimiser step included, with the device synchronised at
both ends. Peak memory is what PyTorch allocated.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from train_material import (
    Material,
    PublishedWay,
    all_items,
    make_student,
    make_tokenizer,
    purified_items,
    read_material,
)

from kp_train.batches import Item
from kp_train.losses import count_units, normalised_loss

CAUSAL_05B = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}
"""The shape of Qwen2.5-0.5B."""
CAUSAL_TOY = {
    **CAUSAL_05B,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 32_128,
}


@dataclass(frozen=True)
class Speed:
    """One way of training, measured."""

    name: str
    seconds: float
    samples: int
    positions: int
    efficiency: float
    flops: float
    peak_gib: float


class Device:
    """The device, and how to time on it."""

    def __init__(self, name: str) -> None:
        self.device = torch.device(name)
        self.cuda = self.device.type == "cuda"

    def synchronise(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def timed(self, step: Callable[[int], None], *, warm_up: int, rounds: int) -> tuple[float, float]:
        """(median seconds a step, peak GiB)."""
        for number in range(warm_up):
            step(number)
        self.synchronise()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for number in range(warm_up, warm_up + rounds):
            begun = time.perf_counter()
            step(number)
            self.synchronise()
            seconds.append(time.perf_counter() - begun)
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.cuda else 0.0
        return statistics.median(seconds), peak

    def moved(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def free(self) -> None:
        if self.cuda:
            torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="panel folder with two teachers; made-up rows otherwise")
    parser.add_argument("--batch-tokens", type=int, default=16_384)
    parser.add_argument("--shapes", default="t5-base,t5-large")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="also with the feed-forward layers compiled")
    parser.add_argument("--smoke", action="store_true", help="toy sizes on whatever device there is")
    parser.add_argument("--out", type=Path, help="write the report to this file too")
    args = parser.parse_args()
    if not args.smoke and not torch.cuda.is_available():
        sys.exit("no CUDA device; --smoke runs toy sizes on a processor")
    if args.smoke:
        args.batch_tokens, args.shapes, args.rounds = 1024, "toy", 2

    device = Device("cuda" if torch.cuda.is_available() else "cpu")
    material = read_material(args.data, teachers=2, limit=4096)
    lines = [*introduction(device, material), *exactness(device), ""]
    peak = matmul_peak(device, 512 if args.smoke else 8192)
    lines += [f"bf16 matmul peak, measured: {peak / 1e12:.1f} TFLOP/s", ""]
    for shape in args.shapes.split(","):
        lines += table(shape, t5_speeds(device, shape, material, args), peak)
    lines += causal(device, material, args, peak)
    report = "\n".join(lines)
    print(report)
    if args.out is not None:
        args.out.write_text(report + "\n", encoding="utf-8")


def introduction(device: Device, material: Material) -> list[str]:
    """What was measured, and where."""
    name = torch.cuda.get_device_name() if device.cuda else "processor, toy sizes: these figures mean nothing"
    return [f"# Training on {name}", "", f"torch {torch.__version__}; rows: {material.name}, {len(material.rows)}", ""]


def exactness(device: Device) -> list[str]:
    """Largest differences between packed targets and the same targets one by one."""
    torch.backends.cuda.matmul.allow_tf32 = False
    material = read_material(None, teachers=2, limit=12)
    student = make_student("toy", make_tokenizer(material.rows), dropout=0.0)
    student.model.to(device.device)
    items = all_items(student, material.rows)
    packed_loss, packed = gradients(device, student, [items], packed=True)
    alone_loss, alone = gradients(device, student, [[(one,)] for item in items for one in item], packed=False)
    scale = max(gradient.abs().max().item() for gradient in alone.values())
    largest = max((packed[name] - alone[name]).abs().max().item() for name in alone)
    holds = abs(packed_loss - alone_loss) <= 1e-5 * abs(alone_loss) and largest <= 1e-5 * max(1.0, scale)
    return [
        f"exact: {'yes' if holds else 'NO'}; loss differs by {abs(packed_loss - alone_loss):.1e} of {alone_loss:.3f}, "
        f"gradients by {largest:.1e} at most, the largest being {scale:.2f} (float32)"
    ]


def gradients(
    device: Device, student: Any, parts: Sequence[list[Item]], *, packed: bool
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a step that is cut into these micro-batches."""
    batches = [device.moved(student.collate(part, packed=packed)) for part in parts]
    count_K = torch.stack([count_units(batch["owner"], batch["task"], num_tasks=3) for batch in batches]).sum(dim=0)
    student.model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = share(student, batch, count_K)
        loss.backward()
        total += loss.item()
    return total, {name: weight.grad.clone() for name, weight in student.model.named_parameters()}


def share(student: Any, batch: dict[str, torch.Tensor], count_K: torch.Tensor) -> torch.Tensor:
    """What the trainer computes for a micro-batch."""
    return normalised_loss(
        student.token_losses(batch), batch["owner"], task_N=batch["task"], weight_N=batch["weight"], count_K=count_K
    )


def matmul_peak(device: Device, size: int) -> float:
    """FLOP/s of the fastest of some square bf16 products."""
    best = 0.0
    for side in (size // 2, size):
        a, b = (torch.randn(side, side, device=device.device, dtype=torch.bfloat16) for _ in range(2))
        seconds, _ = device.timed(lambda _, a=a, b=b: torch.mm(a, b), warm_up=3, rounds=10)  # type: ignore[misc]
        best = max(best, 2 * side**3 / seconds)
    return best


def t5_speeds(device: Device, shape: str, material: Material, args: argparse.Namespace) -> list[Speed]:
    """Ours, with all teachers too, and the published way."""
    speeds = []
    tokenizer = make_tokenizer(material.rows)
    ways: list[tuple[str, Callable[[Any, Any], list[Item]], bool]] = [
        ("purified, packed, bf16", purified_items, False),
        ("all of two teachers, packed, bf16", all_items, False),
    ]
    if args.compile:
        ways.append(("purified, packed, bf16, feed-forward compiled", purified_items, True))
    for name, encode, compiled in ways:
        student = make_student(shape, tokenizer)
        student.model.to(device.device).train()
        if compiled:
            # Not attention: texts of a batch are of ever other lengths, and each would be compiled anew.
            for layer in student.model.modules():
                if type(layer).__name__ == "T5LayerFF":
                    layer.compile(dynamic=True)
        speeds.append(our_speed(device, student, encode(student, material.rows), name, args))
        del student
        device.free()
    student = make_student(shape, tokenizer)
    student.model.to(device.device).train()
    speeds.append(published_speed(device, student, all_items(student, material.rows), args))
    del student
    device.free()
    return speeds


def our_speed(device: Device, student: Any, items: list[Item], name: str, args: argparse.Namespace) -> Speed:
    """Micro-batches of the given size, each a step of its own, laid out before the clock starts, as the loader does."""
    optimiser = torch.optim.AdamW(student.model.parameters(), lr=1e-5, fused=device.cuda)
    parts = filled(items, student, args.batch_tokens, args.rounds + 3)
    hosts = [student.collate(part, packed=student.packs) for part in parts]
    flops = [student.training_flops(host) for host in hosts]
    counts = [count_units(host["owner"], host["task"], num_tasks=5).to(device.device) for host in hosts]
    batches = [device.moved(host) for host in hosts]

    def step(number: int) -> None:
        with torch.autocast(device.device.type, torch.bfloat16):
            loss = share(student, batches[number], counts[number])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    seconds, peak = device.timed(step, warm_up=3, rounds=args.rounds)
    positions = [student.positions(host) for host in hosts]
    return Speed(
        name,
        seconds,
        samples=round(statistics.mean(len(part) for part in parts[3:])),
        positions=round(statistics.mean(used for used, _ in positions[3:])),
        efficiency=sum(used for used, _ in positions) / sum(computed for _, computed in positions),
        flops=statistics.mean(flops[3:]),
        peak_gib=peak,
    )


def filled(items: Sequence[Item], student: Any, tokens: int, count: int) -> list[list[Item]]:
    """So many micro-batches of about so many positions; rows come again where there are too few."""
    parts: list[list[Item]] = []
    row = 0
    while len(parts) < count:
        part: list[Item] = []
        cost = 0
        while True:
            item = items[row % len(items)]
            cost += sum(map(student.tokens_of, item))
            if part and cost > tokens:
                break
            part.append(item)
            row += 1
        parts.append(part)
    return parts


def published_speed(device: Device, student: Any, items: list[Item], args: argparse.Namespace) -> Speed:
    """Eight rows a micro-batch, as TinyLLM's code has it; positions and FLOPs are those that hold a token."""
    published = PublishedWay(student.model)
    optimiser = torch.optim.AdamW(student.model.parameters(), lr=1e-5)
    parts = [items[start : start + 8] for start in range(0, 8 * (args.rounds + 3), 8)]
    prepared = [[device.moved(batch) for batch in published.batches(part)] for part in parts]

    def step(number: int) -> None:
        published.loss(prepared[number]).backward()
        torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    seconds, peak = device.timed(step, warm_up=3, rounds=args.rounds)
    used = [sum(student.tokens_of(one) for item in part for one in item) for part in parts]
    computed = [sum(batch["input_ids"].numel() + batch["labels"].numel() for batch in batches) for batches in prepared]
    flops = statistics.mean(student.training_flops(student.collate(part)) for part in parts[3:])
    name = "published way, two teachers, fp32"
    return Speed(name, seconds, 8, round(statistics.mean(used[3:])), min(1.0, sum(used) / sum(computed)), flops, peak)


def causal(device: Device, material: Material, args: argparse.Namespace, peak: float) -> list[str]:
    """A causal student beside TRL's trainer; the same rows, the same positions a step, the same number format."""
    from kp_train.students.causal import CausalStudent

    tokenizer = make_tokenizer(material.rows)
    name = "causal toy" if args.smoke else "causal, 0.5 billion parameters"
    student = CausalStudent(make_causal(args.smoke), tokenizer)
    student.model.to(device.device).train()
    items = purified_items(student, material.rows)
    way = "purified, packed, bf16" if student.packs else "purified, padded, bf16"
    speeds = [our_speed(device, student, items, way, args)]
    texts = [tokens for item in items for tokens in sequences(student, item)]
    del student
    device.free()
    if find_spec("trl") is None:
        return [
            *table(name, speeds, peak),
            "TRL is not installed: `pip install trl` compares with its packed SFTTrainer.",
        ]
    speeds.append(trl_speed(device, texts, tokenizer, args))
    lines = table(name, speeds, peak)
    ratio = (speeds[0].positions / speeds[0].seconds) / (speeds[1].positions / speeds[1].seconds)
    return [*lines, f"tokens a second, ours / TRL packed: {ratio:.2f}"]


def make_causal(smoke: bool) -> Any:
    """Random weights of Qwen2.5-0.5B's shape."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**(CAUSAL_TOY if smoke else CAUSAL_05B)))


def sequences(student: Any, item: Item) -> list[list[int]]:
    """What a causal model reads of a row: for each target its prompt, then its label."""
    return [[*one.inputs[0], *one.label] for one in item]


def trl_speed(device: Device, texts: list[list[int]], tokenizer: Any, args: argparse.Namespace) -> Speed:
    """TRL's SFTTrainer with packing, whole run, time a step from its own clock after a warm-up run."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    row = 512 if args.smoke else 2048
    rows_a_step = max(1, args.batch_tokens // row)

    def run(steps: int, folder: str) -> tuple[float, int]:
        config = SFTConfig(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=rows_a_step,
            packing=True,
            max_length=row,
            bf16=device.cuda,
            use_cpu=not device.cuda,
            gradient_checkpointing=False,
            learning_rate=1e-5,
            save_strategy="no",
            report_to="none",
            logging_steps=steps,
            include_num_input_tokens_seen="all",
        )
        data = datasets.Dataset.from_dict({"input_ids": texts * 8})
        trainer = SFTTrainer(model=make_causal(args.smoke), args=config, train_dataset=data, processing_class=tokenizer)
        begun = time.perf_counter()
        trainer.train()
        device.synchronise()
        return time.perf_counter() - begun, int(trainer.state.num_input_tokens_seen)

    with tempfile.TemporaryDirectory() as folder:
        short, short_tokens = run(3, folder)
        if device.cuda:
            torch.cuda.reset_peak_memory_stats()
        # The difference of two runs leaves out what starting and ending one takes.
        long, long_tokens = run(3 + args.rounds, folder)
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.cuda else 0.0
    positions = (long_tokens - short_tokens) // args.rounds
    seconds = (long - short) / args.rounds
    return Speed("TRL SFTTrainer, packed, bf16", seconds, 0, positions, 1.0, 0.0, peak)


def table(title: str, speeds: Sequence[Speed], peak: float) -> list[str]:
    """Markdown; MFU against the measured matmul peak, of positions that hold a token."""
    lines = [
        f"## {title}",
        "",
        "| way | s a step | samples/s | tokens/s | tokens / positions | MFU, % | peak GiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for speed in speeds:
        samples = f"{speed.samples / speed.seconds:.1f}" if speed.samples else "–"
        mfu = f"{100 * speed.flops / speed.seconds / peak:.1f}" if speed.flops else "–"
        lines.append(
            f"| {speed.name} | {speed.seconds:.4f} | {samples} | {speed.positions / speed.seconds:,.0f} "
            f"| {speed.efficiency:.3f} | {mfu} | {speed.peak_gib:.1f} |"
        )
    if speeds[-1].name.startswith("published"):
        ratio = (speeds[0].samples / speeds[0].seconds) / (speeds[-1].samples / speeds[-1].seconds)
        lines += ["", f"samples a second, ours / published way: {ratio:.1f}"]
    return [*lines, ""]


if __name__ == "__main__":
    main()
