"""Attention sinks, mass, entropy, sparsity and dead heads, from streamed row statistics.

With W the attention weights of one head over a window of T tokens, the importance of key k is the mean weight it
gets from the rows that can see it, `alpha_k = sum_i W_ik / #{i : i sees k}` (Gu et al., arXiv 2410.10781; k = 1 is
the first token). The sink rate is the share of (sequence, layer, head) with `alpha_k > epsilon`. Both versions are
reported: *raw* weights, and *renormalised* rows `W_ij / (sum_j W_ij + 1e-8)`, without which a mechanism whose rows
do not sum to one (softpick, SWAT) has few sinks or many by its scale alone.

All numbers come from `attention.row_stats`; no T x T matrix is formed. They do not depend on the batch size.

Results (shares are in [0, 1], `[L][H]` is a list per layer of a list per head, keys of dicts are strings):

    {
      "lengths": {
        "64": {                                                  one entry per T that could be measured
          "sequences": 100, "tokens": 6400,
          "sink_rate":        {"raw": {"0.2": 0.41, "0.3": 0.33}, "renormalised": {...}},                    key 1
          "sink_rate_by_key": {"raw": {"0.2": [10 shares], "0.3": [...]}, "renormalised": {...}},      keys 1..10
          "mass":     {"mean": 0.98, "positions": [1, 2, 4, ..., 64], "mean_at": [...], "p5_at": [...],
                       "p95_at": [...]},                                          over sequences, layers and heads
          "entropy":  {"nats": 2.1, "normalised": 0.61, "support": 9.3, "skipped_rows": 0.0},
          "sparsity": {"zeros": 0.0, "small": 0.02, "empty_rows": 0.0},
          "dead_heads": {"1e-06": 0.0, "0.01": 0.02},
          "heads": {
            "sink_rate":  {"raw": {"0.2": [L][H], "0.3": [L][H]}, "renormalised": {...}},                    key 1
            "importance": {"raw": [L][H], "renormalised": [L][H]},                                      mean alpha_1
            "mass": [L][H], "entropy": [L][H], "entropy_normalised": [L][H], "support": [L][H],
            "zeros": [L][H], "small": [L][H], "empty_rows": [L][H], "max_score": [L][H],
            "dead_tokens": {"1e-06": [L][H], "0.01": [L][H]}       share of tokens with max |head output| < epsilon
          }
        }
      },
      "skipped": [{"length": 512, "reason": "..."}]
    }

`entropy.nats` is the mean of `-sum p ln p` with `p = W / sum W` over rows with mass of at least 1e-8
(`skipped_rows` is the share of the others); `normalised` divides by the log of the number of visible keys, over
rows that see more than one; `support` is the mean of `exp(entropy)`. `zeros` and `small` are shares of the visible
(query, key) pairs that are exactly zero, or at most 1e-5 in magnitude. A row is empty when its mass is 0.
`max_score` is the largest |score| met. A head is dead at epsilon when at least 95 % of its tokens have `max
|output| < epsilon`. An entry of `heads` is `null` where it has no row to average.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attention import row_stats
from eval.analysis import progress
from eval.subject import Subject
from eval.text import Windows, cut, obstacle
from models import AttentionCall, ModelError

LEAST_MASS = 1e-8
DEAD_TOKENS = 0.95


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    lengths: tuple[int, ...] = field(default=(64, 512), metadata={"help": "tokens per window"})
    train_length: bool = field(default=True, metadata={"help": "measure at the training length, too"})
    longest: int = field(default=4096, metadata={"help": "skip lengths beyond this"})
    sequences: int = field(default=100, metadata={"help": "windows per length"})
    thresholds: tuple[float, ...] = field(default=(0.2, 0.3), metadata={"help": "epsilon of the sink rate"})
    keys: int = field(default=10, metadata={"help": "first keys to report the sink rate of"})
    dead: tuple[float, ...] = field(
        default=(1e-6, 1e-2), metadata={"help": "a head's output below this is dead"}
    )
    bos: bool = field(default=True, metadata={"help": "begin windows with the beginning-of-document token"})

    def __post_init__(self) -> None:
        if min(self.lengths, default=2) < 2 or self.sequences < 1 or self.keys < 1:
            raise ModelError("sinks needs lengths of at least 2, and at least one sequence and one key")


def run(subject: Subject, settings: Settings) -> dict[str, Any]:
    """Measure one subject; the layout of the results is in the module's docstring."""
    lengths = {*settings.lengths, *([subject.train_length] if settings.train_length else [])}
    measured: dict[str, Any] = {}
    windows_of: dict[str, Any] = {}
    skipped = []
    for length in sorted(lengths):
        reason = obstacle(subject, length)
        if length > settings.longest:
            reason = f"longer than --longest {settings.longest}"
        if reason is None:
            try:
                windows = cut(subject, length, settings.sequences, bos=settings.bos, overlap=True)
            except ModelError as error:
                reason = str(error)
        if reason is not None:
            skipped.append({"length": length, "reason": reason})
            continue
        measured[str(length)] = _measure(subject, settings, windows)
        windows_of[str(length)] = windows.protocol
    if not measured:
        raise ModelError(f"sinks cannot be measured for {subject.name}: {skipped[0]['reason']}")
    protocol = {
        "windows": windows_of,
        "least_mass": LEAST_MASS,
        "small_weight": 1e-5,
        "dead_tokens": DEAD_TOKENS,
    }
    return {"protocol": protocol, "results": {"lengths": measured, "skipped": skipped}}


def row(results: Mapping[str, Any]) -> dict[str, object]:
    """The longest measured length in one line."""
    length, measured = max(results["lengths"].items(), key=lambda entry: int(entry[0]))
    threshold = list(measured["sink_rate"]["raw"])[-1]
    return {
        "T": int(length),
        f"sink>{threshold}": measured["sink_rate"]["raw"][threshold],
        "renormalised": measured["sink_rate"]["renormalised"][threshold],
        "mass": measured["mass"]["mean"],
        "entropy": measured["entropy"]["nats"],
        "zeros": measured["sparsity"]["zeros"],
        "empty rows": measured["sparsity"]["empty_rows"],
        "dead heads": next(iter(measured["dead_heads"].values()), None),
    }


class _Layer:
    """Sums over all windows for one layer; every sum is float64 and per head, so batches of any size agree."""

    def __init__(self, settings: Settings, positions: Tensor) -> None:
        self.settings = settings
        self.positions = positions
        self.sums: dict[str, Tensor | float] = defaultdict(float)
        self.importance: dict[str, list[Tensor]] = {"raw": [], "renormalised": []}
        self.mass_at: list[Tensor] = []
        self.max_score: Tensor | None = None

    def add(self, call: AttentionCall) -> None:
        """Account for one forward pass of the layer."""
        stats = row_stats(call.query, call.key, call.mechanism, **call.arguments)
        length = call.query.shape[1]
        seen = _rows_that_see(self.settings.keys, length, call.arguments["window"], call.query.device)
        for kind, key_mass in (("raw", stats.key_mass), ("renormalised", stats.key_mass_renormalised)):
            self.importance[kind].append((key_mass[..., : len(seen)] / seen).double().cpu())
        self.mass_at.append(stats.mass[..., self.positions].float().cpu())

        visible = stats.visible[:, None].expand_as(stats.mass)
        full = stats.mass >= LEAST_MASS
        several = full & (visible > 1)
        self._sum("rows", torch.ones_like(stats.mass))
        self._sum("mass", stats.mass)
        self._sum("empty_rows", stats.mass == 0)
        self._sum("full_rows", full)
        self._sum("entropy", torch.where(full, stats.entropy, 0))
        self._sum("support", torch.where(full, stats.entropy.double().exp(), 0))
        self._sum("several_rows", several)
        self._sum("entropy_normalised", torch.where(several, stats.entropy / visible.clamp(min=2).log(), 0))
        self._sum("visible", visible)
        self._sum("zeros", stats.zeros)
        self._sum("small", stats.small)
        largest = call.output.abs().amax(-1).transpose(1, 2)
        for threshold in self.settings.dead:
            self._sum(f"dead {threshold}", largest < threshold)
        score = stats.max_score.amax((0, 2)).cpu()
        self.max_score = score if self.max_score is None else torch.maximum(self.max_score, score)

    def _sum(self, name: str, values: Tensor) -> None:
        self.sums[name] = self.sums[name] + values.double().sum((0, 2)).cpu()

    def share(self, numerator: str, denominator: str) -> Tensor:
        """Ratio of two sums per head; NaN where the denominator is 0."""
        return torch.as_tensor(self.sums[numerator]) / torch.as_tensor(self.sums[denominator])


def _measure(subject: Subject, settings: Settings, windows: Windows) -> dict[str, Any]:
    count, length = windows.tokens.shape
    positions = _positions(length)
    layers: dict[int, _Layer] = defaultdict(lambda: _Layer(settings, positions))
    batches = windows.tokens.split(subject.batch(length))
    with subject.trace(attention=lambda call: layers[call.layer].add(call)):
        for batch in progress(batches, f"sinks {subject.name} T={length}"):
            subject.observe(batch)
    if not layers:
        raise ModelError(f"{subject.name} reports no attention to measure")
    ordered = [layers[index] for index in sorted(layers)]
    return {"sequences": count, "tokens": count * length, **_summary(ordered, settings, positions)}


def _summary(layers: list[_Layer], settings: Settings, positions: Tensor) -> dict[str, Any]:
    # [L, N, H, K]: the importance of the first keys in every layer, sequence and head.
    importance = {
        kind: torch.stack([torch.cat(layer.importance[kind]) for layer in layers])
        for kind in ("raw", "renormalised")
    }
    above = {
        kind: {str(threshold): (alpha > threshold).double() for threshold in settings.thresholds}
        for kind, alpha in importance.items()
    }
    mass_at = torch.stack([torch.cat(layer.mass_at) for layer in layers]).flatten(0, 2).double()

    def by_head(numerator: str, denominator: str) -> Tensor:
        return torch.stack([layer.share(numerator, denominator) for layer in layers])

    def total(name: str) -> float:
        return float(sum(torch.as_tensor(layer.sums[name]).sum() for layer in layers))

    def rates(reduce: Any) -> dict[str, dict[str, Any]]:
        return {
            kind: {threshold: reduce(hit) for threshold, hit in hits.items()} for kind, hits in above.items()
        }

    dead_tokens = {str(threshold): by_head(f"dead {threshold}", "rows") for threshold in settings.dead}
    return {
        "sink_rate": rates(lambda hit: float(hit[..., 0].mean())),
        "sink_rate_by_key": rates(lambda hit: hit.mean((0, 1, 2))),
        "mass": {
            "mean": total("mass") / total("rows"),
            "positions": (positions + 1).tolist(),
            "mean_at": mass_at.mean(0),
            "p5_at": mass_at.quantile(0.05, dim=0),
            "p95_at": mass_at.quantile(0.95, dim=0),
        },
        "entropy": {
            "nats": _ratio(total("entropy"), total("full_rows")),
            "normalised": _ratio(total("entropy_normalised"), total("several_rows")),
            "support": _ratio(total("support"), total("full_rows")),
            "skipped_rows": 1 - total("full_rows") / total("rows"),
        },
        "sparsity": {
            "zeros": total("zeros") / total("visible"),
            "small": total("small") / total("visible"),
            "empty_rows": total("empty_rows") / total("rows"),
        },
        "dead_heads": {
            name: float((share >= DEAD_TOKENS).double().mean()) for name, share in dead_tokens.items()
        },
        "heads": {
            "sink_rate": rates(lambda hit: hit[..., 0].mean(1)),
            "importance": {kind: alpha[..., 0].mean(1) for kind, alpha in importance.items()},
            "mass": by_head("mass", "rows"),
            "entropy": by_head("entropy", "full_rows"),
            "entropy_normalised": by_head("entropy_normalised", "several_rows"),
            "support": by_head("support", "full_rows"),
            "zeros": by_head("zeros", "visible"),
            "small": by_head("small", "visible"),
            "empty_rows": by_head("empty_rows", "rows"),
            "max_score": torch.stack([torch.as_tensor(layer.max_score) for layer in layers]),
            "dead_tokens": dead_tokens,
        },
    }


def _positions(length: int) -> Tensor:
    """0-based rows 1, 2, 4, ... and the last, at which the mass is reported."""
    powers = [2**exponent - 1 for exponent in range(length.bit_length()) if 2**exponent <= length]
    return torch.tensor(sorted({*powers, length - 1}))


def _rows_that_see(keys: int, length: int, window: int | None, device: torch.device) -> Tensor:
    """How many rows of a causal window of `length` tokens see each of the first keys."""
    first = torch.arange(min(keys, length), device=device)
    return (length - first).clamp(max=window or length)


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None
