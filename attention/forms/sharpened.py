"""Sharpened: softmax of scores that a function of the row's own entropy multiplies."""

from abc import abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor

from attention.core.form import Rowwise, form
from attention.core.masks import Tile

LEAST = -1e4
"""Differences below it have no weight in any precision, and would be infinite times nothing where scores are huge."""


@form
class Sharpened(Rowwise):
    """w = softmax(sharpness(H_i) s_i), where H_i is the entropy of softmax(s_i) in nats."""

    traced: ClassVar[dict[str, tuple[str, ...]]] = {
        "sharpness": ("entropy",),
        "sharpness_derivative": ("entropy",),
    }

    @abstractmethod
    def sharpness(self, entropy: Tensor) -> Tensor:
        """The factor of a row's scores."""

    @abstractmethod
    def sharpness_derivative(self, entropy: Tensor) -> Tensor:
        """Its derivative, 0 where gradients shall not go through the entropy."""

    def constants(self) -> dict[str, bool | float]:
        """`least`."""
        return {"least": LEAST}

    def row_weights(self, score: Tensor, tile: Tile, count: Tensor) -> tuple[Tensor, Tensor | None]:
        """w = softmax(beta s), beta = sharpness(H)."""
        distance = _below_largest(score, tile)
        row = _spread(distance, tile)
        return _softmax(distance.mul_(self.sharpness(row.entropy)), tile)[0], None

    def row_gradients(
        self, score: Tensor, tile: Tile, count: Tensor, grad_weights: Tensor, grad_log_mass: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """dS = beta dU - sharpness'(H) (sum_k dU_k s_k) p (s - sum_k p_k s_k), dU = w (dP - sum_k w_k dP_k).

        Scores are taken less the row's largest: dU sums to zero.
        """
        distance = _below_largest(score, tile)
        row = _spread(distance, tile)
        beta = self.sharpness(row.entropy)
        weight, _ = _softmax(beta * distance, tile)
        delta = (weight * grad_weights).sum(-1, keepdim=True)
        grad_sharp = tile.zero_(weight * (grad_weights - delta))
        grad_entropy = self.sharpness_derivative(row.entropy) * (grad_sharp * distance).sum(-1, keepdim=True)
        through = row.share.mul_(distance - row.mean).mul_(grad_entropy)
        return weight, tile.zero_(grad_sharp.mul_(beta).sub_(through))


class _Spread(NamedTuple):
    """Softmax of the rows, its mean of s - max s, and its entropy."""

    share: Tensor
    mean: Tensor
    entropy: Tensor


def _below_largest(score: Tensor, tile: Tile) -> Tensor:
    """s - max s, zero where hidden."""
    return tile.zero_((score - tile.maximum(score)).clamp_(min=LEAST))


def _softmax(score: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
    """Softmax of rows whose largest score is zero, and what it was divided by; zeros and 1 where a row sees nothing."""
    exponential = tile.zero_(score.exp())
    total = exponential.sum(-1, keepdim=True)
    total = total.masked_fill_(total == 0, 1)
    return exponential.div_(total), total


def _spread(distance: Tensor, tile: Tile) -> _Spread:
    """H = ln sum_k e^{d_k} - sum_k p_k d_k, d = s - max s."""
    share, total = _softmax(distance, tile)
    mean = (share * distance).sum(-1, keepdim=True)
    return _Spread(share, mean, total.log() - mean)
