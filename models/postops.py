"""What a block does to the outputs of attention before it projects them back, whatever the mechanism.

A post-op takes the heads' outputs and the block's normalised input and returns outputs of heads. Up to three follow one
another: the difference of two maps, a norm of each head, a gate.
"""

import math

import torch
from torch import Tensor, nn

from models.config import Architecture, LayerPlan
from models.norms import RMSNorm


class Difference(nn.Module):
    """(P1 − λ P2) V: differential attention (Ye et al., arXiv 2410.05258, equations 1 to 3).

        λ = exp(λ_q1 · λ_k1) − exp(λ_q2 · λ_k2) + λ_init,     λ_init = 0.8 − 0.6 e^{−0.3 l} in layer l = 0, 1, ..
        out = (1 − λ_init) RMSNorm(P1 V − λ P2 V)

    P1 and P2 are two heads of any mechanism, softmax in the paper, that share one value of twice the width. λ is one
    number per layer; its four vectors start at N(0, 0.1). The norm is per head, its weight shared by the heads.
    """

    def __init__(self, config: Architecture, plan: LayerPlan) -> None:
        super().__init__()
        self.pairs = config.n_kv_head // 2
        self.initial = 0.8 - 0.6 * math.exp(-0.3 * plan.depth)
        self.query = nn.Parameter(0.1 * torch.randn(2, config.head_dim))
        self.key = nn.Parameter(0.1 * torch.randn(2, config.head_dim))
        self.norm = RMSNorm(config.value_dim, config.norm_eps)

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


class OutputNorm(nn.Module):
    """RMSNorm of each head's output, its weight shared by the heads.

    For mechanisms whose rows do not sum to one: heads of SWAT differ in size by orders of magnitude, and those of an
    unnormalised Gaussian grow with the number of keys in sight.
    """

    def __init__(self, config: Architecture, plan: LayerPlan) -> None:
        super().__init__()
        self.norm = RMSNorm(config.value_dim, config.norm_eps)

    def forward(self, heads: Tensor, x: Tensor) -> Tensor:
        """[B, T, H, D] to [B, T, H, D]; a head that gives zero stays zero."""
        return self.norm(heads)


class Gate(nn.Module):
    """y = out ⊙ sigmoid(x W_g): gated attention (Qiu et al., arXiv 2505.06708, gate G1).

    x is the block's normalised input. "headwise" has one gate per head, "elementwise" one per channel. The gate has no
    bias and starts like every projection, so it is about 1/2 at first.
    """

    def __init__(self, config: Architecture, plan: LayerPlan) -> None:
        super().__init__()
        self.width = config.value_dim if config.gate == "elementwise" else 1
        self.projection = nn.Linear(config.d_model, config.n_output_head * self.width, bias=False)

    def forward(self, heads: Tensor, x: Tensor) -> Tensor:
        """[B, T, H, D] by x [B, T, d_model] to [B, T, H, D]."""
        return heads * self.projection(x).sigmoid().unflatten(-1, (-1, self.width))


def post_ops(config: Architecture, plan: LayerPlan) -> nn.ModuleDict:
    """The post-ops of a layer by name, in the order in which they are applied."""
    chosen = {
        "difference": Difference if config.differential else None,
        "output_norm": OutputNorm if config.output_norm else None,
        "gate": None if config.gate == "none" else Gate,
    }
    return nn.ModuleDict({name: make(config, plan) for name, make in chosen.items() if make is not None})
