"""alpha-entmax: sparse weights by a threshold, between softmax (alpha towards 1) and sparsemax (alpha = 2).

Source: Peters, Niculae, Martins, "Sparse Sequence-to-Sequence Models", arXiv 1905.05702, equation 8 and algorithm 2.

    w_ij = relu((alpha - 1) s_ij - tau_i)^{1 / (alpha - 1)},        tau_i such that sum_j w_ij = 1

Paper: alpha = 1.5 by sorting, any alpha by bisection; the gradient is dS = u (dP - sum_k u_k dP_k / sum_k u_k) with
u = w^{2 - alpha} on the support and 0 elsewhere.

Published code: kernels for GPUs (AdaSplash, arXiv 2502.12082) find tau by Halley's method inside a shrinking bracket,
ten sweeps over the keys.

Here: the reference sorts at alpha = 1.5, and bisects at any other, with last steps of Newton's method that carry the
gradient. Kernels find tau by Newton's method from max_j (alpha - 1) s_ij - 1, where the sum is at least 1: the sum is
convex in tau, so no step overshoots. The factor alpha - 1 goes into the scores.

Beware: alpha near 1 raises to a large power.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from attention.core.call import Call
from attention.core.errors import AttentionError
from attention.core.mechanism import SHARES, Bounds
from attention.core.registry import register
from attention.core.scores import Scores
from attention.forms.threshold import Threshold
from attention.mechanisms.sparsemax import from_largest

HALVINGS = 80
NEWTON_STEPS = 2
"""Each doubles the digits of tau, and the order of its derivatives that are right: after two, the third."""


@register
@dataclass(frozen=True)
class Entmax15(Threshold):
    """relu((alpha - 1) s - tau)^{1 / (alpha - 1)}, tau such that the row sums to one.

    Args:
        alpha: above 1, at most 2.
    """

    name: ClassVar[str] = "entmax15"
    formula: ClassVar[str] = "relu((α − 1) s − τ)^{1/(α − 1)},  τ: Σ = 1"
    paper: ClassVar[str] = "Peters, Niculae & Martins 2019, arXiv 1905.05702"
    bounds: ClassVar[Bounds] = SHARES
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"alpha": 1.25},)

    alpha: float = 1.5

    def __post_init__(self) -> None:
        if not 1 < self.alpha <= 2:
            raise AttentionError(f"entmax15 needs alpha above 1 and at most 2, got {self.alpha}")

    @property
    def exponent(self) -> float:
        """1 / (alpha - 1)."""
        return 1 / (self.alpha - 1)

    def scores(self, query: Tensor, key: Tensor, call: Call) -> Scores:
        """(alpha - 1) times the scaled dot product."""
        scores = super().scores(query, key, call)
        return replace(scores, scale=(self.alpha - 1) * scores.scale)

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """The formula, tau by sorting or bisection."""
        score = from_largest(score.masked_fill(~visible, -torch.inf))
        tau = _tau_by_sorting(score) if self.alpha == 1.5 else self._tau_by_bisection(score)
        return _positive_power((score - tau).masked_fill(~visible, 0), self.exponent)

    def weight(self, score: Tensor) -> Tensor:
        """relu(x)^{1 / (alpha - 1)}, x = (alpha - 1) s - tau."""
        return score.relu() ** self.exponent

    def weight_derivative(self, score: Tensor, weight: Tensor) -> Tensor:
        """relu(x)^{1 / (alpha - 1) - 1} / (alpha - 1), on the support."""
        return score.relu() ** (self.exponent - 1) * (score > 0) * self.exponent

    def _tau_by_bisection(self, score: Tensor) -> Tensor:
        with torch.no_grad():
            high = score.amax(-1, keepdim=True)
            low = high - 1
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                heavy = self.weight(score - middle).sum(-1, keepdim=True) >= 1
                low, high = middle.where(heavy, low), high.where(heavy, middle)
        tau = low
        for _ in range(NEWTON_STEPS):
            surplus = _positive_power(score - tau, self.exponent).sum(-1, keepdim=True) - 1
            slope = self.exponent * _positive_power(score - tau, self.exponent - 1).sum(-1, keepdim=True)
            tau = tau + surplus / slope
        return tau


def _positive_power(x: Tensor, exponent: float) -> Tensor:
    """relu(x)^exponent, whose derivatives of every order are 0 where x is not positive."""
    positive = ~(x <= 0)  # NaN, too
    return torch.where(positive, x, 1) ** exponent * positive


def _tau_by_sorting(score: Tensor) -> Tensor:
    """tau at alpha = 1.5: mean - sqrt((1 - squared deviations) / k) of the k largest scores, the support.

    Of scores relative to the largest, or squares of large scores would drown their differences.
    """
    ordered = score.sort(-1, descending=True).values
    seen = ordered > -torch.inf
    shifted = ordered.masked_fill(~seen, 0)
    size = torch.arange(1, score.shape[-1] + 1, dtype=score.dtype, device=score.device)
    mean = shifted.cumsum(-1) / size
    deviations = shifted.square().cumsum(-1) - size * mean.square()
    within = ((1 - deviations) / size).clamp(min=0)
    tau = mean - within.where(within > 0, 1).sqrt() * (within > 0)
    support = (seen & (tau <= shifted)).sum(-1, keepdim=True)
    return tau.gather(-1, support.clamp(min=1) - 1)  # a row that is not finite has no support, and stays NaN
