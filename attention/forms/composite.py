"""Composite: several mixings of elementary mechanisms together."""

from abc import abstractmethod
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor

from attention.core.form import form
from attention.core.inputs import AttentionInputs
from attention.core.mechanism import Mechanism
from attention.core.scores import Scores


class Mixture(NamedTuple):
    """The values that a kernel has mixed, and what it divided them by.

    Attributes:
        out: [B, T, H, Dv].
        log_mass: of a form with a mass, as a Ratio: pivot + ln(offset + sum of denominators), the logarithm of what
            numerators are divided by, float32 at least, [B, T, H]; differentiable. 0 where that sum is 0. None for the
            other forms.
    """

    out: Tensor
    log_mass: Tensor | None


class Mix(Protocol):
    """A kernel, as a Composite sees it."""

    def __call__(self, part: Mechanism, scores: Scores, value: Tensor) -> Mixture:
        """Mix values [B, S, Hk, any] by one of the parts, under the mask of the call."""


@form
class Composite(Mechanism):
    """Weights that several mixings of elementary mechanisms make together.

    Attributes:
        mixings: how many, each of which rounds.
    """

    mixings: ClassVar[int] = 2

    @property
    @abstractmethod
    def parts(self) -> tuple[Mechanism, ...]:
        """The elementary mechanisms; a kernel that runs them all runs the composite."""

    @abstractmethod
    def compose(self, inputs: AttentionInputs, mix: Mix) -> Tensor:
        """Outputs [B, T, H, Dv] from calls of `mix`; gradients are autograd's."""
