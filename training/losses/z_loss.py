"""The z-loss, which keeps the logits' normaliser near 1: z lse², lse = log Σ_v e^{z_v} (PaLM, arXiv 2204.02311)."""

from dataclasses import dataclass

from torch import Tensor

from common.ranges import ranged


@dataclass
class Options:
    """Keys of `train`.

    Attributes:
        z_loss: weight of the squared log of the softmax's normaliser, per target token; PaLM's is 1e-4.
    """

    z_loss: float = ranged(0.0, 0.0, 1e6)


def added(normaliser: Tensor, weight: Tensor, z_loss: float) -> Tensor:
    """The z-loss of each token: normaliser lse [N, 1], weight of the token [N, 1]."""
    return z_loss * weight * normaliser.square()


def slope(normaliser: Tensor, z_loss: float) -> Tensor:
    """Its derivative by lse, the weight left out."""
    return 2 * z_loss * normaliser
