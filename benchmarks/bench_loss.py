"""Time and memory of the head and its cross-entropy, forward and backward: in chunks, and with all logits at once.

    python -m benchmarks.bench_loss
    python -m benchmarks.bench_loss --tokens 16384 --vocabulary 128000 --width 2048 --dtype bf16

`all logits` is torch's cross_entropy on the logits of the whole batch; `recomputed` makes them in parts, twice, as
`GPT.forward` does for long batches; `chunked` is what training uses. Candidates take turns in one process; medians are
compared. Memory is how much a call raises what its process, which makes no other, holds at most.
"""

import argparse
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
from torch import Tensor
from torch.nn import functional

from attention.markdown import table
from benchmarks.machine import describe
from benchmarks.measure import in_turns, median, peak_growth
from common.command import Parser, guarded
from models.loss import token_losses
from storage.machine import default_device
from training.losses.chunked import cross_entropy

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Shape = tuple[int, int, int]
"""Tokens, vocabulary, width."""

CANDIDATES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "all logits": lambda hidden, head, targets: functional.cross_entropy(
        (hidden @ head.T).float(), targets, reduction="sum"
    ),
    "recomputed": lambda hidden, head, targets: token_losses(
        hidden[None], targets[None], lambda rows: rows @ head.T, len(head)
    ).sum(),
    "chunked": lambda hidden, head, targets: cross_entropy(hidden, head, targets).total,
}


def prepare(name: str, shape: Shape, dtype: str, device: torch.device) -> Callable[[], object]:
    """A loss with its gradients, as a call to repeat."""
    tokens, vocabulary, width = shape
    hidden, head = (
        torch.randn(size, width, device=device, dtype=DTYPES[dtype]).requires_grad_()
        for size in (tokens, vocabulary)
    )
    targets = torch.randint(vocabulary, (tokens,), device=device)
    return lambda: torch.autograd.grad(CANDIDATES[name](hidden, head, targets), [hidden, head])


def memory(name: str, shape: Shape, dtype: str) -> float:
    """MiB that a call needs beyond its operands; to be called in a new process."""
    device = default_device()
    prepare(name, (8, 8, 8), dtype, device)()
    return peak_growth(prepare(name, shape, dtype, device), device)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = Parser(
        prog="python -m benchmarks.bench_loss",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--dtype", default="fp32", choices=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    shape, device = (options.tokens, options.vocabulary, options.width), default_device()
    runs = {name: prepare(name, shape, options.dtype, device) for name in CANDIDATES}
    seconds = {name: median(samples) for name, samples in in_turns(runs, options.rounds, device).items()}
    needed = {}
    for name in CANDIDATES:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            needed[name] = process.submit(memory, name, shape, options.dtype).result()
    rows = [
        [
            name,
            f"{seconds[name] * 1e3:.1f}",
            f"{seconds[name] / seconds['all logits']:.2f}",
            f"{needed[name]:,.0f}",
        ]
        for name in CANDIDATES
    ]
    print(
        f"{describe()}.\n{options.tokens} tokens, vocabulary {options.vocabulary}, width {options.width}, ",
        end="",
    )
    print(f"{options.dtype}.\n\n{table(['loss', 'ms', 'of all logits', 'MiB'], rows)}")


if __name__ == "__main__":
    guarded(main)
