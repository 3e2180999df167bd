"""Loss at 1 to 16 times the training length on the same tokens, and by position.

The held-out text is cut into segments of the longest length; for a length T each segment is cut again into windows
of T tokens, each behind its own beginning-of-document token, so that every length scores exactly the same tokens
and only the context differs. No rescaling of positions is applied.

Results (loss in nats per token):

    {
      "train_length": 256,
      "lengths": {
        "256":  {"multiple": 1, "windows": 128, "tokens": 32768, "loss": 1.84, "bits_per_byte": 1.22, "perplexity": 6.3,
                 "loss_last": 1.84,                     the last train_length tokens of each window only
                 "per_window": [1.79, ...],             mean loss of each window, in the order of the text
                 "curve": {"start": [1, 2, 3, 5, ...], "end": [1, 2, 4, 8, ..., 256], "loss": [...], "tokens": [...]}},
        "512":  {...}
      },
      "skipped": [{"length": 4096, "multiple": 16, "reason": "..."}]
    }

A bin of the curve covers the predicted positions start..end of a window, both included, counted from 1; the bins
double, and position 1 is predicted from the beginning-of-document token alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eval.analysis import progress
from eval.exhibits import Line, Plot
from eval.subject import Subject
from eval.text import cut, obstacle
from models import ModelError

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

    def __post_init__(self) -> None:
        if min(self.multiples, default=0) < 1 or self.tokens < 1 or (self.train_length or 1) < 1:
            raise ModelError("lengths needs multiples, a training length and tokens of at least 1")


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
    measured = {}
    for length in lengths:
        windows = segments.tokens.reshape(-1, length)
        nats = _losses(subject, windows, f"lengths {subject.name} T={length}")
        loss = float(nats.mean())
        measured[str(length)] = {
            "multiple": wanted[length],
            "windows": len(windows),
            "tokens": nats.numel(),
            "loss": loss,
            "bits_per_byte": segments.bits_per_byte(loss),
            "perplexity": math.exp(loss) if loss < 700 else None,
            "loss_last": float(nats[:, -train_length:].mean()),
            "per_window": nats.mean(1).tolist(),
            "curve": curve(nats),
        }
    protocol = {
        "segments": segments.protocol,
        "bos": subject.bos is not None,
        "positions": "as trained, not rescaled",
    }
    return {
        "protocol": protocol,
        "results": {"train_length": train_length, "lengths": measured, "skipped": skipped},
    }


def row(results: Mapping[str, Any]) -> dict[str, object]:
    """One line of the comparison table."""
    return {f"{entry['multiple']}x": entry["loss"] for entry in results["lengths"].values()}


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
    """Mean loss by position in bins that double, from losses [N, T]."""
    length = nats.shape[1]
    ends = [2**exponent for exponent in range(length.bit_length()) if 2**exponent < length] + [length]
    starts = [1] + [end + 1 for end in ends[:-1]]
    bins = [nats[:, start - 1 : end] for start, end in zip(starts, ends, strict=True)]
    return {
        "start": starts,
        "end": ends,
        "loss": [float(part.mean()) for part in bins],
        "tokens": [part.numel() for part in bins],
    }


def _losses(subject: Subject, windows: Tensor, what: str) -> Tensor:
    """Float64 losses [N, T] of windows [N, T], each behind a beginning-of-document token.

    [N, T - 1] for a model that has no such token: nothing predicts the first token of a window then.
    """
    if subject.bos is not None:
        windows = torch.cat([torch.full_like(windows[:, :1], subject.bos), windows], 1)
    batches = windows.split(subject.batch(windows.shape[1]))
    return torch.cat([subject.losses(batch).double().cpu() for batch in progress(batches, what)])
