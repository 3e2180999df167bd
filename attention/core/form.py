"""The base of forms whose weights are functions of a row's scores: what kernels ask of a form.

A form is one file in `attention/forms/`. Kernels in PyTorch call its row functions; those in other languages print its
pointwise functions (`attention.core.formula`) and have a file of the form's name beside their own.
"""

from abc import abstractmethod
from typing import ClassVar, TypeVar

from torch import Tensor

from attention.core.masks import Tile
from attention.core.mechanism import Mechanism

F = TypeVar("F", bound=type[Mechanism])


def form(cls: F) -> F:
    """Class decorator: the class is a form, and mechanisms that inherit from it are run as one."""
    cls.form = cls
    return cls


class Rowwise(Mechanism):
    """Weights w(s_ij; r_i) from pointwise functions and a few statistics r_i of the row.

    Scores are [B, Hk, G, rows, keys] in row functions: G query heads share a key head. A mechanism may have several
    forms, of which its options choose one: what is asked of a form is asked of the class, `rowwise(mechanism)`.

    Attributes:
        traced: the pointwise functions with their arguments, all of them methods.
        has_statistics: whether gradients need statistics of the row.
        vanishes: whether most weights are exactly zero, so that it pays to remember where they are not.
    """

    traced: ClassVar[dict[str, tuple[str, ...]]]
    has_statistics: ClassVar[bool] = True
    vanishes: ClassVar[bool] = False

    def constants(self) -> dict[str, bool | float]:
        """The facts that compiled kernels must know beside the pointwise functions."""
        return {}

    def log_mass(self, score: Tensor, visible: Tensor) -> Tensor | None:
        """The log mass [..., 1] of rows by the formula, differentiable; None where the form has none."""
        return None

    @abstractmethod
    def row_weights(self, score: Tensor, tile: Tile, count: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weights of whole rows, zero where hidden, and the log mass [..., rows, 1] where the form has one.

        Args:
            score: may be overwritten.
            tile: the mask.
            count: n_i, [B or 1, 1, 1, rows, 1].
        """

    @abstractmethod
    def row_gradients(
        self, score: Tensor, tile: Tile, count: Tensor, grad_weights: Tensor, grad_log_mass: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Weights again, and the gradient of the scores from that of the weights, dP_ij = dO_i . v_j.

        Args:
            grad_weights: dP, of the shape of the scores.
            grad_log_mass: [..., rows, 1], None where there is none.
            Others: as for `row_weights`.
        """


def rowwise(mechanism: Mechanism) -> tuple[Rowwise, type[Rowwise]] | None:
    """The mechanism and its form, where that is one of pointwise functions."""
    if isinstance(mechanism, Rowwise) and issubclass(mechanism.form, Rowwise):
        return mechanism, mechanism.form
    return None
