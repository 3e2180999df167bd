"""Softpick with a weight on what irrelevant keys add to the denominator.

Source: this project's answer to what arXiv 2504.20966 v4 calls underscoring: every key far below zero adds 1 to
softpick's denominator, so that a relevant score must exceed ln n to win half of the weight.

    w_ij = relu(e^{s_ij} - 1) / (sum_k relu(e^{s_ik} - 1) + rho sum_k relu(1 - e^{s_ik}) + epsilon)

Paper: rho = 1. At rho = 0 it is its equation 5, in which sinks come back.

Published code: rho = 1.

Here: rho is learned per head ("learned", 1 at the start), 1 / n_i ("length"), or "one". Two mixings make it: one with
rectified terms, which gives the outputs and the logarithm of the first sum, and one for the second sum.

Beware: as for softpick, a row without a positive score is dead.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from attention.core.call import Call
from attention.core.errors import AttentionError, nearest
from attention.core.inputs import AttentionInputs
from attention.core.mechanism import PARTS, Bounds, Mechanism
from attention.core.registry import register
from attention.forms.composite import Composite, Mix
from attention.forms.ratio import Ratio
from attention.mechanisms.relu_softmax import ReluSoftmax
from attention.mechanisms.softpick import exponential_less_one

RHOS = ("learned", "length", "one")
ONE = 0.5413248546129181
"""softplus of it is 1."""


@dataclass(frozen=True)
class NegativePart(Ratio):
    """relu(1 - e^s) over its row sum; what counts is the sum."""

    name: ClassVar[str] = "negative_part"
    pivot_floor: ClassVar[float | None] = None

    epsilon: float = 1e-30

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """The formula."""
        part = -score.clamp(max=0).expm1() * visible
        return part / (part.sum(-1, keepdim=True) + self.epsilon)

    def terms(self, score: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
        """relu(1 - e^s), for both."""
        part = -score.clamp(max=0).expm1()
        return part, part

    def derivatives(self, score: Tensor, pivot: Tensor, numerator: Tensor) -> tuple[Tensor, Tensor]:
        """-e^s below zero."""
        derivative = torch.where(score < 0, -score.clamp(max=0).exp(), 0 * score)
        return derivative, derivative

    def offset(self, pivot: Tensor) -> float:
        """Next to nothing, so that there is a logarithm."""
        return self.epsilon


@register
@dataclass(frozen=True)
class WeightedSoftpick(Composite):
    """relu(exp(s) - 1) / (sum relu(exp(s) - 1) + rho sum relu(1 - exp(s))).

    Args:
        rho: "learned" per head, "length" for 1 / n_i, or "one" for softpick itself.
        epsilon: added to the denominator, in the pivot's frame.
    """

    name: ClassVar[str] = "weighted_softpick"
    formula: ClassVar[str] = "relu(exp(s) − 1) / (Σ relu(exp(s) − 1) + ρ Σ relu(1 − exp(s)))"
    paper: ClassVar[str] = "this project, after Zuhri et al. 2025, arXiv 2504.20966 v4"
    bounds: ClassVar[Bounds] = PARTS
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"rho": "length"}, {"rho": "one"})

    rho: str = "learned"
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if self.rho not in RHOS:
            raise AttentionError(f"unknown rho {self.rho!r}{nearest(self.rho, RHOS)}")
        self._refuse_negative("epsilon", self.epsilon)

    @property
    def parts(self) -> tuple[Mechanism, ...]:
        """The positive and the negative sum."""
        return ReluSoftmax(self.epsilon), NegativePart()

    def parameters(self, n_head: int) -> dict[str, Tensor]:
        """`negative_weight` [H], where rho = softplus(negative_weight) = 1, if it is learned."""
        return {"negative_weight": torch.full((n_head,), ONE)} if self.rho == "learned" else {}

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """At rho = 1."""
        return self._weights(score, visible, score.new_ones(1))

    def weights_in(self, call: Call, score: Tensor, visible: Tensor) -> Tensor:
        """The formula."""
        return self._weights(score, visible, self._rho(call, score.dtype).transpose(1, 2)[..., None])

    def compose(self, inputs: AttentionInputs, mix: Mix) -> Tensor:
        """Outputs of the positive part, times its share of the denominator."""
        positive, negative = self.parts
        out, log_positive = mix(positive, inputs.scores, inputs.value)
        _, log_negative = mix(negative, inputs.scores, inputs.value[..., :1].detach())
        assert log_positive is not None
        assert log_negative is not None
        weighted = log_negative + self._rho(inputs.call, log_negative.dtype).log()
        # Through the logarithm, whose derivative keeps its digits where the share is all but 1.
        return out * logsigmoid(log_positive - weighted).exp()[..., None]

    def _weights(self, score: Tensor, visible: Tensor, rho: Tensor) -> Tensor:
        score = score.masked_fill(~visible, 0)
        pivot = score.amax(-1, keepdim=True).clamp(min=0).detach()
        difference = exponential_less_one(score, pivot)
        positive, negative = difference.relu(), (-difference).relu()
        total = positive.sum(-1, keepdim=True) + rho * negative.sum(-1, keepdim=True)
        return positive / (total + self.epsilon)

    def _rho(self, call: Call, dtype: torch.dtype) -> Tensor:
        """[B or 1, T or 1, H or 1]."""
        if self.rho == "learned":
            return softplus(call.params["negative_weight"].to(dtype))[None, None]
        if self.rho == "length":
            return 1 / call.count.clamp(min=1).to(dtype)[..., None]
        return call.count.new_ones(1, 1, 1, dtype=dtype)
