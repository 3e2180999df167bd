"""Gaussian attention: SOFT's softmax-free kernel, exact and causal.

Source: Lu et al., "SOFT: Softmax-free Transformer with Linear Complexity", arXiv 2110.11945, and "Softmax-free Linear
Transformers", arXiv 2207.03341.

    kappa(q_i, k_j) = exp(-beta_h |q_i - k_j|^2 / (2 sqrt(d))),        beta_h = softplus(b_h), learned per head
    w_ij = kappa(q_i, k_j)                          norm = "none", SOFT's kernel
    w_ij = kappa(q_i, k_j) / sum_k kappa(q_i, k_k)  norm = "row"

Paper: a vision model, bidirectional, queries equal keys, the kernel approximated through a few landmarks.

Published code: landmarks are a learned convolution with layer norm, and the last stage of every released model is
ordinary softmax attention. No language results exist.

Here: the exact kernel in causal form, a new thing that the papers do not evaluate. Queries and keys are brought to a
root mean square of one (`normalise`), so that the exponent is -beta_h sqrt(d) (1 - cos(q, k)): with raw unit-variance
vectors of 64 channels the kernel is numerically the identity. With norm "row" the query's own norm cancels: it is
softmax attention with the key bias -|k|^2 / (2 sqrt(d)), and, normalised, cosine softmax; a test holds it to that.

Kernels multiply matrices, so the distance is expanded: -beta |q - k|^2 / 2 = q'.k - |q'|^2 / (2 beta) - beta |k|^2 / 2
with q' = beta q. Both squares are those of q' and k as they are after rounding to the call's dtype, so that the sum is
a distance again, between vectors that are a rounding away from q and k. What float32 sums round beyond 0 is cut off.

Beware: with norm "none" a row's mass may be anything between 0 and n_i; follow it by a normalisation of the head's
output. The expansion loses what float32 holds of beta |q|^2 / sqrt(d): without `normalise`, vectors 30 times the usual
weigh themselves with 1 - 1e-3 in place of 1.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from attention.core.call import Call
from attention.core.errors import AttentionError, nearest
from attention.core.l2norm import SHORTEST, l2norm
from attention.core.mechanism import GATES, SHARES, Bounds, Mechanism
from attention.core.registry import register
from attention.core.scores import Scores
from attention.forms.pointwise import Pointwise
from attention.forms.ratio import Ratio
from attention.mechanisms.softmax import Exponential

NORMS = ("none", "row")
BLUNTEST = 1e-12
"""The least beta: at a smaller one float32 has a weight of 1 all the same, and of beta^2 nothing to divide by."""


@register
@dataclass(frozen=True)
class Gaussian(Pointwise, Exponential):
    """exp(-beta |q - k|^2 / (2 sqrt(d))), as it is or divided by its row sum.

    Args:
        norm: "none" or "row".
        normalise: bring queries and keys to a root mean square of one.
    """

    name: ClassVar[str] = "gaussian"
    formula: ClassVar[str] = "exp(−β |q − k|² / 2√d)  [/ Σ, norm = row]"
    paper: ClassVar[str] = "Lu et al. 2021, arXiv 2110.11945 (kernel only; causal adaptation)"
    variants: ClassVar[tuple[dict[str, Any], ...]] = (
        {"norm": "row"},
        {"normalise": False},
        {"norm": "row", "normalise": False},
    )

    norm: str = "none"
    normalise: bool = True

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise AttentionError(f"unknown norm {self.norm!r}{nearest(self.norm, NORMS)}")

    @property
    def form(self) -> type[Mechanism]:  # type: ignore[override]
        """Pointwise without normalisation, else Ratio."""
        return Pointwise if self.norm == "none" else Ratio

    @property
    def bounds(self) -> Bounds:  # type: ignore[override]
        """A vector has no distance from itself."""
        return SHARES if self.norm == "row" else replace(GATES, itself=1.0)

    def parameters(self, n_head: int) -> dict[str, Tensor]:
        """`sharpness` [H], where beta = softplus(sharpness) = 1."""
        return {"sharpness": torch.full((n_head,), math.log(math.e - 1))}

    def settled(self, key: Tensor) -> Tensor:
        """Unit keys where keys are normalised."""
        return l2norm(key) if self.normalise else key

    def scores(self, query: Tensor, key: Tensor, call: Call) -> Scores:
        """The expanded distance: the only product of queries and keys is a dot product."""
        self._refuse_scale(call.scale)
        scale, wide = self._scale(query), torch.promote_types(query.dtype, torch.float32)
        beta = self._beta(call, wide)
        if self.normalise:
            scaled = l2norm(query, beta / scale, plain=call.plain)
            key = key if call.settled else l2norm(key, plain=call.plain)
            if self.norm == "row":  # softmax of beta sqrt(d) cos
                return Scores(scaled, key)
            beta = beta / scale
            # Lengths are one but for rounding, which has no gradient.
            row_bias = -beta - 0.5 * beta * (_square(scaled, wide) / beta**2 - 1).detach()
            key_bias = -0.5 * beta * (_per_query_head(_square(key, wide), query) - 1)
            return Scores(scaled, key, 1.0, row_bias, key_bias.detach())
        scaled = (query.to(wide) * beta[:, None]).to(query.dtype)
        query_bias = None
        if self.norm == "none":  # it cancels in a row sum
            query_bias = -0.5 * scale * _square(scaled, wide) / beta
        key_bias = -0.5 * scale * beta * _per_query_head(_square(key, wide), query)
        return Scores(scaled, key, scale, query_bias, key_bias)

    def stated_scores(self, query: Tensor, key: Tensor, call: Call) -> Tensor | None:
        """-beta |q - k|^2 / (2 sqrt(d)); nothing to add to `scores` where that is a cosine."""
        if self.normalise and self.norm == "row":
            return None
        scale = self._scale(query)
        if self.normalise:
            query, key = (normalize(x, dim=-1, eps=SHORTEST) * scale**-1 for x in (query, key))
        query, key = query.transpose(1, 2), _per_query_head(key, query).transpose(1, 2)
        distance = (query[..., :, None, :] - key[..., None, :, :]).square().sum(-1)
        return -0.5 * scale * self._beta(call, query.dtype)[:, None, None] * distance

    def _scale(self, query: Tensor) -> float:
        """1 / sqrt(d)."""
        return query.shape[-1] ** -0.5

    def _beta(self, call: Call, dtype: torch.dtype) -> Tensor:
        """[H]."""
        return softplus(call.params["sharpness"].to(dtype)).clamp(min=BLUNTEST)

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """The kernel, or the kernel over its row sum."""
        if self.norm == "none":
            return self.weight(score.masked_fill(~visible, -torch.inf))
        return score.masked_fill(~visible, -torch.inf).softmax(-1)

    def weight(self, score: Tensor) -> Tensor:
        """e^s; a distance that rounding made negative counts as 0."""
        return score.clamp(max=0).exp()

    def weight_derivative(self, score: Tensor, weight: Tensor) -> Tensor:
        """The exponential is its own derivative, also at a distance of 0."""
        return weight


def _square(vectors: Tensor, dtype: torch.dtype) -> Tensor:
    """|x|^2, [B, S, H]."""
    return vectors.to(dtype).square().sum(-1)


def _per_query_head(shared: Tensor, query: Tensor) -> Tensor:
    """Repeat the features of keys [B, S, Hk, ...] for every query head."""
    return shared.repeat_interleave(query.shape[2] // shared.shape[2], 2)
