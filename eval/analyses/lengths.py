"""Loss at 1 to 16 times the training length on the same tokens, and by position; with and without rescaled RoPE.

The held-out text is cut into segments of the longest length; for a length T each segment is cut again into windows
of T tokens, each behind its own beginning-of-document token, so that every length scores exactly the same tokens
and only the context differs. Segments lie inside documents where these are long enough (the protocol says whether
they are); a token that begins a document is never scored, whether the model has learned where documents end or not.

Lengths beyond training are measured again with rotary frequencies rescaled by T / train_length, without any training;
`models.rope` has the formulas. The protocol says of each what was done (`positions`), and names the mechanisms that
YaRN's temperature does not reach (`no_temperature`). By default (`--rope auto`) that is done wherever positions can be
rescaled, and where they cannot the protocol says why (`not_rescaled`): a run without rotary positions has nothing to
rescale, and a Hugging Face model whose config rescales them already keeps that. `--rope none,ntk,yarn` insists on it.

Results: `Result` below, with losses in nats per token. A bin of a curve covers the predicted positions start..end of a
window, both included, counted from 1; the bins double, and position 1 is predicted from the beginning-of-document token
alone. For a model without such a token the first token of every shortest window stays out, at all lengths.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attention import Mechanism, weights
from common.errors import nearest
from eval.analysis import Analysis, Measurement
from eval.display import Column, Compared, Line, Number, Plot, Shown, columns_of, four, overlaid
from eval.intervals import contributions
from eval.options import option
from eval.subjects.base import Subject
from eval.terminal import progress
from eval.windows import Windows, cut, obstacle, targets
from models import ModelError
from models.rope import SCALINGS

LEAST_SEGMENTS = 4
"""Segments inside documents that are enough; with fewer, documents are joined."""

NAMES = {"none": "as trained", "ntk": "NTK", "yarn": "YaRN"}
REPORTED = (1, 4, 16)
"""Lengths in training lengths of which the report has numbers; its curves have all."""

AUTO = ("auto",)
"""Rotary positions as trained, and rescaled in every way where they can be."""

FEW = 100
"""Tokens below which a bin of positions is too noisy to draw."""


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    multiples: tuple[int, ...] = option((1, 2, 4, 8, 16), "lengths of windows", unit="training lengths")
    train_length: int | None = option(
        None, "what is multiplied, and how far training reached", unit="tokens", unset="the run's own"
    )
    longest: int = option(16_384, "skip lengths beyond this", unit="tokens")
    tokens: int = option(16_384, "scored at every length, at most", unit="tokens")
    rope: tuple[str, ...] = option(
        AUTO,
        "rotary positions as trained (none) or rescaled; auto: all that can be",
        choices=(*AUTO, *SCALINGS),
    )

    def __post_init__(self) -> None:
        least = (
            min(self.multiples, default=0),
            self.tokens,
            1 if self.train_length is None else self.train_length,
        )
        if min(least) < 1:
            raise ModelError("lengths needs multiples, a training length and tokens of at least 1")
        for scaling in self.rope if self.rope != AUTO else ():
            if scaling not in SCALINGS:
                raise ModelError(f"unknown --rope {scaling!r}{nearest(scaling, SCALINGS)}")
        if self.rope != AUTO and "none" not in self.rope:
            raise ModelError("--rope needs none beside the others, which mean nothing without it")


@dataclass(frozen=True)
class PositionBins:
    """Mean loss by position: the first and last position of each bin, and how many tokens it has."""

    start: list[int]
    end: list[int]
    loss: list[float]
    tokens: list[int]


@dataclass(frozen=True)
class AtLength:
    """The losses in windows of one length.

    Attributes:
        multiple: the length in training lengths.
        windows, tokens: how many of them.
        loss, bits_per_byte, perplexity: of all scored tokens.
        loss_last: of the last training length of each window.
        loss_tail: of the last training length of each segment: few, but the same tokens at every length, behind up to
            T - train_length others.
        per_window: mean loss of each window, in the order of the text.
        by_document: what each document of the text contributes to `bits_per_byte`, which is their mean; none where one
            document has most of the text.
        tail_by_document: the same of `loss_tail`.
        curve: by position.
    """

    multiple: int
    windows: int
    tokens: int
    loss: float
    bits_per_byte: float
    perplexity: float | None
    loss_last: float
    loss_tail: float
    per_window: list[float]
    curve: PositionBins
    by_document: Mapping[str, float] | None = None
    tail_by_document: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Skipped:
    """A length that could not be measured."""

    length: int
    multiple: int
    reason: str


@dataclass(frozen=True)
class Result:
    """The losses by length, and by scaling and length for those beyond training."""

    train_length: int
    lengths: Mapping[str, AtLength]
    rescaled: Mapping[str, Mapping[str, AtLength]]
    skipped: list[Skipped]


def run(subject: Subject, settings: Settings) -> Measurement[Result]:
    """Measure one subject."""
    train_length = settings.train_length or subject.train_length
    wanted = {train_length * multiple: multiple for multiple in sorted(set(settings.multiples))}
    held_out = sum(map(len, subject.token_documents))
    skipped = []
    for length, multiple in wanted.items():
        reason = obstacle(subject, length)
        if length > settings.longest:
            reason = f"longer than --longest {settings.longest}"
        elif length > settings.tokens:
            reason = f"longer than --tokens {settings.tokens}"
        elif length > held_out:
            reason = f"the held-out text has only {held_out} tokens"
        if reason is not None:
            skipped.append(Skipped(length, multiple, reason))
    lengths = [length for length in wanted if length not in {entry.length for entry in skipped}]
    if not lengths:
        raise ModelError(f"no length can be measured for {subject.name}: {skipped[0].reason}")
    # A segment must split evenly into windows of every length.
    segment = math.lcm(*lengths)
    if segment > max(settings.tokens, lengths[-1]):
        raise ModelError(
            f"multiples {settings.multiples} have no common segment within --tokens {settings.tokens}"
        )
    segments = cut(subject, segment, max(1, settings.tokens // segment), bos=False, least=LEAST_SEGMENTS)
    beyond = [length for length in lengths if length > train_length]
    fixed = subject.fixed_positions if settings.rope == AUTO else None
    asked = SCALINGS if settings.rope == AUTO else settings.rope
    rescaled = [] if fixed else [scaling for scaling in asked if scaling != "none"]
    nats = {}
    # First, so that a subject whose positions cannot be rescaled says so before anything is computed.
    for scaling in rescaled:
        for length in beyond:
            with subject.rescaled(scaling, length / train_length, train_length):
                nats[scaling, length] = _losses(subject, segments.tokens, length, scaling)
    for length in lengths:
        nats["none", length] = _losses(subject, segments.tokens, length)
    scored = torch.stack([~losses.isnan() for losses in nats.values()]).all(0)
    measured = {
        (scaling, length): _summary(
            losses.masked_fill(~scored, math.nan), length, wanted[length], train_length, segments
        )
        for (scaling, length), losses in nats.items()
    }
    protocol: dict[str, Any] = {
        "segments": segments.protocol,
        "bos": subject.bos is not None,
        "positions": {"none": SCALINGS["none"]}
        | {
            scaling: f"{SCALINGS[scaling]}; s = length / {train_length}, for lengths beyond {train_length}"
            for scaling in rescaled
        },
    }
    if fixed:
        protocol["not_rescaled"] = fixed
    if "yarn" in rescaled:
        protocol["no_temperature"] = sorted(
            mechanism.name for mechanism in subject.mechanisms if not has_scale(mechanism)
        )
    result = Result(
        train_length=train_length,
        lengths={str(length): measured["none", length] for length in lengths},
        rescaled={
            scaling: {str(length): measured[scaling, length] for length in beyond} for scaling in rescaled
        },
        skipped=skipped,
    )
    return Measurement(result, protocol)


def notes(result: Result) -> list[str]:
    """What was left out, and why."""
    return [f"{entry.multiple}x, {entry.length} tokens, left out: {entry.reason}" for entry in result.skipped]


def row(result: Result) -> dict[str, object]:
    """One line of the comparison table."""
    plain: dict[str, object] = {f"{entry.multiple}x": entry.loss for entry in result.lengths.values()}
    return plain | {
        f"{entry.multiple}x {scaling}": entry.loss
        for scaling, entries in result.rescaled.items()
        for entry in entries.values()
    }


def columns(runs: Sequence[Shown[Result]]) -> list[Column[Result]]:
    """The loss as trained among what says how robust a run is; with rescaled positions and of the tail by itself."""
    column = partial(Column[Result], group="Robustness", unit="bits/byte", better="lower", show=four)
    trained = [
        column(
            key=f"bits_{times}x",
            title=f"at {times}× length",
            value=partial(_bits, times=times),
            parts=partial(_bits_by_document, times=times),
            meaning="Loss on held-out text in windows of so many times the training length; the same tokens at each.",
            headline=times > 1,
        )
        for times in REPORTED
    ]
    return trained + columns_of(runs, numbers, "Lengths")


def numbers(result: Result) -> list[Number]:
    """The loss with rescaled positions, and of the tail."""
    rescaled = [
        Number(
            f"at {multiple}×, {NAMES[scaling]}",
            entry.bits_per_byte,
            "bits/byte",
            better="lower",
            digits=5,
            parts=entry.by_document,
        )
        for scaling, entries in result.rescaled.items()
        for multiple, entry in _by_multiple(entries).items()
    ]
    tails = [
        Number(
            f"tail at {multiple}×, {NAMES[scaling]}",
            entry.loss_tail,
            "nats/token",
            better="lower",
            digits=4,
            parts=entry.tail_by_document,
        )
        for scaling, entries in {"none": result.lengths, **result.rescaled}.items()
        for multiple, entry in _by_multiple(entries).items()
    ]
    return rescaled + tails


def plots(result: Result) -> list[Plot]:
    """Loss by length of the context, and by position at the longest length; as trained, then rescaled."""
    trained = result.lengths
    # A factor of 1 changes nothing, so that rescaled curves begin where those as trained do.
    unscaled = {length: entry for length, entry in trained.items() if entry.multiple == 1}
    found = _plots(result, "", "Positions as trained.", [trained])
    for scaling, entries in result.rescaled.items():
        how = f"Rotary positions rescaled by {NAMES[scaling]}, without training; dashed: as trained."
        found += _plots(result, f", {NAMES[scaling]}", how, [{**unscaled, **entries}, trained])
    return found


def sentences(compared: Mapping[str, Compared]) -> Iterator[str]:
    """The range of the runs beyond their training length."""
    yield from compared["bits_4x"].ranging("At 4 times the training length, the loss in bits per byte")


def curve(nats: Tensor) -> PositionBins:
    """Mean loss by position in bins that double, from losses [N, T]; what is NaN was not scored."""
    length = nats.shape[1]
    ends = [2**exponent for exponent in range(length.bit_length()) if 2**exponent < length] + [length]
    starts = [1] + [end + 1 for end in ends[:-1]]
    bins = [
        (start, end, part[~part.isnan()])
        for start, end in zip(starts, ends, strict=True)
        for part in [nats[:, start - 1 : end]]
    ]
    return PositionBins(
        start=[start for start, _, part in bins if len(part)],
        end=[end for _, end, part in bins if len(part)],
        loss=[float(part.mean()) for _, _, part in bins if len(part)],
        tokens=[len(part) for _, _, part in bins if len(part)],
    )


def has_scale(mechanism: Mechanism) -> bool:
    """Whether longer queries and keys sharpen its weights; YaRN's attention temperature is nothing else."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 8, 2, 16, generator=generator, dtype=torch.float64)
    learned = mechanism.initial_values(2, 16)
    one, two = (weights(size * query, size * key, mechanism, params=learned) for size in (1, 2))
    return not torch.allclose(one, two)


def _plots(result: Result, which: str, how: str, measured: Sequence[Mapping[str, AtLength]]) -> list[Plot]:
    """The two figures of one way to scale positions."""
    mark = (result.train_length, "training length")
    return [
        Plot(
            f"Loss by length of the context{which}",
            f"The same held-out tokens at every length; only how much context they have differs. {how}",
            "context, tokens",
            "bits per byte",
            [_by_length(entries) for entries in measured],
            log_x=2,
            ticks=True,
            mark=mark,
        ),
        Plot(
            f"Loss by position{which}",
            f"In windows of the longest length measured, in bins that double; bins of fewer than {FEW} tokens are left "
            f"out. Where a curve rises beyond the training length, the model cannot use the longer context. {how}",
            "position",
            "nats per token",
            [_by_position(entries) for entries in measured],
            log_x=2,
            mark=mark,
        ),
    ]


def _by_length(entries: Mapping[str, AtLength]) -> Line:
    points = sorted((int(length), entry.bits_per_byte) for length, entry in entries.items())
    return Line([length for length, _ in points], [bits for _, bits in points])


def _by_position(entries: Mapping[str, AtLength]) -> Line:
    """Each bin at its geometric middle."""
    longest = entries[max(entries, key=int)].curve
    bins = zip(longest.start, longest.end, longest.loss, longest.tokens, strict=True)
    points = [(math.sqrt(start * end), loss) for start, end, loss, tokens in bins if tokens >= FEW]
    return Line([place for place, _ in points], [loss for _, loss in points])


def _by_multiple(entries: Mapping[str, AtLength]) -> dict[int, AtLength]:
    """The entries that the report has numbers of, by length in training lengths."""
    return {entry.multiple: entry for entry in entries.values() if entry.multiple in REPORTED}


def _bits(result: Result, times: int) -> float | None:
    entry = _by_multiple(result.lengths).get(times)
    return None if entry is None else entry.bits_per_byte


def _bits_by_document(result: Result, times: int) -> Mapping[str, float] | None:
    entry = _by_multiple(result.lengths).get(times)
    return None if entry is None else entry.by_document


def _summary(nats: Tensor, length: int, multiple: int, train_length: int, segments: Windows) -> AtLength:
    """The numbers of one length from losses [segments, S], NaN where a token is not scored."""
    windows = nats.reshape(-1, length)
    loss, tail = float(nats.nanmean()), nats[:, -train_length:]
    by_document = _by_document(nats, segments)
    return AtLength(
        multiple=multiple,
        windows=len(windows),
        tokens=int((~nats.isnan()).sum()),
        loss=loss,
        bits_per_byte=segments.bits_per_byte(loss),
        perplexity=math.exp(loss) if loss < 700 else None,
        loss_last=float(windows[:, -train_length:].nanmean()),
        loss_tail=float(tail.nanmean()),
        per_window=windows.nanmean(1).tolist(),
        by_document={name: segments.bits_per_byte(part) for name, part in by_document.items()},
        tail_by_document=_by_document(tail, segments),
        curve=curve(windows),
    )


def _by_document(nats: Tensor, segments: Windows) -> dict[str, float]:
    """Contributions of documents to the mean of losses [segments, S]."""
    return contributions(nats.nansum(1).tolist(), (~nats.isnan()).sum(1).tolist(), segments.documents)


def _losses(subject: Subject, segments: Tensor, length: int, scaling: str = "") -> Tensor:
    """Float64 losses [N, S] of segments [N, S] cut into windows, each behind a beginning-of-document token.

    NaN where nothing is scored: at beginning-of-document tokens inside of a segment and, for a model that has no such
    token, at the first token of a window.
    """
    windows = segments.reshape(-1, length)
    if subject.bos is not None:
        windows = torch.cat([torch.full_like(windows[:, :1], subject.bos), windows], 1)
    batches = windows.split(subject.batch(windows.shape[1]))
    what = f"lengths {subject.name} T={length} {scaling}".strip()
    nats = torch.cat([subject.losses(batch).double().cpu() for batch in progress(batches, what)])
    nats = nats.masked_fill(~targets(subject, windows), math.nan)
    if subject.bos is None:
        nats = torch.cat([torch.full_like(nats[:, :1], math.nan), nats], 1)
    return nats.reshape(segments.shape)


ANALYSIS = Analysis(
    settings=Settings,
    result=Result,
    run=run,
    row=row,
    notes=notes,
    order=40,
    columns=columns,
    figures=lambda runs: overlaid(runs, plots),
    sentences=sentences,
)
