"""Mechanisms of capped scores that outlive the call that they are made for.

A file of its own, imported where a softcap is given: marking a function for torch.compile imports the compiler, which
takes as long as torch.
"""

import torch

from attention.core.mechanism import Mechanism

CAPPED: list[Mechanism] = []
"""Those made so far: torch.compile takes a mechanism from a place that outlives the call, not one made in it."""


@torch.compiler.assume_constant_result
def place(mechanism: Mechanism, cap: float) -> int:
    """The place of a mechanism of capped scores."""
    made = mechanism.form.capped(mechanism, cap)
    if made not in CAPPED:
        CAPPED.append(made)
    return CAPPED.index(made)
