"""SWAT: sigmoid attention in a sliding window with balanced ALiBi slopes.

Source: Fu et al., "Sliding Window Attention Training for Efficient Large Language Models", arXiv 2502.18845,
equations 4 and 5.

    w_ij = sigmoid(q_i . k_j / sqrt(d) + slope_h (i - j)),        i - j < window, no normalisation

Paper: slopes are -2^{-k} for half of the heads and +2^{-k} for the other half, k = 1..H/2; negative ones are ordinary
ALiBi decay, positive ones favour old tokens. To be used with rotary positions. The window of the main table is not
stated; the analysis trains at a length of four windows.

Published code: softmax with decaying slopes; no sigmoid, no balanced slopes on any branch.

Here: the paper's formula. `slopes` also offers "decay", "favour" and "none"; the paper gives no range of k for the
first two, so ALiBi's 2^{-8k/H} is used. `bias`, say -ln window, is an addition of ours, 0 by default.

Beware: with slope +1/2 and a window of 1024 the bias reaches +511 and a head sums its whole window, while one with -1/2
has a total weight of about 1.6. Outputs of heads differ in size by orders of magnitude.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from attention.core.alibi import alibi
from attention.core.call import Call
from attention.core.errors import AttentionError, nearest
from attention.core.registry import register
from attention.core.scores import Scores
from attention.mechanisms.sigmoid import Logistic

SLOPES = ("balanced", "decay", "favour")


@register
@dataclass(frozen=True)
class Swat(Logistic):
    """sigmoid(s + slope (i - j)) within a sliding window.

    Args:
        window: keys that a query sees, itself included.
        slopes: "balanced" (the paper), "decay" (SWAT-), "favour" (SWAT+) or "none".
        bias: added to every score.
    """

    name: ClassVar[str] = "swat"
    formula: ClassVar[str] = "sigmoid(s + slope·(i − j)),  i − j < window"
    paper: ClassVar[str] = "Fu et al. 2025, arXiv 2502.18845"
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"window": None, "slopes": "decay", "bias": -1.0},)

    window: int | None = 512
    slopes: str = "balanced"
    bias: float = 0.0

    def __post_init__(self) -> None:
        if self.slopes not in (*SLOPES, "none"):
            raise AttentionError(f"unknown slopes {self.slopes!r}{nearest(self.slopes, (*SLOPES, 'none'))}")
        if self.window is not None and self.window < 1:
            raise AttentionError(f"window must be at least 1 (the query itself), got {self.window}")

    def scores(self, query: Tensor, key: Tensor, call: Call) -> Scores:
        """Scaled dot product plus the head's slope times the distance."""
        scores = super().scores(query, key, call)
        n_head, wide = query.shape[2], torch.promote_types(query.dtype, torch.float32)
        bias = None
        if self.bias:
            bias = torch.full(query.shape[:3], float(self.bias), device=query.device, dtype=wide)
        slope = None if self.slopes == "none" else head_slopes(n_head, self.slopes, query.device, wide)
        return replace(scores, slope=slope, query_bias=bias)


def head_slopes(
    n_head: int, kind: str, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Slopes per head, [H].

    Raises:
        AttentionError: balanced slopes for an odd number of heads.
    """
    if kind == "balanced":
        if n_head % 2:
            raise AttentionError(f"balanced slopes need an even number of heads, got {n_head}")
        half = 2.0 ** -torch.arange(1, n_head // 2 + 1, dtype=dtype, device=device)
        return torch.cat([-half, half])
    decay = alibi(n_head, device, dtype)
    return decay if kind == "decay" else -decay
