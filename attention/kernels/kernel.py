"""A kernel, and how one is asked and run."""

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from attention.core import modes
from attention.core.errors import AttentionError
from attention.core.inputs import AttentionInputs
from attention.core.mechanism import Mechanism
from attention.core.scores import Scores
from attention.forms.composite import Composite, Mixture


@runtime_checkable
class Kernel(Protocol):
    """A way to run mechanisms: `refuses` looks, `build` makes ready, `run` computes.

    Attributes:
        name: as the caller writes it.
        summary: one line for the capability table.
        rank: "auto" tries kernels in this order, the fastest first.
        modes: what autograd may ask of it beyond a pass in reverse (`attention.core.modes`).
        gives_mass: whether it tells the log mass of forms that have one, which composites need.
        runs_composites: whether it runs a composite by the composite's own formula.
        proves_when_run: whether a proof (`attention.kernels.proof`) has to wait for the run where torch.compile traces,
            since it compiles by torch.compile itself; `run` then asks for it.
        gives_row_stats: whether it sums up rows of weights (`attention.statistics`) itself.
    """

    name: str
    summary: str
    rank: int
    modes: frozenset[str] = frozenset()
    gives_mass: bool = False
    runs_composites: bool = False
    proves_when_run: bool = False
    gives_row_stats: bool = False

    def refuses(self, inputs: AttentionInputs) -> str | None:
        """Say why it does not serve a call, None if it does. Looks only: computes, compiles and loads nothing."""

    def build(self, inputs: AttentionInputs) -> str | None:
        """Make what it needs for calls like this one, once; why that cannot be had here, None where it is ready."""
        return None

    def code(self, mechanism: Mechanism) -> str | None:
        """Name the code that was compiled here for a mechanism and has to prove itself; None where it is PyTorch's."""
        return None

    def run(self, inputs: AttentionInputs, *, with_mass: bool = False) -> Mixture:
        """Outputs [B, T, H, Dv] of a call that it serves; with the log mass where that is wanted and given."""

    def row_stats(self, inputs: AttentionInputs, *, small: float, floor: float) -> tuple[Tensor, Tensor]:
        """Statistics of rows [7, B, H, T] and keys [3, B, H, S], in the order of `attention.statistics`.

        Args:
            inputs: a call that it serves, of a mechanism with row functions.
            small: the largest weight that counts as small.
            floor: the magnitude below which a row has no entropy, added to where a row is renormalised.

        Raises:
            AttentionError: the kernel gives none.
        """
        raise AttentionError(f"{self.name} gives no row statistics")


def refusal(kernel: Kernel, inputs: AttentionInputs) -> str | None:
    """Say why a kernel would not serve a call, as far as a look tells; of a composite, any of its parts."""
    parts = _parts(kernel, inputs)
    if parts[0] is not inputs and not kernel.gives_mass:
        return "it does not give the masses of rows that the parts need"
    for part in parts:
        if reason := kernel.refuses(part):
            return reason
    # Calls that are asked for more than a pass in reverse are plain.
    missing = modes.asked(inputs.differentiable) - kernel.modes if inputs.call.plain else None
    return f"it takes no {min(missing)}" if missing else None


def obstacle(kernel: Kernel, inputs: AttentionInputs) -> str | None:
    """Say why a kernel cannot serve a call, None once all is built that it needs."""
    reason = refusal(kernel, inputs)
    if reason is not None:
        return reason
    for part in _parts(kernel, inputs):
        if reason := kernel.build(part):
            return reason
    return None


def attend(kernel: Kernel, inputs: AttentionInputs) -> Tensor:
    """The outputs [B, T, H, Dv] of a call that nothing hinders."""
    if inputs.vacant:
        return inputs.blank()
    mechanism = inputs.mechanism
    if not isinstance(mechanism, Composite) or kernel.runs_composites:
        return kernel.run(inputs).out

    def mix(part: Mechanism, scores: Scores, value: Tensor) -> Mixture:
        elementary = replace(inputs, mechanism=part, scores=scores, value=value)
        return kernel.run(elementary, with_mass=part.form.has_mass)

    return mechanism.compose(widened(inputs), mix).to(inputs.value.dtype)


def widened(inputs: AttentionInputs) -> AttentionInputs:
    """The same call in float32 at least: what composites do with mixings would drown in the rounding of half types."""
    scores, wide = inputs.scores, torch.promote_types(inputs.value.dtype, torch.float32)
    scores = replace(scores, query=scores.query.to(wide), key=scores.key.to(wide))
    return replace(inputs, scores=scores, value=inputs.value.to(wide))


def elementary(kernel: Kernel, inputs: AttentionInputs) -> list[tuple[Mechanism, torch.dtype, bool]]:
    """The mechanisms that a kernel runs for a call, the dtype of their tensors, and whether their mass is wanted."""
    mechanism, dtype = inputs.mechanism, inputs.value.dtype
    if not isinstance(mechanism, Composite) or kernel.runs_composites:
        return [(mechanism, dtype, False)]
    wide = torch.promote_types(dtype, torch.float32)
    return [(part, wide, part.form.has_mass) for part in mechanism.parts]


def _parts(kernel: Kernel, inputs: AttentionInputs) -> list[AttentionInputs]:
    """The calls that a kernel makes of one."""
    mechanism = inputs.mechanism
    if kernel.runs_composites or not isinstance(mechanism, Composite):
        return [inputs]
    inputs = widened(inputs)
    return [replace(inputs, mechanism=part) for part in mechanism.parts]
