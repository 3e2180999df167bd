"""Peak memory of one forward and backward pass over the length, kernel by kernel.

    python -m benchmarks.memory --lengths 1024 2048 4096 8192

Every cell is a process of its own: the growth of its peak resident memory over inputs, output and gradients.
"""

import argparse
import resource
import subprocess
import sys

import torch
from tqdm import tqdm

import attention
from attention.kernels.dispatch import KERNELS
from benchmarks.machine import describe, table

HEADS, HEAD_DIM = 2, 64


def measure(mechanism: str, kernel: str, length: int) -> float:
    """MiB beyond the tensors that any kernel must hold."""
    _pass(8, mechanism, kernel)
    return _pass(length, mechanism, kernel)


def _pass(length: int, mechanism: str, kernel: str) -> float:
    tensors = [torch.randn(1, length, HEADS, HEAD_DIM, requires_grad=True) for _ in range(3)]
    held = [torch.ones_like(tensor) for tensor in (*tensors, *tensors[:2])]
    before = _peak()
    out = attention.attend(*tensors, mechanism, kernel=kernel)
    torch.autograd.grad(out, tensors, held[0])
    return max(0.0, _peak() - before)


def _peak() -> float:
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    """Measure every cell and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--mechanisms", nargs="+", default=attention.names(), choices=attention.names())
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS), choices=list(KERNELS))
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        mechanism, kernel, length = options.cell
        print(measure(mechanism, kernel, int(length)))
        return
    cells = [(kernel, name) for kernel in options.kernels for name in options.mechanisms]
    rows = []
    for kernel, name in tqdm(cells, disable=None):
        figures = [_in_own_process(name, kernel, length) for length in options.lengths]
        growth = figures[-1] / figures[0]
        rows.append([kernel, name, *(f"{figure:.0f}" for figure in figures), f"{growth:.1f}x"])
    print(f"{describe()}; float32, batch 1, {HEADS} heads of {HEAD_DIM}, causal, forward + backward, MiB\n")
    print(table(["kernel", "mechanism", *map(str, options.lengths), "last / first"], rows))


def _in_own_process(mechanism: str, kernel: str, length: int) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", "--cell", mechanism, kernel, str(length)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
