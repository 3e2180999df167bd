"""Loss after rounding the weights to 8, 4, 3 and 2 bits, against the model's own full precision.

Round-to-nearest, asymmetric, in groups of consecutive inputs of one output row (the last group of a row may be
shorter). With `b` bits, `step = (max - min) / (2^b - 1)` and `zero = round(-min / step)`, min and max taken over the
group and 0, a weight becomes `(clamp(round(w / step) + zero, 0, 2^b - 1) - zero) * step`. Every `nn.Linear` inside the
blocks is rounded; embeddings, norms and the output head are not. The network is restored bit for bit afterwards.
Compare the deltas, not the losses: a model that starts worse ends worse.

Results:

    {
      "full_precision": {"loss": 1.83, "bits_per_byte": 1.21, "perplexity": 6.2},         loss in nats per token
      "bits": {
        "4": {"loss": ..., "bits_per_byte": ..., "perplexity": ...,
              "delta_loss": 0.02, "perplexity_ratio": 1.02,                               against full_precision
              "weight_error": 0.08}                               ||W_q - W|| / ||W|| over all rounded weights
      },
      "rounded": {"matrices": 24, "parameters": 786432, "share": 0.75}                    share of all parameters
    }
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from eval.analysis import progress
from eval.subject import Subject
from eval.text import Windows, cut
from models import ModelError


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    bits: tuple[int, ...] = field(default=(8, 4, 3, 2), metadata={"help": "bits per weight"})
    group: int = field(default=64, metadata={"help": "consecutive weights of a row that share step and zero"})
    length: int | None = field(
        default=None, metadata={"help": "tokens per window, by default the training length"}
    )
    longest: int = field(default=1024, metadata={"help": "but by default no more than this"})
    sequences: int = field(default=128, metadata={"help": "windows"})

    def __post_init__(self) -> None:
        if self.group < 1 or any(not 1 <= bits <= 16 for bits in self.bits):
            raise ModelError("quantize needs a group of at least one weight and 1 to 16 bits")
        if (self.length is not None and self.length < 2) or self.sequences < 1:
            raise ModelError("quantize needs windows of at least 2 tokens, and at least one of them")


def run(subject: Subject, settings: Settings) -> dict[str, Any]:
    """Measure one subject; the layout of the results is in the module's docstring."""
    length = settings.length or min(subject.train_length, settings.longest)
    windows = cut(subject, length, settings.sequences)
    matrices = weight_matrices(subject.blocks)
    if not matrices:
        raise ModelError(f"{subject.name} has no linear layers to round in its blocks")
    full = _score(subject, windows)
    results: dict[str, Any] = {}
    for bits in progress(settings.bits, f"quantize {subject.name}"):
        with rounded(matrices, bits, settings.group) as error:
            score = _score(subject, windows)
        score["delta_loss"] = score["loss"] - full["loss"]
        score["perplexity_ratio"] = _exp(score["delta_loss"])
        results[str(bits)] = score | {"weight_error": error}
    parameters = sum(matrix.numel() for matrix in matrices.values())
    share = parameters / sum(parameter.numel() for parameter in subject.network.parameters())
    counts = {"matrices": len(matrices), "parameters": parameters, "share": share}
    protocol = {"windows": windows.protocol, "method": "round to nearest, asymmetric"}
    return {"protocol": protocol, "results": {"full_precision": full, "bits": results, "rounded": counts}}


def row(results: Mapping[str, Any]) -> dict[str, object]:
    """One line of the comparison table."""
    deltas = {f"{bits} bit: +loss": score["delta_loss"] for bits, score in results["bits"].items()}
    return {
        "loss": results["full_precision"]["loss"],
        "bpb": results["full_precision"]["bits_per_byte"],
        **deltas,
    }


def weight_matrices(blocks: nn.Module) -> dict[str, Tensor]:
    """The weights of every linear layer as [outputs, inputs], by name; views that can be written to."""
    matrices = {}
    for name, module in blocks.named_modules():
        if isinstance(module, nn.Linear):
            matrices[name] = module.weight.detach()
        elif type(module).__name__ == "Conv1D" and module.weight.dim() == 2:
            # GPT-2's own linear layer in transformers, which stores [inputs, outputs].
            matrices[name] = module.weight.detach().T
    return matrices


def round_to_nearest(weight: Tensor, bits: int, group: int) -> Tensor:
    """A matrix [outputs, inputs] with every weight on the grid of its group; the module's docstring has the formula.

    Raises:
        ModelError: a weight is not finite.
    """
    if not weight.isfinite().all():
        raise ModelError("the model has weights that are not finite; it cannot be quantized")
    levels = 2**bits - 1
    inputs = weight.shape[1]
    # The ragged last group is filled with zeros, which never widen a range that includes 0.
    padded = nn.functional.pad(weight.float(), (0, -inputs % group)).unflatten(1, (-1, group))
    low = padded.amin(-1, keepdim=True).clamp(max=0)
    high = padded.amax(-1, keepdim=True).clamp(min=0)
    step = ((high - low) / levels).clamp(min=torch.finfo(torch.float32).tiny)
    zero = (-low / step).round()
    code = ((padded / step).round() + zero).clamp(0, levels)
    return ((code - zero) * step).flatten(1)[:, :inputs].to(weight.dtype)


@contextmanager
def rounded(matrices: Mapping[str, Tensor], bits: int, group: int) -> Iterator[float]:
    """While open, the matrices are rounded in place; yields ||rounded - original|| / ||original|| over all of them."""
    originals = {name: matrix.clone() for name, matrix in matrices.items()}
    try:
        error = norm = 0.0
        for name, matrix in matrices.items():
            matrix.copy_(round_to_nearest(matrix, bits, group))
            error += float((matrix - originals[name]).double().square().sum())
            norm += float(originals[name].double().square().sum())
        yield math.sqrt(error / norm) if norm else 0.0
    finally:
        for name, matrix in matrices.items():
            matrix.copy_(originals[name])


def _score(subject: Subject, windows: Windows) -> dict[str, Any]:
    batches = windows.tokens.split(subject.batch(windows.tokens.shape[1]))
    nats = sum(float(subject.losses(batch).double().sum()) for batch in batches)
    loss = nats / (windows.tokens.numel() - len(windows.tokens))
    return {"loss": loss, "bits_per_byte": windows.bits_per_byte(loss), "perplexity": _exp(loss)}


def _exp(value: float) -> float | None:
    """e^value; None beyond what a float holds."""
    return math.exp(value) if value < 700 else None
