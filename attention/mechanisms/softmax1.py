"""Softmax1: softmax with a one in the denominator, so that a head may say nothing.

Source: Miller, "Attention Is Off By One", 2023, an essay without a paper.

    w_ij = e^{s_ij} / (1 + sum_k e^{s_ik}),        s = q . k / sqrt(d)

Paper: proposed against outliers in activations, without experiments. The softpick paper (arXiv 2504.20966 v4, table 3)
trained it at 340M parameters: half of softmax's sink rate.

Published code: pads keys and values with zeros, one key for each 1 in the denominator, and calls softmax.

Here: the one is added in the frame of the pivot max(0, max s), where it is e^-pivot; nothing is padded.

Beware: not invariant to a constant added to a row, as softmax is: the one is a key of score 0.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from attention.core.mechanism import PARTS, Bounds
from attention.core.registry import register
from attention.mechanisms.softmax import Exponential


@register
@dataclass(frozen=True)
class Softmax1(Exponential):
    """exp(s) / (1 + sum exp(s))."""

    name: ClassVar[str] = "softmax1"
    formula: ClassVar[str] = "exp(s) / (1 + Σ exp(s))"
    paper: ClassVar[str] = "Miller 2023, Attention Is Off By One (essay, no arXiv number)"
    bounds: ClassVar[Bounds] = PARTS
    pivot_floor: ClassVar[float | None] = 0.0

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """Row softmax over the visible keys and one more of score 0, whose weight is dropped."""
        return pad(score.masked_fill(~visible, -torch.inf), (0, 1)).softmax(-1)[..., :-1]

    def offset(self, pivot: Tensor) -> Tensor:
        """One, in the pivot's frame."""
        return (-pivot).exp()
