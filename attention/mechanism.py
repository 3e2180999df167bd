"""What an attention mechanism is.

Every mechanism of this package mixes values as

    out_i = sum_j w(s_ij; r_i) v_j,        s_ij = scale * query_i . key_j + query_bias_i + key_bias_j + slope * (i - j)

where r_i are a few statistics of row i. A mechanism says how queries and keys become scores (`scores`), states its
weights as the paper does (`weights`, used by the dense reference), and gives the pointwise functions from which
kernels assemble the same weights and their gradient without ever holding a row matrix of the whole sequence. Five
forms of pointwise functions exist: `Pointwise`, `Ratio`, `TwoStage`, `Threshold` and `Adjusted`. A kernel is written
once per form. A `Composite` is made of several mixings of these forms, and so runs on every kernel that runs its parts.
One more form, for weights that are no function of scores, is `attention.chunked.Chunked`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from attention.errors import AttentionError
from attention.masks import Visibility

if TYPE_CHECKING:
    from attention.kernels.problem import Problem


@dataclass(frozen=True)
class Noise:
    """Gumbel noise on scores, a function of seed, sequence, head, query position and key (`attention.noise`).

    Attributes:
        seed: int64 [].
        amplitude: factor of the noise.
        first_sequence: place of the first sequence in its whole batch, int64 [] or a number; see `Moment`.
    """

    seed: Tensor
    amplitude: float
    first_sequence: Tensor | int = 0

    @property
    def source(self) -> Tensor:
        """Seed and place of the first sequence as compiled kernels take them, int64 [2]."""
        return torch.stack([self.seed, self.first_sequence + torch.zeros_like(self.seed)])


@dataclass(frozen=True)
class Scores:
    """s_ij = scale * query_i . key_j + query_bias_i + key_bias_j + slope * (position_i - position_j) [+ noise_ij].

    Attributes:
        query: [B, T, H, D].
        key: [B, S, Hk, D]; query head h uses key head h // (H / Hk).
        scale: factor of the dot product.
        query_bias: [B, T, H] or None.
        key_bias: [B, S, H] or None.
        slope: [H] or None, constant (no gradient).
        noise: constant (no gradient), or None.
    """

    query: Tensor
    key: Tensor
    scale: float = 1.0
    query_bias: Tensor | None = None
    key_bias: Tensor | None = None
    slope: Tensor | None = None
    noise: Noise | None = None


@dataclass(frozen=True)
class Moment:
    """When a call happens: what noise and schedules depend on.

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


INFERENCE = Moment()
"""Not in training: no noise, schedules at their end."""


@dataclass(frozen=True)
class Call:
    """What a mechanism is told of a call beyond its queries and keys.

    Attributes:
        count: n_i, the number of keys each query sees, [B or 1, T].
        scale: the caller's factor of the dot product, None for the mechanism's own.
        params: the learned parameters by name.
        moment: when it happens.
        plain: whether `scores` shall be made of PyTorch's own operations only, which have every derivative.
    """

    count: Tensor
    scale: float | None
    params: Mapping[str, Tensor]
    moment: Moment = INFERENCE
    plain: bool = False

    def log_count(self, dtype: torch.dtype) -> Tensor:
        """ln n_i, [B or 1, T]; 0 where a query sees nothing."""
        return self.count.clamp(min=1).to(dtype).log()


@dataclass(frozen=True)
class Bounds:
    """What a formula promises of the weights of a query that sees something, whatever the inputs.

    Attributes:
        weight: the least and the largest weight.
        mass: the least and the largest sum of a row.
        itself: the weight of a key that equals its query, None where that depends on more.
    """

    weight: tuple[float, float]
    mass: tuple[float, float]
    itself: float | None = None


SHARES = Bounds(weight=(0.0, 1.0), mass=(1.0, 1.0))
"""Rows sum to one."""

PARTS = Bounds(weight=(0.0, 1.0), mass=(0.0, 1.0))
"""Rows sum to one at most."""

GATES = Bounds(weight=(0.0, 1.0), mass=(0.0, math.inf))
"""Every key has a weight of its own between 0 and 1."""


class Mechanism(ABC):
    """An attention mechanism; subclasses are frozen dataclasses whose fields are its options.

    Attributes:
        name: the registry's name.
        formula: one line, as in the paper.
        paper: citation with the version that was followed.
        variants: option sets that differ in more than numbers: each is tested and listed beside the defaults.
        window: default sliding window, None for all keys.
        bounds: what the formula promises of weights; every kernel is held to it.
        follows_training: whether weights depend on the moment of a call.
        follows_progress: whether they depend on the share of the training that is done.
        form: the class of functions (Pointwise, Ratio, ..., Chunked) that kernels shall use.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    paper: ClassVar[str]
    bounds: ClassVar[Bounds]
    variants: ClassVar[tuple[dict[str, Any], ...]] = ()
    follows_training: ClassVar[bool] = False
    follows_progress: ClassVar[bool] = False
    window: int | None = None
    form: "type[Mechanism]"

    def parameters(self, n_head: int) -> dict[str, Tensor]:
        """Learned parameters per head, at their initial values; the block registers them."""
        return {}

    def initial_values(self, n_head: int, head_dim: int) -> dict[str, Tensor]:
        """All learned parameters at their start: `parameters`, and what also depends on the width of a head."""
        return self.parameters(n_head)

    def refuses(self, visible: Visibility) -> str | None:
        """Why the mechanism does not work under a mask, None if it does; to follow its name in an error message."""
        return None

    def scores(self, query: Tensor, key: Tensor, call: Call) -> Scores:
        """Scores from query [B, T, H, D] and key [B, S, Hk, D]; scaled dot product unless overridden."""
        return Scores(query, key, scale=query.shape[-1] ** -0.5 if call.scale is None else call.scale)

    def stated_scores(self, query: Tensor, key: Tensor, call: Call) -> Tensor | None:
        """Scores [B, H, T, S] as the paper states them, for float64; None where `scores` does.

        For a mechanism whose `scores` are an expansion that rounds. What kernels make of it is measured against this.
        """
        return None

    @abstractmethod
    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """The paper's formula: weights from scores [..., T, S] and visibility (bool, broadcastable).

        Every row sees at least one key; what is returned at hidden entries is ignored.
        """

    def weights_in(self, call: Call, score: Tensor, visible: Tensor) -> Tensor:
        """`weights`, for mechanisms whose formula has learned parameters or changes with the moment."""
        return self.weights(score, visible)

    def _refuse_negative(self, option: str, value: float) -> None:
        if value < 0:
            raise AttentionError(f"{self.name}'s {option} must be at least 0, got {value}")

    def _refuse_scale(self, scale: float | None) -> None:
        if scale is not None:
            raise AttentionError(f"{self.name} fixes the scale of its scores; leave scale unset")


class Pointwise(Mechanism):
    """w_ij = weight(s_ij): no row statistics."""

    @abstractmethod
    def weight(self, score: Tensor) -> Tensor:
        """w(s)."""

    @abstractmethod
    def weight_derivative(self, score: Tensor, weight: Tensor) -> Tensor:
        """dw/ds, given w(s)."""


class Ratio(Mechanism):
    """w_ij = numerator(s_ij) / (offset + sum_k denominator(s_ik)), each scaled by e^-pivot.

    The pivot is the row maximum, raised to `pivot_floor`; it cancels and exists so that nothing overflows. A
    mechanism whose terms grow at most linearly needs none and sets `pivot_floor = None` (pivot 0).

    Numerator and denominator are `steep` where they are one function that may be next to nothing while its derivative
    is not. Gradients cancel there and are divided by next to nothing, so kernels must not take sum_j w_ij dP_ij from
    the outputs, which are rounded.
    """

    pivot_floor: ClassVar[float | None] = float("-inf")
    steep: ClassVar[bool] = False

    @abstractmethod
    def terms(self, score: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
        """Numerator and denominator; the same tensor twice where they are one function."""

    @abstractmethod
    def derivatives(self, score: Tensor, pivot: Tensor, numerator: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of both by the score, at a fixed pivot, given the numerator."""

    def offset(self, pivot: Tensor) -> Tensor | float:
        """The constant of the denominator, in the pivot's frame."""
        return 0.0


class TwoStage(Mechanism):
    """w_ij = second(u_ij) / sum_k second(u_ik), where u_ij = n_i first(s_ij) / (epsilon + sum_k first(s_ik)).

    The first stage normalises rows to a mean of one; the second re-weights. `second` may be scaled by any factor
    that is constant in a row, for which it is given the row's largest u; the factor carries no gradient.
    """

    epsilon: float

    @abstractmethod
    def first(self, score: Tensor) -> Tensor:
        """A positive, increasing function of the score."""

    @abstractmethod
    def first_derivative(self, score: Tensor) -> Tensor:
        """Its derivative."""

    @abstractmethod
    def second(self, relative: Tensor, largest: Tensor, count: Tensor) -> Tensor:
        """The re-weighting of u, given the row's largest u and its number of visible keys."""

    @abstractmethod
    def second_derivative(self, relative: Tensor, largest: Tensor, count: Tensor) -> Tensor:
        """Its derivative by u, under the same row factor."""


class Threshold(Pointwise):
    """w_ij = weight(s_ij - tau_i), where tau_i is the number at which row i sums to one.

    `weight` is zero below zero, increasing and convex above, and 1 at 1, so that tau lies between the row's largest
    score less one and the largest score. Newton's method from the lower end never overshoots.
    """


TIED = 2.0**-18
"""Scores this close to a row's extreme, relative to it, tie with it: they share the gradient that goes through it."""


class Adjusted(Mechanism):
    """w_ij = weight(s_ij, p_ij; a_i, b_i): p = softmax(s), a and b the least and the largest score of the row."""

    @abstractmethod
    def weight(self, score: Tensor, share: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        """w of s, p, a and b."""

    @abstractmethod
    def weight_derivatives(
        self, score: Tensor, share: Tensor, lowest: Tensor, highest: Tensor
    ) -> tuple[Tensor | float, Tensor | float, Tensor | float, Tensor | float]:
        """dw by s, p, a and b, each while the others stand still."""


class Mixture(NamedTuple):
    """What a kernel makes of values.

    Attributes:
        out: [B, T, H, Dv].
        log_mass: of a Ratio: pivot + ln(offset + sum of denominators), the logarithm of what numerators are divided by,
            float32 at least, [B, T, H]; differentiable. 0 where that sum is 0. None for the other forms.
    """

    out: Tensor
    log_mass: Tensor | None


class Mix(Protocol):
    """A kernel, as a Composite sees it."""

    def __call__(self, part: Mechanism, scores: Scores, value: Tensor) -> Mixture:
        """Mix values [B, S, Hk, any] by one of the parts, under the problem's mask."""


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
    def compose(self, problem: "Problem", mix: Mix) -> Tensor:
        """Outputs [B, T, H, Dv] from calls of `mix`; gradients are autograd's."""


for _form in (Pointwise, Ratio, TwoStage, Threshold, Adjusted, Composite):
    _form.form = _form
