"""Weights and score gradients of whole rows, one function pair per form of mechanism.

Scores are [B, Hk, G, rows, keys]: G query heads share a key head. The gradient of the weights, dP_ij = dO_i . v_j,
comes in, and for a Ratio that of the log mass, [B, Hk, G, rows, 1] or None; the gradient of the scores goes out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from attention.masks import Tile
from attention.mechanism import TIED, Adjusted, Mechanism, Pointwise, Ratio, Threshold, TwoStage


@dataclass(frozen=True)
class Rows:
    """What a kernel needs of a form.

    Attributes:
        weights: (mechanism, score, tile, count) -> weights, zero where hidden, and a Ratio's log mass.
        gradients: (mechanism, score, tile, count, grad_weights, grad_log_mass) -> weights, gradient of the scores.
    """

    weights: Callable[[Mechanism, Tensor, Tile, Tensor], tuple[Tensor, Tensor | None]]
    gradients: Callable[[Mechanism, Tensor, Tile, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def rows_of(mechanism: Mechanism) -> Rows:
    """The functions for a mechanism's form."""
    return FORMS[mechanism.form]


def pointwise_weights(mechanism: Mechanism, score: Tensor, tile: Tile, count: Tensor) -> tuple[Tensor, None]:
    """w = phi(s)."""
    return tile.zero_(cast(Pointwise, mechanism).weight(score)), None


def pointwise_gradients(
    mechanism: Mechanism, score: Tensor, tile: Tile, count: Tensor, grad_weights: Tensor, _: Tensor | None
) -> tuple[Tensor, Tensor]:
    """dS = phi'(s) dP."""
    mechanism = cast(Pointwise, mechanism)
    weight = mechanism.weight(score)
    grad_score = mechanism.weight_derivative(score, weight) * grad_weights
    return tile.zero_(weight), tile.zero_(grad_score)


def ratio_weights(mechanism: Mechanism, score: Tensor, tile: Tile, count: Tensor) -> tuple[Tensor, Tensor]:
    """w = numerator / Z, Z = offset + sum of denominators; the log mass is pivot + ln Z."""
    mechanism = cast(Ratio, mechanism)
    pivot = _pivot(mechanism, score, tile)
    numerator, total = _ratio_terms(mechanism, score, tile, pivot)
    return numerator.div_(total), total.log() + pivot


def ratio_gradients(
    mechanism: Mechanism,
    score: Tensor,
    tile: Tile,
    count: Tensor,
    grad_weights: Tensor,
    grad_log_mass: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """dS = (numerator' dP - denominator' (delta - g)) / Z, delta = sum_j w_j dP_j, g the gradient of the log mass.

    delta is taken of the weights: where one key has all the weight it is dP to the last bit, and nothing is left but g.
    """
    mechanism = cast(Ratio, mechanism)
    pivot = _pivot(mechanism, score, tile)
    numerator, total = _ratio_terms(mechanism, score, tile, pivot)
    numerator_slope, denominator_slope = mechanism.derivatives(score, pivot, numerator)
    weight = numerator / total
    delta = (weight * grad_weights).sum(-1, keepdim=True)
    if numerator_slope is denominator_slope:
        centred = grad_weights - delta
        centred = centred if grad_log_mass is None else centred.add_(grad_log_mass)
        grad_score = centred.mul_(numerator_slope).div_(total)
    else:
        delta = delta if grad_log_mass is None else delta - grad_log_mass
        grad_score = (numerator_slope * grad_weights).sub_(denominator_slope * delta).div_(total)
    return weight, tile.zero_(grad_score)


def _pivot(mechanism: Ratio, score: Tensor, tile: Tile) -> Tensor:
    if mechanism.pivot_floor is None:
        return score.new_zeros(1)
    pivot = tile.maximum(score).clamp_(min=mechanism.pivot_floor)
    return pivot.masked_fill_(pivot == -torch.inf, 0)


def _ratio_terms(mechanism: Ratio, score: Tensor, tile: Tile, pivot: Tensor) -> tuple[Tensor, Tensor]:
    numerator, denominator = mechanism.terms(score, pivot)
    tile.zero_(numerator)
    if denominator is not numerator:
        tile.zero_(denominator)
    total = denominator.sum(-1, keepdim=True).add_(mechanism.offset(pivot))
    return numerator, total.masked_fill_(total == 0, 1)


def two_stage_weights(mechanism: Mechanism, score: Tensor, tile: Tile, count: Tensor) -> tuple[Tensor, None]:
    """w = b / sum b, b = second(u), u = n a / Z, a = first(s)."""
    mechanism = cast(TwoStage, mechanism)
    relative, largest, _ = _relative(mechanism, score, tile, count)
    power, total = _reweighted(mechanism, relative, largest, tile, count)
    return power.div_(total), None


def two_stage_gradients(
    mechanism: Mechanism, score: Tensor, tile: Tile, count: Tensor, grad_weights: Tensor, _: Tensor | None
) -> tuple[Tensor, Tensor]:
    """dU = second'(u) (dP - delta) / sum b;  dS = first'(s) (n / Z) (dU - sum_k dU_k u_k / n)."""
    mechanism = cast(TwoStage, mechanism)
    relative, largest, unit = _relative(mechanism, score, tile, count)
    power, total = _reweighted(mechanism, relative, largest, tile, count)
    weight = power.div_(total)
    delta = (weight * grad_weights).sum(-1, keepdim=True)
    grad_relative = mechanism.second_derivative(relative, largest, count)
    grad_relative = tile.zero_(grad_relative.mul_(grad_weights - delta).div_(total))
    mean = (grad_relative * relative).sum(-1, keepdim=True).div_(count.clamp(min=1))
    grad_score = grad_relative.sub_(mean).mul_(mechanism.first_derivative(score)).mul_(unit)
    return weight, tile.zero_(grad_score)


def _relative(mechanism: TwoStage, score: Tensor, tile: Tile, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    first = tile.zero_(mechanism.first(score))
    unit = count / (first.sum(-1, keepdim=True) + mechanism.epsilon)
    relative = first.mul_(unit)
    return relative, relative.amax(-1, keepdim=True), unit


def _reweighted(
    mechanism: TwoStage, relative: Tensor, largest: Tensor, tile: Tile, count: Tensor
) -> tuple[Tensor, Tensor]:
    power = tile.zero_(mechanism.second(relative, largest, count))
    total = power.sum(-1, keepdim=True)
    return power, total.masked_fill_(total == 0, 1)


def threshold_weights(mechanism: Mechanism, score: Tensor, tile: Tile, count: Tensor) -> tuple[Tensor, None]:
    """w = weight(s - tau)."""
    mechanism = cast(Threshold, mechanism)
    return tile.zero_(mechanism.weight(_excess(mechanism, score, tile))), None


def threshold_gradients(
    mechanism: Mechanism, score: Tensor, tile: Tile, count: Tensor, grad_weights: Tensor, _: Tensor | None
) -> tuple[Tensor, Tensor]:
    """dS = u (dP - sum_k u_k dP_k / sum_k u_k), u = weight'(s - tau)."""
    mechanism = cast(Threshold, mechanism)
    excess = _excess(mechanism, score, tile)
    weight = tile.zero_(mechanism.weight(excess))
    slope = tile.zero_(mechanism.weight_derivative(excess, weight))
    total = slope.sum(-1, keepdim=True)
    mean = (slope * grad_weights).sum(-1, keepdim=True) / total.masked_fill(total == 0, 1)
    return weight, slope * (grad_weights - mean)


NEWTON_STEPS = 100
"""Never reached: the distance to the threshold shrinks by a factor per step, then quadratically."""


def _excess(mechanism: Threshold, score: Tensor, tile: Tile) -> Tensor:
    """s - tau, by Newton's method on sum_j weight(s_j - tau) = 1 from tau = max s - 1, where the sum is at least 1."""
    largest = tile.maximum(score)
    score = score - largest.masked_fill(largest == -torch.inf, 0)
    tau = torch.full_like(largest, -1)
    for _ in range(NEWTON_STEPS):
        weight = tile.zero_(mechanism.weight(score - tau))
        slope = tile.zero_(mechanism.weight_derivative(score - tau, weight)).sum(-1, keepdim=True)
        surplus = weight.sum(-1, keepdim=True) - 1
        step = (surplus / slope.masked_fill(slope == 0, 1)).clamp_(min=0)
        if not bool((tau + step > tau).any()):
            break
        tau = tau + step
    return score - tau


def adjusted_weights(mechanism: Mechanism, score: Tensor, tile: Tile, count: Tensor) -> tuple[Tensor, None]:
    """w = weight(s, p; a, b)."""
    mechanism = cast(Adjusted, mechanism)
    share, lowest, highest = _shares(score, tile)
    return tile.zero_(mechanism.weight(score, share, lowest, highest)), None


def adjusted_gradients(
    mechanism: Mechanism, score: Tensor, tile: Tile, count: Tensor, grad_weights: Tensor, _: Tensor | None
) -> tuple[Tensor, Tensor]:
    """dS = p (w_p dP - sum_k p_k w_p dP) + w_s dP + 1[s = a] sum_k w_a dP + 1[s = b] sum_k w_b dP.

    Keys that tie with an extreme share what goes through it.
    """
    mechanism = cast(Adjusted, mechanism)
    share, lowest, highest = _shares(score, tile)
    by_score, by_share, by_lowest, by_highest = mechanism.weight_derivatives(score, share, lowest, highest)
    grad_share = by_share * grad_weights
    grad_explicit = by_score * grad_weights
    for extreme, slope in ((lowest, by_lowest), (highest, by_highest)):
        hit = tile.zero_(((score - extreme).abs() <= TIED * extreme.abs()).to(score.dtype))
        through = tile.zero_(slope * grad_weights).sum(-1, keepdim=True)
        grad_explicit = grad_explicit + hit * (through / hit.sum(-1, keepdim=True).clamp_(min=1))
    delta = tile.zero_(share * grad_share).sum(-1, keepdim=True)
    weight = tile.zero_(mechanism.weight(score, share, lowest, highest))
    return weight, tile.zero_(share * (grad_share - delta) + grad_explicit)


def _shares(score: Tensor, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax of the rows, and their least and largest score; 0 where a row sees nothing."""
    highest, lowest = tile.maximum(score), -tile.maximum(-score)
    blind = highest == -torch.inf
    highest, lowest = highest.masked_fill(blind, 0), lowest.masked_fill(blind, 0)
    exponential = tile.zero_((score - highest).exp_())
    return exponential.div_(exponential.sum(-1, keepdim=True).masked_fill_(blind, 1)), lowest, highest


FORMS: dict[type, Rows] = {
    Pointwise: Rows(pointwise_weights, pointwise_gradients),
    Ratio: Rows(ratio_weights, ratio_gradients),
    TwoStage: Rows(two_stage_weights, two_stage_gradients),
    Threshold: Rows(threshold_weights, threshold_gradients),
    Adjusted: Rows(adjusted_weights, adjusted_gradients),
}
