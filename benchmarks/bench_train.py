"""Speed of whole training steps, model by model, against the same model with torch's SDPA softmax.

    python -m benchmarks.bench_train
    python -m benchmarks.bench_train --models micro --mechanisms softpick --length 1024 --batch 4 --write .

A step is that of `train.py` (forward, loss, backward, clipping, fused AdamW, bf16 under autocast) on random tokens, one
document per sequence. Candidates take turns in one process; medians are compared. Beside the mechanisms, each through
the kernel that "auto" picks, stand softmax by its plain formula, and softmax by SDPA in a model under torch.compile.
A kernel that fails the contract (`attention.conformance`) is named, not timed.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from tqdm import tqdm

import attention
from attention.core.errors import AttentionError
from attention.core.inputs import example
from attention.kernels.dispatch import choose
from benchmarks.machine import describe, facts, table
from benchmarks.measure import broken, interleaved, median
from common.command import Parser, guarded
from models import GPT, ModelConfig, presets, resolve
from storage.machine import default_device
from training.config import TrainConfig
from training.losses.objective import Objective
from training.optimizers import build_optimizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Candidate:
    """A model's attention, the kernel asked for, and whether the model is compiled."""

    mechanism: str
    kernel: str = "auto"
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.mechanism}, {self.kernel}" + (", torch.compile" if self.compiled else "")


BASELINE = Candidate("softmax", "sdpa")
BASELINES = [BASELINE, replace(BASELINE, compiled=True), Candidate("softmax", "dense")]


@dataclass
class Timing:
    """Median seconds of a step of one candidate and every sample, or why there are none."""

    model: str
    precision: str
    batch: int
    length: int
    candidate: str
    kernel: str
    seconds: float | None = None
    samples: list[float] | None = None
    refused: str | None = None

    @property
    def tokens_per_second(self) -> float:
        """Tokens that carry loss, per second of a step."""
        return self.batch * self.length / self.seconds if self.seconds else 0.0


def training_step(
    config: ModelConfig, train: TrainConfig, device: torch.device, compiled: bool
) -> Callable[[], Tensor]:
    """A model with its optimiser and one batch, as a step to repeat; it returns the loss."""
    torch.manual_seed(0)
    network = GPT(config).to(device)
    objective = Objective(network)
    model = torch.compile(objective) if compiled else objective
    optimizer = build_optimizer(network, train)
    shape = (train.batch_size, train.length + 1)
    text = torch.randint(network.plan.vocab_size, shape, device=device)
    tokens, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=train.precision == "bf16")
    clip = train.clip or float("inf")

    def step() -> Tensor:
        with autocast:
            loss = model(tokens, targets).total / targets.numel()
        loss.backward()
        norm = get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
        clip_grads_with_norm_(network.parameters(), clip, norm)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def time_model(
    preset: str, train: TrainConfig, mechanisms: list[str], rounds: int, device: torch.device
) -> list[Timing]:
    """Every candidate in the model of a preset, in one precision."""
    found: list[Timing] = []
    runs: dict[str, Callable[[], object]] = {}
    for candidate in [*BASELINES, *(Candidate(name) for name in mechanisms)]:
        config = ModelConfig(preset=preset, attention=candidate.mechanism)
        kernel, reason = _kernel(candidate, config, DTYPES[train.precision], device)
        place = (preset, train.precision, train.batch_size, train.length)
        found.append(Timing(*place, str(candidate), kernel, refused=reason))
        if reason is None:
            chosen = replace(config, kernel=candidate.kernel)
            runs[str(candidate)] = training_step(chosen, train, device, candidate.compiled)
    samples = interleaved(runs, rounds, device)
    for timing in found:
        if timing.refused is None:
            timing.samples = samples[timing.candidate]
            timing.seconds = median(timing.samples)
    return found


def _kernel(
    candidate: Candidate, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> tuple[str, str | None]:
    """The kernel that will run, and why it shall not; SDPA, the yardstick, is torch's and taken as it is."""
    shape, mechanism = resolve(config), attention.get(candidate.mechanism)
    like = example(mechanism, device=device, dtype=dtype, head_dim=shape.head_dim, n_head=shape.n_head)
    try:
        kernel = choose(candidate.kernel, like).name
    except AttentionError as error:
        return candidate.kernel, str(error)
    return kernel, None if kernel == BASELINE.kernel else broken(mechanism, kernel, dtype, device)


def page(timed: list[Timing], rounds: int) -> str:
    """All tables in Markdown, the machine first."""
    parts = [
        "# Training steps",
        f"{describe()}.",
        f"Random tokens; medians of {rounds} steps in which all candidates take turns. The last column is the speed "
        "relative to the same model with torch's SDPA softmax: above 1 is faster.",
    ]
    for model, precision in dict.fromkeys((x.model, x.precision) for x in timed):
        chosen = [x for x in timed if (x.model, x.precision) == (model, precision)]
        first = chosen[0]
        parts += [f"## {model}, {precision}, {first.batch} x {first.length} tokens", model_table(chosen)]
    return "\n\n".join(parts) + "\n"


def model_table(timed: list[Timing]) -> str:
    """One row per candidate."""
    baseline = next(x.tokens_per_second for x in timed if x.candidate == str(BASELINE))
    rows = []
    for x in timed:
        figures = [f"not measured: {x.refused}", "–", "–"]
        if x.seconds:
            relative = f"{x.tokens_per_second / baseline:.2f}" if baseline else "–"
            figures = [f"{x.seconds * 1e3:.1f}", f"{x.tokens_per_second:,.0f}", relative]
        rows.append([x.candidate, x.kernel, *figures])
    return table(["attention", "kernel", "ms / step", "tokens / s", "of SDPA"], rows)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, write them where asked."""
    parser = Parser(
        prog="python -m benchmarks.bench_train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["micro", "60m"], choices=presets())
    parser.add_argument("--mechanisms", nargs="+", default=attention.names(), choices=attention.names())
    parser.add_argument("--precision", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--batch", type=int, default=8, help="sequences per step")
    parser.add_argument("--length", type=int, default=512, help="tokens per sequence")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each candidate")
    parser.add_argument("--matmul-precision", default="highest", choices=["highest", "high", "medium"])
    parser.add_argument("--write", type=Path, metavar="DIR", help="repository whose results are replaced")
    options = parser.parse_args(arguments)
    torch.set_float32_matmul_precision(options.matmul_precision)
    device = default_device()
    timed: list[Timing] = []
    for model in options.models:
        for precision in tqdm(options.precision, desc=model, disable=None):
            train = TrainConfig(batch_size=options.batch, length=options.length, precision=precision)
            timed += time_model(model, train, options.mechanisms, options.steps, device)
    text = page(timed, options.steps)
    print(text)
    if options.write:
        results = options.write / "benchmarks/results"
        results.mkdir(parents=True, exist_ok=True)
        raw = {"machine": facts(), "steps": [asdict(x) for x in timed]}
        (results / "train.md").write_text(text)
        (results / "train.json").write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    guarded(main)
