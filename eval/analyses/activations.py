"""Kurtosis of the residual stream and massive activations, layer by layer.

Kurtosis is Pearson's, `n sum (x - mean)^4 / (sum (x - mean)^2)^2`, 3 for a Gaussian, over the entries of the residual
stream after each block, accumulated in float64. An activation is massive (Sun et al., arXiv 2402.17762) when
`|x| > 100` and `|x|` is at least 1000 times the median magnitude of the hidden state (one sequence at one layer) it
belongs to.

Results: `Result` below; a list of the blocks begins with the first one. What counts tokens, sequences or dimensions
counts from 0.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from eval.analysis import Analysis, Measurement
from eval.display import Column, Compared, Figure, Shown, by_layer, layer_ticks, of_windows, three
from eval.options import option
from eval.subjects.base import Subject
from eval.terminal import progress
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

    length: int | None = option(None, "length of a window", unit="tokens", unset="the training length")
    longest: int = option(1024, "but by default no more than this", unit="tokens")
    sequences: int = option(64, "windows")
    bos: bool = option(True, "begin windows with the beginning-of-document token")

    def __post_init__(self) -> None:
        if (self.length is not None and self.length < 2) or self.sequences < 1:
            raise ModelError("activations needs windows of at least 2 tokens, and at least one of them")


@dataclass(frozen=True)
class Kurtosis:
    """Kurtosis of the residual stream.

    Attributes:
        pooled: all blocks together.
        without_last: all blocks but the last; None for a model of one block.
        layers: of each block.
        embeddings: of the residual stream before the first block.
        per_token: of each block, mean over tokens of the kurtosis over the dimensions of one token.
        first_token: the same for the first token only, where massive activations live.
    """

    pooled: float | None
    without_last: float | None
    layers: list[float | None]
    embeddings: float | None
    per_token: list[float]
    first_token: list[float]


@dataclass(frozen=True)
class Massive:
    """Massive activations of each block.

    Attributes:
        top: the largest three |x|, averaged over sequences.
        median: the median |x|, averaged over sequences.
        ratio: the largest divided by the median, both averaged.
        count, count_by_layer: entries that qualify, over all sequences.
    """

    top: list[list[float]]
    median: list[float]
    ratio: list[float | None]
    count: int
    count_by_layer: list[int]


@dataclass(frozen=True)
class Largest:
    """The largest |x| of all, and where it stands."""

    value: float
    layer: int
    sequence: int
    token: int
    dimension: int


@dataclass(frozen=True)
class Range:
    """The least and the greatest entry."""

    min: float
    max: float
    min_by_layer: list[float]
    max_by_layer: list[float]


@dataclass(frozen=True)
class Result:
    """Definitions of the entries, how the windows were cut, and the numbers."""

    definitions: Mapping[str, str]
    protocol: Mapping[str, Any]
    sequences: int
    tokens: int
    kurtosis: Kurtosis
    massive: Massive
    largest: Largest
    range: Range


def run(subject: Subject, settings: Settings) -> Measurement[Result]:
    """Measure one subject."""
    length = settings.length or min(subject.train_length, settings.longest)
    windows = cut(subject, length, settings.sequences, bos=settings.bos)
    layers: dict[int, _Layer] = defaultdict(_Layer)
    with subject.trace(hidden=lambda layer, residual: layers[layer].add(residual)):
        for batch in progress(windows.tokens.split(subject.batch(length)), f"activations {subject.name}"):
            subject.observe(batch)
    embeddings = layers.pop(-1)
    ordered = [layers[index] for index in sorted(layers)]
    result = Result(
        definitions=DEFINITIONS,
        protocol=windows.protocol,
        sequences=len(windows.tokens),
        tokens=windows.tokens.numel(),
        kurtosis=Kurtosis(
            pooled=_pooled(ordered).kurtosis,
            without_last=_pooled(ordered[:-1]).kurtosis if len(ordered) > 1 else None,
            layers=[layer.moments.kurtosis for layer in ordered],
            embeddings=embeddings.moments.kurtosis,
            per_token=[float(layer.mean("per_token")) for layer in ordered],
            first_token=[float(layer.mean("first_token")) for layer in ordered],
        ),
        massive=_massive(ordered),
        largest=_largest(ordered),
        range=Range(
            min=min(layer.least for layer in ordered),
            max=max(layer.most for layer in ordered),
            min_by_layer=[layer.least for layer in ordered],
            max_by_layer=[layer.most for layer in ordered],
        ),
    )
    return Measurement(result, {"windows": windows.protocol})


def row(result: Result) -> dict[str, object]:
    """One line of the comparison table."""
    ratios = [ratio for ratio in result.massive.ratio if ratio is not None]
    return {
        "kurtosis": result.kurtosis.pooled,
        "without last": result.kurtosis.without_last,
        "min": result.range.min,
        "max": result.range.max,
        "largest top/median": max(ratios, default=None),
        "massive": result.massive.count,
    }


def columns(runs: Sequence[Shown[Result]]) -> list[Column[Result]]:
    """Kurtosis and the largest activation of all blocks."""
    lengths = [run.protocol["windows"]["length"] for run in runs if "windows" in run.protocol]
    column = partial(
        Column[Result],
        group=f"Residual stream{of_windows(lengths)}",
        unit="all blocks",
        better="lower",
        show=three,
    )
    return [
        column(
            key="kurtosis",
            title="kurtosis",
            value=lambda result: result.kurtosis.pooled,
            meaning="How far few dimensions of the residual stream stand out: 3 for a Gaussian, large with outliers.",
            headline=True,
        ),
        column(
            key="largest",
            title="max |activation|",
            value=lambda result: max(abs(result.range.min), abs(result.range.max)),
            meaning="The largest number of the residual stream, which low-precision formats must hold.",
        ),
    ]


def figures(runs: Sequence[Shown[Result]]) -> list[Figure]:
    """Kurtosis and the largest activation by layer."""
    kurtosis = by_layer(runs, lambda result: result.kurtosis.layers)
    tops = by_layer(runs, lambda result: [top[0] for top in result.massive.top])
    return [
        Figure(
            "Kurtosis by layer",
            "Of the residual stream after each block; 3 for a Gaussian, large where few dimensions stand out.",
            kurtosis, "layer", "kurtosis", log_y=True, ticks=layer_ticks(kurtosis),
        ),
        Figure(
            "Largest activation by layer",
            "Largest |x| of the residual stream after each block, averaged over sequences.",
            tops, "layer", "max |x|", log_y=True, ticks=layer_ticks(tops),
        ),
    ]  # fmt: skip


def sentences(compared: Mapping[str, Compared]) -> Iterator[str]:
    """The range of the runs in kurtosis."""
    yield from compared["kurtosis"].ranging("The kurtosis of the residual stream (3 for a Gaussian)")


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
        """Moments of all entries of a tensor, in float64."""
        return cls.together(*central_sums(values.flatten()[None]), size=values.numel())

    @classmethod
    def together(cls, mean: Tensor, second: Tensor, third: Tensor, fourth: Tensor, size: int) -> "Moments":
        """Moments of samples of one size together, from the mean and the sums of each."""
        centre = mean.mean()
        delta = mean - centre
        sums = (
            second + size * delta**2,
            third + 3 * delta * second + size * delta**3,
            fourth + 4 * delta * third + 6 * delta**2 * second + size * delta**4,
        )
        return cls(size * mean.numel(), float(centre), *(float(part.sum()) for part in sums))

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of both samples together."""
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


def _massive(layers: list["_Layer"]) -> Massive:
    top = torch.stack([layer.mean("top") for layer in layers])
    median = torch.stack([layer.mean("median") for layer in layers])
    count = torch.stack([layer.total("massive") for layer in layers]).long()
    ratio = (top[:, 0] / median).tolist()
    return Massive(
        top=top.tolist(),
        median=median.tolist(),
        ratio=[value if math.isfinite(value) else None for value in ratio],
        count=int(count.sum()),
        count_by_layer=count.tolist(),
    )


def _largest(layers: list["_Layer"]) -> Largest:
    """The largest |x| of all and where it stands."""
    tops = torch.stack([torch.stack(layer.values["top"])[:, 0] for layer in layers])
    layer, sequence = divmod(int(tops.argmax()), tops.shape[1])
    token, dimension = layers[layer].places[sequence]
    return Largest(float(tops.max()), layer, sequence, token, dimension)


class _Layer:
    """Numbers of one layer's residual stream, kept while the windows pass.

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


ANALYSIS = Analysis(
    settings=Settings,
    result=Result,
    run=run,
    row=row,
    heading="Attention",
    order=20,
    columns=columns,
    figures=figures,
    sentences=sentences,
)
