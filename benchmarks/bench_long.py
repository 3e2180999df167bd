"""Cost over length, forward and backward: mechanisms that carry a state against exact softmax.

    python -m benchmarks.bench_long
    python -m benchmarks.bench_long --lengths 4096 16384 --rounds 3 --write .

One sequence, causal. Timed are all mechanisms of form Chunked, in their variants; softmax is timed by torch's SDPA and
by this project's `cpu` kernel, up to `--exact`, beyond which its time is not worth waiting for. Candidates take turns;
medians are compared.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

import attention
from attention import Mechanism
from attention.capabilities import kernels
from attention.forms.chunked import Chunked
from attention.markdown import table
from benchmarks.machine import describe, facts
from benchmarks.measure import in_turns, median
from benchmarks.publish import publish
from common.command import Parser, guarded
from storage.machine import default_device

SDPA = "SDPA softmax"
OURS = "softmax by cpu"


@dataclass
class Timing:
    """One candidate at one length: seconds of every round."""

    candidate: str
    length: int
    samples: list[float]


def candidates(length: int, exact: int) -> dict[str, Mechanism | None]:
    """A case timed at a length; None is torch's SDPA."""
    found: dict[str, Mechanism | None] = {}
    if length <= exact:
        found[SDPA] = None
        if "cpu" in kernels(attention.get("softmax")):
            found[OURS] = attention.get("softmax")
    for name in attention.names():
        if attention.get(name).form is Chunked:
            found.update(variants(name))
    return found


def variants(name: str) -> dict[str, Mechanism]:
    """A mechanism and its variants, named by their options; numbers stay at their defaults: a variant's are small."""
    plain, found = attention.get(name), {}
    for variant in ({}, *plain.variants):
        options = {
            key: value for key, value in variant.items() if not isinstance(getattr(plain, key), int | float)
        }
        words = (value if isinstance(value, str) else f"{value} {key}" for key, value in options.items())
        found[", ".join([name, *words])] = attention.get(name, **options)
    return found


def training_pass(
    mechanism: Mechanism | None, length: int, heads: int, head_dim: int, device: torch.device
) -> Callable[[], object]:
    """Forward and backward over one sequence."""
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, length, heads, head_dim, device=device, requires_grad=True) for _ in range(3)
    )
    gradient = torch.randn_like(query)
    learned = {} if mechanism is None else mechanism.initial_values(heads, head_dim)
    params = {name: initial.to(device).requires_grad_() for name, initial in learned.items()}
    kernel = "cpu" if mechanism is not None and "cpu" in kernels(mechanism) else "auto"

    def run() -> object:
        if mechanism is None:
            out = scaled_dot_product_attention(
                *(x.transpose(1, 2) for x in (query, key, value)), is_causal=True
            )
            out = out.transpose(1, 2)
        else:
            out = attention.attend(query, key, value, mechanism, params=params, kernel=kernel)
        return torch.autograd.grad(out, [query, key, value, *params.values()], gradient)

    return run


def page(raw: dict[str, Any]) -> str:
    """The table, the machine first."""
    timed = {(x["candidate"], x["length"]): median(x["samples"]) for x in raw["times"]}
    lengths = sorted({length for _, length in timed})

    def cell(name: str, length: int) -> str:
        if (name, length) not in timed:
            return "–"
        exact = timed.get((SDPA, length))
        share = f" ({exact / timed[name, length]:.1f}x)" if exact and name != SDPA else ""
        return f"{timed[name, length]:.2f}{share}"

    rows = [[name, *(cell(name, n) for n in lengths)] for name in dict.fromkeys(name for name, _ in timed)]
    return (
        "\n\n".join(
            [
                "# Attention over long texts",
                f"{describe(raw['machine'])}.",
                f"Seconds of forward and backward over one sequence, {raw['heads']} heads of {raw['head_dim']}, "
                f"float32, causal; medians of {raw['rounds']} rounds. In brackets: how many times faster than torch's "
                "SDPA softmax where that was timed. Written by `python -m benchmarks.bench_long --write .`.",
                table(["", *(f"T = {n:,}" for n in lengths)], rows),
            ]
        )
        + "\n"
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write it where asked."""
    parser = Parser(
        prog="python -m benchmarks.bench_long",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384, 65536])
    parser.add_argument("--exact", type=int, default=16384, help="longest sequence of exact softmax")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="DIR", help="repository whose results are replaced")
    options = parser.parse_args(arguments)
    device = default_device()
    timed = []
    for length in options.lengths:
        chosen = candidates(length, options.exact)
        runs = {
            name: training_pass(mechanism, length, options.heads, options.head_dim, device)
            for name, mechanism in chosen.items()
        }
        samples = in_turns(runs, options.rounds, device)
        timed += [Timing(name, length, seconds) for name, seconds in samples.items()]
    shape = {"heads": options.heads, "head_dim": options.head_dim, "rounds": options.rounds}
    raw = {"machine": facts(), **shape, "times": [asdict(x) for x in timed]}
    print(page(raw))
    publish(options.write, "long", page(raw), raw)


if __name__ == "__main__":
    guarded(main)
