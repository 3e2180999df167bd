"""What a kernel is."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attention.core import modes
from attention.core.inputs import AttentionInputs
from attention.core.mechanism import Mechanism
from attention.core.scores import Scores
from attention.forms.composite import Composite, Mixture


@dataclass(frozen=True)
class Kernel:
    """A way to run mechanisms.

    Attributes:
        name: as the caller writes it.
        run: the outputs [B, T, H, Dv] of a call.
        declines: why it cannot serve a call, None if it can; must not compute anything.
        summary: one line for the capability table.
        run_with_mass: outputs and log mass [B, T, H] of a Ratio, for composites; None if it cannot tell the mass.
        whole: it runs a composite by the composite's own formula.
        serves: what autograd may ask of it beyond a pass in reverse (`attention.core.modes`).
    """

    name: str
    run: Callable[[AttentionInputs], Tensor]
    declines: Callable[[AttentionInputs], str | None]
    summary: str
    run_with_mass: Callable[[AttentionInputs], tuple[Tensor, Tensor | None]] | None = None
    whole: bool = False
    serves: frozenset[str] = frozenset()

    def attend(self, inputs: AttentionInputs) -> Tensor:
        """The outputs [B, T, H, Dv] of a call that it does not refuse."""
        if inputs.vacant:
            return inputs.blank()
        mechanism = inputs.mechanism
        if not isinstance(mechanism, Composite) or self.whole:
            return self.run(inputs)

        def mix(part: Mechanism, scores: Scores, value: Tensor) -> Mixture:
            elementary = replace(inputs, mechanism=part, scores=scores, value=value)
            if not part.form.has_mass:
                return Mixture(self.run(elementary), None)
            assert self.run_with_mass is not None
            return Mixture(*self.run_with_mass(elementary))

        return mechanism.compose(widened(inputs), mix).to(inputs.value.dtype)

    def refuses(self, inputs: AttentionInputs) -> str | None:
        """Why it cannot serve a call, None if it can."""
        return self._declines(inputs) or self._lacks(inputs)

    def _lacks(self, inputs: AttentionInputs) -> str | None:
        missing = modes.asked(inputs.differentiable) - self.serves
        return f"it takes no {min(missing)}" if missing else None

    def _declines(self, inputs: AttentionInputs) -> str | None:
        mechanism = inputs.mechanism
        if not isinstance(mechanism, Composite) or self.whole:
            return self.declines(inputs)
        if self.run_with_mass is None:
            return "it does not give the masses of rows that the parts need"
        inputs = widened(inputs)
        reasons = (self.declines(replace(inputs, mechanism=part)) for part in mechanism.parts)
        return next((reason for reason in reasons if reason), None)


def widened(inputs: AttentionInputs) -> AttentionInputs:
    """The same call in float32 at least: what composites do with mixings would drown in the rounding of half types."""
    scores, wide = inputs.scores, torch.promote_types(inputs.value.dtype, torch.float32)
    scores = replace(scores, query=scores.query.to(wide), key=scores.key.to(wide))
    return replace(inputs, scores=scores, value=inputs.value.to(wide))
