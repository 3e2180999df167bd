"""Activation checkpointing: what a block keeps of a token, and what the time of a step becomes.

    python -m benchmarks.bench_checkpointing
    python -m benchmarks.bench_checkpointing --model 60m --batch 2 --length 512 --write .

Bytes are counted (`training.plan.sizes`), steps timed in turns as in `benchmarks.bench_train`.
"""

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from attention.markdown import table
from benchmarks.bench_train import Candidate, build, emulated
from benchmarks.machine import describe, facts
from benchmarks.measure import in_turns, median
from benchmarks.publish import publish
from common.command import Parser, guarded
from models import ModelConfig, presets, resolve
from storage.machine import default_device
from training.config import TrainConfig
from training.plan.page import CHECKPOINTING
from training.plan.sizes import sizes
from training.timing import training_step


@dataclass
class Measured:
    """One way to checkpoint: bytes that a block keeps of a token in float32 and in bf16, and seconds of steps."""

    checkpointing: str
    fp32: float
    bf16: float
    samples: list[float]


def measure(preset: str, train: TrainConfig, rounds: int) -> list[Measured]:
    """Every way in the softpick model of a preset."""
    config, device = ModelConfig(preset=preset, attention="softpick"), default_device()
    runs, found = {}, []
    for mode in CHECKPOINTING:
        chosen = replace(train, activation_checkpointing=mode)
        module = build(Candidate("softpick"), config, chosen)
        runs[mode] = training_step(module, resolve(config).vocab_size, chosen, device, compiled=False)
    samples = in_turns(runs, rounds, device)
    kept = [sizes(config, replace(train, precision=precision)) for precision in ("fp32", "bf16")]
    for mode in CHECKPOINTING:
        found.append(Measured(mode, *(of[mode].block_token for of in kept), samples[mode]))
    return found


def page(found: list[Measured], preset: str, train: TrainConfig) -> str:
    """The table in Markdown, the machine first."""
    first = median(found[0].samples)
    rows = [
        [
            x.checkpointing,
            f"{x.fp32 / 1024:.2f}",
            f"{x.bf16 / 1024:.2f}",
            f"{median(x.samples) * 1e3:.0f}",
            f"{median(x.samples) / first:.2f}",
        ]
        for x in found
    ]
    header = ["checkpointing", "KiB, fp32", "KiB, bf16", "ms / step", "time"]
    return (
        "# Activation checkpointing\n\n"
        f"{describe()}.\n\n"
        f"Softpick, {preset}, {train.precision}, steps of {train.batch_size} x {train.length} tokens; medians of "
        f"{len(found[0].samples)} steps in turns. KiB are kept for the backward pass per token and block; time is "
        "relative to the first row.\n\n"
        f"{table(header, rows)}\n"
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write it where asked."""
    parser = Parser(
        prog="python -m benchmarks.bench_checkpointing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="micro", choices=presets())
    parser.add_argument("--batch", type=int, default=16, help="sequences per step")
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each way")
    parser.add_argument("--write", type=Path, metavar="DIR", help="repository whose results are replaced")
    options = parser.parse_args(arguments)
    precision = "fp32" if emulated("bf16", default_device()) else "bf16"
    train = TrainConfig(batch_size=options.batch, length=options.length, precision=precision)
    found = measure(options.model, train, options.steps)
    text = page(found, options.model, train)
    print(text)
    publish(options.write, "checkpointing", text, {"machine": facts(), "ways": [asdict(x) for x in found]})


if __name__ == "__main__":
    guarded(main)
