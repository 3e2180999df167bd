"""Clipped softmax: probabilities stretched beyond [0, 1] and cut off, so that a head can give exactly nothing.

Source: Bondarenko, Nagel, Blankevoort, "Quantizable Transformers: Removing Outliers by Helping Attention Heads Do
Nothing", arXiv 2306.12929, equation 4.

    w_ij = clip((zeta - gamma) p_ij + gamma, 0, 1),        p = softmax(s),  zeta >= 1,  gamma <= 0

Paper: gamma < 0 makes small probabilities exact zeros, zeta > 1 makes large ones exact ones, with which outliers in the
activations of BERT and ViT vanish.

Published code: presets between gamma = -0.1 and -1e-5, and zeta between 1 and 1.1.

Here: the formula. Beyond the clips there is no gradient.

Beware: a row that spreads over more than (zeta - gamma) / -gamma keys gives nothing and learns nothing: 34 keys at the
default gamma of -0.03. Choose gamma near -1 / length.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attention.core.errors import AttentionError
from attention.core.mechanism import Bounds
from attention.core.registry import register
from attention.forms.adjusted import Adjusted
from attention.mechanisms.softmax import Softmax


@register
@dataclass(frozen=True)
class ClippedSoftmax(Adjusted):
    """clip((zeta - gamma) softmax(s) + gamma, 0, 1).

    Args:
        gamma: lower end of the stretched range, at most 0.
        zeta: its upper end, at least 1.
    """

    name: ClassVar[str] = "clipped_softmax"
    formula: ClassVar[str] = "clip((ζ − γ) softmax(s) + γ, 0, 1)"
    paper: ClassVar[str] = "Bondarenko et al. 2023, arXiv 2306.12929"
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"gamma": -0.11, "zeta": 1.13},)

    gamma: float = -0.03
    zeta: float = 1.0

    def __post_init__(self) -> None:
        if self.gamma > 0 or self.zeta < 1:
            raise AttentionError(
                f"clipped_softmax needs gamma at most 0 and zeta at least 1, got {self.gamma} and {self.zeta}"
            )

    @property
    def bounds(self) -> Bounds:  # type: ignore[override]
        """Every share that is not cut off loses -gamma at least, so that a row sums to zeta at most."""
        return Bounds(weight=(0.0, 1.0), mass=(0.0, self.zeta))

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """Equation 4."""
        return self._stretched(Softmax().weights(score, visible)).clamp(0, 1)

    def weight(self, score: Tensor, share: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        """Equation 4."""
        return self._stretched(share).clamp(0, 1)

    def weight_derivatives(
        self, score: Tensor, share: Tensor, lowest: Tensor, highest: Tensor
    ) -> tuple[float, Tensor, float, float]:
        """zeta - gamma by p, between the clips."""
        stretched = self._stretched(share)
        inside = stretched > 0
        if self.zeta > 1:  # else 1 is where p is 1, and a last bit would decide
            inside = inside & (stretched < 1)
        return 0.0, torch.where(inside, self.zeta - self.gamma, 0 * share), 0.0, 0.0

    def _stretched(self, share: Tensor) -> Tensor:
        return (self.zeta - self.gamma) * share + self.gamma
