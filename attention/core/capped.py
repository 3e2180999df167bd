"""Softcapped scores: c tanh(s / c) takes the place of s, before a mechanism weighs it.

Source: Bello et al., "Neural Combinatorial Optimization", arXiv 1611.09940, appendix A.2; in language models since
Gemma 2, arXiv 2408.00118, section 2.

A mechanism of capped scores is a mechanism again, so that kernels need not know of caps: where its form has pointwise
functions of the score, those of the form's own `capped` are the same functions after the cap. What a mechanism does to
scores before it weighs them, as by a bias or a temperature, would have to come after the cap: such are refused.
"""

from dataclasses import dataclass, field

from torch import Tensor

from attention.core.call import Call
from attention.core.errors import AttentionError
from attention.core.form import form
from attention.core.masks import Visibility
from attention.core.mechanism import Bounds, Mechanism

LARGEST = 64.0
"""e^s of scores up to it, and the sum of 2^31 of them, are within float32 without a pivot."""


@form
@dataclass(frozen=True)
class Capped(Mechanism):
    """Any mechanism of capped scores; by itself it is run by the formula alone (kernel "dense").

    Args:
        inner: the mechanism.
        cap: c.
    """

    inner: Mechanism
    cap: float
    window: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", self.inner.window)
        if self.cap > LARGEST:
            raise AttentionError(f"softcap must be at most {LARGEST:g}, got {self.cap:g}")
        if type(self.inner).scores is not Mechanism.scores:
            raise AttentionError(
                f"{self.inner.name} makes scores of its own from queries and keys; it takes no softcap"
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        """The mechanism's own: messages speak of it."""
        return self.inner.name

    @property
    def bounds(self) -> Bounds:  # type: ignore[override]
        """The mechanism's own, but for a key that equals its query."""
        return Bounds(self.inner.bounds.weight, self.inner.bounds.mass)

    @property
    def follows_training(self) -> bool:  # type: ignore[override]
        """As the mechanism."""
        return self.inner.follows_training

    @property
    def follows_progress(self) -> bool:  # type: ignore[override]
        """As the mechanism."""
        return self.inner.follows_progress

    def parameters(self, n_head: int) -> dict[str, Tensor]:
        """The mechanism's own."""
        return self.inner.parameters(n_head)

    def initial_values(self, n_head: int, head_dim: int) -> dict[str, Tensor]:
        """The mechanism's own."""
        return self.inner.initial_values(n_head, head_dim)

    def refuses(self, visible: Visibility) -> str | None:
        """As the mechanism."""
        return self.inner.refuses(visible)

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """The formula of capped scores."""
        return self.inner.weights(self.capping(score), visible)

    def weights_in(self, call: Call, score: Tensor, visible: Tensor) -> Tensor:
        """The formula of capped scores."""
        return self.inner.weights_in(call, self.capping(score), visible)

    def capping(self, score: Tensor) -> Tensor:
        """c tanh(s / c)."""
        return (score / self.cap).tanh() * self.cap

    def slope(self, score: Tensor) -> Tensor:
        """Its derivative, 1 - tanh(s / c)^2."""
        share = (score / self.cap).tanh()
        return 1.0 - share * share
