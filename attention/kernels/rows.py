"""Weights and score gradients of whole rows, one function pair per form of mechanism.

Scores are [B, Hk, G, rows, keys]: G query heads share a key head. The gradient of the weights, dP_ij = dO_i . v_j,
comes in; the gradient of the scores goes out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from attention.masks import Tile
from attention.mechanism import Mechanism, Pointwise, Ratio, TwoStage


@dataclass(frozen=True)
class Rows:
    """What a kernel needs of a form.

    Attributes:
        weights: (mechanism, score, tile, count) -> weights, zero where hidden.
        gradients: (mechanism, score, tile, count, grad_weights) -> weights and the gradient of the scores.
    """

    weights: Callable[[Mechanism, Tensor, Tile, Tensor], Tensor]
    gradients: Callable[[Mechanism, Tensor, Tile, Tensor, Tensor], tuple[Tensor, Tensor]]


def rows_of(mechanism: Mechanism) -> Rows:
    """The functions for a mechanism's form."""
    return FORMS[mechanism.form]


def pointwise_weights(mechanism: Mechanism, score: Tensor, tile: Tile, count: Tensor) -> Tensor:
    """w = phi(s)."""
    return tile.zero_(cast(Pointwise, mechanism).weight(score))


def pointwise_gradients(
    mechanism: Mechanism, score: Tensor, tile: Tile, count: Tensor, grad_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """dS = phi'(s) dP."""
    mechanism = cast(Pointwise, mechanism)
    weight = mechanism.weight(score)
    grad_score = mechanism.weight_derivative(score, weight) * grad_weights
    return tile.zero_(weight), tile.zero_(grad_score)


def ratio_weights(mechanism: Mechanism, score: Tensor, tile: Tile, count: Tensor) -> Tensor:
    """w = numerator / Z, Z = offset + sum of denominators."""
    mechanism = cast(Ratio, mechanism)
    numerator, total = _ratio_terms(mechanism, score, tile, _pivot(mechanism, score, tile))
    return numerator.div_(total)


def ratio_gradients(
    mechanism: Mechanism, score: Tensor, tile: Tile, count: Tensor, grad_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """dS = (numerator' dP - denominator' delta) / Z, delta = sum_j w_j dP_j."""
    mechanism = cast(Ratio, mechanism)
    pivot = _pivot(mechanism, score, tile)
    numerator, total = _ratio_terms(mechanism, score, tile, pivot)
    numerator_slope, denominator_slope = mechanism.derivatives(score, pivot, numerator)
    delta = (numerator * grad_weights).sum(-1, keepdim=True) / total
    if numerator_slope is denominator_slope:
        grad_score = (grad_weights - delta).mul_(numerator_slope).div_(total)
    else:
        grad_score = (numerator_slope * grad_weights).sub_(denominator_slope * delta).div_(total)
    return numerator / total, tile.zero_(grad_score)


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


def two_stage_weights(mechanism: Mechanism, score: Tensor, tile: Tile, count: Tensor) -> Tensor:
    """w = b / sum b, b = second(u), u = n a / Z, a = first(s)."""
    mechanism = cast(TwoStage, mechanism)
    relative, largest, _ = _relative(mechanism, score, tile, count)
    power, total = _reweighted(mechanism, relative, largest, tile, count)
    return power.div_(total)


def two_stage_gradients(
    mechanism: Mechanism, score: Tensor, tile: Tile, count: Tensor, grad_weights: Tensor
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


FORMS: dict[type, Rows] = {
    Pointwise: Rows(pointwise_weights, pointwise_gradients),
    Ratio: Rows(ratio_weights, ratio_gradients),
    TwoStage: Rows(two_stage_weights, two_stage_gradients),
}
