"""Time and memory of attention, forward and backward, against torch's SDPA softmax and against the plain formula.

    python -m benchmarks.bench_attention
    python -m benchmarks.bench_attention --shapes 4x1024 1x4096 --dtype bfloat16 --mechanisms softpick --write .

Candidates take turns in one process; medians are compared. Peak memory, over inputs, outputs and gradients, is measured
in a process per candidate. A mechanism with a window of its own is measured without it, and with it where sequences
exceed it. Work counts visible pairs only: 2 products forward, 7 forward and backward with recomputation. A kernel that
fails the contract (`attention.conformance`) is named, not timed.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from tqdm import tqdm

import attention
from attention import CallSpec, Mechanism
from attention.core.arguments import dtype_name
from attention.core.errors import AttentionError
from attention.core.inputs import prepare
from attention.core.masks import visibility
from attention.kernels.dispatch import KERNELS, choose
from benchmarks.drawing import draw_speed
from benchmarks.machine import facts
from benchmarks.measure import broken, in_turns, median, peak_growth
from benchmarks.publish import publish
from benchmarks.tables import attention_page
from common.command import Parser, guarded
from storage.machine import default_device
from training.telemetry import matmul_rate

SDPA = "SDPA softmax"
PASSES = {"forward": 2.0, "forward + backward": 7.0}
"""Products of [T, S] by [S, D] or their like that a pass takes."""

DENSE_MATRICES = 10
"""Row matrices in float32 that the formula and its gradient hold at once, roughly."""


@dataclass(frozen=True)
class Shape:
    """Query, key and value of one call."""

    batch: int
    length: int
    heads: int
    key_heads: int
    head_dim: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.length}"


@dataclass(frozen=True)
class Candidate:
    """A case to measure: torch's SDPA where there is no mechanism, else a mechanism through a kernel."""

    mechanism: str | None
    kernel: str = "auto"
    window: int | None = None

    def __str__(self) -> str:
        if self.mechanism is None:
            return SDPA
        return self.mechanism + (f", window {self.window}" if self.window else "")

    def resolve(self) -> Mechanism:
        """The mechanism, with the window that is measured and no other."""
        assert self.mechanism is not None
        made = attention.get(self.mechanism)
        return made if made.window is None else replace(made, window=None)  # type: ignore[type-var]


def candidates(mechanisms: list[str], kernels: list[str], length: int) -> list[Candidate]:
    """SDPA, then every mechanism by every kernel, without and with the window that it has by default."""
    found = [Candidate(None, "torch")]
    for name in mechanisms:
        window = attention.get(name).window
        windows = [None, window] if window is not None and window < length else [None]
        found += [Candidate(name, kernel, window) for kernel in kernels for window in windows]
    return found


class Tensors:
    """Inputs of a shape, and a candidate's passes over them."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        torch.manual_seed(0)
        heads = (shape.heads, shape.key_heads, shape.key_heads)
        self.inputs = [
            torch.randn(
                shape.batch, shape.length, n, shape.head_dim, dtype=dtype, device=device, requires_grad=True
            )
            for n in heads
        ]
        self.gradient = torch.randn_like(self.inputs[0])

    def kernel(self, candidate: Candidate) -> str:
        """The name of the kernel that runs a candidate.

        Raises:
            AttentionError: the one asked for does not serve it.
        """
        if candidate.mechanism is None:
            return candidate.kernel
        spec = CallSpec(window=candidate.window)
        return choose(candidate.kernel, prepare(*self.inputs, candidate.resolve(), spec)).name

    def passes(self, candidate: Candidate) -> dict[str, Callable[[], object]]:
        """The candidate's forward pass without gradients, and forward and backward together."""
        forward, learned = self._forward(candidate)

        def backward() -> tuple[Tensor, ...]:
            return torch.autograd.grad(forward(), [*self.inputs, *learned], self.gradient)

        return dict(zip(PASSES, (torch.no_grad()(forward), backward), strict=True))

    def _forward(self, candidate: Candidate) -> tuple[Callable[[], Tensor], list[Tensor]]:
        query, key, value = self.inputs
        if candidate.mechanism is None:

            def sdpa() -> Tensor:
                q, k, v = (x.transpose(1, 2) for x in self.inputs)
                grouped = query.shape[2] != key.shape[2]
                return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped).transpose(
                    1, 2
                )

            return sdpa, []
        mechanism = candidate.resolve()
        params = {
            name: initial.to(query.device).requires_grad_()
            for name, initial in mechanism.initial_values(*query.shape[2:]).items()
        }
        options: dict[str, Any] = {"window": candidate.window, "kernel": candidate.kernel, "params": params}
        return partial(attention.attend, query, key, value, mechanism, **options), list(params.values())


@dataclass
class Timing:
    """One candidate, shape, dtype and pass: medians and every sample in seconds, or why there are none."""

    dtype: str
    passes: str
    batch: int
    length: int
    candidate: str
    kernel: str
    seconds: float | None
    samples: list[float]
    flops: float
    refused: str | None = None


def time_shape(
    shape: Shape, dtype: torch.dtype, options: argparse.Namespace, device: torch.device
) -> list[Timing]:
    """Every candidate on one shape; the formula of each mechanism among them where its row matrices fit."""
    tensors = Tensors(shape, dtype, device)
    listed = candidates(options.mechanisms, options.kernels, shape.length)
    if dense_bytes(shape) <= options.dense_limit * 1024**3:
        dense = {replace(candidate, kernel="dense") for candidate in listed if candidate.mechanism}
        listed += sorted(dense - set(listed), key=str)
    found: list[Timing] = []
    served: dict[str, Candidate] = {}
    for candidate in listed:
        kernel, reason = _kernel(tensors, candidate, dtype, device)
        served |= {} if reason else {f"{candidate} by {kernel}": candidate}
        work = 2.0 * shape.batch * shape.heads * shape.head_dim * pairs(shape.length, candidate.window)
        found += [
            Timing(
                dtype_name(dtype),
                name,
                shape.batch,
                shape.length,
                str(candidate),
                kernel,
                None,
                [],
                products * work,
                reason,
            )
            for name, products in PASSES.items()
        ]
    for name in PASSES:
        runs = {key: tensors.passes(candidate)[name] for key, candidate in served.items()}
        samples = in_turns(runs, options.rounds, device)
        for timing in found:
            key = f"{timing.candidate} by {timing.kernel}"
            if timing.passes == name and timing.refused is None:
                timing.samples, timing.seconds = samples[key], median(samples[key])
    return found


def _kernel(
    tensors: Tensors, candidate: Candidate, dtype: torch.dtype, device: torch.device
) -> tuple[str, str | None]:
    try:
        kernel = tensors.kernel(candidate)
    except AttentionError as error:
        return candidate.kernel, str(error)
    if candidate.mechanism is None:
        return kernel, None
    return kernel, broken(candidate.resolve(), kernel, dtype, device)


def pairs(length: int, window: int | None) -> int:
    """Pairs of a query and a key that it sees."""
    return int(visibility(length, length, window=window).count.sum())


def dense_bytes(shape: Shape) -> int:
    """Return the bytes of the formula's row matrices."""
    return 4 * DENSE_MATRICES * shape.batch * shape.heads * shape.length**2


@dataclass
class Memory:
    """Peak MiB of forward and backward over inputs, output and gradients."""

    dtype: str
    batch: int
    length: int
    candidate: str
    kernel: str
    mebibytes: float


def measure_memory(timed: list[Timing], options: argparse.Namespace) -> list[Memory]:
    """One process for each candidate and shape that was timed in the first dtype."""
    wanted = [
        timing
        for timing in timed
        if timing.seconds and timing.passes == "forward" and timing.dtype == options.dtype[0]
    ]
    found = []
    for timing in tqdm(wanted, desc="memory", disable=None):
        mechanism, _, window = timing.candidate.partition(", window ")
        candidate = Candidate(
            None if mechanism == SDPA else mechanism, timing.kernel, int(window) if window else None
        )
        cell = {
            "candidate": asdict(candidate),
            "shape": asdict(shape_of(f"{timing.batch}x{timing.length}", options)),
            "dtype": timing.dtype,
        }
        command = [sys.executable, "-m", "benchmarks.bench_attention", "--cell", json.dumps(cell)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise SystemExit(
                f"error: memory of {timing.candidate} by {timing.kernel}: {answer.stderr[-500:]}"
            )
        place = (timing.dtype, timing.batch, timing.length, timing.candidate, timing.kernel)
        found.append(Memory(*place, float(answer.stdout.split()[-1])))
    return found


def cell_memory(cell: dict[str, Any]) -> float:
    """Peak memory of one candidate in this process, after a small call that loads what it needs."""
    device, dtype = default_device(), getattr(torch, cell["dtype"])
    candidate, shape = Candidate(**cell["candidate"]), Shape(**cell["shape"])
    last = list(PASSES)[-1]
    Tensors(replace(shape, batch=1, length=8), dtype, device).passes(candidate)[last]()
    tensors = Tensors(shape, dtype, device)
    run = tensors.passes(candidate)[last]
    held = [
        torch.ones_like(x) for x in (tensors.inputs[0], *tensors.inputs)
    ]  # as much as output and gradients
    del held
    return peak_growth(run, device)


def shape_of(text: str, options: argparse.Namespace) -> Shape:
    """A shape from "batch x length"."""
    batch, _, length = text.partition("x")
    return Shape(int(batch), int(length), options.heads, options.key_heads or options.heads, options.head_dim)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, write them where asked."""
    parser = Parser(
        prog="python -m benchmarks.bench_attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shapes = ["4x256", "4x512", "4x1024", "2x2048", "1x4096"]
    parser.add_argument(
        "--shapes", nargs="+", default=shapes, help=f"batch x length (default {' '.join(shapes)})"
    )
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--key-heads", type=int, help="fewer than heads for grouped heads (default: as many)")
    parser.add_argument("--head-dim", type=int, default=64)
    dtypes = ["float32", "bfloat16"]
    parser.add_argument("--dtype", nargs="+", default=dtypes, choices=[*dtypes, "float16", "float64"])
    parser.add_argument("--mechanisms", nargs="+", default=attention.names(), choices=attention.names())
    parser.add_argument("--kernels", nargs="+", default=["auto"], choices=["auto", *KERNELS])
    parser.add_argument("--matmul-precision", default="highest", choices=["highest", "high", "medium"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dense-limit", type=float, default=4.0, help="GiB that the plain formula may take")
    parser.add_argument("--no-memory", action="store_true", help="time only")
    parser.add_argument("--write", type=Path, metavar="DIR", help="repository whose results are replaced")
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.cell:
        print(cell_memory(options.cell))
        return
    torch.set_float32_matmul_precision(options.matmul_precision)
    device = default_device()
    timed: list[Timing] = []
    peaks = {}
    for name in options.dtype:
        dtype = getattr(torch, name)
        peaks[name] = matmul_rate(device, dtype)
        for shape in tqdm(options.shapes, desc=name, disable=None):
            timed += time_shape(shape_of(shape, options), dtype, options, device)
    memory = [] if options.no_memory else measure_memory(timed, options)
    raw = {
        "machine": facts(),
        "settings": asdict(shape_of(options.shapes[0], options)) | {"rounds": options.rounds},
        "peak_flops": peaks,
        "times": [asdict(x) for x in timed],
        "memory": [asdict(x) for x in memory],
    }
    print(attention_page(raw))
    if options.write:
        write(options.write, raw)


def write(folder: Path, raw: dict[str, Any]) -> None:
    """benchmarks/results/attention.md and .json, docs/images/speed.png."""
    publish(folder, "attention", attention_page(raw), raw)
    images = folder / "docs/images"
    images.mkdir(parents=True, exist_ok=True)
    draw_speed(raw, images / "speed.png")


if __name__ == "__main__":
    guarded(main)
