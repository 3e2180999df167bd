"""Speed of whole training steps, model by model, beside models of the same shape that one would train instead.

    python -m benchmarks.bench_train
    python -m benchmarks.bench_train --models micro --mechanisms softpick --length 1024 --batch 4 --write .

A step is that of `train.py` (forward, loss, backward, clipping, fused AdamW, bf16 under autocast) on random tokens, one
document per sequence. Candidates take turns in one process; medians are compared. The peers (`benchmarks.peers`), a
plain GPT-2 block and transformers' Llama, and this project's model with torch's SDPA are timed as they are and under
torch.compile; mechanisms, each through the kernel that "auto" picks, as `train.compile` asks for: "false", "true".
A kernel that fails the contract (`attention.conformance`) is named, not timed; nor is bf16 where a processor has no
products of it and emulates them.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import attention
from attention.core.errors import AttentionError
from attention.core.inputs import example
from attention.kernels.dispatch import choose
from attention.markdown import table
from benchmarks.machine import describe, facts
from benchmarks.measure import broken, in_turns, median
from benchmarks.peers import PEERS, missing
from benchmarks.publish import publish
from common.command import Parser, guarded
from models import GPT, ModelConfig, presets, resolve
from storage.machine import default_device
from training.config import TrainConfig, resolve_precision
from training.losses.objective import Objective
from training.timing import training_step
from training.utilisation import Utilisation

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Candidate:
    """A peer, or this project's model: its attention, the kernel asked for, and whether it is compiled.

    A peer has no kernel to choose.
    """

    name: str
    kernel: str | None = "auto"
    compiled: bool = False

    def __str__(self) -> str:
        parts = [self.name, self.kernel, "torch.compile" if self.compiled else None]
        return ", ".join(part for part in parts if part)


BASELINE = Candidate("softmax", "sdpa")
BASELINES = [BASELINE, Candidate("softmax", "dense")]


@dataclass
class Timing:
    """Median seconds of a step of one candidate and every sample, or why there are none."""

    model: str
    precision: str
    batch: int
    length: int
    candidate: str
    kernel: str
    peer: bool
    parameters: int = 0
    seconds: float | None = None
    samples: list[float] | None = None
    refused: str | None = None
    utilisation: dict[str, float] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        """Tokens that carry loss, per second of a step."""
        return self.batch * self.length / self.seconds if self.seconds else 0.0


def build(candidate: Candidate, plan: ModelConfig, train: TrainConfig) -> nn.Module:
    """What gives the loss of tokens and targets, random weights in it."""
    torch.manual_seed(0)
    if candidate.kernel is None:
        return PEERS[candidate.name](resolve(plan), train.length)
    network = GPT(replace(plan, attention=candidate.name, kernel=candidate.kernel))
    network.checkpointing = train.activation_checkpointing
    return Objective(network, train)


def candidates(mechanisms: list[str], compiled: bool) -> list[Candidate]:
    """Peers with and without torch.compile, softmax by kernels of torch, and the mechanisms, `compiled` too."""
    ours = [Candidate(name) for name in mechanisms]
    both = [Candidate(name, None) for name in PEERS] + (ours if compiled else [])
    plain = BASELINES + ([] if compiled else ours)
    return [*(replace(x, compiled=y) for x in both for y in (False, True)), *plain]


def time_model(
    preset: str, train: TrainConfig, chosen: list[Candidate], rounds: int, device: torch.device
) -> list[Timing]:
    """Every candidate in the model of a preset, in one precision."""
    found: list[Timing] = []
    runs: dict[str, Callable[[], object]] = {}
    config = ModelConfig(preset=preset)
    for candidate in chosen:
        kernel, reason = "–", missing(candidate.name)
        if candidate.kernel is not None:
            kernel, reason = _kernel(candidate, config, DTYPES[train.precision], device)
        place = (preset, train.precision, train.batch_size, train.length)
        timing = Timing(*place, str(candidate), kernel, candidate.kernel is None, refused=reason)
        found.append(timing)
        if reason is None:
            module = build(candidate, config, train)
            timing.parameters = sum(parameter.numel() for parameter in module.parameters())
            vocabulary = resolve(config).vocab_size
            runs[str(candidate)] = training_step(module, vocabulary, train, device, candidate.compiled)
    samples = in_turns(runs, rounds, device)
    with torch.device("meta"):
        work = GPT(config).flops_per_token(train.length)
    used = Utilisation(train, device, 1, work)
    for timing in found:
        if timing.refused is None:
            timing.samples = samples[timing.candidate]
            timing.seconds = median(timing.samples)
            timing.utilisation = used.at(timing.tokens_per_second)
    return found


def _kernel(
    candidate: Candidate, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> tuple[str, str | None]:
    """The kernel that will run, and why it shall not; SDPA, the yardstick, is torch's and taken as it is."""
    shape, mechanism = resolve(config), attention.get(candidate.name)
    like = example(mechanism, device=device, dtype=dtype, head_dim=shape.head_dim, n_head=shape.n_head)
    try:
        kernel = choose(candidate.kernel, like).name
    except AttentionError as error:
        return candidate.kernel, str(error)
    return kernel, None if kernel == BASELINE.kernel else broken(mechanism, kernel, dtype, device)


def emulated(precision: str, device: torch.device) -> bool:
    """Whether a device has no matrix products in a precision and imitates them."""
    return precision == "bf16" and resolve_precision("auto", device) != "bf16"


def page(timed: list[Timing], rounds: int, left_out: list[str]) -> str:
    """All tables in Markdown, the machine first."""
    parts = [
        "# Training steps",
        f"{describe()}.",
        f"Random tokens; medians of {rounds} steps in which all candidates take turns, with lowest and highest. "
        "Two columns are speeds, above 1 is faster: relative to the same model with torch's SDPA softmax, and "
        "to the fastest peer. Peers are a plain GPT-2 block and transformers' Llama (`benchmarks/peers.py`). MFU is "
        "the share of the peak that the device's maker publishes; where none is known, in brackets, the share of what "
        "a large product reaches here.",
        *left_out,
    ]
    for model, precision in dict.fromkeys((x.model, x.precision) for x in timed):
        chosen = [x for x in timed if (x.model, x.precision) == (model, precision)]
        first = chosen[0]
        parts += [f"## {model}, {precision}, {first.batch} x {first.length} tokens", model_table(chosen)]
    return "\n\n".join(parts) + "\n"


def model_table(timed: list[Timing]) -> str:
    """One row per candidate."""
    baseline = max((x.tokens_per_second for x in timed if x.candidate == str(BASELINE)), default=0.0)
    best = max((x.tokens_per_second for x in timed if x.peer), default=0.0)
    rows = []
    for x in timed:
        figures = [f"not measured: {x.refused}", *"–––––"]
        if x.seconds and x.samples:
            relative = [f"{x.tokens_per_second / y:.2f}" if y else "–" for y in (baseline, best)]
            spread = f"{min(x.samples) * 1e3:.0f} to {max(x.samples) * 1e3:.0f}"
            share = x.utilisation.get("mfu")
            used = f"({x.utilisation['matmul_utilisation']:.0%})" if share is None else f"{share:.0%}"
            figures = [f"{x.seconds * 1e3:.1f}", spread, f"{x.tokens_per_second:,.0f}", *relative, used]
        rows.append([x.candidate, x.kernel, f"{x.parameters / 1e6:.1f} M", *figures])
    header = [
        "model",
        "kernel",
        "parameters",
        "ms / step",
        "range",
        "tokens / s",
        "of SDPA",
        "of best peer",
        "MFU",
    ]
    return table(header, rows)


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
    parser.add_argument("--batch", type=int, default=16, help="sequences per step")
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each candidate")
    parser.add_argument("--compile", action="store_true", help="mechanisms under torch.compile, too")
    parser.add_argument("--emulated", action="store_true", help="bf16 where the processor imitates it, too")
    parser.add_argument("--matmul-precision", default="highest", choices=["highest", "high", "medium"])
    parser.add_argument("--write", type=Path, metavar="DIR", help="repository whose results are replaced")
    options = parser.parse_args(arguments)
    torch.set_float32_matmul_precision(options.matmul_precision)
    device = default_device()
    timed: list[Timing] = []
    skipped = [x for x in options.precision if emulated(x, device) and not options.emulated]
    left_out = [
        f"Not timed: {x}, of which this processor has no products; it imitates them." for x in skipped
    ]
    for model in options.models:
        for precision in tqdm([x for x in options.precision if x not in skipped], desc=model, disable=None):
            train = TrainConfig(batch_size=options.batch, length=options.length, precision=precision)
            chosen = candidates(options.mechanisms, options.compile)
            timed += time_model(model, train, chosen, options.steps, device)
    text = page(timed, options.steps, left_out)
    print(text)
    publish(options.write, "train", text, {"machine": facts(), "steps": [asdict(x) for x in timed]})


if __name__ == "__main__":
    guarded(main)
