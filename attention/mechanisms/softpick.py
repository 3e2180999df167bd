"""Softpick: rectified softmax that need not sum to one.

Source: Zuhri, Fuadi, Aji, "Softpick: No Attention Sink, No Massive Activations with Rectified Softmax",
arXiv 2504.20966 v4, equations 1, 2 and 7.

    w_ij = relu(e^{s_ij} - 1) / (sum_k |e^{s_ik} - 1| + epsilon),        s = q . k / sqrt(d)

What differs from the published kernels, and why:
- The pivot is max(0, max_k s_ik). The value is the same; with the paper's max_k s_ik, e^{-pivot} overflows float32
  once a row (or, online, its first block) lies below -88, and the row turns to zero or NaN.
- e^s - 1 is evaluated through expm1, since the difference cancels near s = 0, where a fresh model is.
Epsilon is added in the pivot's frame, as in the paper (1e-6 there and in its kernel, 1e-8 in its eager code).

Hazards: a row whose scores are all <= 0 is dead, output and gradients exactly zero, so never zero-initialise the
query or key projection; the only weight of the first row jumps from 0 to 1 at s = 0; every irrelevant key adds up to
1 to the denominator, so a relevant score must exceed ln n to win half of the weight.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attention.mechanism import Ratio
from attention.registry import register


@register
@dataclass(frozen=True)
class Softpick(Ratio):
    """relu(exp(s) - 1) / sum |exp(s) - 1|.

    Args:
        epsilon: added to the denominator, in the pivot's frame.
    """

    name: ClassVar[str] = "softpick"
    formula: ClassVar[str] = "relu(exp(s) − 1) / Σ |exp(s) − 1|"
    paper: ClassVar[str] = "Zuhri et al. 2025, arXiv 2504.20966 v4"
    pivot_floor: ClassVar[float | None] = 0.0

    epsilon: float = 1e-6

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """Equation 2, with the pivot max(0, max s); a hidden key counts as s = 0, which adds nothing."""
        score = score.masked_fill(~visible, 0)
        pivot = score.amax(-1, keepdim=True).clamp(min=0).detach()
        difference = torch.exp(score - pivot) - torch.exp(-pivot)
        return torch.relu(difference) / (difference.abs().sum(-1, keepdim=True) + self.epsilon)

    def terms(self, score: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
        """The positive part and the magnitude of e^{s-m} - e^{-m} = sign(s) e^{max(s,0)-m} (1 - e^{-|s|})."""
        magnitude = (score.relu() - pivot).exp_().mul_(score.abs().neg_().expm1_().neg_())
        return magnitude.copysign(score).relu_(), magnitude

    def derivatives(self, score: Tensor, pivot: Tensor, numerator: Tensor) -> tuple[Tensor, Tensor]:
        """1[s>0] e^{s-m} and sign(s) e^{s-m}; zero at s = 0 for both, as autograd has it.

        e^{s-m} = e^{max(s,0)-m} e^{-|s|} below zero: the exponentials of `terms`, which compiled kernels then share.
        """
        below = torch.where(score > 0, 1, score.abs().neg_().exp_())
        signed = (score.relu() - pivot).exp_().mul_(below).mul_(score.sign())
        return signed.relu(), signed

    def offset(self, pivot: Tensor) -> float:
        """Epsilon."""
        return self.epsilon
