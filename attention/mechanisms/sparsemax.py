"""Sparsemax: the Euclidean projection of a row of scores onto the simplex.

Source: Martins, Astudillo, "From Softmax to Sparsemax", arXiv 1602.02068, algorithm 1 and proposition 1.

    w_ij = relu(s_ij - tau_i),        tau_i such that sum_j w_ij = 1

Paper: tau by sorting; the gradient is centred on the support, dS = 1[w > 0] (dP - mean of dP over the support).

Published code: none was consulted.

Here: the reference sorts; kernels use Newton's method from max_j s_ij - 1, where the sum is at least 1: the sum is
convex and piecewise linear in tau, so that the steps never overshoot and end after finitely many.

Beware: a key outside of the support gets no gradient. Scores that differ by more than 1 leave a single key.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attention.core.mechanism import SHARES, Bounds
from attention.core.registry import register
from attention.forms.threshold import Threshold


def from_largest(score: Tensor) -> Tensor:
    """Scores less their row's largest: the same weights, and large ones do not drown a threshold within 1 of it."""
    return score - score.amax(-1, keepdim=True).detach()


@register
@dataclass(frozen=True)
class Sparsemax(Threshold):
    """relu(s - tau), tau such that the row sums to one."""

    name: ClassVar[str] = "sparsemax"
    formula: ClassVar[str] = "relu(s − τ),  τ: Σ = 1"
    paper: ClassVar[str] = "Martins & Astudillo 2016, arXiv 1602.02068"
    bounds: ClassVar[Bounds] = SHARES

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """The k largest scores, as long as 1 + k s_(k) > sum_{r <= k} s_(r), share what they exceed tau by."""
        score = from_largest(score.masked_fill(~visible, -torch.inf))
        ordered = score.sort(-1, descending=True).values
        rank = torch.arange(1, score.shape[-1] + 1, dtype=score.dtype, device=score.device)
        excess = ordered.masked_fill(ordered == -torch.inf, 0).cumsum(-1) - 1
        support = (rank * ordered > excess).sum(-1, keepdim=True).clamp(min=1)
        tau = excess.gather(-1, support - 1) / support
        return (score - tau).relu() * visible

    def weight(self, score: Tensor) -> Tensor:
        """relu(x), x = s - tau."""
        return score.relu()

    def weight_derivative(self, score: Tensor, weight: Tensor) -> Tensor:
        """1[x > 0], the sign of relu(x)."""
        return weight.sign()
