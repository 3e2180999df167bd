"""Ratio: w = numerator / Z, Z = offset + sum of denominators, each scaled by e^-pivot.

Statistics of a row: the pivot and 1 / Z. Sums: delta = sum_k w_k dP_k less the gradient of the log mass. Where terms
are steep, delta comes in two numbers that each keep their digits: the mean of dP, weighted by the numerators, and by
how much delta is less, the offset's share of that mean and the gradient of the log mass.

delta is not taken from dO . out: half types have rounded the weights in out, all of a row alike where keys are alike,
and what cancels in the gradients of a row would show it.
"""
# mypy: disallow-untyped-defs=False

from dataclasses import replace
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from attention.kernels.triton.form import Form, RowFunctions
from attention.kernels.triton.operands import added


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
def gathered(totals, score, visible, grad_weight, row, count, rounding, functions):
    """Add the numerators times dP."""
    pivot, _ = row
    numerator, _ = functions.terms(score, pivot)
    return added(totals, (tl.where(visible, numerator, 0.0) * grad_weight,))


@triton.jit
def sums(totals, row, count, grad_log_mass, functions):
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


@triton.jit
def gathered_steep(totals, score, visible, grad_weight, row, count, rounding, functions):
    """The sum of the numerators, and the mean of dP weighted by them.

    Taken a second time about itself, the mean of one key alone is its dP to the last digit.
    """
    pivot, _ = row
    before, guess = totals
    numerator, _ = functions.terms(score, pivot)
    numerator = tl.where(visible, numerator, 0.0)
    total = before + tl.sum(numerator, 1, keep_dims=True)
    divisor = tl.where(total == 0.0, 1.0, total)
    mean = guess + tl.sum(numerator * (grad_weight - guess), 1, keep_dims=True) / divisor
    change = before * (guess - mean) + tl.sum(numerator * (grad_weight - mean), 1, keep_dims=True)
    return total, mean + change / divisor


@triton.jit
def sums_steep(totals, row, count, grad_log_mass, functions):
    """The mean of dP, and by how much delta is less."""
    pivot, inverse = row
    _, mean = totals
    less = functions.offset(pivot) * inverse * mean
    if grad_log_mass is not None:
        less += grad_log_mass
    return mean, less


@triton.jit
def gradients_steep(score, grad_weight, row, count, sums, rounding, functions):
    """dS = numerator' (dP - delta) / Z."""
    pivot, inverse = row
    mean, less = sums
    numerator, _ = functions.terms(score, pivot)
    slope, _ = functions.derivatives(score, pivot, numerator)
    return numerator * inverse, slope * (grad_weight - mean + less) * inverse


def pivot_floor(constants: Any) -> float | None:
    """The mechanism's, where it has a pivot."""
    return constants.pivot_floor if constants.pivoted else None


def log_mass(statistics: Tensor) -> Tensor:
    """The pivot + ln Z."""
    pivot, inverse = statistics
    return pivot - inverse.log()


ROWS = RowFunctions(terms, gradients, mass=mass, left=left, gathered=gathered, sums=sums)
FORM = Form(
    ROWS,
    statistics=2,
    gathered=1,
    sums=1,
    pivot_floor=pivot_floor,
    log_mass=log_mass,
)
FORM = replace(
    FORM,
    steep=replace(
        FORM,
        rows=ROWS._replace(gathered=gathered_steep, sums=sums_steep, gradients=gradients_steep),
        gathered=2,
        sums=2,
    ),
)
