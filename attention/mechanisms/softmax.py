"""Softmax attention, the baseline.

Source: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, equation 1.

    w_ij = e^{s_ij} / sum_k e^{s_ik},        s = q . k / sqrt(d)

Paper: the scale 1/sqrt(d) keeps scores of wide heads from saturating it.

Published code: every framework's; those of torch and flash-attn are kernels here (`sdpa`, `flash`).

Here: the same. A row that sees nothing but padding gives 0.

Beware: invariant to a constant added to a row, and rows sum to one, hence its sink: a head with nothing to say must say
it somewhere.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attention.core.mechanism import SHARES, Bounds
from attention.core.registry import register
from attention.forms.ratio import Ratio


class Exponential(Ratio):
    """Numerator and denominator e^{s-m}: softmax, of whatever scores."""

    def terms(self, score: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
        """e^{s-m}, for both."""
        exponential = (score - pivot).exp_()
        return exponential, exponential

    def derivatives(self, score: Tensor, pivot: Tensor, numerator: Tensor) -> tuple[Tensor, Tensor]:
        """The exponential is its own derivative."""
        return numerator, numerator


@register
@dataclass(frozen=True)
class Softmax(Exponential):
    """exp(s) / sum exp(s)."""

    name: ClassVar[str] = "softmax"
    formula: ClassVar[str] = "exp(s) / Σ exp(s)"
    paper: ClassVar[str] = "Vaswani et al. 2017, arXiv 1706.03762"
    bounds: ClassVar[Bounds] = SHARES

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """Row softmax over the visible keys."""
        return score.masked_fill(~visible, -torch.inf).softmax(-1)
