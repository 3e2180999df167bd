"""Scores: how well a query and a key match, before a mechanism turns that into weights."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Gumbel noise on scores, a function of seed, sequence, head, query position and key (`attention.core.noise`).

    Attributes:
        seed: int64 [].
        amplitude: factor of the noise.
        first_sequence: place of the first sequence in its whole batch, int64 [] or a number; see `attention.Phase`.
    """

    seed: Tensor
    amplitude: float
    first_sequence: Tensor | int = 0

    @property
    def source(self) -> Tensor:
        """Seed and place of the first sequence as compiled kernels take them, int64 [2]."""
        return torch.stack([self.seed, self.first_sequence + torch.zeros_like(self.seed)])


@dataclass(frozen=True)
class Scores:
    """s_ij = scale * query_i . key_j + query_bias_i + key_bias_j + slope * (position_i - position_j) [+ noise_ij].

    Attributes:
        query: [B, T, H, D].
        key: [B, S, Hk, D]; query head h uses key head h // (H / Hk).
        scale: factor of the dot product.
        query_bias: [B, T, H] or None.
        key_bias: [B, S, H] or None.
        slope: [H] or None, constant (no gradient).
        noise: constant (no gradient), or None.
    """

    query: Tensor
    key: Tensor
    scale: float = 1.0
    query_bias: Tensor | None = None
    key_bias: Tensor | None = None
    slope: Tensor | None = None
    noise: Noise | None = None
