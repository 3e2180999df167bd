"""The MLP of speed runs."""

from torch import Tensor
from torch.nn import functional

from models.mlps.base import Plain


class ReLUSquared(Plain):
    """down(relu(up(x))²) (Primer: So et al., arXiv 2109.08668)."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_model] to [..., d_model]."""
        return self.down(functional.relu(self.up(x)).square())
