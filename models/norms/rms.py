"""Root-mean-square normalisation with a gain per channel."""

import torch
from torch import Tensor, nn

from models.norms.base import Norm, divided


class RMSNorm(Norm):
    """y = g ⊙ x / sqrt(mean(x²) + eps), g one number per channel (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps)
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to [..., size], in the dtype of x."""
        return divided(x, self.eps, self.weight).to(x.dtype)
