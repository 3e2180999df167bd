"""Two stages: rows are normalised, re-weighted and normalised again."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from attention.core.form import Rowwise, form
from attention.core.masks import Tile


@form
class TwoStage(Rowwise):
    """w_ij = second(u_ij) / sum_k second(u_ik), where u_ij = n_i first(s_ij) / (epsilon + sum_k first(s_ik)).

    The first stage normalises rows to a mean of one; the second re-weights. `second` may be scaled by any factor
    that is constant in a row, for which it is given the row's largest u; the factor carries no gradient.
    """

    traced: ClassVar[dict[str, tuple[str, ...]]] = {
        "first": ("score",),
        "first_derivative": ("score",),
        "second": ("relative", "largest", "count"),
        "second_derivative": ("relative", "largest", "count"),
    }
    epsilon: float

    @abstractmethod
    def first(self, score: Tensor) -> Tensor:
        """A positive, increasing function of the score."""

    @abstractmethod
    def first_derivative(self, score: Tensor) -> Tensor:
        """Its derivative."""

    @abstractmethod
    def second(self, relative: Tensor, largest: Tensor, count: Tensor) -> Tensor:
        """The re-weighting of u, given the row's largest u and its number of visible keys."""

    @abstractmethod
    def second_derivative(self, relative: Tensor, largest: Tensor, count: Tensor) -> Tensor:
        """Its derivative by u, under the same row factor."""

    def constants(self) -> dict[str, bool | float]:
        """Epsilon."""
        return {"epsilon": self.epsilon}

    def row_weights(self, score: Tensor, tile: Tile, count: Tensor) -> tuple[Tensor, Tensor | None]:
        """w = b / sum b, b = second(u), u = n a / Z, a = first(s)."""
        relative, largest, _ = self._relative(score, tile, count)
        power, total = self._reweighted(relative, largest, tile, count)
        return power.div_(total), None

    def row_gradients(
        self, score: Tensor, tile: Tile, count: Tensor, grad_weights: Tensor, grad_log_mass: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """dU = second'(u) (dP - delta) / sum b;  dS = first'(s) (n / Z) (dU - sum_k dU_k u_k / n)."""
        relative, largest, unit = self._relative(score, tile, count)
        power, total = self._reweighted(relative, largest, tile, count)
        weight = power.div_(total)
        delta = (weight * grad_weights).sum(-1, keepdim=True)
        grad_relative = self.second_derivative(relative, largest, count)
        grad_relative = tile.zero_(grad_relative.mul_(grad_weights - delta).div_(total))
        mean = (grad_relative * relative).sum(-1, keepdim=True).div_(count.clamp(min=1))
        grad_score = grad_relative.sub_(mean).mul_(self.first_derivative(score)).mul_(unit)
        return weight, tile.zero_(grad_score)

    def _relative(self, score: Tensor, tile: Tile, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = tile.zero_(self.first(score))
        unit = count / (first.sum(-1, keepdim=True) + self.epsilon)
        relative = first.mul_(unit)
        return relative, relative.amax(-1, keepdim=True), unit

    def _reweighted(
        self, relative: Tensor, largest: Tensor, tile: Tile, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        power = tile.zero_(self.second(relative, largest, count))
        total = power.sum(-1, keepdim=True)
        return power, total.masked_fill_(total == 0, 1)
