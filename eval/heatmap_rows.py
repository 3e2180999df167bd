"""The shape of a head's rows: how much goes to the first token, and over how many keys the rest is spread.

Rows are divided by their magnitude, so that a row which sums to little hides nothing; one without any weight is left
out. With p the row of query i, which sees n_i keys,

    sink = mean of p_1,    entropy = mean of −Σ p ln p / ln n_i,

over the queries that see more than one key: entropy is 1 for rows that look everywhere alike, 0 for rows that look at
one token. A query that cannot see the first token gives it nothing.
"""

import torch
from torch import Tensor


class Rows:
    """Sums over the rows of each head, some rows at a time."""

    def __init__(self, heads: int) -> None:
        self._sink, self._entropy, self._rows = torch.zeros(3, heads, dtype=torch.float64)

    def add(self, weight: Tensor, visible: Tensor) -> None:
        """Count rows.

        Args:
            weight: [H, rows, keys], 0 where hidden.
            visible: [rows, keys].
        """
        size = weight.abs().double().cpu()
        mass, seen = size.sum(-1, keepdim=True), visible.sum(-1).cpu()
        counts = (mass[..., 0] > 0) & (seen > 1)
        share = size / mass.clamp_min(torch.finfo(mass.dtype).tiny)
        spread = -torch.special.xlogy(share, share).sum(-1) / seen.clamp_min(2).double().log()
        self._sink += (share[..., 0] * counts).sum(-1)
        self._entropy += (spread * counts).sum(-1)
        self._rows += counts.sum(-1)

    @property
    def sink(self) -> list[float | None]:
        """The mean share of the first token, for each head; None where no row counts."""
        return self._means(self._sink)

    @property
    def entropy(self) -> list[float | None]:
        """The mean normalised entropy, for each head; None where no row counts."""
        return self._means(self._entropy)

    def _means(self, sums: Tensor) -> list[float | None]:
        return [
            total / rows if rows else None
            for total, rows in zip(sums.tolist(), self._rows.tolist(), strict=True)
        ]
