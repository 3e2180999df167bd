"""Annealed softmax: a temperature that falls during training, with noise against vanishing gradients if wanted.

Source: arXiv 2306.06855, a paper on attention in architecture search.

    w_i = softmax((s_i + amplitude G_i) / t),        t = start (end / start)^progress

Paper: only its abstract was to be had. It names a small temperature, an exponential schedule of it, and a sparse noisy
softmax against saturated gradients; the schedule and the noise are this project's reading of those words.

Published code: none was found.

Here: progress goes from 0 to 1 over the training and is 1 outside of it. G is the Gumbel noise of gumbel_softmax, in
training only.

Beware: evaluation during training uses the last temperature, not that of the step.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from attention.core.call import Call
from attention.core.errors import AttentionError
from attention.core.registry import register
from attention.mechanisms.gumbel_softmax import GumbelSoftmax


@register
@dataclass(frozen=True)
class AnnealedSoftmax(GumbelSoftmax):
    """softmax((s + amplitude G) / t), t falling from start to end.

    Args:
        temperature: at the end of the training and after it.
        start: at its beginning.
        amplitude: factor of the noise, 0 for none.
    """

    name: ClassVar[str] = "annealed_softmax"
    formula: ClassVar[str] = "softmax((s + σ G) / t),  t = t₀ (t₁ / t₀)^progress"
    paper: ClassVar[str] = "arXiv 2306.06855 (abstract only)"
    variants: ClassVar[tuple[dict[str, Any], ...]] = ()
    follows_progress: ClassVar[bool] = True

    temperature: float = 1.0
    amplitude: float = 0.0
    start: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start <= 0:
            raise AttentionError(f"annealed_softmax needs a positive start, got {self.start}")

    def temperature_at(self, call: Call) -> float:
        """start (end / start)^progress."""
        return self.start * (self.temperature / self.start) ** call.phase.progress
