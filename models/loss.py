"""Cross-entropy per token, without holding the logits of a long batch at once; `training.losses` sums it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from common.targets import IGNORED

_LARGEST = 2**26
"""Logits held at once, 256 MiB in float32; more are computed in parts, and again in the backward pass."""

_CACHED = 2**22
"""Logits held at once on the CPU where no gradient is wanted, 16 MiB, the size of a cache; none of them is kept."""


def token_losses(
    hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], vocab_size: int
) -> Tensor:
    """Cross-entropy in nats of targets [B, T] under head(hidden [B, T, d]): [B, T] float32, 0 where ignored.

    The logits are widened to float32 before the softmax, whatever autocast made of the head.
    """
    rows, wanted = hidden.flatten(0, 1), targets.flatten()
    part = max(1, (_CACHED if hidden.is_cpu and not torch.is_grad_enabled() else _LARGEST) // vocab_size)

    def losses(rows: Tensor, wanted: Tensor) -> Tensor:
        return functional.cross_entropy(head(rows).float(), wanted, ignore_index=IGNORED, reduction="none")

    if len(rows) <= part:
        return losses(rows, wanted).view_as(targets)
    recomputed = [
        checkpoint(losses, some_rows, some_wanted, use_reentrant=False)
        for some_rows, some_wanted in zip(rows.split(part), wanted.split(part), strict=True)
    ]
    return torch.cat(recomputed).view_as(targets)
