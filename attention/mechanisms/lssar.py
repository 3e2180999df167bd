"""LSSAR: length-scaled softplus attention with re-weighting.

Source: Gao, Spratling, arXiv 2501.13428 (ICML 2026 version).

    A_ij = softplus(x_ij) / (sum_k softplus(x_ik) + epsilon)        (LSSA)
    w_ij = relu(n_i A_ij - O_i)^p / sum_k relu(n_i A_ik - O_i)^p,        O_i = 0 where n_i <= 3, else 1

Paper: n A has mean one, so O = 1 is a threshold at the row's mean. p = 15 keeps the loss flat to 8 times the training
length, p = 3 is best at the training length. Early versions call the re-weighting a step that needs no training, later
ones train with it.

Published code: announced, not reachable. Epsilon and the rule for the first three rows are those of two independent
implementations; treat both as such.

Here: the base is divided by its row maximum, which cancels. The literal power overflows float32 at p = 15 from n = 1024
on, and the published epsilon on its sum (1e-8) would silence every row whose largest base is below 0.3 at p = 15, 2e-3
at p = 3. The scaled form needs no epsilon, but a floor: a row is dead if its largest n A exceeds 1 by 2^-12 or less.
That may be nothing but rounding, which the division would blow up to weights of one and gradients of 1e8: in float32,
n A is off by some 2^-22, and by up to 2^-13 where a sum over 2^16 equal terms rounds one way.

Beware: a row of identical keys, or of a query of zeros, has nothing above its mean and is dead from n = 4 on, so never
zero-initialise the query or key projection. What lssa.py says of comparisons holds here.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from attention.core.errors import AttentionError
from attention.core.mechanism import PARTS, Bounds
from attention.core.registry import register
from attention.forms.two_stage import TwoStage
from attention.mechanisms.lssa import LengthScaledCosine

UNTHRESHOLDED_ROWS = 3
LEAST_EXCESS = 2.0**-12
"""Smallest n A above its threshold, as a share of the row's largest: less cannot be told from rounding."""


@register
@dataclass(frozen=True)
class Lssar(LengthScaledCosine, TwoStage):
    """relu(n A - 1)^p, normalised, where A is LSSA.

    Args:
        power: p, at least 1.
        epsilon: added to the denominator of A.
    """

    name: ClassVar[str] = "lssar"
    formula: ClassVar[str] = "relu(n·A − 1)^p / Σ relu(n·A − 1)^p,  A = LSSA"
    paper: ClassVar[str] = "Gao & Spratling 2025, arXiv 2501.13428"
    bounds: ClassVar[Bounds] = PARTS
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"power": 3}, {"power": 1})

    power: float = 15.0
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        if self.power < 1:
            raise AttentionError(f"lssar power must be at least 1, got {self.power}")
        self._refuse_negative("epsilon", self.epsilon)

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """Both stages; the base is scaled by its largest value in the row."""
        count = visible.sum(-1, keepdim=True)
        positive = softplus(score) * visible
        relative = count * positive / (positive.sum(-1, keepdim=True) + self.epsilon)
        base = torch.relu(self._excess(relative, count)) * visible
        largest = base.amax(-1, keepdim=True).detach()
        power = (base / largest.where(largest > LEAST_EXCESS, torch.inf)) ** self.power
        total = power.sum(-1, keepdim=True)
        return power / total.where(total > 0, 1)

    def first(self, score: Tensor) -> Tensor:
        """softplus(x)."""
        return softplus(score)

    def first_derivative(self, score: Tensor) -> Tensor:
        """The logistic function."""
        return score.sigmoid()

    def second(self, relative: Tensor, largest: Tensor, count: Tensor) -> Tensor:
        """rho^p, rho = relu(u - O) / (max u - O), between 0 and 1; 0 where max u - O is next to nothing."""
        return self._base(relative, largest, count)[0] ** self.power

    def second_derivative(self, relative: Tensor, largest: Tensor, count: Tensor) -> Tensor:
        """p rho^{p-1} / (max u - O) above the threshold."""
        base, span = self._base(relative, largest, count)
        return base ** (self.power - 1) * (base > 0) * (self.power / span)

    def _base(self, relative: Tensor, largest: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        span = self._excess(largest, count)
        span = span.where(span > LEAST_EXCESS, torch.inf)
        return torch.relu(self._excess(relative, count)) / span, span

    def _excess(self, relative: Tensor, count: Tensor) -> Tensor:
        """u - O."""
        return torch.where(count > UNTHRESHOLDED_ROWS, relative - 1, relative)
