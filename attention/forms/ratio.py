"""Ratio: numerators over a sum of denominators."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attention.core.call import Call
from attention.core.capped import Capped
from attention.core.form import Rowwise, form
from attention.core.masks import Tile
from attention.core.mechanism import Mechanism


@form
class Ratio(Rowwise):
    """w_ij = numerator(s_ij) / (offset + sum_k denominator(s_ik)), each scaled by e^-pivot.

    The pivot is the row maximum, raised to `pivot_floor`; it cancels and exists so that nothing overflows. A
    mechanism whose terms grow at most linearly needs none and sets `pivot_floor = None` (pivot 0).

    Numerator and denominator are `steep` where they are one function that may be next to nothing while its derivative
    is not. Gradients cancel there and are divided by next to nothing, so kernels must not take sum_j w_ij dP_ij from
    the outputs, which are rounded.
    """

    traced: ClassVar[dict[str, tuple[str, ...]]] = {
        "terms": ("score", "pivot"),
        "derivatives": ("score", "pivot", "numerator"),
        "offset": ("pivot",),
    }
    has_mass: ClassVar[bool] = True
    pivot_floor: ClassVar[float | None] = float("-inf")
    steep: ClassVar[bool] = False

    @abstractmethod
    def terms(self, score: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
        """Numerator and denominator; the same tensor twice where they are one function."""

    @abstractmethod
    def derivatives(self, score: Tensor, pivot: Tensor, numerator: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of both by the score, at a fixed pivot, given the numerator."""

    def offset(self, pivot: Tensor) -> Tensor | float:
        """The constant of the denominator, in the pivot's frame."""
        return 0.0

    def capped(self, cap: float) -> Mechanism:
        """Terms of capped scores."""
        return CappedRatio(self, cap)

    def constants(self) -> dict[str, bool | float]:
        """`pivoted`, whether there is a pivot; its floor; `steep`."""
        floor = self.pivot_floor
        return {
            "pivoted": floor is not None,
            "pivot_floor": 0.0 if floor is None else floor,
            "steep": self.steep,
        }

    def log_mass(self, score: Tensor, visible: Tensor) -> Tensor | None:
        """Pivot + ln Z, Z = offset + sum of denominators; the pivot, with no gradient, where Z is 0."""
        pivot = score.new_zeros(1)
        if self.pivot_floor is not None:
            pivot = score.masked_fill(~visible, -torch.inf).amax(-1, keepdim=True).clamp(min=self.pivot_floor)
            pivot = pivot.detach().masked_fill(pivot == -torch.inf, 0)
        _, denominator = _differentiable_terms(self, score.where(visible, pivot), pivot)
        total = denominator.where(visible, 0).sum(-1, keepdim=True) + self.offset(pivot)
        return total.masked_fill(total == 0, 1).log() + pivot

    def row_weights(self, score: Tensor, tile: Tile, count: Tensor) -> tuple[Tensor, Tensor | None]:
        """w = numerator / Z, Z = offset + sum of denominators; the log mass is pivot + ln Z."""
        pivot = self._pivot(score, tile)
        numerator, total = self._row_terms(score, tile, pivot)
        return numerator.div_(total), total.log() + pivot

    def row_gradients(
        self, score: Tensor, tile: Tile, count: Tensor, grad_weights: Tensor, grad_log_mass: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """dS = (numerator' dP - denominator' (delta - g)) / Z, delta = sum_j w_j dP_j, g the gradient of the log mass.

        delta is taken of the weights: where one key has all the weight it is dP to the last bit, and nothing is left
        but g. Where terms are steep, dP - delta is dP less its mean and the offset's share of that mean, two small
        numbers that each keep their digits.
        """
        pivot = self._pivot(score, tile)
        numerator, total = self._row_terms(score, tile, pivot)
        numerator_slope, denominator_slope = self.derivatives(score, pivot, numerator)
        weight = numerator / total
        delta = (weight * grad_weights).sum(-1, keepdim=True)
        if numerator_slope is denominator_slope:
            centred = grad_weights - delta
            if self.steep:
                mass = numerator.sum(-1, keepdim=True)
                change = (numerator * centred).sum(-1, keepdim=True) / mass.masked_fill(mass == 0, 1)
                mean = delta + change
                centred = (grad_weights - mean).add_(self.offset(pivot) / total * mean)
            centred = centred if grad_log_mass is None else centred.add_(grad_log_mass)
            grad_score = centred.mul_(numerator_slope).div_(total)
        else:
            delta = delta if grad_log_mass is None else delta - grad_log_mass
            grad_score = (numerator_slope * grad_weights).sub_(denominator_slope * delta).div_(total)
        return weight, tile.zero_(grad_score)

    def _pivot(self, score: Tensor, tile: Tile) -> Tensor:
        if self.pivot_floor is None:
            return score.new_zeros(1)
        pivot = tile.maximum(score).clamp_(min=self.pivot_floor)
        return pivot.masked_fill_(pivot == -torch.inf, 0)

    def _row_terms(self, score: Tensor, tile: Tile, pivot: Tensor) -> tuple[Tensor, Tensor]:
        numerator, denominator = self.terms(score, pivot)
        tile.zero_(numerator)
        if denominator is not numerator:
            tile.zero_(denominator)
        total = denominator.sum(-1, keepdim=True).add_(self.offset(pivot))
        return numerator, total.masked_fill_(total == 0, 1)


def _differentiable_terms(mechanism: Ratio, score: Tensor, pivot: Tensor) -> tuple[Tensor, ...]:
    """`terms` as autograd can follow them: written for kernels, they overwrite what it would keep."""
    from attention.core.formula import evaluate, formula_of  # imports torch's compiler

    return evaluate(formula_of(mechanism)["terms"], score, pivot)


@dataclass(frozen=True)
class CappedRatio(Capped, Ratio):
    """Terms of capped scores, which are small enough to need no pivot: the offset is added to the sum as it is."""

    inner: Ratio
    form = Ratio
    pivot_floor: ClassVar[float | None] = None

    @property
    def steep(self) -> bool:  # type: ignore[override]
        """As the mechanism."""
        return self.inner.steep

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """The numerators over the offset and the sum of the denominators, 0 where that is 0."""
        pivot = score.new_zeros(1)
        numerator, denominator = _differentiable_terms(self, score, pivot)
        total = denominator.where(visible, 0).sum(-1, keepdim=True) + self.offset(pivot)
        return numerator / total.masked_fill(total == 0, 1)

    def weights_in(self, call: Call, score: Tensor, visible: Tensor) -> Tensor:
        """`weights`: a Ratio's functions know no call."""
        return self.weights(score, visible)

    def terms(self, score: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
        """The mechanism's, after the cap."""
        return self.inner.terms(self.capping(score), pivot)

    def derivatives(self, score: Tensor, pivot: Tensor, numerator: Tensor) -> tuple[Tensor, Tensor]:
        """The mechanism's, times the cap's own."""
        first, second = self.inner.derivatives(self.capping(score), pivot, numerator)
        slope = self.slope(score)
        return (slope * first,) * 2 if first is second else (slope * first, slope * second)

    def offset(self, pivot: Tensor) -> Tensor | float:
        """The mechanism's own."""
        return self.inner.offset(pivot)
