"""How the head's products become logits, whose softmax is the prediction."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from models.plan import Plan


@dataclass(frozen=True)
class Readout:
    """An increasing function of each product z of the head, chosen by the model's config.

    Attributes:
        prediction: "softmax", or "stablemax": `log_stablemax` of what the cap leaves.
        softcap: c of c tanh(z / c), which keeps logits within ±c (Gemma 2, arXiv 2408.00118); None: no cap.
    """

    prediction: str = "softmax"
    softcap: float | None = None

    @classmethod
    def of(cls, plan: "Plan") -> "Readout":
        """The readout of a model."""
        return cls(plan.prediction, plan.logit_softcap)

    @property
    def plain(self) -> bool:
        """Whether the products are the logits."""
        return self == PLAIN

    def __call__(self, linear: Tensor) -> Tensor:
        """Logits, in float32 at least unless they are the products."""
        logits = linear if self.softcap is None else capped(linear, self.softcap)
        return log_stablemax(logits) if self.prediction == "stablemax" else logits

    def back(self, gradient: Tensor, linear: Tensor) -> Tensor:
        """The gradient by the products z, given that by the logits, which is overwritten."""
        logits = linear
        if self.softcap is not None:
            logits = capped(linear, self.softcap)
            gradient *= 1 - (logits / self.softcap).square()
        if self.prediction == "stablemax":
            gradient /= 1 + logits.abs()
        return gradient


PLAIN = Readout()
"""The products as they are."""


def capped(logits: Tensor, cap: float) -> Tensor:
    """cap · tanh(z / cap), in float32 at least."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return cap * (wide / cap).tanh()


def log_stablemax(logits: Tensor) -> Tensor:
    """log s(z) of StableMax (Prieto et al., arXiv 2501.04697), in float32 at least.

        s(z) = z + 1 for z ≥ 0, 1 / (1 − z) for z < 0,     so that log s(z) = sign(z) log(1 + |z|)

    The softmax of log s(z) is s(z) / Σ s(z), and its cross-entropy the paper's StableMax loss. Unlike softmax it
    depends on more than differences of logits.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # Clamped, because the gradient at 0 is 1 and not that of |z|.
    return torch.where(wide >= 0, wide.clamp(min=0).log1p(), -(-wide).clamp(min=0).log1p())
