"""The interface of an attention mechanism.

Every mechanism of this package mixes values as

    out_i = sum_j w(s_ij; r_i) v_j,        s_ij = scale * query_i . key_j + query_bias_i + key_bias_j + slope * (i - j)

where r_i are a few statistics of row i. A mechanism says how queries and keys become scores (`scores`), states its
weights as the paper does (`weights`, used by the dense reference), and gives what its form asks for, such as the
pointwise functions from which kernels assemble the same weights and their gradient without ever holding a row matrix
of the whole sequence. Forms stand in `attention/forms/`; a kernel is written once per form.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from attention.core.call import Call, Phase
from attention.core.errors import AttentionError
from attention.core.masks import Visibility
from attention.core.scores import Scores


@dataclass(frozen=True)
class Bounds:
    """Promises of a formula about the weights of a query that sees something, whatever the inputs.

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
        follows_training: whether weights depend on the phase of a call.
        follows_progress: whether they depend on the share of the training that is done.
        takes_slopes: whether the slopes of a call may be added to its scores.
        has_mass: whether kernels give the logarithm of what the values of a row are divided by.
        form: the base class in `attention/forms/` by which kernels run it.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    paper: ClassVar[str]
    bounds: ClassVar[Bounds]
    variants: ClassVar[tuple[dict[str, Any], ...]] = ()
    follows_training: ClassVar[bool] = False
    follows_progress: ClassVar[bool] = False
    takes_slopes: ClassVar[bool] = True
    has_mass: ClassVar[bool] = False
    window: int | None = None
    form: "type[Mechanism]"

    def parameters(self, n_head: int) -> dict[str, Tensor]:
        """Learned parameters per head, at their initial values; the block registers them."""
        return {}

    def initial_values(self, n_head: int, head_dim: int) -> dict[str, Tensor]:
        """All learned parameters at their start: `parameters`, and what also depends on the width of a head."""
        return self.parameters(n_head)

    def refuses(self, visible: Visibility) -> str | None:
        """Say why the mechanism does not work under a mask, None if it does; follows its name in an error message."""
        return None

    def scores(self, query: Tensor, key: Tensor, call: Call) -> Scores:
        """Scores from query [B, T, H, D] and key [B, S, Hk, D]; scaled dot product unless overridden."""
        return Scores(query, key, scale=query.shape[-1] ** -0.5 if call.scale is None else call.scale)

    def settled(self, key: Tensor) -> Tensor:
        """What a cache keeps in the place of keys [B, S, Hk, D]: made once of each, where `scores` would make it anew.

        Settled twice it stays the same, up to rounding. `scores` is told of it by `Call.settled`.
        """
        return key

    def at(self, phase: Phase) -> "Mechanism":
        """What it is at a moment of the training: itself, or another mechanism, made once and for all."""
        return self

    def capped(self, cap: float) -> "Mechanism":
        """The same mechanism of scores cap tanh(s / cap); a form says how: `mechanism.form.capped(mechanism, cap)`."""
        from attention.core.capped import Capped

        return Capped(self, cap)

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
        """`weights`, for mechanisms whose formula has learned parameters or changes with the phase."""
        return self.weights(score, visible)

    def _refuse_negative(self, option: str, value: float) -> None:
        if value < 0:
            raise AttentionError(f"{self.name}'s {option} must be at least 0, got {value}")

    def _refuse_scale(self, scale: float | None) -> None:
        if scale is not None:
            raise AttentionError(f"{self.name} fixes the scale of its scores; leave scale unset")
