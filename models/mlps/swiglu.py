"""The gated MLP of Llama."""

import math

from torch import Tensor, nn

from models.gradients import gated, products
from models.mlps.base import MLP


class SwiGLU(MLP):
    """down(silu(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202)."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__(d_model, d_ff)
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    @staticmethod
    def width(d_model: int) -> int:
        """8/3 d_model, so that three matrices have the weights of two of 4 d_model; rounded up to 256."""
        return math.ceil(int(d_model * 8 / 3) / 256) * 256

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_model] to [..., d_model]."""
        return self.down(gated(*products(x, self.gate, self.up)))
