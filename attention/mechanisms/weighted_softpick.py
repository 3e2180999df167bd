"""Softpick with a weight on what irrelevant keys add to the denominator.

Source: this project's answer to what arXiv 2504.20966 v4 calls underscoring: every key far below zero adds 1 to
softpick's denominator, so that a relevant score must exceed ln n to win half of the weight.

    w_ij = relu(e^{s_ij} - 1) / (sum_k relu(e^{s_ik} - 1) + rho (sum_k relu(1 - e^{s_ik}) + epsilon))

Paper: rho = 1. At rho = 0 it is its equation 5, in which sinks come back.

Published code: rho = 1.

Here: rho is learned per head ("learned", 1 at the start), 1 / n_i ("length"), or "one". It is softpick, divided by
p + rho (1 - p), where p is what the row's weights sum to: mixed from ones, beside the values where they are copied for
that, else by themselves. Hence epsilon stands beside the second sum.

Beware: as for softpick, a row without a positive score is dead.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from attention.core.call import Call
from attention.core.errors import AttentionError, nearest
from attention.core.inputs import AttentionInputs
from attention.core.mechanism import PARTS, Bounds, Mechanism
from attention.core.registry import register
from attention.forms.composite import Composite, Mix
from attention.mechanisms.softpick import Softpick, exponential_less_one

RHOS = ("learned", "length", "one")
ONE = 0.5413248546129181
"""softplus of it is 1."""
LEAST = 1e-18
"""Of what rows are divided by: a dead row stays one, and its gradients zero, where rho is next to nothing."""
FEW_QUERIES = 4
"""Up to which a second mixing costs less than a copy of the values. On a GPU, where widths are powers of two, it is
taken to cost less than one more channel for all calls; that was not measured."""


@register
@dataclass(frozen=True)
class WeightedSoftpick(Composite):
    """relu(exp(s) - 1) / (sum relu(exp(s) - 1) + rho sum relu(1 - exp(s))).

    Args:
        rho: "learned" per head, "length" for 1 / n_i, or "one" for softpick itself.
        epsilon: added to the second sum, in the pivot's frame.
    """

    name: ClassVar[str] = "weighted_softpick"
    formula: ClassVar[str] = "relu(exp(s) − 1) / (Σ relu(exp(s) − 1) + ρ Σ relu(1 − exp(s)))"
    paper: ClassVar[str] = "this project, after Zuhri et al. 2025, arXiv 2504.20966 v4"
    bounds: ClassVar[Bounds] = PARTS
    mixings: ClassVar[int] = 1
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"rho": "length"}, {"rho": "one"})

    rho: str = "learned"
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if self.rho not in RHOS:
            raise AttentionError(f"unknown rho {self.rho!r}{nearest(self.rho, RHOS)}")
        self._refuse_negative("epsilon", self.epsilon)

    @property
    def parts(self) -> tuple[Mechanism, ...]:
        """Softpick."""
        return (Softpick(self.epsilon),)

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
        """Outputs of softpick over p + rho (1 - p)."""
        out, share = self._mixed(inputs, mix)
        rho = self._rho(inputs.call, share.dtype)[..., None]
        total = torch.lerp(rho, torch.ones_like(rho), share)
        return out * total.clamp(min=LEAST).reciprocal()

    def _mixed(self, inputs: AttentionInputs, mix: Mix) -> tuple[Tensor, Tensor]:
        """Outputs of softpick, and what the weights of each row sum to, [B, T, H, 1]."""
        (softpick,), scores, value = self.parts, inputs.scores, inputs.value
        if value.is_cuda or scores.query.shape[1] <= FEW_QUERIES:
            ones = value.new_ones(1).expand(*value.shape[:-1], 1)
            return mix(softpick, scores, value).out, mix(softpick, scores, ones).out
        out, share = mix(softpick, scores, pad(value, (0, 1), value=1.0)).out.split([value.shape[-1], 1], -1)
        return out, share

    def _weights(self, score: Tensor, visible: Tensor, rho: Tensor) -> Tensor:
        score = score.masked_fill(~visible, 0)
        pivot = score.amax(-1, keepdim=True).clamp(min=0).detach()
        difference = exponential_less_one(score, pivot)
        positive, negative = difference.relu(), (-difference).relu()
        total = positive.sum(-1, keepdim=True) + rho * (negative.sum(-1, keepdim=True) + self.epsilon)
        return positive / total.masked_fill(total == 0, 1)

    def _rho(self, call: Call, dtype: torch.dtype) -> Tensor:
        """[B or 1, T or 1, H or 1]."""
        if self.rho == "learned":
            return softplus(call.params["negative_weight"].to(dtype))[None, None]
        if self.rho == "length":
            return 1 / call.count.clamp(min=1).to(dtype)[..., None]
        return call.count.new_ones(1, 1, 1, dtype=dtype)
