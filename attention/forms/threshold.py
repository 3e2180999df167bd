"""Threshold: weights of what stands above the number at which a row sums to one."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from attention.core.form import Rowwise, form
from attention.core.masks import Tile

NEWTON_STEPS = 100
"""Never reached: the distance to the threshold shrinks by a factor per step, then quadratically."""


@form
class Threshold(Rowwise):
    """w_ij = weight(s_ij - tau_i), where tau_i is the number at which row i sums to one.

    `weight` is zero below zero, increasing and convex above, and 1 at 1, so that tau lies between the row's largest
    score less one and the largest score. Newton's method from the lower end never overshoots.
    """

    traced: ClassVar[dict[str, tuple[str, ...]]] = {
        "weight": ("score",),
        "weight_derivative": ("score", "weight"),
    }
    vanishes: ClassVar[bool] = True

    @abstractmethod
    def weight(self, score: Tensor) -> Tensor:
        """w(s - tau)."""

    @abstractmethod
    def weight_derivative(self, score: Tensor, weight: Tensor) -> Tensor:
        """dw/ds at s - tau, given w(s - tau)."""

    def row_weights(self, score: Tensor, tile: Tile, count: Tensor) -> tuple[Tensor, Tensor | None]:
        """w = weight(s - tau)."""
        return tile.zero_(self.weight(self._excess(score, tile))), None

    def row_gradients(
        self, score: Tensor, tile: Tile, count: Tensor, grad_weights: Tensor, grad_log_mass: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """dS = u (dP - sum_k u_k dP_k / sum_k u_k), u = weight'(s - tau)."""
        excess = self._excess(score, tile)
        weight = tile.zero_(self.weight(excess))
        slope = tile.zero_(self.weight_derivative(excess, weight))
        total = slope.sum(-1, keepdim=True)
        mean = (slope * grad_weights).sum(-1, keepdim=True) / total.masked_fill(total == 0, 1)
        return weight, slope * (grad_weights - mean)

    def _excess(self, score: Tensor, tile: Tile) -> Tensor:
        """s - tau, by Newton's method on sum_j weight(s_j - tau) = 1 from tau = max s - 1, where it is at least 1."""
        largest = tile.maximum(score)
        score = score - largest.masked_fill(largest == -torch.inf, 0)
        tau = torch.full_like(largest, -1)
        for _ in range(NEWTON_STEPS):
            weight = tile.zero_(self.weight(score - tau))
            slope = tile.zero_(self.weight_derivative(score - tau, weight)).sum(-1, keepdim=True)
            surplus = weight.sum(-1, keepdim=True) - 1
            step = (surplus / slope.masked_fill(slope == 0, 1)).clamp_(min=0)
            if not bool((tau + step > tau).any()):
                break
            tau = tau + step
        return score - tau
