"""The softmax bottleneck: spectrum and rank of the output head, anisotropy, loss of the truncated head.

Logits are `W h` with a head W of [V, d]: whatever the model knows of the next token passes through d dimensions (Yang
et al., arXiv 1711.03953), and small models have been found to saturate there late in training, their heads and hidden
states collapsing onto few directions (Godey et al., arXiv 2404.07647). With the singular values sigma_i of W, r of
them, and p_i = sigma_i / sum sigma:

    singular entropy   ln r - H(p), H(p) = -sum p ln p: 0 for equal values, ln r for a single one (high = collapsed)
    effective rank     e^H(p)                                                                   between 1 and r
    stable rank        sum sigma_i^2 / sigma_1^2                                                between 1 and r
    anisotropy         mean cosine of all pairs of different vectors, of final hidden states (after the last norm) and
                       of the rows of W                                                         0 = no common direction
    truncation         loss with W replaced by its best approximation of rank k

Everything is float64 but the model itself: the spectrum is that of R in W = QR, pairs are never formed, since the sum
over all pairs of unit vectors is `|sum u|^2 - N`.

Results: `Result` below.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from eval.analysis import Analysis, Measurement
from eval.display import Line, Plot, overlaid
from eval.options import option
from eval.subjects.base import Subject
from eval.terminal import progress
from eval.windows import cut, targets
from models import ModelError

LOGITS = 2**24
"""Logits held at once."""

DEFINITIONS = {
    "spectrum": "singular values sigma of the output head W [V, d], float64; p = sigma / sum sigma; singular_entropy: "
    "ln r + sum p ln p; effective_rank: e^(-sum p ln p); stable_rank: sum sigma^2 / sigma_1^2",
    "anisotropy": "mean cosine over all pairs of different vectors: final hidden states after the last norm, of all "
    "tokens of all windows; rows of W other than 0",
    "truncation": "loss with W replaced by its best approximation of rank k (by singular values)",
}


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    length: int | None = option(None, "length of a window", unit="tokens", unset="the training length")
    longest: int = option(512, "but by default no more than this", unit="tokens")
    tokens: int = option(4096, "in all windows together", unit="tokens")
    ranks: tuple[int, ...] = option(
        (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
        "ranks to cut the head to; those that it does not have are left out",
    )
    bos: bool = option(True, "begin windows with the beginning-of-document token")

    def __post_init__(self) -> None:
        if (self.length is not None and self.length < 2) or self.tokens < 2 or min(self.ranks, default=1) < 1:
            raise ModelError("bottleneck needs windows and ranks of at least 1, and at least 2 tokens")


@dataclass(frozen=True)
class Shape:
    """The shape of the output head."""

    vocabulary: int
    dimension: int


@dataclass(frozen=True)
class Spectrum:
    """Singular values of the head, falling, and what they say of its rank; `maximum` of the entropy is ln r."""

    values: list[float]
    singular_entropy: float
    maximum: float
    effective_rank: float
    stable_rank: float

    @classmethod
    def of(cls, values: Tensor) -> "Spectrum":
        """The spectrum with these singular values [r]."""
        entropy = float(torch.special.entr(values / values.sum()).sum())
        maximum = math.log(len(values))
        return cls(
            values=values.tolist(),
            singular_entropy=maximum - entropy,
            maximum=maximum,
            effective_rank=math.exp(entropy),
            stable_rank=float(values.square().sum() / values.max() ** 2),
        )


@dataclass(frozen=True)
class Anisotropy:
    """Mean cosine of final hidden states and of rows of the head, of how many of them, and rows that are 0."""

    states: float | None
    states_tokens: int
    head: float | None
    head_rows: int
    zero_rows: int


@dataclass(frozen=True)
class Truncation:
    """The loss with the head cut to each rank, in nats per token, and its difference from the whole head's."""

    rank: list[int]
    loss: list[float]
    delta_loss: list[float]


@dataclass(frozen=True)
class Result:
    """Definitions of the entries, how the windows were cut, and the numbers; loss in nats per token."""

    definitions: Mapping[str, str]
    protocol: Mapping[str, Any]
    shape: Shape
    spectrum: Spectrum
    anisotropy: Anisotropy
    truncation: Truncation
    loss: float
    bits_per_byte: float


def run(subject: Subject, settings: Settings) -> Measurement[Result]:
    """Measure one subject."""
    length = settings.length or min(subject.train_length, settings.longest)
    windows = cut(subject, length, max(1, settings.tokens // length), bos=settings.bos)
    _check(subject, windows.tokens[:1])
    head = subject.head.detach()
    values, directions = spectrum(head)
    ranks = sorted({rank for rank in settings.ranks if rank < len(values)} | {len(values)})
    states = MeanCosine()
    nats = dict.fromkeys(ranks, 0.0)
    full, scored = 0.0, 0
    for tokens in progress(windows.tokens.split(subject.batch(length)), f"bottleneck {subject.name}"):
        batch = subject.states(tokens)
        for sequence, hidden in zip(tokens.to(subject.device), batch, strict=True):
            states.add(hidden)
            counted = targets(subject, sequence)
            before, wanted = hidden[:-1][counted], sequence[1:][counted]
            scored += len(wanted)
            full += _nats(subject, before, wanted)
            for rank in ranks:
                kept = directions[:rank].to(hidden)
                nats[rank] += _nats(subject, before @ kept.mT @ kept, wanted)
    rows = MeanCosine()
    rows.add(head)
    loss = full / scored
    result = Result(
        definitions=DEFINITIONS,
        protocol=windows.protocol,
        shape=Shape(*head.shape),
        spectrum=Spectrum.of(values),
        anisotropy=Anisotropy(
            states=states.value,
            states_tokens=states.count,
            head=rows.value,
            head_rows=rows.count,
            zero_rows=len(head) - rows.count,
        ),
        truncation=Truncation(
            rank=ranks,
            loss=[nats[rank] / scored for rank in ranks],
            delta_loss=[nats[rank] / scored - loss for rank in ranks],
        ),
        loss=loss,
        bits_per_byte=windows.bits_per_byte(loss),
    )
    return Measurement(result, {"windows": windows.protocol})


def row(result: Result) -> dict[str, object]:
    """One line of the comparison table."""
    return {
        "rank": len(result.spectrum.values),
        "effective rank": result.spectrum.effective_rank,
        "stable rank": result.spectrum.stable_rank,
        "singular entropy": result.spectrum.singular_entropy,
        "cosine of states": result.anisotropy.states,
        "of head rows": result.anisotropy.head,
    }


def plots(result: Result) -> list[Plot]:
    """Singular values, and the loss with fewer of them."""
    values, truncation = result.spectrum.values, result.truncation
    return [
        Plot(
            "Singular values of the output head",
            "Largest first, divided by the largest.",
            "rank",
            "share of the largest",
            [Line(range(1, len(values) + 1), [value / values[0] for value in values])],
            log_x=2,
            log_y=True,
        ),
        Plot(
            "Loss with a truncated head",
            "What replacing the output head by its best approximation of each rank adds to the loss.",
            "rank",
            "nats per token",
            [Line(truncation.rank, truncation.delta_loss)],
            log_x=2,
        ),
    ]


def spectrum(head: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values [r] of a matrix [V, d], falling, and its right singular vectors [r, d]; float64, on the CPU."""
    # W = QR has the singular values and right singular vectors of R, which is small; rows join it in parts.
    triangle = head.new_zeros(0, head.shape[1], dtype=torch.float64, device="cpu")
    for rows in head.split(LOGITS // head.shape[1]):
        triangle = torch.linalg.qr(torch.cat([triangle, rows.double().cpu()]), mode="r").R
    _, values, directions = torch.linalg.svd(triangle, full_matrices=False)
    return values, directions


class MeanCosine:
    """Mean cosine over all pairs of different vectors, from the sum of the unit vectors; zero vectors are left out."""

    def __init__(self) -> None:
        self.count = 0
        self.sum: Tensor | float = 0.0

    def add(self, vectors: Tensor) -> None:
        """Account for vectors [N, d]."""
        for part in vectors.split(LOGITS // vectors.shape[1]):
            unit = functional.normalize(part.double(), dim=-1, eps=torch.finfo(torch.float64).tiny)
            self.count += int(unit.any(-1).sum())
            self.sum = self.sum + unit.sum(0)

    @property
    def value(self) -> float | None:
        """The mean cosine of all vectors so far; None for fewer than two."""
        pairs = self.count * (self.count - 1)
        return (float(torch.as_tensor(self.sum).square().sum()) - self.count) / pairs if pairs else None


def _nats(subject: Subject, hidden: Tensor, tokens: Tensor) -> float:
    """Summed loss of tokens [N] under the head, given the final hidden states [N, d] before each."""
    part = max(1, LOGITS // subject.vocab_size)
    total = 0.0
    for states, wanted in zip(hidden.split(part), tokens.split(part), strict=True):
        losses = functional.cross_entropy(subject.read_out(states), wanted, reduction="none")
        total += float(losses.double().sum())
    return total


def _check(subject: Subject, tokens: Tensor) -> None:
    """Refuse a model that does more between its final hidden states and its logits than multiply by its head.

    Raises:
        ModelError: its logits are others.
    """
    logits = subject.logits(tokens)
    ours = subject.read_out(subject.states(tokens))
    if not torch.allclose(ours, logits, atol=1e-3 * float(logits.abs().max()), rtol=0):
        raise ModelError(f"{subject.name} does more than multiply by its head, which bottleneck cannot serve")


ANALYSIS = Analysis(
    settings=Settings, result=Result, run=run, row=row, figures=lambda runs: overlaid(runs, plots)
)
