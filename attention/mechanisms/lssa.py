"""LSSA: length-scaled softplus attention.

Source: Gao, Spratling, "Length-scaled softplus attention with re-weighting", arXiv 2501.13428 (ICML 2026 version).

    w_ij = softplus(x_ij) / (sum_k softplus(x_ik) + epsilon),        x_ij = ln(d) ln(n_i) q_i . k_j / (|q_i| |k_j|)

Paper: n_i is the number of keys that query i sees; natural logarithms.

Published code: announced, not reachable. Epsilon is that of two independent implementations.

Here: scores are bounded by ln(d) ln(n_i), so no pivot is needed. The factor goes into the query: cached keys stay valid
while n_i grows.

Beware: when comparing, note that queries and keys are normalised and that plain softmax lacks the length factor; the
baseline that has both is ssmax with `learned=False` and `model.qk_norm=true`. Softplus is close to linear, so one key
at cosine 1 among others at 0 gets 4 % of the weight at n = 1024, d = 64. Where all keys point away from a query,
softplus falls below epsilon: such a row sums to 3 % at that size.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from attention.core.call import Call
from attention.core.l2norm import l2norm
from attention.core.mechanism import PARTS, Bounds, Mechanism
from attention.core.registry import register
from attention.core.scores import Scores
from attention.forms.ratio import Ratio


class LengthScaledCosine(Mechanism):
    """Scores x_ij = ln(d) ln(n_i) cos(q_i, k_j), natural logarithms, d the head dimension."""

    def settled(self, key: Tensor) -> Tensor:
        """Unit keys."""
        return l2norm(key)

    def scores(self, query: Tensor, key: Tensor, call: Call) -> Scores:
        """Unit queries and keys; the length factor goes into the query."""
        self._refuse_scale(call.scale)
        wide = torch.promote_types(query.dtype, torch.float32)
        length = call.log_count(wide)[..., None]
        query = l2norm(query, math.log(query.shape[-1]) * length, plain=call.plain)
        return Scores(query, key if call.settled else l2norm(key, plain=call.plain))


@register
@dataclass(frozen=True)
class Lssa(LengthScaledCosine, Ratio):
    """softplus(x) / sum softplus(x).

    Args:
        epsilon: added to the denominator.
    """

    name: ClassVar[str] = "lssa"
    formula: ClassVar[str] = "softplus(x) / Σ softplus(x),  x = ln d · ln n · cos(q, k)"
    paper: ClassVar[str] = "Gao & Spratling 2025, arXiv 2501.13428"
    bounds: ClassVar[Bounds] = PARTS
    pivot_floor: ClassVar[float | None] = None

    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        self._refuse_negative("epsilon", self.epsilon)

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """Softplus, normalised by the row sum."""
        positive = softplus(score) * visible
        return positive / (positive.sum(-1, keepdim=True) + self.epsilon)

    def terms(self, score: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
        """softplus(x), for both."""
        positive = softplus(score)
        return positive, positive

    def derivatives(self, score: Tensor, pivot: Tensor, numerator: Tensor) -> tuple[Tensor, Tensor]:
        """The logistic function, for both."""
        derivative = score.sigmoid()
        return derivative, derivative

    def offset(self, pivot: Tensor) -> float:
        """Epsilon."""
        return self.epsilon
