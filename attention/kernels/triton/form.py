"""A form on the GPU, as the sweeps see it: its row functions, and the statistics and sweeps that these need.

A form is one file in `forms/`, of the name of its file in `attention/forms/`, with a FORM.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor


class RowFunctions(NamedTuple):
    """The jitted functions that `forward` and `backward` ask of a form, None where it has no need.

    `row` is the tuple of the form's statistics, in the order in which they are stored, `sums` that of its sums, each
    [rows, 1]; `functions` are the mechanism's own, by name. What concerns hidden keys is cleared by the sweeps, but
    for what is gathered, which the form clears itself.

    Attributes:
        terms: (score, pivot, row, count, functions) -> numerators and denominators.
        gradients: (score, grad_weight, row, count, sums, rounding, functions) -> weights and gradients of the scores.
        known: (statistics, parts, places, rows, constants, splits, functions) -> row, before the outputs are mixed,
            from what earlier sweeps left. None: nothing is known by then.
        mass: (total, pivot, functions) -> what numerators are divided by, from the sum of the denominators. None:
            weights are as they are.
        left: (pivot, row, inverse) -> statistics for the backward pass, None where they are not for it to store;
            inverse is one over the mass. pivot and row, or inverse, are None where they are not known.
        gathered: (totals, score, visible, grad_weight, row, count, rounding, functions) -> the totals of a row, zero at
            first, with the keys of one more tile in them; most forms are `added` to them.
        sums: (totals, row, count, grad_log_mass, functions) -> sums, from the totals over all keys.
        rounding: (query, key, operands) -> by how much a score may differ between sweeps, for a form that compares
            scores with statistics.
    """

    terms: Any
    gradients: Any
    known: Any = None
    mass: Any = None
    left: Any = None
    gathered: Any = None
    sums: Any = None
    rounding: Any = None


@dataclass(frozen=True)
class Sweep:
    """A kernel that runs before the outputs are mixed, on the same rows.

    Attributes:
        kernel: takes operands, functions, places and sizes, and what it writes.
        split: whether it takes a split of the keys and writes `parts` [Form.parts, splits, B, T, H]; else it takes all
            keys of a row and writes `statistics` [Form.statistics, B, T, H].
    """

    kernel: Any
    split: bool


def no_pivot(constants: Any) -> float | None:
    """The pivot's floor of a form that has none."""
    return None


@dataclass(frozen=True)
class Form:
    """A form on the GPU.

    Attributes:
        rows: its functions.
        before: the sweeps before `mix`, in their order.
        parts: numbers per row and split of the keys that these leave.
        statistics: numbers per row that the forward pass leaves for the backward pass.
        gathered, sums: how many there are per row; without sums the backward pass has no sweep for them.
        pivot_floor: of the formula's constants, the least pivot: the largest visible score so far, by whose exponential
            numerators and denominators are divided. None: there is no pivot.
        log_mass: log masses [B, T, H] from the statistics; None where the form has no mass.
        fewer_rows: by sweep of the backward pass, what divides the rows of its tiles, where a form keeps many numbers
            of each row.
        steep: what it is instead where the formula's constants say steep.
    """

    rows: RowFunctions
    before: tuple[Sweep, ...] = ()
    parts: int = 0
    statistics: int = 0
    gathered: int = 0
    sums: int = 0
    pivot_floor: Callable[[Any], float | None] = no_pivot
    log_mass: Callable[[Tensor], Tensor] | None = None
    fewer_rows: Mapping[str, int] = field(default_factory=dict)
    steep: "Form | None" = None
