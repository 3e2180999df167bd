"""The MLP of GPT-2."""

from torch import Tensor, nn
from torch.nn import functional

from models.mlps.base import MLP


class GELU(MLP):
    """down(gelu(up(x)))."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__(d_model, d_ff)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    @staticmethod
    def width(d_model: int) -> int:
        """4 d_model."""
        return 4 * d_model

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_model] to [..., d_model]."""
        return self.down(functional.gelu(self.up(x)))
