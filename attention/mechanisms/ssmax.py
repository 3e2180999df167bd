"""SSMax, scalable softmax: scores grow with the logarithm of the length, so that a peak survives it.

Source: Nakanishi, "Scalable-Softmax Is Superior for Attention", arXiv 2501.19399.

    w_ij = n_i^{c_h s_ij} / sum_k n_i^{c_h s_ik} = softmax_j(c_h ln(n_i) s_ij),        s = q . k / sqrt(d)

Paper: c_h is one learned number per head; there is a variant with a bias, which is not made here.

Published code: not consulted; the initial value 0.168 is that of others who followed the paper.

Here: n_i is the number of keys that query i sees. The factor goes into the query, so cached keys stay valid while n_i
grows. `learned=False` sets c = 1: plain softmax with the factor ln n and nothing to learn, which together with
`model.qk_norm=true` (configs/micro-ssmax-qknorm.yaml) is the baseline to hold against lssa and lssar, since both have
normalised queries and keys and a factor ln n that plain softmax lacks.

Beware: ln 1 = 0, so the first row learns nothing. With 0.168 scores are smaller than softmax's up to n = 384.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from attention.core.call import Call
from attention.core.mechanism import Mechanism
from attention.core.registry import register
from attention.core.scores import Scores
from attention.mechanisms.softmax import Softmax

INITIAL = 0.168


class LengthScaled(Mechanism):
    """Scores c_h ln(n_i) s_ij of whatever scores have no biases, c_h learned per head or 1."""

    learned: bool = True

    def parameters(self, n_head: int) -> dict[str, Tensor]:
        """`length_scale` [H], c, 0.168 at the start, where it is learned."""
        learned = {"length_scale": torch.full((n_head,), INITIAL)} if self.learned else {}
        return super().parameters(n_head) | learned

    def scores(self, query: Tensor, key: Tensor, call: Call) -> Scores:
        """Scaled dot product times c_h ln(n_i), which goes into the query."""
        wide = torch.promote_types(query.dtype, torch.float32)
        factor = call.log_count(wide)[..., None]
        if self.learned:
            factor = factor * call.params["length_scale"].to(wide)
        scaled = (query.to(wide) * factor[..., None]).to(query.dtype)
        return replace(super().scores(query, key, call), query=scaled)


@register
@dataclass(frozen=True)
class Ssmax(LengthScaled, Softmax):
    """softmax(c ln(n) s), c learned per head.

    Args:
        learned: whether c is learned; else it is 1.
    """

    name: ClassVar[str] = "ssmax"
    formula: ClassVar[str] = "exp(s′) / Σ exp(s′),  s′ = c · ln n · s,  c learned per head"
    paper: ClassVar[str] = "Nakanishi 2025, arXiv 2501.19399"
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"learned": False},)

    learned: bool = True
