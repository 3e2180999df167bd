"""Cross-entropy in parts.

The logits of a batch are never held at once: they are made for some tokens at a time, and from them not only the loss
but its gradient, before the next tokens take their place (as in Hsu et al., arXiv 2410.10989). The gradient of a sum is
known up to one factor, so nothing is computed twice and the backward pass of the head is a multiplication.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.targets import IGNORED
from models import GPT
from models.readout import PLAIN, Readout
from training.losses import z_loss as z
from training.losses.base import Loss

PREFERENCE = 0

_PART = {"cpu": 2**21, "cuda": 2**26}
"""Logits held at once, by device: on a CPU what a cache holds, on a GPU what keeps it busy."""

_FEWEST_ROWS = 256
"""Tokens per part at least: fewer would read the head more often than they use it."""


def refuses(network: GPT, z_loss: float) -> str | None:
    """Nothing: it serves every model."""
    return None


def unfit(device: str, dtype: torch.dtype) -> str | None:
    """Nothing: it runs everywhere."""
    return None


def cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    z_loss: float = 0.0,
    weights: Tensor | None = None,
    readout: Readout = PLAIN,
    dtype: torch.dtype | None = None,
) -> Loss:
    """Weighted sum of losses of targets [N] under logits of hidden [N, d] @ head [V, d]ᵀ, never held at once.

    Args:
        hidden, head: of any floating dtypes; their gradients are made with the loss.
        targets: int64, -100 where a token carries no loss.
        z_loss: weight of the squared log of the normaliser.
        weights: factor of each token's loss, [N], no gradient; None: 1.
        readout: how the products become logits.
        dtype: of both products with the head; None: that of `hidden`. All else is in float32 at least.
    """
    if weights is None:
        weights = torch.ones_like(targets, dtype=torch.float32)
    weights = weights.where(targets != IGNORED, 0)
    part = rows_at_once(hidden.device.type, len(head))
    return Loss(*_Chunked.apply(hidden, head, targets.clamp(min=0), weights, z_loss, readout, dtype, part))


@torch.no_grad()
def token_losses(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    readout: Readout = PLAIN,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The same of each token, [N] in float32 at least, without gradient; 0 where ignored. Validation takes it."""
    narrow, part = head.to(dtype or hidden.dtype), rows_at_once(hidden.device.type, len(head))
    found = []
    with torch.autocast(hidden.device.type, enabled=False):
        for rows, wanted in zip(hidden.split(part), targets.clamp(min=0).split(part), strict=True):
            found.append(_predict(rows, narrow, wanted[:, None], readout).surprise[:, 0])
    return torch.cat(found).masked_fill(targets == IGNORED, 0)


def rows_at_once(device: str, vocabulary: int) -> int:
    """Tokens whose logits are held at once on a kind of device."""
    return max(_FEWEST_ROWS, _PART.get(device, 2**26) // vocabulary)


class _Prediction(NamedTuple):
    """Of N tokens: linear [N, V] the products with the head; power [N, V] e^{z − max z} of the logits z; mass [N, 1]
    its sum; normaliser [N, 1] log Σ e^z; surprise [N, 1] the nats of the wanted piece.
    """

    linear: Tensor
    power: Tensor
    mass: Tensor
    normaliser: Tensor
    surprise: Tensor


def _predict(states: Tensor, head: Tensor, wanted: Tensor, readout: Readout) -> _Prediction:
    linear = (states.to(head.dtype) @ head.T).to(torch.promote_types(states.dtype, torch.float32))
    logits = readout(linear)
    correct, largest = logits.gather(-1, wanted), logits.amax(-1, keepdim=True)
    power = logits.sub_(largest).exp_()
    mass = power.sum(-1, keepdim=True)
    normaliser = largest + mass.log()
    return _Prediction(linear, power, mass, normaliser, normaliser - correct)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        weights: Tensor,
        z_loss: float,
        readout: Readout,
        dtype: torch.dtype | None,
        part: int,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        total, nats = hidden.new_zeros((), dtype=wide), hidden.new_zeros((), dtype=wide)
        grad_hidden, grad_head = torch.empty_like(hidden), torch.zeros_like(head, dtype=wide)
        narrow = head.to(dtype or hidden.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), part):
                rows = slice(start, start + part)
                states, wanted, weight = hidden[rows], targets[rows, None], weights[rows, None]
                linear, power, mass, normaliser, surprise = _predict(states, narrow, wanted, readout)
                nats += (weight * surprise).sum()
                total += (weight * surprise + z.added(normaliser, weight, z_loss)).sum()
                # d/d logit: weight (p − onehot) + 2 z_loss weight lse p
                gradient = power.mul_(weight * (1 + z.slope(normaliser, z_loss)) / mass)
                gradient.scatter_add_(-1, wanted, -weight.to(wide))
                narrow_gradient = readout.back(gradient, linear).to(narrow.dtype)
                grad_hidden[rows] = narrow_gradient @ narrow
                grad_head += narrow_gradient.T @ states.to(narrow.dtype)
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.head_dtype = head.dtype
        ctx.mark_non_differentiable(nats)
        return total, nats

    @staticmethod
    def backward(ctx: Any, factor: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        grad_head = (grad_head * factor).to(ctx.head_dtype)
        return grad_hidden * factor.to(grad_hidden.dtype), grad_head, None, None, None, None, None, None
