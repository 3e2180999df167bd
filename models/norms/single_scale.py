"""Root-mean-square normalisation with one gain for all channels."""

import torch
from torch import Tensor, nn

from models.norms.base import Norm, divided


class SingleScaleNorm(Norm):
    """y = g x / sqrt(mean(x²) + eps), g one number: SSNorm (Park et al., arXiv 2506.19697).

    A gain per channel favours some axes of the residual stream; one gain favours none, and with an optimizer that does
    not either, outliers find no channel to live in. The paper writes γ x / ‖x‖, γ = sqrt(size) at first, which is the
    same function; here g = γ / sqrt(size) starts at 1, so that it learns at the rate of other gains.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps)
        # One axis, not none: sharding needs something to split.
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to [..., size], in the dtype of x."""
        wide = divided(x, self.eps)
        return (wide * self.weight.to(wide.dtype)).to(x.dtype)
