"""Loss at 1 to 16 times the training length on the same tokens, and by position; with and without rescaled RoPE.

The held-out text is cut into segments of the longest length; for a length T each segment is cut again into windows
of T tokens, each behind its own beginning-of-document token, so that every length scores exactly the same tokens
and only the context differs. Segments lie inside documents where these are long enough (the protocol says whether
they are); a token that begins a document is never scored, since no model of this project was trained to predict it.

`--rope none ntk yarn` measures lengths beyond training again with rotary frequencies rescaled by T / train_length,
without any training; `models.rope` has the formulas. The protocol says of each what was done (`positions`), and names
the mechanisms that YaRN's temperature does not reach (`no_temperature`). Models of Hugging Face keep the scaling of
their own config.

Results (loss in nats per token):

    {
      "train_length": 256,
      "lengths": {
        "256":  {"multiple": 1, "windows": 128, "tokens": 32768, "loss": 1.84, "bits_per_byte": 1.22, "perplexity": 6.3,
                 "loss_last": 1.84,                     the last train_length tokens of each window only
                 "loss_tail": 1.85,                     the last train_length tokens of each segment: few, but the same
                                                        tokens at every length, behind up to T - train_length others
                 "per_window": [1.79, ...],             mean loss of each window, in the order of the text
                 "curve": {"start": [1, 2, 3, 5, ...], "end": [1, 2, 4, 8, ..., 256], "loss": [...], "tokens": [...]}},
        "512":  {...}
      },
      "rescaled": {"ntk": {"512": {...}, "1024": {...}}, "yarn": {...}},        as asked for, beyond train_length only
      "skipped": [{"length": 4096, "multiple": 16, "reason": "..."}]
    }

A bin of the curve covers the predicted positions start..end of a window, both included, counted from 1; the bins
double, and position 1 is predicted from the beginning-of-document token alone. For a model without such a token the
first token of every shortest window stays out, at all lengths.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attention import Mechanism, nearest, weights
from eval.analysis import progress
from eval.exhibits import Line, Plot
from eval.subject import Subject
from eval.text import Windows, cut, obstacle
from models import ModelError
from models.rope import SCALINGS

LEAST_SEGMENTS = 4
"""Segments inside documents that are enough; with fewer, documents are joined."""

FEW = 100
"""Tokens below which a bin of positions is too noisy to draw."""


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    multiples: tuple[int, ...] = field(
        default=(1, 2, 4, 8, 16), metadata={"help": "lengths in training lengths"}
    )
    train_length: int | None = field(default=None, metadata={"help": "by default the run's own"})
    longest: int = field(default=16_384, metadata={"help": "skip lengths beyond this"})
    tokens: int = field(default=32_768, metadata={"help": "tokens scored at every length, at most"})
    rope: tuple[str, ...] = field(
        default=("none",), metadata={"help": "rotary positions as trained (none), rescaled by ntk, by yarn"}
    )

    def __post_init__(self) -> None:
        if min(self.multiples, default=0) < 1 or self.tokens < 1 or (self.train_length or 1) < 1:
            raise ModelError("lengths needs multiples, a training length and tokens of at least 1")
        for scaling in self.rope:
            if scaling not in SCALINGS:
                raise ModelError(f"unknown --rope {scaling!r}{nearest(scaling, SCALINGS)}")
        if "none" not in self.rope:
            raise ModelError("--rope needs none beside the others, which mean nothing without it")


def run(subject: Subject, settings: Settings) -> dict[str, Any]:
    """Measure one subject; the layout of the results is in the module's docstring."""
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
            skipped.append({"length": length, "multiple": multiple, "reason": reason})
    lengths = [length for length in wanted if length not in {entry["length"] for entry in skipped}]
    if not lengths:
        raise ModelError(f"no length can be measured for {subject.name}: {skipped[0]['reason']}")
    # A segment must split evenly into windows of every length.
    segment = math.lcm(*lengths)
    if segment > max(settings.tokens, lengths[-1]):
        raise ModelError(
            f"multiples {settings.multiples} have no common segment within --tokens {settings.tokens}"
        )
    segments = cut(subject, segment, max(1, settings.tokens // segment), bos=False, least=LEAST_SEGMENTS)
    beyond = [length for length in lengths if length > train_length]
    rescaled = [scaling for scaling in settings.rope if scaling != "none"]
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
        (scaling, length): {
            "multiple": wanted[length],
            **_summary(losses.masked_fill(~scored, math.nan), length, train_length, segments),
        }
        for (scaling, length), losses in nats.items()
    }
    protocol = {
        "segments": segments.protocol,
        "bos": subject.bos is not None,
        "positions": {"none": SCALINGS["none"]}
        | {
            scaling: f"{SCALINGS[scaling]}; s = length / {train_length}, for lengths beyond {train_length}"
            for scaling in rescaled
        },
    }
    if "yarn" in rescaled:
        blocks: Any = subject.blocks
        mechanisms = {block.attention.mixer.mechanism for block in blocks}
        protocol["no_temperature"] = sorted(
            mechanism.name for mechanism in mechanisms if not has_scale(mechanism)
        )
    results = {
        "train_length": train_length,
        "lengths": {str(length): measured["none", length] for length in lengths},
        "rescaled": {
            scaling: {str(length): measured[scaling, length] for length in beyond} for scaling in rescaled
        },
        "skipped": skipped,
    }
    return {"protocol": protocol, "results": results}


def row(results: Mapping[str, Any]) -> dict[str, object]:
    """One line of the comparison table."""
    plain = {f"{entry['multiple']}x": entry["loss"] for entry in results["lengths"].values()}
    return plain | {
        f"{entry['multiple']}x {scaling}": entry["loss"]
        for scaling, entries in results["rescaled"].items()
        for entry in entries.values()
    }


def plots(results: Mapping[str, Any]) -> list[Plot]:
    """Loss by length of the context, and by position at the longest length."""
    by_length = {int(length): entry["bits_per_byte"] for length, entry in results["lengths"].items()}
    longest = results["lengths"][str(max(by_length))]["curve"]
    bins = zip(longest["start"], longest["end"], longest["loss"], longest["tokens"], strict=True)
    # Each bin at its geometric middle.
    by_position = {math.sqrt(start * end): loss for start, end, loss, tokens in bins if tokens >= FEW}
    mark = (results["train_length"], "training length")
    return [
        Plot(
            "Loss by length of the context",
            "The same held-out tokens at every length; only how much context they have differs. "
            "Positions are not rescaled.",
            "context, tokens",
            "bits per byte",
            [Line(sorted(by_length), [by_length[length] for length in sorted(by_length)])],
            log_x=2,
            ticks=True,
            mark=mark,
        ),
        Plot(
            "Loss by position",
            f"In windows of the longest length measured, in bins that double; bins of fewer than {FEW} tokens are left "
            "out. Where a curve rises beyond the training length, the model cannot use the longer context.",
            "position",
            "nats per token",
            [Line(list(by_position), list(by_position.values()))],
            log_x=2,
            mark=mark,
        ),
    ]


def curve(nats: Tensor) -> dict[str, list[Any]]:
    """Mean loss by position in bins that double, from losses [N, T]; what is NaN was not scored."""
    length = nats.shape[1]
    ends = [2**exponent for exponent in range(length.bit_length()) if 2**exponent < length] + [length]
    starts = [1] + [end + 1 for end in ends[:-1]]
    bins = [
        (start, end, part[~part.isnan()])
        for start, end in zip(starts, ends, strict=True)
        for part in [nats[:, start - 1 : end]]
    ]
    return {
        "start": [start for start, _, part in bins if len(part)],
        "end": [end for _, end, part in bins if len(part)],
        "loss": [float(part.mean()) for _, _, part in bins if len(part)],
        "tokens": [len(part) for _, _, part in bins if len(part)],
    }


def has_scale(mechanism: Mechanism) -> bool:
    """Whether longer queries and keys sharpen its weights; YaRN's attention temperature is nothing else."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 8, 2, 16, generator=generator, dtype=torch.float64)
    learned = mechanism.initial_values(2, 16)
    one, two = (weights(size * query, size * key, mechanism, params=learned) for size in (1, 2))
    return not torch.allclose(one, two)


def _summary(nats: Tensor, length: int, train_length: int, segments: Windows) -> dict[str, Any]:
    """The numbers of one length from losses [segments, S], NaN where a token is not scored."""
    windows = nats.reshape(-1, length)
    loss = float(nats.nanmean())
    return {
        "windows": len(windows),
        "tokens": int((~nats.isnan()).sum()),
        "loss": loss,
        "bits_per_byte": segments.bits_per_byte(loss),
        "perplexity": math.exp(loss) if loss < 700 else None,
        "loss_last": float(windows[:, -train_length:].nanmean()),
        "loss_tail": float(nats[:, -train_length:].nanmean()),
        "per_window": windows.nanmean(1).tolist(),
        "curve": curve(windows),
    }


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
    if subject.bos is None:
        return torch.cat([torch.full_like(nats[:, :1], math.nan), nats], 1).reshape(segments.shape)
    return nats.reshape(segments.shape).masked_fill(segments == subject.bos, math.nan)
