"""The MLP of GPT-2."""

from torch import Tensor
from torch.nn import functional

from models.mlps.base import Plain


class GELU(Plain):
    """down(gelu(up(x)))."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_model] to [..., d_model]."""
        return self.down(functional.gelu(self.up(x)))
