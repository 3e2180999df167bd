"""Pointwise: every weight is a function of its own score."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attention.core.capped import Capped
from attention.core.form import Rowwise, form
from attention.core.masks import Tile
from attention.core.mechanism import Mechanism


@form
class Pointwise(Rowwise):
    """w_ij = weight(s_ij): no row statistics."""

    traced: ClassVar[dict[str, tuple[str, ...]]] = {
        "weight": ("score",),
        "weight_derivative": ("score", "weight"),
    }
    has_statistics: ClassVar[bool] = False

    def capped(self, cap: float) -> Mechanism:
        """Weights of capped scores."""
        return CappedPointwise(self, cap)

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


@dataclass(frozen=True)
class CappedPointwise(Capped, Pointwise):
    """Weights of capped scores."""

    inner: Pointwise
    form = Pointwise

    def weight(self, score: Tensor) -> Tensor:
        """The mechanism's, after the cap."""
        return self.inner.weight(self.capping(score))

    def weight_derivative(self, score: Tensor, weight: Tensor) -> Tensor:
        """The mechanism's, times the cap's own."""
        return self.inner.weight_derivative(self.capping(score), weight) * self.slope(score)
