"""The Z-loss of the spherical family (de Brébisson and Vincent, arXiv 1604.08859), in place of the cross-entropy.

    (1/a) log(1 + e^{a (b − s)}),     s = (z_y − mean z) / sd z over the V logits z of a token, y its target

It is a margin on the standardised score of the right token: logits shifted or scaled all alike give the same loss. Of
the logits it needs three numbers only, their sum, the sum of their squares and the right one, and with a linear head
these follow from the hidden state h and the centred head W − mean W = C:

    z_y − mean z = C_y · h,     var z = hᵀ (Cᵀ C / V) h

so that no logits are made: a token costs d² instead of V d, and a batch V d² more for Cᵀ C. The paper also keeps W in
factors, so that not even the batch's part, nor the optimizer's step, depends on V; this does not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from common.ranges import ranged
from common.targets import IGNORED
from models import GPT, ModelError
from training.losses.base import Loss
from training.losses.chunked import token_losses

TINY = 1e-12
"""Added to a variance, for a head whose rows are all the same."""


@dataclass
class Options:
    """Keys of `train`.

    Attributes:
        spherical_slope: a of the loss spherical_z: the larger, the sharper the margin.
        spherical_offset: b of the loss spherical_z: the standardised score that the right token shall exceed.
    """

    spherical_slope: float = ranged(0.1, 0.0, 1e6, above=True)
    spherical_offset: float = ranged(10.0, 0.0, 1e6)


def refuses(network: GPT, z_loss: float) -> str | None:
    """Why it cannot train a model, None where it can."""
    if z_loss:
        return "train.z_loss is a part of the cross-entropy"
    if not network.readout.plain:
        return "it takes the head's products, and model.prediction or model.logit_softcap change them"
    return None


def total(hidden: Tensor, head: Tensor, targets: Tensor, options: Options, dtype: torch.dtype) -> Loss:
    """The loss of targets [N] after hidden [N, d] under the head [V, d]; the cross-entropy with it is not minimised.

    Raises:
        ModelError: a head of one token.
    """
    if len(head) < 2:
        raise ModelError("spherical_z compares the logits of at least two tokens")
    losses = spherical_z(hidden, head, targets, options.spherical_slope, options.spherical_offset)
    nats = token_losses(hidden.detach(), head.detach(), targets, dtype=dtype).sum()
    return Loss(losses.sum(), nats)


def spherical_z(hidden: Tensor, head: Tensor, targets: Tensor, slope: float, offset: float) -> Tensor:
    """The loss of each target [N] after hidden [N, d] under the head [V, d]; 0 where ignored, float32 at least."""
    with torch.autocast(hidden.device.type, enabled=False):
        wide = torch.promote_types(hidden.dtype, torch.float32)
        hidden, head = hidden.to(wide), head.to(wide)
        centred = head - head.mean(0)
        spread = centred.T @ centred / len(head)
        variance = ((hidden @ spread) * hidden).sum(-1)
        above = (hidden * centred[targets.clamp(min=0)]).sum(-1)
        score = above * (variance + TINY).rsqrt()
        losses = functional.softplus(slope * (offset - score)) / slope
    return losses.masked_fill(targets == IGNORED, 0)
