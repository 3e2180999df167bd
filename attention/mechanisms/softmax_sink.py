"""Softmax with a learned sink: a logit per head that takes weight and has no value.

Source: OpenAI, "gpt-oss-120b & gpt-oss-20b Model Card", arXiv 2508.10925, and the code published with it.

    w_ij = e^{s_ij} / (e^{b_h} + sum_k e^{s_ik}),        s = q . k / sqrt(d),        b_h learned

Paper: one sentence, a learned bias in the denominator; with rotary positions and windows of 128 in every other layer.

Published code: appends the logit as one more column and drops its weight; the fused version is for inference only, as
what it keeps of a row leaves the sink out.

Here: e^{s-b} / (1 + sum e^{s-b}), softmax1 of scores with the query bias -b_h. b_h starts at 0, where it is softmax1.

Beware: the gradient of b_h is a sum over all positions of the batch, and weight decay must not pull b_h to 0: the
optimiser here leaves it out.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attention.core.call import Call
from attention.core.registry import register
from attention.core.scores import Scores
from attention.mechanisms.softmax1 import Softmax1


@register
@dataclass(frozen=True)
class SoftmaxSink(Softmax1):
    """exp(s) / (exp(b) + sum exp(s)), b learned per head."""

    name: ClassVar[str] = "softmax_sink"
    formula: ClassVar[str] = "exp(s) / (exp(b) + Σ exp(s)),  b learned per head"
    paper: ClassVar[str] = "OpenAI 2025 (gpt-oss), arXiv 2508.10925"

    def parameters(self, n_head: int) -> dict[str, Tensor]:
        """`sink` [H], b, 0 at the start."""
        return {"sink": torch.zeros(n_head)}

    def scores(self, query: Tensor, key: Tensor, call: Call) -> Scores:
        """Scaled dot product minus b_h."""
        wide = torch.promote_types(query.dtype, torch.float32)
        bias = -call.params["sink"].to(wide).expand(query.shape[:3])
        return replace(super().scores(query, key, call), query_bias=bias)
