"""Adjusted: softmax, changed by the score itself and by the extremes of its row."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from attention.core.form import Rowwise, form
from attention.core.masks import Tile

TIED = 2.0**-18
"""Scores this close to a row's extreme, relative to it, tie with it: they share the gradient that goes through it."""


@form
class Adjusted(Rowwise):
    """w_ij = weight(s_ij, p_ij; a_i, b_i): p = softmax(s), a and b the least and the largest score of the row."""

    traced: ClassVar[dict[str, tuple[str, ...]]] = {
        "weight": ("score", "share", "lowest", "highest"),
        "weight_derivatives": ("score", "share", "lowest", "highest"),
    }

    @abstractmethod
    def weight(self, score: Tensor, share: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        """w of s, p, a and b."""

    @abstractmethod
    def weight_derivatives(
        self, score: Tensor, share: Tensor, lowest: Tensor, highest: Tensor
    ) -> tuple[Tensor | float, Tensor | float, Tensor | float, Tensor | float]:
        """dw by s, p, a and b, each while the others stand still."""

    def constants(self) -> dict[str, bool | float]:
        """`tied`."""
        return {"tied": TIED}

    def row_weights(self, score: Tensor, tile: Tile, count: Tensor) -> tuple[Tensor, Tensor | None]:
        """w = weight(s, p; a, b)."""
        share, lowest, highest = _shares(score, tile)
        return tile.zero_(self.weight(score, share, lowest, highest)), None

    def row_gradients(
        self, score: Tensor, tile: Tile, count: Tensor, grad_weights: Tensor, grad_log_mass: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """dS = p (w_p dP - sum_k p_k w_p dP) + w_s dP + 1[s = a] sum_k w_a dP + 1[s = b] sum_k w_b dP.

        Keys that tie with an extreme share what goes through it.
        """
        share, lowest, highest = _shares(score, tile)
        by_score, by_share, by_lowest, by_highest = self.weight_derivatives(score, share, lowest, highest)
        grad_share = by_share * grad_weights
        grad_explicit = by_score * grad_weights
        for extreme, slope in ((lowest, by_lowest), (highest, by_highest)):
            hit = tile.zero_(((score - extreme).abs() <= TIED * extreme.abs()).to(score.dtype))
            through = tile.zero_(slope * grad_weights).sum(-1, keepdim=True)
            grad_explicit = grad_explicit + hit * (through / hit.sum(-1, keepdim=True).clamp_(min=1))
        delta = tile.zero_(share * grad_share).sum(-1, keepdim=True)
        weight = tile.zero_(self.weight(score, share, lowest, highest))
        return weight, tile.zero_(share * (grad_share - delta) + grad_explicit)


def _shares(score: Tensor, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax of the rows, and their least and largest score; 0 where a row sees nothing."""
    highest, lowest = tile.maximum(score), -tile.maximum(-score)
    blind = highest == -torch.inf
    highest, lowest = highest.masked_fill(blind, 0), lowest.masked_fill(blind, 0)
    exponential = tile.zero_((score - highest).exp_())
    return exponential.div_(exponential.sum(-1, keepdim=True).masked_fill_(blind, 1)), lowest, highest
