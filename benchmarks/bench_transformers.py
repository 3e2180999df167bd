"""Hugging Face models whose attention is eager on a CPU: their own code beside `zoo:auto`, forward, float32.

    python -m benchmarks.bench_transformers
    python -m benchmarks.bench_transformers --lengths 512 --rounds 2 --write .

Random models of two layers in the proportions of released ones. An attention is one layer's call as the model made it
(queries, keys, values and mask of a real forward pass), a model is the whole forward pass with everything around it.
"""

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from attention.markdown import table
from attention.transformers.calls import attention_function
from attention.transformers.families import tiny
from attention.transformers.names import AUTO
from attention.transformers.seams import attention_layers, register
from benchmarks.machine import describe
from benchmarks.measure import in_turns, median
from benchmarks.publish import publish
from common.command import Parser, guarded
from common.errors import InputError
from storage.machine import default_device

SIZES: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 16384,
    "initializer_range": 0.02,
    "sliding_window": 128,
}
FAMILIES = {
    "gpt-oss": "learned sinks, every other layer a window of 128",
    "Granite SWA": "learned sinks, every other layer a window of 128",
    "Gemma 2": "softcap, every other layer a window of 128",
    "Llama": "plain softmax",
}
"""Families, and what their attention asks for."""

Runs = dict[str, Callable[[], Any]]
"""A part of a model by implementation."""

TOLERANCE = 1e-4
"""Largest difference of outputs between the two: the speed of something else is not worth printing."""


@dataclass(frozen=True)
class Measured:
    """Seconds of both implementations of a part of a model, in turns."""

    family: str
    part: str
    length: int
    eager: list[float]
    ours: list[float]


def measure(family: str, length: int, rounds: int) -> list[Measured]:
    """The attention of each kind of layer, and the whole model, at one length.

    Raises:
        InputError: the outputs of the two differ.
    """
    found = []
    with torch.no_grad():
        for part, runs in _parts(family, length).items():
            outputs = [run() for run in runs.values()]
            difference = (outputs[0] - outputs[1]).abs().max().item()
            if not difference <= TOLERANCE:
                raise InputError(f"{family}, {part}, {length} tokens: outputs differ by {difference:.1e}")
            samples = in_turns(runs, rounds, default_device())
            found.append(Measured(family, part, length, *samples.values()))
    return found


def _parts(family: str, length: int) -> dict[str, Runs]:
    tokens = torch.randint(3, 90, (1, length), generator=torch.Generator().manual_seed(0))
    models = {name: tiny(family, name, **SIZES) for name in ("eager", AUTO)}
    calls = {name: _calls(model, tokens) for name, model in models.items()}
    module = importlib.import_module(type(models["eager"]).__module__)
    functions = {"eager": module.eager_attention_forward, AUTO: attention_function(AUTO)}
    parts: dict[str, Runs] = {}
    for layer in range(len(calls["eager"])):
        kind = getattr(models["eager"].config, "layer_types", ["full_attention"] * 2)[layer]
        parts[f"attention, {kind.removesuffix('_attention')}"] = {
            name: partial(_attention, functions[name], *calls[name][layer]) for name in models
        }
    parts["model"] = {name: partial(_logits, model, tokens) for name, model in models.items()}
    return parts


def _attention(
    function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> torch.Tensor:
    return function(*arguments, **options)[0]


def _logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens, use_cache=False).logits


def _calls(model: Any, tokens: torch.Tensor) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What each layer asks of its attention in one forward pass."""
    from transformers import AttentionInterface, AttentionMaskInterface

    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    own = model.config._attn_implementation
    recorder = f"{AUTO}-recorder"
    masks = AttentionMaskInterface()

    def record(*arguments: Any, **options: Any) -> tuple[torch.Tensor, None]:
        asked.append((arguments, options))
        query, value = arguments[1], arguments[3]
        return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None

    AttentionInterface.register(recorder, record)
    AttentionMaskInterface.register(recorder, masks[own])
    model.config._attn_implementation = recorder
    with torch.no_grad():
        model(tokens, use_cache=False)
    model.config._attn_implementation = own
    assert len(asked) == len(attention_layers(model))
    return asked


def page(found: list[Measured], rounds: int) -> str:
    """The table in Markdown, the machine first."""
    rows = [
        [
            x.family,
            x.part,
            f"{x.length:,}",
            f"{median(x.eager) * 1e3:.1f}",
            f"{median(x.ours) * 1e3:.1f}",
            f"{median(x.eager) / median(x.ours):.1f}x",
        ]
        for x in found
    ]
    asks = "; ".join(f"{family}: {what}" for family, what in FAMILIES.items())
    header = ["family", "part", "tokens", "eager, ms", "zoo:auto, ms", "faster"]
    return (
        "# Hugging Face models: eager beside zoo:auto\n\n"
        f"By `python -m benchmarks.bench_transformers`, on {describe()}.\n\n"
        f"Forward, float32, one text, {SIZES['num_attention_heads']} heads of {SIZES['head_dim']}, "
        f"{SIZES['num_key_value_heads']} key heads, two layers, random weights; medians of {rounds} rounds in turns. "
        f"{asks}. A model's time includes its MLPs or experts and its masks, which are the same for both.\n\n"
        f"{table(header, rows)}\n"
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write it where asked."""
    parser = Parser(
        prog="python -m benchmarks.bench_transformers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048], help="tokens of a text")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds")
    parser.add_argument("--write", type=Path, metavar="DIR", help="repository whose results are replaced")
    options = parser.parse_args(arguments)
    register()
    found = [
        x
        for family in options.families
        for length in options.lengths
        for x in measure(family, length, options.rounds)
    ]
    text = page(found, options.rounds)
    print(text)
    publish(options.write, "transformers", text)


if __name__ == "__main__":
    guarded(main)
