"""ReLU attention: the positive scores, over the number of keys.

Source: Wortsman et al., "Replacing softmax with ReLU in Vision Transformers", arXiv 2309.08586.

    w_ij = relu(s_ij) / n_i,        s = q . k / sqrt(d)

Paper: bidirectional vision models; the division by the sequence length is what keeps them level with softmax.

Published code: not consulted.

Here: n_i is the number of keys that query i sees, the causal reading of the length. As relu(s) / n = relu(s / n), the
division is made once, in the query, and the kernel computes relu.

Beware: a row without a positive score is dead, so never zero-initialise the query or key projection.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attention.core.call import Call
from attention.core.mechanism import Bounds
from attention.core.registry import register
from attention.core.scores import Scores
from attention.forms.pointwise import Pointwise


@register
@dataclass(frozen=True)
class Relu(Pointwise):
    """relu(s) / n."""

    name: ClassVar[str] = "relu"
    formula: ClassVar[str] = "relu(s) / n"
    paper: ClassVar[str] = "Wortsman et al. 2023, arXiv 2309.08586"
    bounds: ClassVar[Bounds] = Bounds(weight=(0.0, math.inf), mass=(0.0, math.inf))

    def scores(self, query: Tensor, key: Tensor, call: Call) -> Scores:
        """Scaled dot product over n_i."""
        wide = torch.promote_types(query.dtype, torch.float32)
        count = call.count.clamp(min=1)[..., None, None]
        return replace(super().scores(query, key, call), query=(query.to(wide) / count).to(query.dtype))

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """relu(s / n), n in the score already."""
        return torch.relu(score)

    def weight(self, score: Tensor) -> Tensor:
        """relu(s)."""
        return score.relu()

    def weight_derivative(self, score: Tensor, weight: Tensor) -> Tensor:
        """1[s > 0]."""
        return (score > 0).float()
