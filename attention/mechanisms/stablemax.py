"""StableMax attention: a normaliser that grows and falls polynomially.

Source: Prieto et al., "Grokking at the Edge of Numerical Stability", arXiv 2501.04697 (the normaliser only).

    w_ij = g(s_ij) / sum_k g(s_ik),        g(s) = s + 1 where s >= 0, 1 / (1 - s) where s < 0

Paper: g replaces e^s in the loss, whose softmax absorbs small logits in float32. Attention stays as it was.

Published code: adds 1e-30 inside of the reciprocal, whose argument is at least 1 already.

Here: g as the normaliser of attention, s = q . k / sqrt(d), which the paper does not evaluate. Both branches are
(1 + relu(s)) / (1 + relu(-s)). It cannot overflow and needs no pivot.

Beware: tails are heavy. Scores of 10 and -10 weigh 121 to 1, where softmax has 5e8 to 1, so rows are close to uniform
unless scores are huge.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attention.core.mechanism import SHARES, Bounds
from attention.core.registry import register
from attention.forms.ratio import Ratio


@register
@dataclass(frozen=True)
class Stablemax(Ratio):
    """g(s) / sum g(s)."""

    name: ClassVar[str] = "stablemax"
    formula: ClassVar[str] = "g(s) / Σ g(s),  g(s) = s + 1 for s ≥ 0, 1 / (1 − s) for s < 0"
    paper: ClassVar[str] = "Prieto et al. 2025, arXiv 2501.04697 (normaliser only)"
    bounds: ClassVar[Bounds] = SHARES
    pivot_floor: ClassVar[float | None] = None

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """g, normalised by the row sum."""
        positive = (score + 1).where(score >= 0, 1 / (1 - score.clamp(max=0))) * visible
        return positive / positive.sum(-1, keepdim=True)

    def terms(self, score: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
        """g(s), for both."""
        positive = (1 + score.relu()) / (1 + (-score).relu())
        return positive, positive

    def derivatives(self, score: Tensor, pivot: Tensor, numerator: Tensor) -> tuple[Tensor, Tensor]:
        """1 above zero, 1 / (1 - s)^2 below, for both."""
        derivative = (1 + (-score).relu()).square().reciprocal()
        return derivative, derivative
