"""The numbers of sinks in windows of one length, as `eval/analyses/sinks.py` defines them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from eval.row_sums import KINDS, AllLayers, Entropy, Mass, PerHead, Sparsity, per_head
from eval.windows import Windows

DEAD_TOKENS = 0.95
"""Share of the tokens at which the output of a dead head stays small."""

T = TypeVar("T")


@dataclass(frozen=True)
class Both(Generic[T]):
    """A number of weights as they are, and of rows divided by their magnitude."""

    raw: T
    renormalised: T


@dataclass(frozen=True)
class Rate:
    """A published sink rate by threshold, and by key where the publication has it."""

    rate: Mapping[str, float]
    by_key: Mapping[str, list[float]] | None = None


@dataclass(frozen=True)
class Published:
    """The sink rates as Gu et al. and the authors of softpick define them."""

    gu: Rate
    softpick: Rate


@dataclass(frozen=True)
class Contribution:
    """Sinks of what keys contribute, |W_ij| ||v_j|| in place of |W_ij|, with rows divided by their sum.

    Attributes:
        sink_rate: as of weights; by threshold.
        sink_rate_by_key: the same for the first keys.
        heads: the sink rate of each head, by threshold.
        importance: what the first key contributes on average, of each head.
    """

    sink_rate: Mapping[str, float]
    sink_rate_by_key: Mapping[str, list[float]]
    heads: Mapping[str, PerHead]
    importance: PerHead


@dataclass(frozen=True)
class Heads:
    """The numbers of each head."""

    sink_rate: Both[Mapping[str, PerHead]]
    importance: Both[PerHead]
    mass: PerHead
    entropy: PerHead
    entropy_normalised: PerHead
    support: PerHead
    zeros: PerHead
    small: PerHead
    empty_rows: PerHead
    max_score: PerHead
    dead_tokens: Mapping[str, PerHead]


@dataclass(frozen=True)
class AtLength:
    """The numbers of windows of one length; older results lack what keys contribute."""

    protocol: Mapping[str, Any]
    sequences: int
    tokens: int
    sink_rate: Both[Mapping[str, float]]
    sink_rate_by_key: Both[Mapping[str, list[float]]]
    sink_rate_any: Both[Mapping[str, float]]
    published: Published
    mass: Mass
    entropy: Entropy
    sparsity: Sparsity
    dead_heads: Mapping[str, float]
    heads: Heads
    contribution: Contribution | None = None


def at_length(
    measured: AllLayers,
    positions: Tensor,
    windows: Windows,
    *,
    thresholds: Sequence[float],
    dead: Sequence[float],
) -> AtLength:
    """Sum up all layers.

    Args:
        measured: the sums over rows.
        positions: rows whose mass was kept.
        windows: that were measured.
        thresholds: epsilon of the sink rate.
        dead: epsilon of dead heads.
    """

    def above(name: str, reduce: Callable[[Tensor], Any]) -> dict[str, Any]:
        alpha = measured[name]
        return {str(epsilon): reduce((alpha > epsilon).double()) for epsilon in thresholds}

    def both(name: str, reduce: Callable[[Tensor], Any]) -> dict[str, dict[str, Any]]:
        return {kind: above(f"{name} {kind}", reduce) for kind in KINDS}

    def first(hit: Tensor) -> float:
        return float(hit[..., 0].mean())

    def by_key(hit: Tensor) -> list[float]:
        return hit.mean((0, 1, 2)).tolist()

    dead_tokens = {str(epsilon): measured.by_head(f"dead {epsilon}", "rows") for epsilon in dead}
    count, length = windows.tokens.shape
    return AtLength(
        protocol=windows.protocol,
        sequences=count,
        tokens=count * length,
        sink_rate=Both(**both("importance", first)),
        sink_rate_by_key=Both(**both("importance", by_key)),
        sink_rate_any=Both(**both("largest importance", lambda hit: float(hit.mean()))),
        published=Published(
            gu=Rate(above("gu", first), above("gu", by_key)),
            softpick=Rate(above("softpick", lambda hit: float(hit.mean()))),
        ),
        mass=measured.mass(positions),
        entropy=measured.entropy(),
        sparsity=measured.sparsity(),
        dead_heads={
            name: float((share >= DEAD_TOKENS).double().mean()) for name, share in dead_tokens.items()
        },
        heads=Heads(
            sink_rate=Both(**both("importance", lambda hit: per_head(hit[..., 0].mean(1)))),
            importance=Both(
                **{kind: per_head(measured[f"importance {kind}"][..., 0].mean(1)) for kind in KINDS}
            ),
            mass=measured.per_head("mass", "rows"),
            entropy=measured.per_head("entropy", "full_rows"),
            entropy_normalised=measured.per_head("entropy_normalised", "several_rows"),
            support=measured.per_head("support", "full_rows"),
            zeros=measured.per_head("zeros", "visible"),
            small=measured.per_head("small", "visible"),
            empty_rows=measured.per_head("empty_rows", "rows"),
            max_score=per_head(measured["max_score"].amax(1)),
            dead_tokens={name: per_head(share) for name, share in dead_tokens.items()},
        ),
        contribution=Contribution(
            sink_rate=above("contribution", first),
            sink_rate_by_key=above("contribution", by_key),
            heads=above("contribution", lambda hit: per_head(hit[..., 0].mean(1))),
            importance=per_head(measured["contribution"][..., 0].mean(1)),
        ),
    )
