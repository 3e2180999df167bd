"""Time of forward and backward against torch's SDPA softmax and against the plain formula.

    python -m benchmarks.attention --lengths 128 512 1024 --dtype float32

Within a run the candidates take turns; a cell is the ratio of medians to SDPA. Below 1 is faster than SDPA.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import attention
from attention.kernels.dispatch import KERNELS
from benchmarks.machine import describe, table


def candidates(
    batch: int, heads: int, length: int, head_dim: int, dtype: torch.dtype
) -> dict[str, Callable[[], None]]:
    """SDPA, the plain formula of softmax, and every mechanism through the kernel that "auto" picks."""
    query, key, value = (
        torch.randn(batch, length, heads, head_dim, dtype=dtype, requires_grad=True) for _ in range(3)
    )
    grad = torch.randn_like(query)

    def backward(out: torch.Tensor) -> None:
        torch.autograd.grad(out, (query, key, value), grad)

    def sdpa() -> None:
        heads_first = (x.transpose(1, 2) for x in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=True)
        backward(out.transpose(1, 2))

    def run(name: str, kernel: str) -> Callable[[], None]:
        return lambda: backward(attention.attend(query, key, value, name, kernel=kernel))

    return {
        "SDPA": sdpa,
        "softmax, dense": run("softmax", "dense"),
        **{name: run(name, "auto") for name in attention.names()},
    }


def interleaved(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each candidate, all of them once per round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 1024])
    parser.add_argument("--tokens", type=int, default=4096, help="batch x length (default 4096)")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--matmul-precision", default="highest", choices=["highest", "high", "medium"])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_float32_matmul_precision(options.matmul_precision)
    if torch.cuda.is_available():
        torch.set_default_device("cuda")
    rows = []
    for length in options.lengths:
        batch = max(1, options.tokens // length)
        runs = candidates(batch, options.heads, length, options.head_dim, getattr(torch, options.dtype))
        medians = interleaved(runs, options.rounds)
        header = ["batch x T", "SDPA, ms", *list(medians)[1:]]
        ratios = [f"{medians[name] / medians['SDPA']:.2f}" for name in list(medians)[1:]]
        rows.append([f"{batch} x {length}", f"{medians['SDPA'] * 1e3:.1f}", *ratios])
    shape = f"{options.heads} heads of {options.head_dim}, causal, forward + backward"
    print(
        f"{describe()}; {options.dtype}, matmul precision {options.matmul_precision}, {shape}, ratio to SDPA"
    )
    print(f"kernels: {', '.join(KERNELS)} (fastest first)\n")
    print(table(header, rows))


if __name__ == "__main__":
    main()
