"""The arguments of one call beside its queries, keys and values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from attention.core.arguments import check_flag, check_scalar, is_finite, is_whole, shown
from attention.core.errors import AttentionError


@dataclass(frozen=True)
class Phase:
    """The moment in training of a call, on which noise and schedules depend.

    Attributes:
        training: whether the weights are being trained.
        progress: share of the training that is done, 0 to 1.
        seed: of the noise of this step and layer, int64 []; the same seed gives the same noise.
        first_sequence: place of the call's first sequence among those of the whole step, int64 [] or a number. A
            sequence's noise depends on its place alone, however processes and calls share the step.
    """

    training: bool = False
    progress: float = 1.0
    seed: Tensor | None = None
    first_sequence: Tensor | int = 0


INFERENCE = Phase()
"""Not in training: no noise, schedules at their end."""


class CallOptions(TypedDict, total=False):
    """The fields of a `CallSpec`, as keyword arguments."""

    causal: bool
    window: int | None
    documents: Tensor | None
    scale: float | None
    params: Mapping[str, Tensor] | None
    phase: Phase
    softcap: float | None
    intervals: Tensor | None
    slopes: Tensor | None


@dataclass(frozen=True)
class CallSpec:
    """The way queries meet keys: `attend`, `weights`, `row_stats` and `entropy` take it alike.

    Attributes:
        causal: hide keys after the query.
        window: a query sees keys at a distance below it, itself included; None for the mechanism's own.
        documents: int [B, S]; a run of equal ids is one document and sees only itself; -1 is padding.
        scale: factor of the dot product; None for the mechanism's own.
        params: learned parameters of the mechanism; initial values where missing.
        phase: when in training the call happens, for mechanisms with noise or a schedule.
        softcap: c of scores c tanh(s / c), which then take the place of s; None for s.
        intervals: int64 [B or 1, T, 3]; of each query the first key it sees, the end of those it sees, and its own
            place among the keys. For masks that documents do not say.
        slopes: [H]; slope_h (i - j) is added to the score of query i and key j; None for the mechanism's own.
    """

    causal: bool = True
    window: int | None = None
    documents: Tensor | None = None
    scale: float | None = None
    params: Mapping[str, Tensor] | None = None
    phase: Phase = INFERENCE
    softcap: float | None = None
    intervals: Tensor | None = None
    slopes: Tensor | None = None

    @property
    def options(self) -> CallOptions:
        """The same as keyword arguments: `weights(query, key, mechanism, **spec.options)`."""
        return {
            "causal": self.causal,
            "window": self.window,
            "documents": self.documents,
            "scale": self.scale,
            "params": self.params,
            "phase": self.phase,
            "softcap": self.softcap,
            "intervals": self.intervals,
            "slopes": self.slopes,
        }


DEFAULT = CallSpec()
"""A causal call with nothing else said."""


@dataclass(frozen=True)
class Call:
    """The facts of a call that a mechanism is told beyond its queries and keys.

    Attributes:
        count: n_i, the number of keys each query sees, [B or 1, T].
        scale: the caller's factor of the dot product, None for the mechanism's own.
        params: all learned parameters by name.
        phase: when in training it happens.
        plain: whether `scores` shall be made of PyTorch's own operations only, which have every derivative.
        settled: whether keys are what the mechanism's `settled` made of them.
    """

    count: Tensor
    scale: float | None
    params: Mapping[str, Tensor]
    phase: Phase = INFERENCE
    plain: bool = False
    settled: bool = False

    def log_count(self, dtype: torch.dtype) -> Tensor:
        """ln n_i, [B or 1, T]; 0 where a query sees nothing."""
        return self.count.clamp(min=1).to(dtype).log()


def check_phase(phase: Any, device: torch.device) -> None:
    """AttentionError: no `Phase`, or one whose fields cannot be."""
    if phase is INFERENCE:
        return
    if not isinstance(phase, Phase):
        raise AttentionError(f"phase must be an attention.Phase, got {shown(phase)}")
    check_flag("the phase's training", phase.training)
    if not (is_finite(phase.progress) and 0 <= phase.progress <= 1):
        raise AttentionError(f"the phase's progress must be between 0 and 1, got {shown(phase.progress)}")
    if phase.seed is not None:
        check_scalar("the phase's seed", phase.seed, device)
    first = phase.first_sequence
    if isinstance(first, Tensor):
        check_scalar("the phase's first sequence", first, device)
    elif not (is_whole(first) and 0 <= first < 2**31):
        raise AttentionError(f"the phase's first sequence must be a place from 0 on, got {shown(first)}")
