"""What a kernel is."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attention.kernels import modes
from attention.kernels.problem import Problem
from attention.mechanism import Composite, Mechanism, Mixture, Ratio, Scores


@dataclass(frozen=True)
class Kernel:
    """A way to run mechanisms.

    Attributes:
        name: as the caller writes it.
        run: the outputs [B, T, H, Dv] of a problem.
        declines: why it cannot serve a problem, None if it can; must not compute anything.
        summary: one line for the capability table.
        run_with_mass: outputs and log mass [B, T, H] of a Ratio, for composites; None if it cannot tell the mass.
        whole: it runs a composite by the composite's own formula.
        serves: what autograd may ask of it beyond a pass in reverse (`attention.kernels.modes`).
    """

    name: str
    run: Callable[[Problem], Tensor]
    declines: Callable[[Problem], str | None]
    summary: str
    run_with_mass: Callable[[Problem], tuple[Tensor, Tensor | None]] | None = None
    whole: bool = False
    serves: frozenset[str] = frozenset()

    def attend(self, problem: Problem) -> Tensor:
        """The outputs [B, T, H, Dv] of a problem that it does not refuse."""
        if problem.vacant:
            return problem.blank()
        mechanism = problem.mechanism
        if not isinstance(mechanism, Composite) or self.whole:
            return self.run(problem)

        def mix(part: Mechanism, scores: Scores, value: Tensor) -> Mixture:
            elementary = replace(problem, mechanism=part, scores=scores, value=value)
            if part.form is not Ratio:
                return Mixture(self.run(elementary), None)
            assert self.run_with_mass is not None
            return Mixture(*self.run_with_mass(elementary))

        return mechanism.compose(widened(problem), mix).to(problem.value.dtype)

    def refuses(self, problem: Problem) -> str | None:
        """Why it cannot serve a problem, None if it can."""
        return self._declines(problem) or self._lacks(problem)

    def _lacks(self, problem: Problem) -> str | None:
        missing = modes.asked(problem.differentiable) - self.serves
        return f"it takes no {min(missing)}" if missing else None

    def _declines(self, problem: Problem) -> str | None:
        mechanism = problem.mechanism
        if not isinstance(mechanism, Composite) or self.whole:
            return self.declines(problem)
        if self.run_with_mass is None:
            return "it does not give the masses of rows that the parts need"
        problem = widened(problem)
        reasons = (self.declines(replace(problem, mechanism=part)) for part in mechanism.parts)
        return next((reason for reason in reasons if reason), None)


def widened(problem: Problem) -> Problem:
    """The problem in float32 at least: what composites do with mixings would drown in the rounding of half types."""
    scores, wide = problem.scores, torch.promote_types(problem.value.dtype, torch.float32)
    scores = replace(scores, query=scores.query.to(wide), key=scores.key.to(wide))
    return replace(problem, scores=scores, value=problem.value.to(wide))
