"""What a kernel is."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from attention.kernels.problem import Problem


@dataclass(frozen=True)
class Kernel:
    """A way to run mechanisms.

    Attributes:
        name: as the caller writes it.
        attend: the outputs [B, T, H, Dv] of a problem.
        refuses: why it cannot serve a problem, None if it can; must not compute anything.
        summary: one line for the capability table.
    """

    name: str
    attend: Callable[[Problem], Tensor]
    refuses: Callable[[Problem], str | None]
    summary: str
