"""What losses give."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from models import AttentionCall


class Loss(NamedTuple):
    """Sums over the target tokens of a batch, scalars.

    Attributes:
        total: what is minimised.
        nats: the cross-entropy, of which `total` may be made; carries no gradient.
    """

    total: Tensor
    nats: Tensor


class Penalty(NamedTuple):
    """Something added to the cross-entropy: its weight, and one layer's part of it.

    `of_layer` is a function of the layer's attention and the targets [B, T], summed over these.
    """

    weight: float
    of_layer: Callable[[AttentionCall, Tensor], Tensor]
