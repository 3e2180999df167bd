"""Differential attention: the difference of two maps."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.norms import norm
from models.postops.base import PostOp

if TYPE_CHECKING:
    from models.plan import LayerPlan, Plan


class Difference(PostOp):
    """(P1 − λ P2) V: differential attention (Ye et al., arXiv 2410.05258, equations 1 to 3).

        λ = exp(λ_q1 · λ_k1) − exp(λ_q2 · λ_k2) + λ_init,     λ_init = 0.8 − 0.6 e^{−0.3 l} in layer l = 0, 1, ..
        out = (1 − λ_init) RMSNorm(P1 V − λ P2 V)

    P1 and P2 are two heads of any mechanism, softmax in the paper, that share one value of twice the width. λ is one
    number per layer; its four vectors start at N(0, 0.1). The norm is per head, its weight shared by the heads.
    """

    place = 1

    @dataclass
    class Options:
        """Keys of the model's config.

        Attributes:
            differential: subtract one map from another: heads are paired, values are twice as wide.
        """

        differential: bool = False

    @classmethod
    def asked(cls, plan: "Plan") -> bool:
        """Where maps are paired."""
        return plan.differential

    @classmethod
    def check(cls, plan: "Plan") -> None:
        """Refuse heads that cannot be paired. ModelError: an odd number of them."""
        if plan.n_head % 2 or plan.n_kv_head % 2:
            raise ModelError(
                f"differential attention pairs heads: n_head {plan.n_head} and n_kv_head {plan.n_kv_head} must be even"
            )

    def __init__(self, plan: "Plan", layer: "LayerPlan") -> None:
        super().__init__(plan, layer)
        self.pairs = plan.n_kv_head // 2
        self.initial = 0.8 - 0.6 * math.exp(-0.3 * layer.depth)
        self.query = nn.Parameter(0.1 * torch.randn(2, plan.head_dim))
        self.key = nn.Parameter(0.1 * torch.randn(2, plan.head_dim))
        self.norm = norm(plan, plan.value_dim)

    def forward(self, heads: Tensor, x: Tensor) -> Tensor:
        """Maps [B, T, H, 2 D], those of one pair of keys in a row, to their differences [B, T, H / 2, 2 D]."""
        first, second = heads.unflatten(2, (self.pairs, 2, -1)).unbind(3)
        # In float32 at least: what two similar maps leave of each other would drown in the rounding of half precision.
        wide = torch.promote_types(heads.dtype, torch.float32)
        difference = first.to(wide) - self.weight().to(wide) * second.to(wide)
        return ((1 - self.initial) * self.norm(difference)).to(heads.dtype).flatten(2, 3)

    def weight(self) -> Tensor:
        """λ, a scalar."""
        first, second = (self.query * self.key).sum(-1).exp()
        return first - second + self.initial
