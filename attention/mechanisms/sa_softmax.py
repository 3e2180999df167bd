"""Self-adjusting softmax: probabilities times scores, so that the gradient does not vanish where a key has won.

Source: "Self-Adjust Softmax", arXiv 2502.18277 (EMNLP 2025); p = softmax(s).

    version 1:  w_ij = s_ij p_ij
    version 2:  w_ij = p_ij (s_ij - a_i) / (b_i - a_i),        a_i = min(0, min_j s_ij),  b_i = max(0, max_j s_ij)

Paper: both versions, the second to keep weights between 0 and 1.

Published code: gradients flow through minimum and maximum. It adds 1e-10 to b - a, with which gradients reach 1e9 where
all scores are near 0.

Here: gradients flow as there; b - a is 0.01 at least, in the forward pass as well: the weights of a row whose scores
are all far below 0.01 in magnitude vanish, where those of the published code are of order one. Keys that tie with an
extreme share its gradient.

Beware: weights of version 1 are negative where s < 0 and not bounded; rows of neither version sum to one; the only
weight of the first row of version 2 jumps from 0 to 1 at s = 0.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attention.core.errors import AttentionError
from attention.core.mechanism import PARTS, Bounds
from attention.core.registry import register
from attention.forms.adjusted import TIED, Adjusted
from attention.mechanisms.softmax import Softmax

LEAST_SPAN = 1e-2


@register
@dataclass(frozen=True)
class SaSoftmax(Adjusted):
    """p (s - a) / (b - a), or s p.

    Args:
        version: 1 or 2.
    """

    name: ClassVar[str] = "sa_softmax"
    formula: ClassVar[str] = (
        "p (s − a) / (b − a),  p = softmax(s), a = min(0, s), b = max(0, s)  [s p, version = 1]"
    )
    paper: ClassVar[str] = "Self-Adjust Softmax, 2025, arXiv 2502.18277"
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"version": 1},)

    version: int = 2

    def __post_init__(self) -> None:
        if self.version not in (1, 2):
            raise AttentionError(f"sa_softmax has versions 1 and 2, got {self.version!r}")

    @property
    def bounds(self) -> Bounds:  # type: ignore[override]
        """Version 1 has none."""
        everything = (-math.inf, math.inf)
        return PARTS if self.version == 2 else Bounds(weight=everything, mass=everything)

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """The formulas."""
        share = Softmax().weights(score, visible)
        if self.version == 1:
            return score * share
        score = score.masked_fill(~visible, 0)
        low, high = (
            _mean_of_tied(score, extreme(score, -1, keepdim=True)) for extreme in (torch.amin, torch.amax)
        )
        low, high = low.where(low < 0, 0), high.where(high > 0, 0)
        return share * (score - low) / (high - low).clamp(min=LEAST_SPAN)

    def weight(self, score: Tensor, share: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        """The formulas."""
        if self.version == 1:
            return score * share
        low, span = self._range(lowest, highest)
        return share * ((score - low) / span)

    def weight_derivatives(
        self, score: Tensor, share: Tensor, lowest: Tensor, highest: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | float, Tensor | float]:
        """Differentiate by s, p, by a where that is below 0, and by b where that is above 0."""
        if self.version == 1:
            return share, score, 0.0, 0.0
        low, span = self._range(lowest, highest)
        by_score, by_share = share / span, (score - low) / span
        by_span = torch.where(highest.relu() - low > LEAST_SPAN, -by_score * by_share, 0)
        return by_score, by_share, -(by_score + by_span) * (lowest < 0), by_span * (highest > 0)

    def _range(self, lowest: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
        """a, and b - a."""
        low = -(-lowest).relu()
        return low, (highest.relu() - low).clamp(min=LEAST_SPAN)


def _mean_of_tied(score: Tensor, extreme: Tensor) -> Tensor:
    """An extreme, as the mean of the scores that tie with it."""
    extreme = extreme.detach()
    tied = (score - extreme).abs() <= TIED * extreme.abs()
    return (score * tied).sum(-1, keepdim=True) / tied.sum(-1, keepdim=True)
