"""Sigmoid attention: every key is weighed by itself.

Source: Ramapuram et al., "Theory, Analysis, and Best Practices for Sigmoid Self-Attention", arXiv 2409.04431.

    w_ij = sigmoid(s_ij + b),        s = q . k / sqrt(d),        b = -ln n

Paper: b = -ln n for training length n, so that a fresh model's rows sum to about one, as softmax's do.

Published code: a scalar per configuration, -7.62 = -ln 2048 with rotary positions, 0 with ALiBi; queries and keys are
normalised in both.

Here: b = -ln n_i with the keys that query i sees, or the paper's scalar where `length` is given. A sum over a longer
row than trained on grows with the scalar and does not with n_i.

Beware: to follow the paper, set `model.qk_norm=true`. A row's mass may be anything between 0 and n_i.
"""

from dataclasses import dataclass, replace
from math import log
from typing import Any, ClassVar

import torch
from torch import Tensor

from attention.core.call import Call
from attention.core.errors import AttentionError
from attention.core.mechanism import GATES, Bounds
from attention.core.registry import register
from attention.core.scores import Scores
from attention.forms.pointwise import Pointwise


class Logistic(Pointwise):
    """w = sigma(s), of whatever scores."""

    bounds: ClassVar[Bounds] = GATES

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """The logistic function."""
        return score.sigmoid()

    def weight(self, score: Tensor) -> Tensor:
        """sigma(s)."""
        return score.sigmoid()

    def weight_derivative(self, score: Tensor, weight: Tensor) -> Tensor:
        """sigma (1 - sigma)."""
        return weight * (1 - weight)


@register
@dataclass(frozen=True)
class Sigmoid(Logistic):
    """sigmoid(s - ln n).

    Args:
        length: n of the bias, the paper's training length; None for the number of keys that a query sees.
    """

    name: ClassVar[str] = "sigmoid"
    formula: ClassVar[str] = "sigmoid(s − ln n)"
    paper: ClassVar[str] = "Ramapuram et al. 2024, arXiv 2409.04431"
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"length": 1024},)

    length: int | None = None

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise AttentionError(f"sigmoid length must be at least 1, or None, got {self.length}")

    def scores(self, query: Tensor, key: Tensor, call: Call) -> Scores:
        """Scaled dot product minus ln n."""
        wide = torch.promote_types(query.dtype, torch.float32)
        count = call.log_count(wide)
        log_length = count if self.length is None else torch.full_like(count, log(self.length))
        bias = -log_length[..., None].expand(query.shape[:3])
        return replace(super().scores(query, key, call), query_bias=bias)
