"""Activation checkpointing (Chen et al., arXiv 1604.06174): what is computed again in the backward pass, not kept.

Noise is an argument (`attention.Phase`) and nothing else in a model is random, so what is computed again is the same to
the last bit, and so are the gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from common.ranges import one_of


@dataclass
class Options:
    """Keys of `train`.

    Attributes:
        activation_checkpointing: what is computed again in the backward pass instead of being kept, for less memory
            and the same gradients: "none", "selective" (the feed-forward half of each block) or "full" (all of it).
    """

    activation_checkpointing: str = one_of("none", "selective", "full")


def recomputed(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`function(*inputs)`, of which only the inputs are kept for the backward pass."""
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]
