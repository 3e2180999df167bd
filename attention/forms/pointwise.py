"""Pointwise: every weight is a function of its own score."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from attention.core.form import Rowwise, form
from attention.core.masks import Tile


@form
class Pointwise(Rowwise):
    """w_ij = weight(s_ij): no row statistics."""

    traced: ClassVar[dict[str, tuple[str, ...]]] = {
        "weight": ("score",),
        "weight_derivative": ("score", "weight"),
    }
    has_statistics: ClassVar[bool] = False

    @abstractmethod
    def weight(self, score: Tensor) -> Tensor:
        """w(s)."""

    @abstractmethod
    def weight_derivative(self, score: Tensor, weight: Tensor) -> Tensor:
        """dw/ds, given w(s)."""

    def row_weights(self, score: Tensor, tile: Tile, count: Tensor) -> tuple[Tensor, Tensor | None]:
        """w = weight(s)."""
        return tile.zero_(self.weight(score)), None

    def row_gradients(
        self, score: Tensor, tile: Tile, count: Tensor, grad_weights: Tensor, grad_log_mass: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """dS = weight'(s) dP."""
        weight = self.weight(score)
        grad_score = self.weight_derivative(score, weight) * grad_weights
        return tile.zero_(weight), tile.zero_(grad_score)
