"""Kurtosis of the residual stream and massive activations, layer by layer.

Kurtosis is Pearson's, `n sum (x - mean)^4 / (sum (x - mean)^2)^2`, 3 for a Gaussian, over the entries of the residual
stream after each block, accumulated in float64. An activation is massive (Sun et al., arXiv 2402.17762) when
`|x| > 100` and `|x|` is at least 1000 times the median magnitude of the hidden state (one sequence at one layer) it
belongs to.

Results (`[L]` is a list with one number per block, the first block first):

    {
      "definitions": {...}, "protocol": {...},       what the entries are, in words, and how the windows were cut
      "sequences": 32, "tokens": 8192,
      "kurtosis": {
        "pooled": 41.2,                    all blocks together
        "without_last": 30.9,              all blocks but the last (null for a model of one block)
        "layers": [L],
        "embeddings": 3.1,                 the residual stream before the first block
        "per_token": [L],                  mean over tokens of the kurtosis over the dimensions of one token
        "first_token": [L]                 the same for the first token only, where massive activations live
      },
      "massive": {
        "top": [L][3],                     largest three |x|, averaged over sequences
        "median": [L],                     median |x|, averaged over sequences
        "ratio": [L],                      top-1 divided by median, both averaged
        "count": 12, "count_by_layer": [L] entries that qualify, over all sequences
      },
      "largest": {"value": 412.5, "layer": 3, "sequence": 7, "token": 0, "dimension": 19},        |x|; all from 0 on
      "range": {"min": -31.0, "max": 44.1, "min_by_layer": [L], "max_by_layer": [L]}
    }
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eval.analysis import progress
from eval.subjects.subject import Subject
from eval.windows import cut
from models import ModelError

MASSIVE, TIMES_MEDIAN = 100.0, 1000.0
TOKENS = 1024
"""Tokens looked at at once."""

DEFINITIONS = {
    "kurtosis": "n sum (x - mean)^4 / (sum (x - mean)^2)^2, Pearson's, 3 for a Gaussian, over all (sequence, token, "
    "dimension) of the residual stream after a block, before any norm, in float64; per_token: over the dimensions of "
    "one token, mean over tokens",
    "massive": "entries with |x| > 100 and |x| >= 1000 times the median |x| of their sequence at their layer (Sun et "
    "al., arXiv 2402.17762); top and median: means over sequences",
    "range": "least and greatest entry of the residual stream after the blocks",
}


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    length: int | None = field(
        default=None, metadata={"help": "tokens per window, by default the training length"}
    )
    longest: int = field(default=1024, metadata={"help": "but by default no more than this"})
    sequences: int = field(default=64, metadata={"help": "windows"})
    bos: bool = field(default=True, metadata={"help": "begin windows with the beginning-of-document token"})

    def __post_init__(self) -> None:
        if (self.length is not None and self.length < 2) or self.sequences < 1:
            raise ModelError("activations needs windows of at least 2 tokens, and at least one of them")


def run(subject: Subject, settings: Settings) -> dict[str, Any]:
    """Measure one subject; the layout of the results is in the module's docstring."""
    length = settings.length or min(subject.train_length, settings.longest)
    windows = cut(subject, length, settings.sequences, bos=settings.bos)
    layers: dict[int, _Layer] = defaultdict(_Layer)
    with subject.trace(hidden=lambda layer, residual: layers[layer].add(residual)):
        for batch in progress(windows.tokens.split(subject.batch(length)), f"activations {subject.name}"):
            subject.observe(batch)
    embeddings = layers.pop(-1)
    ordered = [layers[index] for index in sorted(layers)]
    top = torch.stack([layer.mean("top") for layer in ordered])
    median = torch.stack([layer.mean("median") for layer in ordered])
    count = torch.stack([layer.total("massive") for layer in ordered]).long()
    results = {
        "definitions": DEFINITIONS,
        "protocol": windows.protocol,
        "sequences": len(windows.tokens),
        "tokens": windows.tokens.numel(),
        "kurtosis": {
            "pooled": _pooled(ordered).kurtosis,
            "without_last": _pooled(ordered[:-1]).kurtosis if len(ordered) > 1 else None,
            "layers": [layer.moments.kurtosis for layer in ordered],
            "embeddings": embeddings.moments.kurtosis,
            "per_token": [layer.mean("per_token") for layer in ordered],
            "first_token": [layer.mean("first_token") for layer in ordered],
        },
        "massive": {
            "top": top,
            "median": median,
            "ratio": top[:, 0] / median,
            "count": int(count.sum()),
            "count_by_layer": count,
        },
        "largest": _largest(ordered),
        "range": {
            "min": min(layer.least for layer in ordered),
            "max": max(layer.most for layer in ordered),
            "min_by_layer": [layer.least for layer in ordered],
            "max_by_layer": [layer.most for layer in ordered],
        },
    }
    return {"protocol": {"windows": windows.protocol}, "results": results}


def row(results: Mapping[str, Any]) -> dict[str, object]:
    """One line of the comparison table."""
    ratios = [ratio for ratio in results["massive"]["ratio"] if ratio is not None]
    return {
        "kurtosis": results["kurtosis"]["pooled"],
        "without last": results["kurtosis"]["without_last"],
        "min": results["range"]["min"],
        "max": results["range"]["max"],
        "largest top/median": max(ratios, default=None),
        "massive": results["massive"]["count"],
    }


@dataclass(frozen=True)
class Moments:
    """Count, mean and sums of central powers of a sample, which merge without cancellation (Pebay, SAND2008-6212)."""

    count: float = 0.0
    mean: float = 0.0
    second: float = 0.0
    third: float = 0.0
    fourth: float = 0.0

    @classmethod
    def of(cls, values: Tensor) -> "Moments":
        """Of all entries of a tensor, in float64."""
        return cls.together(*central_sums(values.flatten()[None]), size=values.numel())

    @classmethod
    def together(cls, mean: Tensor, second: Tensor, third: Tensor, fourth: Tensor, size: int) -> "Moments":
        """Of samples of one size together, from the mean and the sums of each."""
        centre = mean.mean()
        delta = mean - centre
        sums = (
            second + size * delta**2,
            third + 3 * delta * second + size * delta**3,
            fourth + 4 * delta * third + 6 * delta**2 * second + size * delta**4,
        )
        return cls(size * mean.numel(), float(centre), *(float(part.sum()) for part in sums))

    def __add__(self, other: "Moments") -> "Moments":
        """Of both samples together."""
        n_a, n_b = self.count, other.count
        n = n_a + n_b
        if not n:
            return self
        delta = other.mean - self.mean
        second = self.second + other.second + delta**2 * n_a * n_b / n
        third = self.third + other.third + delta**3 * n_a * n_b * (n_a - n_b) / n**2
        third += 3 * delta * (n_a * other.second - n_b * self.second) / n
        fourth = self.fourth + other.fourth + delta**4 * n_a * n_b * (n_a**2 - n_a * n_b + n_b**2) / n**3
        fourth += 6 * delta**2 * (n_a**2 * other.second + n_b**2 * self.second) / n**2
        fourth += 4 * delta * (n_a * other.third - n_b * self.third) / n
        return Moments(n, self.mean + delta * n_b / n, second, third, fourth)

    @property
    def kurtosis(self) -> float | None:
        """Pearson's, 3 for a Gaussian; None for a constant sample."""
        return self.count * self.fourth / self.second**2 if self.second else None


def _largest(layers: list["_Layer"]) -> dict[str, Any]:
    """The largest |x| of all and where it stands."""
    tops = torch.stack([torch.stack(layer.values["top"])[:, 0] for layer in layers])
    layer, sequence = divmod(int(tops.argmax()), tops.shape[1])
    token, dimension = layers[layer].places[sequence]
    return {
        "value": float(tops.max()),
        "layer": layer,
        "sequence": sequence,
        "token": token,
        "dimension": dimension,
    }


class _Layer:
    """What is kept of one layer's residual stream while the windows pass.

    One sequence at a time and some of its tokens at a time: memory is bounded, and the size of a batch changes nothing.
    """

    def __init__(self) -> None:
        self.moments = Moments()
        self.least, self.most = float("inf"), -float("inf")
        self.values: dict[str, list[Tensor]] = defaultdict(list)
        self.places: list[tuple[int, int]] = []

    def add(self, residual: Tensor) -> None:
        """Account for a batch [B, T, d]."""
        for sequence in residual.detach():
            self._add(sequence.to(torch.promote_types(sequence.dtype, torch.float32)))

    def _add(self, sequence: Tensor) -> None:
        width = sequence.shape[1]
        per_token = []
        for tokens in sequence.split(TOKENS):
            mean, second, third, fourth = central_sums(tokens)
            self.moments += Moments.together(mean, second, third, fourth, width)
            per_token.append(width * fourth / second**2)
        kurtosis = torch.cat(per_token)
        self.least, self.most = min(self.least, float(sequence.min())), max(self.most, float(sequence.max()))
        magnitude = sequence.abs().flatten()
        top = magnitude.topk(min(3, magnitude.numel())).values.double()
        median = magnitude.median().double()
        values = {
            "top": top,
            "median": median,
            "massive": ((magnitude > MASSIVE) & (magnitude >= TIMES_MEDIAN * median)).sum(),
            "per_token": kurtosis.mean(),
            "first_token": kurtosis[0],
        }
        self.places.append(divmod(int(magnitude.argmax()), width))
        for name, value in values.items():
            self.values[name].append(value.cpu())

    def mean(self, name: str) -> Tensor:
        """Mean over sequences."""
        return torch.stack(self.values[name]).mean(0)

    def total(self, name: str) -> Tensor:
        """Sum over sequences."""
        return torch.stack(self.values[name]).sum(0)


def _pooled(layers: list[_Layer]) -> Moments:
    return sum((layer.moments for layer in layers), Moments())


def central_sums(values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and sums of the second, third and fourth central powers of each row of [N, d], float64 [N]."""
    values = values.double()
    mean = values.mean(-1, keepdim=True)
    centred = values - mean
    square = centred.square()
    return (
        mean[:, 0],
        square.sum(-1),
        torch.linalg.vecdot(square, centred),
        torch.linalg.vecdot(square, square),
    )
