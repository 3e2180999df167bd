"""Gumbel-softmax attention: softmax of scores with Gumbel noise, a relaxed draw of one key per row.

Source: Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", arXiv 1611.01144, equation 2, with the
scores as log probabilities.

    w_i = softmax((s_i + G_i) / temperature),        G_ij = -ln(-ln U_ij)

Paper: a gradient estimator for discrete latent variables, not an attention; the straight-through form that rounds to
one key in the forward pass is not made here.

Published code: public attention variants draw fresh noise per call and cannot recompute it.

Here: noise in training only, elsewhere G = 0. It is a function of seed, sequence, head, query and key, by a
counter-based generator, so that the backward pass meets the same noise, whatever the order of tiles, and a sequence
has the same noise however a batch is cut.

Beware: the noise has the standard deviation 1.28, as large as the scores of a fresh model.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from attention.core.call import Call
from attention.core.errors import AttentionError
from attention.core.registry import register
from attention.core.scores import Noise, Scores
from attention.mechanisms.softmax import Softmax


@register
@dataclass(frozen=True)
class GumbelSoftmax(Softmax):
    """softmax((s + G) / temperature).

    Args:
        temperature: towards 0 a row becomes a draw of one key.
        amplitude: factor of the noise.
    """

    name: ClassVar[str] = "gumbel_softmax"
    formula: ClassVar[str] = "softmax((s + G) / τ),  G Gumbel noise in training"
    paper: ClassVar[str] = "Jang, Gu & Poole 2016, arXiv 1611.01144"
    follows_training: ClassVar[bool] = True

    temperature: float = 1.0
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.amplitude < 0:
            raise AttentionError(
                f"{self.name} needs a positive temperature and an amplitude of at least 0, got {self.temperature} and "
                f"{self.amplitude}"
            )

    def temperature_at(self, call: Call) -> float:
        """The temperature of a phase in training."""
        return self.temperature

    def scores(self, query: Tensor, key: Tensor, call: Call) -> Scores:
        """(s + G) / temperature."""
        scores, temperature, phase = super().scores(query, key, call), self.temperature_at(call), call.phase
        noise = None
        if phase.training and self.amplitude:
            if phase.seed is None:
                raise AttentionError(f"{self.name} draws noise in training: give a phase with a seed")
            noise = Noise(phase.seed, self.amplitude / temperature, phase.first_sequence)
        return replace(scores, scale=scores.scale / temperature, noise=noise)
