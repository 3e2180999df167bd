"""Ratio: w = numerator / Z, Z = offset + sum of denominators, each scaled by e^-pivot.

Statistics of a row: the pivot and 1 / Z. Sums: delta = sum_k w_k dP_k less the gradient of the log mass.

delta is not taken from dO . out: half types have rounded the weights in out, all of a row alike where keys are alike,
and what cancels in the gradients of a row would show it.
"""
# mypy: disallow-untyped-defs=False

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from attention.kernels.triton.form import Form, RowFunctions


@triton.jit
def terms(score, pivot, row, count, functions):
    """The mechanism's own."""
    return functions.terms(score, pivot)


@triton.jit
def mass(total, pivot, functions):
    """Z."""
    return total + functions.offset(pivot)


@triton.jit
def left(pivot, row, inverse):
    """The pivot and 1 / Z."""
    return pivot, inverse


@triton.jit
def summands(score, visible, grad_weight, row, count, rounding, functions):
    """Numerators times dP."""
    pivot, _ = row
    numerator, _ = functions.terms(score, pivot)
    return (tl.where(visible, numerator, 0.0) * grad_weight,)


@triton.jit
def sums(totals, row, count, grad_log_mass):
    """delta."""
    _, inverse = row
    delta = totals[0] * inverse
    if grad_log_mass is not None:
        delta -= grad_log_mass
    return (delta,)


@triton.jit
def gradients(score, grad_weight, row, count, sums, rounding, functions):
    """dS = (numerator' dP - denominator' delta) / Z, so written that equal slopes cancel exactly."""
    pivot, inverse = row
    delta = sums[0]
    numerator, _ = functions.terms(score, pivot)
    numerator_slope, denominator_slope = functions.derivatives(score, pivot, numerator)
    common = numerator_slope * (grad_weight - delta)
    return numerator * inverse, (common + (numerator_slope - denominator_slope) * delta) * inverse


def pivot_floor(constants: Any) -> float | None:
    """The mechanism's, where it has a pivot."""
    return constants.pivot_floor if constants.pivoted else None


def log_mass(statistics: Tensor) -> Tensor:
    """The pivot + ln Z."""
    pivot, inverse = statistics
    return pivot - inverse.log()


FORM = Form(
    RowFunctions(terms, gradients, mass=mass, left=left, summands=summands, sums=sums),
    statistics=2,
    summands=1,
    sums=1,
    pivot_floor=pivot_floor,
    log_mass=log_mass,
)
