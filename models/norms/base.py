"""A norm, and the part that all kinds share."""

import torch
from torch import Tensor, nn

from models.gradients import normalised


class Norm(nn.Module):
    """Division of the last axis by its root mean square, in float32 at least, and a gain that starts at 1.

    Attributes:
        eps: added to the mean square.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to [..., size], in the dtype of x."""
        raise NotImplementedError


def divided(x: Tensor, eps: float, gain: Tensor | None = None) -> Tensor:
    """x / sqrt(mean(x²) + eps) times a gain per channel, over the last axis; in float32 at least."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    weight = None if gain is None else gain.to(wide.dtype)
    return normalised(wide, weight, eps)
