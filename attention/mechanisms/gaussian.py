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

Beware: with norm "none" a row's mass may be anything between 0 and n_i; follow it by a normalisation of the head's
output.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from attention.errors import AttentionError, nearest
from attention.mechanism import Call, Mechanism, Pointwise, Ratio, Scores
from attention.mechanisms.softmax import Exponential
from attention.registry import register
from attention.vectors import unit

NORMS = ("none", "row")


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

    def parameters(self, n_head: int) -> dict[str, Tensor]:
        """`sharpness` [H], where beta = softplus(sharpness) = 1."""
        return {"sharpness": torch.full((n_head,), math.log(math.e - 1))}

    def scores(self, query: Tensor, key: Tensor, call: Call) -> Scores:
        """-beta |q - k|^2 / (2 sqrt(d)), expanded so that the only product of queries and keys is a dot product."""
        self._refuse_scale(call.scale)
        head_dim = query.shape[-1]
        scale = head_dim**-0.5
        wide = torch.promote_types(query.dtype, torch.float32)
        beta = softplus(call.params["sharpness"].to(wide))
        if self.normalise:  # -beta sqrt(d) (1 - cos)
            row_bias = None if self.norm == "row" else (-beta / scale).expand(query.shape[:-1])
            return Scores(unit(query, beta / scale), unit(key), 1.0, row_bias)
        wide_query, wide_key = query.to(wide), key.to(wide)
        group = query.shape[2] // key.shape[2]
        query_bias = None
        if self.norm == "none":  # it cancels in a row sum
            query_bias = -0.5 * scale * beta * wide_query.square().sum(-1)
        key_bias = -0.5 * scale * beta * wide_key.square().sum(-1).repeat_interleave(group, -1)
        sharp_query = wide_query * beta[:, None]
        return Scores(sharp_query.to(query.dtype), wide_key.to(key.dtype), scale, query_bias, key_bias)

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """The kernel, or the kernel over its row sum."""
        if self.norm == "none":
            return score.masked_fill(~visible, -torch.inf).exp()
        return score.masked_fill(~visible, -torch.inf).softmax(-1)

    def weight(self, score: Tensor) -> Tensor:
        """e^s."""
        return score.exp()

    def weight_derivative(self, score: Tensor, weight: Tensor) -> Tensor:
        """The exponential is its own derivative."""
        return weight
