"""Root-mean-square normalisation without a gain."""

from torch import Tensor

from models.norms.base import Norm, divided


class UnscaledNorm(Norm):
    """y = x / sqrt(mean(x²) + eps), nothing learned: the matrix that follows can do what a gain would."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to [..., size], in the dtype of x."""
        return divided(x, self.eps).to(x.dtype)
