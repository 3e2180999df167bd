"""Which token comes next: the distribution that it is drawn from, given a model's logits."""

from dataclasses import dataclass
from numbers import Integral, Real

from torch import Generator, Tensor, multinomial, zeros_like
from torch.nn import functional

from common.shapes import finite, shown
from models.errors import ModelError


def check_number(name: str, value: object, *, whole: bool) -> None:
    """ModelError: neither None nor a number, a whole one where that is wanted."""
    if value is not None and (not isinstance(value, Integral if whole else Real) or isinstance(value, bool)):
        raise ModelError(f"{name} must be a {'whole ' * whole}number, got {shown(value)}")


@dataclass(frozen=True)
class Choice:
    """How a token is chosen: a temperature, then what keeps some tokens; the likeliest is always kept.

    Attributes:
        temperature: logits are divided by it; 0: the likeliest token.
        top_k: keep the k likeliest.
        top_p: of those, keep the smallest set whose probability reaches p.
        min_p: keep tokens at least p times as likely as the likeliest, after the temperature (arXiv 2407.01082).
        top_n_sigma: keep logits z ≥ max z − n σ, σ their standard deviation over the vocabulary, which holds at every
            temperature alike (arXiv 2411.07641).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_n_sigma: float | None = None

    def check(self, pieces: int) -> None:
        """Refuse what cannot be meant of a vocabulary of so many pieces.

        Raises:
            ModelError: no number, or one out of its range.
        """
        for name, value in vars(self).items():
            check_number(name, value, whole=name == "top_k")
        temperature, sigmas = self.temperature, self.top_n_sigma
        if temperature is None or not (temperature >= 0 and finite(temperature)):
            raise ModelError(f"temperature must be 0 (greedy) or a positive number, got {shown(temperature)}")
        if self.top_k is not None and not 1 <= self.top_k <= pieces:
            raise ModelError(f"top_k must be between 1 and the vocabulary's {pieces}, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ModelError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ModelError(f"min_p must be between 0 and 1, got {self.min_p}")
        if sigmas is not None and not (sigmas >= 0 and finite(sigmas)):
            raise ModelError(f"top_n_sigma must be 0 or a positive number, got {shown(sigmas)}")

    def draw(self, logits: Tensor, generator: Generator) -> Tensor:
        """The next token of each row, int64 [B], given logits [B, V]; greedy choice draws nothing."""
        if self.temperature == 0:
            return logits.argmax(-1)
        return multinomial(self.distribution(logits), 1, generator=generator)[:, 0]

    def distribution(self, logits: Tensor) -> Tensor:
        """Probabilities float64 [B, V] from which the next token is drawn, given logits [B, V].

        Top-k and top-p count what the others have kept; ties go to the lower token id.
        """
        logits = logits.double()
        if self.temperature == 0:
            return functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
        # Subtracting the largest first keeps a tiny temperature from overflowing.
        below = logits - logits.amax(-1, keepdim=True)
        kept = (below / self.temperature).softmax(-1)
        if self.top_n_sigma is not None:
            sigma = logits.std(-1, correction=0, keepdim=True)
            kept = _scaled(kept.masked_fill(below < -self.top_n_sigma * sigma, 0))
        if self.min_p is not None:
            kept = _scaled(kept.masked_fill(kept < self.min_p * kept.amax(-1, keepdim=True), 0))
        ordered, order = kept.sort(dim=-1, descending=True, stable=True)
        if self.top_k is not None:
            ordered[:, self.top_k :] = 0
            ordered = _scaled(ordered)
        if self.top_p is not None and self.top_p < 1:
            ordered[ordered.cumsum(-1) - ordered >= self.top_p] = 0
            ordered = _scaled(ordered)
        return zeros_like(ordered).scatter_(-1, order, ordered)


def _scaled(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)
