"""Kurtosis of the residual stream and massive activations, layer by layer.

Kurtosis is Pearson's, `n sum (x - mean)^4 / (sum (x - mean)^2)^2`, 3 for a Gaussian, over the entries of the residual
stream after each block, accumulated in float64. An activation is massive (Sun et al., arXiv 2402.17762) when
`|x| > 100` and `|x|` is at least 1000 times the median magnitude of the hidden state (one sequence at one layer) it
belongs to.

Results (`[L]` is a list with one number per block, the first block first):

    {
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
from eval.subject import Subject
from eval.text import cut
from models import ModelError

MASSIVE, TIMES_MEDIAN = 100.0, 1000.0


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
        values = values.double()
        mean = values.mean()
        centred = values - mean
        square = centred.square()
        sums = (square.sum(), (square * centred).sum(), square.square().sum())
        return cls(values.numel(), float(mean), *map(float, sums))

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


class _Layer:
    """What is kept of one layer's residual stream while the windows pass."""

    def __init__(self) -> None:
        self.moments = Moments()
        self.least, self.most = float("inf"), -float("inf")
        self.values: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, residual: Tensor) -> None:
        """Account for a batch [B, T, d]."""
        residual = residual.detach().double()
        self.moments += Moments.of(residual)
        self.least, self.most = min(self.least, float(residual.min())), max(self.most, float(residual.max()))
        per_token = _kurtosis(residual)
        magnitude = residual.abs().flatten(1)
        top = magnitude.topk(min(3, magnitude.shape[1]), dim=1).values
        median = magnitude.median(1).values
        qualifies = (magnitude > MASSIVE) & (magnitude >= TIMES_MEDIAN * median[:, None])
        values = {
            "top": top,
            "median": median,
            "massive": qualifies.sum(1),
            "per_token": per_token.mean(1),
            "first_token": per_token[:, 0],
        }
        for name, value in values.items():
            self.values[name].append(value.cpu())

    def mean(self, name: str) -> Tensor:
        """Mean over sequences."""
        return torch.cat(self.values[name]).mean(0)

    def total(self, name: str) -> Tensor:
        """Sum over sequences."""
        return torch.cat(self.values[name]).sum(0)


def _pooled(layers: list[_Layer]) -> Moments:
    return sum((layer.moments for layer in layers), Moments())


def _kurtosis(values: Tensor) -> Tensor:
    """Along the last dimension; NaN where it is constant."""
    square = (values - values.mean(-1, keepdim=True)).square()
    return square.square().mean(-1) / square.mean(-1).square()
