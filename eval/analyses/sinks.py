"""Attention sinks, mass, entropy, sparsity and dead heads, from streamed row statistics.

With W the attention weights of one head over a window of T tokens, the importance of key k is the mean weight it
gets from the rows that can see it, `alpha_k = sum_i W_ik / #{i : i sees k}` (k = 1 is the first token). The sink rate
is the share of (sequence, layer, head) with `alpha_k > epsilon`. Both versions are reported: *raw* weights, and
*renormalised* rows `|W_ij| / (sum_j |W_ij| + 1e-8)`, without which a mechanism whose rows do not sum to one (softpick,
SWAT) has few sinks or many by its scale alone.

`sink_rate_any` asks for a sink at any key that enough rows see: more than half (`audience`) of the most rows that see
one key. Without a window these are the keys k <= T/2, rounded up, and with a window of w all but the last w/2. Beyond
them few weights decide, for the last key one: `audience` 0, which takes every key, also finds self-attention.

Two definitions are published, and both are reported under their names in `published`:

    gu        Gu et al., arXiv 2410.10781: sum over i >= k of the renormalised weights, divided by T - k + 1
    softpick  Zuhri et al., arXiv 2504.20966: sum over all T rows of the raw weights on key 1, divided by T

Under full causal attention the first is `sink_rate.renormalised` and the second `sink_rate.raw`; under a sliding window
both divide by rows that cannot see the key.

All numbers come from `attention.row_stats`, one sequence after the other and with float64 sums: no T x T matrix is
formed, and the size of a batch changes nothing but how the network's own products round.

Results (shares are in [0, 1], `[L][H]` is a list per layer of a list per head, keys of dicts are strings):

    {
      "definitions": {"sink_rate": "...", ...},                  what the entries below are, in words and formulas
      "lengths": {
        "64": {                                                  one entry per T that could be measured
          "sequences": 100, "tokens": 6400,
          "protocol": {"length": 64, "windows": 100, "bos": true, ...},                how the windows were cut
          "sink_rate":        {"raw": {"0.2": 0.41, "0.3": 0.33}, "renormalised": {...}},                    key 1
          "sink_rate_by_key": {"raw": {"0.2": [10 shares], "0.3": [...]}, "renormalised": {...}},      keys 1..10
          "sink_rate_any":    {"raw": {"0.2": 0.45, "0.3": 0.35}, "renormalised": {...}}, some key of enough rows
          "published": {"gu":       {"rate": {"0.2": 0.41, "0.3": 0.33}, "by_key": {"0.2": [10 shares], ...}},
                        "softpick": {"rate": {"0.2": 0.41, "0.3": 0.33}}},
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

`max_score` is the largest |score| met. An entry of `heads` is `null` where it has no row to average.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attention import row_stats
from attention.functional import MASS_FLOOR, SMALL_WEIGHT
from eval.analysis import progress
from eval.subjects.subject import Subject
from eval.windows import Windows, cut, obstacle
from models import AttentionCall, ModelError

DEAD_TOKENS = 0.95
KINDS = ("raw", "renormalised")

DEFINITIONS = {
    "sink_rate": "share of (sequence, layer, head) with alpha_1 > epsilon; alpha_k is the mean over the rows that see "
    "key k of W_ik (raw) or |W_ik| / (sum_j |W_ij| + 1e-8) (renormalised)",
    "sink_rate_by_key": "the same with alpha_k for the first keys, k = 1 first",
    "sink_rate_any": "share of (sequence, layer, head) in which some key has alpha_k > epsilon; a key counts if more "
    "rows see it than the setting audience times the most rows that see any (0.5 without a window: k <= T/2; 0: every "
    "key)",
    "gu": "Gu et al., arXiv 2410.10781 (there: T = 64, 100 sequences, epsilon 0.3): as sink_rate renormalised, which "
    "leaves rows that sum to one as they are, but divided by the T - k + 1 rows from k on even where a window hides "
    "the key from some",
    "softpick": "Zuhri et al., arXiv 2504.20966 (there: T = 512, epsilon 0.2 and 0.3): as sink_rate raw, but the mean "
    "over all T rows, those included that a window keeps from seeing key 1",
    "mass": "sum_j W_ij of a row: mean, and by position mean, 5th and 95th percentile over sequences, layers and heads",
    "entropy": "-sum_j p_ij ln p_ij with p = |W| / sum |W|, mean over rows with sum |W| >= 1e-8 (skipped_rows is the "
    "share of the others); normalised: divided by ln n_i, over rows that see n_i > 1 keys; support: mean of e^entropy",
    "sparsity": "shares of visible (query, key) pairs with W exactly 0 in float32 (zeros) and with |W| <= 1e-5 "
    "(small), share of rows with no weight other than 0 (empty_rows)",
    "dead_heads": "share of (layer, head) whose output has max |o| < epsilon at 95 % of tokens or more",
}


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    lengths: tuple[int, ...] = field(default=(64, 512), metadata={"help": "tokens per window"})
    train_length: bool = field(default=True, metadata={"help": "measure at the training length, too"})
    longest: int = field(default=4096, metadata={"help": "skip lengths beyond this"})
    sequences: int = field(default=100, metadata={"help": "windows per length"})
    thresholds: tuple[float, ...] = field(default=(0.2, 0.3), metadata={"help": "epsilon of the sink rate"})
    keys: int = field(default=10, metadata={"help": "first keys to report the sink rate of"})
    audience: float = field(
        default=0.5,
        metadata={
            "help": "sink_rate_any: keys that more rows see than this share of the most; 0 for every key"
        },
    )
    dead: tuple[float, ...] = field(
        default=(1e-6, 1e-2), metadata={"help": "a head's output below this is dead"}
    )
    bos: bool = field(default=True, metadata={"help": "begin windows with the beginning-of-document token"})

    def __post_init__(self) -> None:
        if min(self.lengths, default=2) < 2 or self.sequences < 1 or self.keys < 1:
            raise ModelError("sinks needs lengths of at least 2, and at least one sequence and one key")
        if not 0 <= self.audience < 1:
            raise ModelError(f"audience is a share of rows, at least 0 and below 1, got {self.audience}")


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
        measured[str(length)] = {"protocol": windows.protocol, **_measure(subject, settings, windows)}
        windows_of[str(length)] = windows.protocol
    if not measured:
        raise ModelError(f"sinks cannot be measured for {subject.name}: {skipped[0]['reason']}")
    protocol = {
        "windows": windows_of,
        "least_mass": MASS_FLOOR,
        "small_weight": SMALL_WEIGHT,
        "weights": "computed in float32 from the queries and keys that the model computed in its dtype",
        "dead_tokens": DEAD_TOKENS,
    }
    results = {"definitions": DEFINITIONS, "lengths": measured, "skipped": skipped}
    return {"protocol": protocol, "results": results}


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
    """What is kept of one layer: numbers per sequence and head, summed in float64 over one sequence at a time.

    Blocks of rows then fall alike and sums add up alike, whatever the batch.
    """

    def __init__(self, settings: Settings, positions: Tensor) -> None:
        self.settings = settings
        self.positions = positions
        self.values: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, call: AttentionCall) -> None:
        """Account for one forward pass of the layer."""
        for query, key, output in zip(
            call.query.split(1), call.key.split(1), call.output.split(1), strict=True
        ):
            self._add(query, key, output, call)

    def _add(self, query: Tensor, key: Tensor, output: Tensor, call: AttentionCall) -> None:
        stats = row_stats(query, key, call.mechanism, **call.arguments)
        length = query.shape[1]
        seen = stats.audience > self.settings.audience * stats.audience.amax(-1, keepdim=True)
        rows_from = torch.arange(length, 0, -1, device=query.device)[: self.settings.keys]
        for kind, received in zip(KINDS, (stats.key_mass, stats.key_mass_renormalised), strict=True):
            importance = received / stats.audience
            self._keep(f"importance {kind}", importance[..., : self.settings.keys])
            self._keep(f"largest importance {kind}", importance.where(seen[:, None], -torch.inf).amax(-1))
        self._keep("gu", stats.key_mass_renormalised[..., : self.settings.keys] / rows_from)
        self._keep("softpick", stats.key_mass[..., 0] / length)
        self._keep("mass_at", stats.mass[..., self.positions])

        visible = stats.visible[:, None].expand_as(stats.mass)
        full = stats.magnitude >= MASS_FLOOR
        several = full & (visible > 1)
        largest = output.abs().amax(-1).transpose(1, 2)
        rows = {
            "rows": torch.ones_like(stats.mass),
            "mass": stats.mass,
            "empty_rows": stats.magnitude == 0,
            "full_rows": full,
            "entropy": torch.where(full, stats.entropy, 0),
            "support": torch.where(full, stats.entropy.double().exp(), 0),
            "several_rows": several,
            "entropy_normalised": torch.where(several, stats.entropy / visible.clamp(min=2).log(), 0),
            "visible": visible,
            "zeros": stats.zeros,
            "small": stats.small,
            **{f"dead {threshold}": largest < threshold for threshold in self.settings.dead},
        }
        for name, value in rows.items():
            self._keep(name, value.sum(-1, dtype=torch.float64))
        self._keep("max_score", stats.max_score.amax(-1))

    def _keep(self, name: str, values: Tensor) -> None:
        self.values[name].append(values.double().cpu())


class _Measured:
    """The layers together: [L, N, H, ...] by name."""

    def __init__(self, layers: list[_Layer]) -> None:
        self.layers = layers

    def __getitem__(self, name: str) -> Tensor:
        return torch.stack([torch.cat(layer.values[name]) for layer in self.layers])

    def share(self, numerator: str, denominator: str) -> float | None:
        """Ratio of two sums; None where the denominator is 0."""
        above, below = float(self[numerator].sum()), float(self[denominator].sum())
        return above / below if below else None

    def by_head(self, numerator: str, denominator: str) -> Tensor:
        """Ratio of two sums, [L, H]; NaN where the denominator is 0."""
        return self[numerator].sum(1) / self[denominator].sum(1)


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
    measured = _Measured([layers[index] for index in sorted(layers)])
    return {"sequences": count, "tokens": count * length, **_summary(measured, settings, positions)}


def _summary(measured: _Measured, settings: Settings, positions: Tensor) -> dict[str, Any]:
    def above(name: str, reduce: Callable[[Tensor], Any]) -> dict[str, Any]:
        alpha = measured[name]
        return {str(epsilon): reduce((alpha > epsilon).double()) for epsilon in settings.thresholds}

    def rates(name: str, reduce: Callable[[Tensor], Any]) -> dict[str, dict[str, Any]]:
        return {kind: above(f"{name} {kind}", reduce) for kind in KINDS}

    def first(hit: Tensor) -> float:
        return float(hit[..., 0].mean())

    def by_key(hit: Tensor) -> Tensor:
        return hit.mean((0, 1, 2))

    mass_at = measured["mass_at"].flatten(0, 2)
    dead_tokens = {str(epsilon): measured.by_head(f"dead {epsilon}", "rows") for epsilon in settings.dead}
    return {
        "sink_rate": rates("importance", first),
        "sink_rate_by_key": rates("importance", by_key),
        "sink_rate_any": rates("largest importance", lambda hit: float(hit.mean())),
        "published": {
            "gu": {"rate": above("gu", first), "by_key": above("gu", by_key)},
            "softpick": {"rate": above("softpick", lambda hit: float(hit.mean()))},
        },
        "mass": {
            "mean": measured.share("mass", "rows"),
            "positions": (positions + 1).tolist(),
            "mean_at": mass_at.mean(0),
            "p5_at": _quantile(mass_at, 0.05),
            "p95_at": _quantile(mass_at, 0.95),
        },
        "entropy": {
            "nats": measured.share("entropy", "full_rows"),
            "normalised": measured.share("entropy_normalised", "several_rows"),
            "support": measured.share("support", "full_rows"),
            "skipped_rows": 1 - float(measured["full_rows"].sum() / measured["rows"].sum()),
        },
        "sparsity": {
            "zeros": measured.share("zeros", "visible"),
            "small": measured.share("small", "visible"),
            "empty_rows": measured.share("empty_rows", "rows"),
        },
        "dead_heads": {
            name: float((share >= DEAD_TOKENS).double().mean()) for name, share in dead_tokens.items()
        },
        "heads": {
            "sink_rate": rates("importance", lambda hit: hit[..., 0].mean(1)),
            "importance": {kind: measured[f"importance {kind}"][..., 0].mean(1) for kind in KINDS},
            "mass": measured.by_head("mass", "rows"),
            "entropy": measured.by_head("entropy", "full_rows"),
            "entropy_normalised": measured.by_head("entropy_normalised", "several_rows"),
            "support": measured.by_head("support", "full_rows"),
            "zeros": measured.by_head("zeros", "visible"),
            "small": measured.by_head("small", "visible"),
            "empty_rows": measured.by_head("empty_rows", "rows"),
            "max_score": measured["max_score"].amax(1),
            "dead_tokens": dead_tokens,
        },
    }


def _quantile(values: Tensor, share: float) -> Tensor:
    """Of each column of [N, M], one at a time, since torch takes the quantiles of 16 million numbers at most."""
    return torch.stack([column.quantile(share) for column in values.unbind(-1)])


def _positions(length: int) -> Tensor:
    """0-based rows 1, 2, 4, ... and the last, at which the mass is reported."""
    powers = [2**exponent - 1 for exponent in range(length.bit_length()) if 2**exponent <= length]
    return torch.tensor(sorted({*powers, length - 1}))
