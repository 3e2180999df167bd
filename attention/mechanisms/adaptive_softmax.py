"""Adaptive temperature: softmax that is sharpened where its entropy is large.

Source: Velickovic et al., "Softmax is not enough (for sharp size generalisation)", arXiv 2410.01104.

    p_i = softmax(s_i),    H_i = -sum_j p_ij ln p_ij,    w_i = softmax(beta(H_i) s_i)
    beta(H) = max(-0.037 H^4 + 0.481 H^3 - 2.3 H^2 + 4.917 H - 1.791, 1) where H > 0.5, else 1

Paper: the polynomial was fitted on a task of finding maxima, and sharpens a model that was trained without it.

Published code: the paper's own listing; a public port evaluates the coefficients in reverse order, which is another
function.

Here: as in the paper, softmax in training and sharpened elsewhere, without a gradient through beta; `when` has the
other cases. Nothing of size T x T is needed: H = ln Z - sum_j p_ij s_ij, and the mean score is the query's product with
the mean key, which is softmax attention with keys in place of values.

Beware: beta exceeds 1 for 0.85 < H < 5.94 nats only. Rows that spread over more than about 380 keys stay as they are.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from attention.core.call import Call
from attention.core.errors import AttentionError, nearest
from attention.core.inputs import AttentionInputs
from attention.core.mechanism import SHARES, Bounds, Mechanism
from attention.core.registry import register
from attention.forms.composite import Composite, Mix
from attention.mechanisms.softmax import Softmax, row_entropy

COEFFICIENTS = (-0.037, 0.481, -2.3, 4.917, -1.791)
LEAST_ENTROPY = 0.5
MODES = ("evaluation", "always", "gradient")


@register
@dataclass(frozen=True)
class AdaptiveSoftmax(Composite):
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
    takes_slopes: ClassVar[bool] = False  # beta(H) would multiply them row by row

    when: str = "evaluation"

    def __post_init__(self) -> None:
        if self.when not in MODES:
            raise AttentionError(f"unknown when {self.when!r}{nearest(self.when, MODES)}")

    @property
    def parts(self) -> tuple[Mechanism, ...]:
        """Softmax."""
        return (Softmax(),)

    def weights_in(self, call: Call, score: Tensor, visible: Tensor) -> Tensor:
        """Softmax in training where only evaluation is sharpened."""
        return Softmax().weights(score, visible) if self._rests(call) else self.weights(score, visible)

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """Softmax twice."""
        softmax = Softmax()
        share = softmax.weights(score, visible)
        tiny = torch.finfo(share.dtype).tiny
        entropy = -(share * share.clamp(min=tiny).log()).sum(-1, keepdim=True)
        return softmax.weights(self._sharpness(entropy) * score, visible)

    def compose(self, inputs: AttentionInputs, mix: Mix) -> Tensor:
        """The entropy from one mixing; the sharpness goes into the query of the other."""
        scores, softmax = inputs.scores, Softmax()
        if self._rests(inputs.call):
            return mix(softmax, scores, inputs.value).out
        entropy = row_entropy(scores, mix(softmax, scores, scores.key))
        sharper = scores.query * self._sharpness(entropy)[..., None]
        return mix(softmax, replace(scores, query=sharper), inputs.value).out

    def _rests(self, call: Call) -> bool:
        return self.when == "evaluation" and call.phase.training

    def _sharpness(self, entropy: Tensor) -> Tensor:
        """beta(H)."""
        if self.when != "gradient":
            entropy = entropy.detach()
        polynomial = torch.zeros_like(entropy)
        for coefficient in COEFFICIENTS:
            polynomial = polynomial * entropy + coefficient
        return polynomial.clamp(min=1).where(entropy > LEAST_ENTROPY, 1)
