"""The mathematics of the forms on a tile of scores.

The counterpart of the row functions in `attention/forms/` for tiles: what needs a whole row arrives as its statistics.
"""
# mypy: disallow-untyped-defs=False

from typing import Any, NamedTuple

import triton
import triton.language as tl

from attention.forms import adjusted

TIED = tl.constexpr(adjusted.TIED)


class Statistics(NamedTuple):
    """What the forward pass leaves of a row.

    Attributes:
        frame: Ratio: the pivot; TwoStage: n / (epsilon + sum of first); Threshold, Adjusted: the largest score.
        inverse: one over the sum of the row's denominators, Adjusted: of e^{s - frame}; 1 where that is 0.
        other: TwoStage: the row's largest u; Threshold: tau less the largest score; Adjusted: the least score.
    """

    frame: Any
    inverse: Any
    other: Any


class Sums(NamedTuple):
    """What the first sweep of the backward pass leaves of a row.

    Attributes:
        delta: sum_k w_ik dP_ik less the gradient of the log mass; Threshold: sum_k u_ik dP_ik over the sum of u = w';
            Adjusted: sum_k p_ik w_p dP_ik.
        mean: TwoStage: sum_k dU_ik u_ik / n_i; Adjusted: what goes through the least score, per key that ties with it.
        through_highest: Adjusted: what goes through the largest score, per key that ties with it.
    """

    delta: Any
    mean: Any
    through_highest: Any


@triton.jit
def share(score, statistics):
    """Adjusted: the softmax of a score."""
    return tl.exp(score - statistics.frame) * statistics.inverse


@triton.jit
def ties(score, extreme, rounding):
    """Whether scores tie with an extreme of their row, as far as their rounding lets one tell."""
    return tl.abs(score - extreme) <= tl.abs(extreme) * TIED + rounding


@triton.jit
def terms(score, visible, statistics, count, functions, form: tl.constexpr):
    """Numerators and denominators, zero where hidden; a weight is a numerator over the row's denominators."""
    if form == "pointwise":
        numerator = functions[0](score)
        denominator = numerator
    elif form == "ratio":
        numerator, denominator = functions[0](score, statistics.frame)
    elif form == "two_stage":
        relative = functions[0](score) * statistics.frame
        numerator = functions[2](relative, statistics.other, count)
        denominator = numerator
    elif form == "threshold":
        numerator = functions[0](score - statistics.frame - statistics.other)
        denominator = numerator
    else:
        numerator = functions[0](score, share(score, statistics), statistics.other, statistics.frame)
        denominator = numerator
    return tl.where(visible, numerator, 0.0), tl.where(visible, denominator, 0.0)


@triton.jit
def gradients(score, visible, grad_weight, statistics, count, sums, rounding, functions, form: tl.constexpr):
    """Weights and the gradient of the scores, zero where hidden.

    Pointwise: dS = w'(s) dP.
    Ratio: dS = (numerator' dP - denominator' delta) / Z, so written that equal slopes cancel exactly.
    TwoStage: dU = second'(u) (dP - delta) / sum b, dS = first'(s) frame (dU - mean).
    Threshold: dS = w'(s) (dP - delta).
    Adjusted: dS = p (w_p dP - delta) + w_s dP, and shares of what goes through the extremes. A score of another sweep
    differs by its `rounding`.
    """
    if form == "pointwise":
        weight = functions[0](score)
        grad_score = functions[1](score, weight) * grad_weight
    elif form == "ratio":
        numerator, _ = functions[0](score, statistics.frame)
        numerator_slope, denominator_slope = functions[1](score, statistics.frame, numerator)
        weight = numerator * statistics.inverse
        common = numerator_slope * (grad_weight - sums.delta)
        grad_score = (common + (numerator_slope - denominator_slope) * sums.delta) * statistics.inverse
    elif form == "two_stage":
        relative = functions[0](score) * statistics.frame
        weight = functions[2](relative, statistics.other, count) * statistics.inverse
        slope = functions[3](relative, statistics.other, count) * statistics.inverse
        grad_score = functions[1](score) * statistics.frame * (slope * (grad_weight - sums.delta) - sums.mean)
    elif form == "threshold":
        excess = score - statistics.frame - statistics.other
        value = functions[0](excess)
        weight = value * statistics.inverse
        grad_score = functions[1](excess, value) * (grad_weight - sums.delta)
    else:
        part = share(score, statistics)
        weight = functions[0](score, part, statistics.other, statistics.frame)
        by_score, by_share, _, _ = functions[1](score, part, statistics.other, statistics.frame)
        explicit = by_score * grad_weight
        explicit += tl.where(ties(score, statistics.other, rounding), sums.mean, 0.0)
        explicit += tl.where(ties(score, statistics.frame, rounding), sums.through_highest, 0.0)
        grad_score = part * (by_share * grad_weight - sums.delta) + explicit
    return tl.where(visible, weight, 0.0), tl.where(visible, grad_score, 0.0)


@triton.jit
def sensitivity(score, visible, statistics, count, functions):
    """second'(u) u / sum b of a TwoStage: what dU u is per unit of dP - delta, zero where hidden."""
    relative = functions[0](score) * statistics.frame
    slope = functions[3](relative, statistics.other, count) * statistics.inverse
    return tl.where(visible, slope * relative, 0.0)
