"""Sums over the rows of attention, for each head and sequence, and the means and shares that they give."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attention import row_stats
from attention.statistics import MASS_FLOOR
from models import AttentionCall, ModelError

KINDS = ("raw", "renormalised")
"""Weights as they are, and of rows divided by their magnitude."""


PerHead = list[list[float | None]]
"""A list per layer of a number per head."""


@dataclass(frozen=True)
class Mass:
    """Sums of rows, over sequences, layers and heads."""

    mean: float | None
    positions: list[int]
    mean_at: list[float]
    p5_at: list[float]
    p95_at: list[float]


@dataclass(frozen=True)
class Entropy:
    """Entropy of rows."""

    nats: float | None
    normalised: float | None
    support: float | None
    skipped_rows: float


@dataclass(frozen=True)
class Sparsity:
    """Shares of zeros and small weights among visible pairs, and of empty rows."""

    zeros: float | None
    small: float | None
    empty_rows: float | None


class RowSums:
    """Numbers per sequence and head of one layer, summed in float64 over the rows of a sequence, whatever its batch.

    Args:
        positions: rows whose mass is kept.
        keys: first keys whose importance is kept.
        audience: share of the most rows that see a key from which on a key counts among all keys.
        dead: thresholds below which the output of a head counts as dead at a token.
    """

    def __init__(self, positions: Tensor, *, keys: int, audience: float, dead: Sequence[float]) -> None:
        self.positions, self.keys, self.audience, self.dead = positions, keys, audience, dead
        self.values: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, call: AttentionCall) -> None:
        """Account for one forward pass of the layer."""
        query = call.query
        stats = row_stats(query, call.key, call.mechanism, value=call.value, **call.spec.options)
        length = query.shape[1]
        audience = stats.audience[:, None]
        seen = audience > self.audience * audience.amax(-1, keepdim=True)
        rows_from = torch.arange(length, 0, -1, device=query.device)[: self.keys]
        for kind, received in zip(KINDS, (stats.key_mass, stats.key_mass_renormalised), strict=True):
            importance = received / audience
            self._keep(f"importance {kind}", importance[..., : self.keys])
            self._keep(f"largest importance {kind}", importance.where(seen, -torch.inf).amax(-1))
        assert stats.key_contribution is not None
        self._keep("contribution", (stats.key_contribution / audience)[..., : self.keys])
        self._keep("gu", stats.key_mass_renormalised[..., : self.keys] / rows_from)
        self._keep("softpick", stats.key_mass[..., 0] / length)
        self._keep("mass_at", stats.mass[..., self.positions])

        visible = stats.visible[:, None].expand_as(stats.mass)
        full = stats.magnitude >= MASS_FLOOR
        several = full & (visible > 1)
        largest = call.output.abs().amax(-1).transpose(1, 2)
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
            **{f"dead {threshold}": largest < threshold for threshold in self.dead},
        }
        for name, value in rows.items():
            self._keep(name, value.sum(-1, dtype=torch.float64))
        self._keep("max_score", stats.max_score.amax(-1))

    def _keep(self, name: str, values: Tensor) -> None:
        self.values[name].append(values.double().cpu())


class AllLayers:
    """The sums of all layers together: [L, N, H, ...] by name."""

    def __init__(self, layers: list[RowSums]) -> None:
        """Take layers in their order.

        Raises:
            ModelError: they differ in their number of heads.
        """
        heads = {layer.values["mass_at"][0].shape[1] for layer in layers}
        if len(heads) > 1:
            found = " and ".join(map(str, sorted(heads)))
            raise ModelError(f"layers with {found} heads cannot be summed up in one table")
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

    def per_head(self, numerator: str, denominator: str) -> PerHead:
        """Ratio of two sums as lists."""
        return per_head(self.by_head(numerator, denominator))

    def mass(self, positions: Tensor) -> Mass:
        """The sums of rows, those at 0-based `positions` among them."""
        at = self["mass_at"].flatten(0, 2)
        return Mass(
            mean=self.share("mass", "rows"),
            positions=(positions + 1).tolist(),
            mean_at=at.mean(0).tolist(),
            p5_at=quantile(at, 0.05).tolist(),
            p95_at=quantile(at, 0.95).tolist(),
        )

    def entropy(self) -> Entropy:
        """The entropy of rows that have weight."""
        return Entropy(
            nats=self.share("entropy", "full_rows"),
            normalised=self.share("entropy_normalised", "several_rows"),
            support=self.share("support", "full_rows"),
            skipped_rows=1 - float(self["full_rows"].sum() / self["rows"].sum()),
        )

    def sparsity(self) -> Sparsity:
        """The shares of zeros and small weights."""
        return Sparsity(
            zeros=self.share("zeros", "visible"),
            small=self.share("small", "visible"),
            empty_rows=self.share("empty_rows", "rows"),
        )


def per_head(values: Tensor) -> PerHead:
    """Numbers [L, H] as lists, None where there is none."""
    return [[value if math.isfinite(value) else None for value in layer] for layer in values.tolist()]


def quantile(values: Tensor, share: float) -> Tensor:
    """Quantile of each column of [N, M], one at a time, since torch takes those of 16 million numbers at most."""
    return torch.stack([column.quantile(share) for column in values.unbind(-1)])


def positions_up_to(length: int) -> Tensor:
    """0-based rows 1, 2, 4, ... and the last, at which the mass is reported."""
    powers = [2**exponent - 1 for exponent in range(length.bit_length()) if 2**exponent <= length]
    return torch.tensor(sorted({*powers, length - 1}))
