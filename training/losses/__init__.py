"""What training minimises: one file each, found by listing this folder, with its options as keys of `train`.

A file gives one of three things: a `cross_entropy` of the head's predictions, chosen by `train.loss_kernel`, a `total`
to minimise in its place, chosen by `train.loss`, or a `penalty` on each layer's attention, added to either.
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

INSTEAD = {name: module for name, module in _LISTED.items() if hasattr(module, "total")}
"""What is minimised instead of the cross-entropy, by name."""

PENALTIES = {name: module for name, module in _LISTED.items() if hasattr(module, "penalty")}
"""What is added to it, by name."""


@dataclass
class Options(*options(_LISTED.values())):  # type: ignore[misc]
    """Keys of `train`.

    Attributes:
        loss: what is minimised: "cross_entropy", or "spherical_z", the Z-loss of the spherical family. Validation and
            evaluation report the cross-entropy whatever it is.
        loss_kernel: how the cross-entropy is computed: "chunked", or "cce" (the package cut-cross-entropy); "auto":
            cce on a GPU where it is installed.
    """

    loss: str = one_of("cross_entropy", *INSTEAD)
    loss_kernel: str = one_of("auto", *KERNELS)


__all__ = ["INSTEAD", "KERNELS", "PENALTIES", "Loss", "Options"]
