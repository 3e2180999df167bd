"""Which kernel runs what. Kernels differ in rounding, speed and memory, never in mathematics."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from attention.errors import AttentionError, nearest
from attention.kernels import dense, tiled
from attention.kernels.problem import Problem
from attention.kernels.rows import FORMS
from attention.mechanism import Mechanism


@dataclass(frozen=True)
class Kernel:
    """A way to run mechanisms.

    Attributes:
        attend: the outputs of a problem.
        refuses: why it cannot run a mechanism, None if it can.
        summary: one line for the capability table.
    """

    attend: Callable[[Problem], Tensor]
    refuses: Callable[[Mechanism], str | None]
    summary: str


def _tiled_refuses(mechanism: Mechanism) -> str | None:
    return None if mechanism.form in FORMS else f"it has no row functions for form {mechanism.form.__name__}"


KERNELS: dict[str, Kernel] = {
    "tiled": Kernel(tiled.attend, _tiled_refuses, "blocks of rows, memory linear in length"),
    "dense": Kernel(dense.attend, lambda mechanism: None, "the formula on the whole row matrix, by autograd"),
}
"""Fastest first: the order in which "auto" tries them."""


def choose(name: str, mechanism: Mechanism) -> Kernel:
    """The kernel by name, or the fastest capable one for "auto".

    Raises:
        AttentionError: unknown kernel, or one that cannot run the mechanism; those that can are named.
    """
    capable = {known: kernel for known, kernel in KERNELS.items() if kernel.refuses(mechanism) is None}
    if name == "auto":
        return next(iter(capable.values()))
    if name not in KERNELS:
        raise AttentionError(f"unknown kernel {name!r}{nearest(name, [*KERNELS, 'auto'])}")
    reason = KERNELS[name].refuses(mechanism)
    if reason:
        raise AttentionError(
            f"kernel {name!r} cannot run {mechanism.name}: {reason}; use {', '.join(capable)}"
        )
    return KERNELS[name]
