"""Speed of writing text: tokens per second of `models.sampling.generate`, beside transformers' Llama of the same shape.

    python -m benchmarks.bench_decode
    python -m benchmarks.bench_decode --models micro --batches 1 --contexts 256 --mechanisms softmax softpick --write .

A sample is a whole call: a prompt of random tokens, then new ones, the likeliest each time, with a cache of keys.
Random weights, float32, no token ends a text. Candidates take turns in one process; medians are compared. With
--compile every mechanism is measured a second time, its step compiled as a whole; compiling is not timed.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import attention
from attention.check import representatives
from attention.markdown import table
from benchmarks.machine import describe
from benchmarks.measure import in_turns, median
from benchmarks.peers import Llama, missing
from benchmarks.publish import publish
from common.command import Parser, guarded
from common.errors import InputError
from models import GPT, ModelConfig, Plan, presets, resolve
from models.sampling import generate
from storage.machine import default_device

PEER = "transformers' Llama"


@dataclass(frozen=True)
class Place:
    """A model's preset, texts at once, and tokens of each prompt."""

    model: str
    batch: int
    context: int

    def __str__(self) -> str:
        return f"{self.model}, batch of {self.batch}, prompts of {self.context:,}"


def measure(
    place: Place, mechanisms: list[str], new: int, rounds: int, device: torch.device, *, compiled: bool
) -> dict[str, list[float]]:
    """Seconds of each candidate's calls, the peer's first."""
    torch.manual_seed(0)
    plan = resolve(ModelConfig(preset=place.model))
    prompt = torch.randint(plan.vocab_size, (place.batch, place.context), device=device)
    runs: dict[str, Callable[[], object]] = {PEER: _peer(plan, prompt, new)}
    for name in mechanisms:
        model = GPT(ModelConfig(preset=place.model, attention=name)).to(device).eval()
        runs[name] = partial(generate, model, prompt, new, temperature=0.0)
        if compiled:
            runs[f"{name}, compiled"] = partial(runs[name], compile_step=True)
    return in_turns(runs, rounds, device)


def _peer(plan: Plan, prompt: Tensor, new: int) -> Callable[[], object]:
    """transformers' own generation by a Llama of a plan's shape."""
    peer: Any = Llama(plan, plan.max_length).to(prompt.device).eval().model
    peer.config.use_cache = peer.generation_config.use_cache = True
    peer.generation_config.eos_token_id = peer.generation_config.bos_token_id = None
    peer.generation_config.pad_token_id = 0
    options = {"max_new_tokens": new, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
    return partial(peer.generate, prompt, **options)


def page(found: dict[Place, dict[str, list[float]]], new: int, rounds: int) -> str:
    """All tables in Markdown, the machine first."""
    parts = [
        "# Writing text",
        f"By `python -m benchmarks.bench_decode`, on {describe()}.",
        f"Tokens per second, {new} new tokens for each prompt, the prompt's own time included; float32, medians of "
        f"{rounds} calls in turns. Beside each mechanism how many times as fast as {PEER} of the same shape.",
    ]
    names = list(dict.fromkeys(name for samples in found.values() for name in samples))
    rows = []
    for name in names:
        cells = [
            _cell(name, samples, place.batch * new) if name in samples else "–"
            for place, samples in found.items()
        ]
        rows.append([name, *cells])
    parts.append(table(["", *map(str, found)], rows))
    return "\n\n".join(parts) + "\n"


def _cell(name: str, samples: dict[str, list[float]], tokens: int) -> str:
    speed = {candidate: tokens / median(seconds) for candidate, seconds in samples.items()}
    ratio = "" if name == PEER else f" ({speed[name] / speed[PEER]:.2f}x)"
    return f"{speed[name]:,.0f}{ratio}"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write it where asked."""
    parser = Parser(
        prog="python -m benchmarks.bench_decode",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["micro", "60m"], choices=presets())
    parser.add_argument("--mechanisms", nargs="+", default=representatives(), choices=attention.names())
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="texts at once")
    parser.add_argument("--contexts", type=int, nargs="+", default=[256, 4096], help="tokens of a prompt")
    parser.add_argument("--compile", action="store_true", help="measure compiled steps, too")
    parser.add_argument("--new", type=int, default=32, help="tokens written behind each prompt")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each candidate")
    parser.add_argument("--write", type=Path, metavar="DIR", help="repository whose results are replaced")
    options = parser.parse_args(arguments)
    if reason := missing(PEER):
        raise InputError(reason)
    places = [
        Place(model, batch, context)
        for model in options.models
        for batch in options.batches
        for context in options.contexts
    ]
    device = default_device()
    found = {
        place: measure(
            place, options.mechanisms, options.new, options.rounds, device, compiled=options.compile
        )
        for place in places
    }
    text = page(found, options.new, options.rounds)
    print(text)
    publish(options.write, "decode", text)


if __name__ == "__main__":
    guarded(main)
