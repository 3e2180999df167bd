"""The mathematics of the three forms on a tile of scores.

The counterpart of `attention.kernels.rows` for tiles: what needs a whole row arrives as its statistics.
"""
# mypy: disallow-untyped-defs=False

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Statistics(NamedTuple):
    """What the forward pass leaves of a row.

    Attributes:
        frame: Ratio: the pivot; TwoStage: n / (epsilon + sum of first).
        inverse: one over the sum of the row's denominators, 1 where that is 0.
        largest: TwoStage: the row's largest u.
    """

    frame: Any
    inverse: Any
    largest: Any


@triton.jit
def terms(score, visible, statistics, count, functions, form: tl.constexpr):
    """Numerators and denominators, zero where hidden; a weight is a numerator over the row's denominators."""
    if form == "Pointwise":
        numerator = functions[0](score)
        denominator = numerator
    elif form == "Ratio":
        numerator, denominator = functions[0](score, statistics.frame)
    else:
        relative = functions[0](score) * statistics.frame
        numerator = functions[2](relative, statistics.largest, count)
        denominator = numerator
    return tl.where(visible, numerator, 0.0), tl.where(visible, denominator, 0.0)


@triton.jit
def gradients(score, visible, grad_weight, statistics, count, delta, mean, functions, form: tl.constexpr):
    """Weights and the gradient of the scores, zero where hidden.

    Pointwise: dS = w'(s) dP.
    Ratio: dS = (numerator' dP - denominator' delta) / Z, so written that equal slopes cancel exactly.
    TwoStage: dU = second'(u) (dP - delta) / sum b, dS = first'(s) frame (dU - mean).
    """
    if form == "Pointwise":
        weight = functions[0](score)
        grad_score = functions[1](score, weight) * grad_weight
    elif form == "Ratio":
        numerator, _ = functions[0](score, statistics.frame)
        numerator_slope, denominator_slope = functions[1](score, statistics.frame, numerator)
        weight = numerator * statistics.inverse
        common = numerator_slope * (grad_weight - delta)
        grad_score = (common + (numerator_slope - denominator_slope) * delta) * statistics.inverse
    else:
        relative = functions[0](score) * statistics.frame
        weight = functions[2](relative, statistics.largest, count) * statistics.inverse
        slope = functions[3](relative, statistics.largest, count) * statistics.inverse
        grad_score = functions[1](score) * statistics.frame * (slope * (grad_weight - delta) - mean)
    return tl.where(visible, weight, 0.0), tl.where(visible, grad_score, 0.0)


@triton.jit
def sensitivity(score, visible, statistics, count, functions):
    """second'(u) u / sum b of a TwoStage: what dU u is per unit of dP - delta, zero where hidden."""
    relative = functions[0](score) * statistics.frame
    slope = functions[3](relative, statistics.largest, count) * statistics.inverse
    return tl.where(visible, slope * relative, 0.0)
