"""Softpick: rectified softmax that need not sum to one.

Source: Zuhri, Fuadi, Aji, "Softpick: No Attention Sink, No Massive Activations with Rectified Softmax",
arXiv 2504.20966 v4, equations 1, 2 and 7.

    w_ij = relu(e^{s_ij} - 1) / (sum_k |e^{s_ik} - 1| + epsilon),        s = q . k / sqrt(d)

Paper: pivot m = max s, epsilon 1e-6; no attention sink, far smaller activations, near parity with softmax at 340M
parameters; at 1.8B it loses 0.12 nats.

Published code: epsilon is 1e-8 in the eager version and 1e-6 in the kernel, added after the shift by the pivot in
both. With the pivot max s the eager version's gradients turn into NaN, and the kernel's row into zero or NaN, as soon
as a row (or its first block) lies below about -88 in float32.

Here: pivot max(0, max s), the same value without the overflow; epsilon 1e-6 in the pivot's frame; e^s - 1 through
expm1, because the plain difference loses its digits near s = 0, where a fresh model is. At s = 0 exactly the gradient
is 0. As in the published kernel the pivot has no gradient though epsilon stands in its frame, so that gradients differ
from those of the outputs by epsilon times the gradient of the weights at most.

Beware: a row whose scores are all <= 0 is dead; zero-initialised query or key projections never leave that state, and
the config refuses `init_std` 0. The only weight of the first row jumps from 0 to 1 at s = 0. Every irrelevant key adds
up to 1 to the denominator: a relevant score must exceed ln n to win half of the weight.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attention.core.mechanism import PARTS, Bounds
from attention.core.registry import register
from attention.forms.ratio import Ratio


def exponential_less_one(score: Tensor, pivot: Tensor) -> Tensor:
    """e^{s-m} - e^{-m}; as e^{-m} (e^s - 1) where s is small, since the difference would lose its digits."""
    small = torch.exp(-pivot) * score.clamp(max=1).expm1()
    return torch.where(score > 1, torch.exp(score - pivot) - torch.exp(-pivot), small)


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
    bounds: ClassVar[Bounds] = PARTS
    pivot_floor: ClassVar[float | None] = 0.0

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        self._refuse_negative("epsilon", self.epsilon)

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """Equation 2, with the pivot max(0, max s); a hidden key counts as s = 0, which adds nothing."""
        score = score.masked_fill(~visible, 0)
        pivot = score.amax(-1, keepdim=True).clamp(min=0).detach()
        difference = exponential_less_one(score, pivot)
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
