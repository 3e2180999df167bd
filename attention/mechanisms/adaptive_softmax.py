"""Adaptive temperature: softmax that is sharpened where its entropy is large.

Source: Velickovic et al., "Softmax is not enough (for sharp size generalisation)", arXiv 2410.01104.

    p_i = softmax(s_i),    H_i = -sum_j p_ij ln p_ij,    w_i = softmax(beta(H_i) s_i)
    beta(H) = max(-0.037 H^4 + 0.481 H^3 - 2.3 H^2 + 4.917 H - 1.791, 1) where H > 0.5, else 1

Paper: the polynomial was fitted on a task of finding maxima, and sharpens a model that was trained without it.

Published code: the paper's own listing; a public port evaluates the coefficients in reverse order, which is another
function.

Here: as in the paper, softmax in training and sharpened elsewhere, without a gradient through beta; `when` has the
other cases. H = ln Z - sum_j p_ij s_ij, so that two sums over a row give it.

Beware: beta exceeds 1 for 0.85 < H < 5.94 nats only. Rows that spread over more than about 380 keys stay as they are.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attention.core.call import Phase
from attention.core.errors import AttentionError, nearest
from attention.core.mechanism import SHARES, Bounds, Mechanism
from attention.core.registry import register
from attention.forms.sharpened import Sharpened
from attention.mechanisms.softmax import Softmax

COEFFICIENTS = (-0.037, 0.481, -2.3, 4.917, -1.791)
LEAST_ENTROPY = 0.5
MODES = ("evaluation", "always", "gradient")
AT_REST = Softmax()


@register
@dataclass(frozen=True)
class AdaptiveSoftmax(Sharpened):
    """softmax(beta(H) s), H the entropy of softmax(s).

    Args:
        when: "evaluation" (the paper), "always", or "gradient": always, with the gradient through beta.
    """

    name: ClassVar[str] = "adaptive_softmax"
    formula: ClassVar[str] = "softmax(β(H) s),  H = entropy of softmax(s)"
    paper: ClassVar[str] = "Veličković et al. 2024, arXiv 2410.01104"
    bounds: ClassVar[Bounds] = SHARES
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"when": "gradient"},)
    follows_training: ClassVar[bool] = True

    when: str = "evaluation"

    def __post_init__(self) -> None:
        if self.when not in MODES:
            raise AttentionError(f"unknown when {self.when!r}{nearest(self.when, MODES)}")

    def at(self, phase: Phase) -> Mechanism:
        """Softmax in training where only evaluation is sharpened."""
        return AT_REST if self.when == "evaluation" and phase.training else self

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """Softmax twice."""
        share = AT_REST.weights(score, visible)
        tiny = torch.finfo(share.dtype).tiny
        entropy = -(share * share.clamp(min=tiny).log()).sum(-1, keepdim=True)
        entropy = entropy if self.when == "gradient" else entropy.detach()
        return AT_REST.weights(self.sharpness(entropy) * score, visible)

    def sharpness(self, entropy: Tensor) -> Tensor:
        """beta(H)."""
        polynomial = 0 * entropy
        for coefficient in COEFFICIENTS:
            polynomial = polynomial * entropy + coefficient
        return polynomial.clamp(min=1).where(entropy > LEAST_ENTROPY, 1)

    def sharpness_derivative(self, entropy: Tensor) -> Tensor:
        """beta'(H) where `when` says gradient, else 0."""
        if self.when != "gradient":
            return 0 * entropy
        slope = 0 * entropy
        degree = len(COEFFICIENTS) - 1
        for power, coefficient in zip(range(degree, 0, -1), COEFFICIENTS, strict=False):
            slope = slope * entropy + power * coefficient
        return slope * (self.sharpness(entropy) > 1)
