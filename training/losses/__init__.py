"""What training minimises: one file each, found by listing this folder, with its options as keys of `train`.

A file gives one of two things: a `cross_entropy` of the head's predictions, chosen by `train.loss_kernel`, or a
`penalty` on each layer's attention, added to it.
"""

from dataclasses import dataclass

from common.listing import modules, options
from common.ranges import one_of
from training.losses.base import Loss

_LISTED = modules(__name__, without={"objective"})
KERNELS = dict(
    sorted(
        ((name, module) for name, module in _LISTED.items() if hasattr(module, "cross_entropy")),
        key=lambda found: -found[1].PREFERENCE,
    )
)
"""How the cross-entropy is computed, by name; those that "auto" prefers come first."""

PENALTIES = {name: module for name, module in _LISTED.items() if hasattr(module, "penalty")}
"""What is added to it, by name."""


@dataclass
class Options(*options(_LISTED.values())):  # type: ignore[misc]
    """Keys of `train`.

    Attributes:
        loss_kernel: how the cross-entropy is computed: "chunked", or "cce" (the package cut-cross-entropy); "auto":
            cce on a GPU where it is installed.
    """

    loss_kernel: str = one_of("auto", *KERNELS)


__all__ = ["KERNELS", "PENALTIES", "Loss", "Options"]
