"""The reference: the paper's formula on a whole row matrix, gradients by autograd, any floating dtype.

Memory grows with T x S. What every other kernel is tested against.
"""

import torch
from einops import rearrange, repeat
from torch import Tensor

from attention.kernels.kernel import Kernel
from attention.kernels.problem import Problem
from attention.noise import gumbel


def attend(problem: Problem) -> Tensor:
    """Outputs [B, T, H, Dv]."""
    value = _per_query_head(problem.value, problem.scores.query.shape[2])
    mixed = weights(problem).to(value.dtype) @ value
    return rearrange(mixed, "b h t d -> b t h d")


def weights(problem: Problem) -> Tensor:
    """Weights [B, H, T, S], zero where hidden; float32 for half types, else the query's dtype."""
    visible = problem.visible.mask()[:, None]
    blind = (problem.visible.count == 0)[:, None, :, None]
    weight = problem.mechanism.weights_in(problem.call, score_matrix(problem), visible | blind)
    return weight.where(visible, 0)


def score_matrix(problem: Problem) -> Tensor:
    """Scores [B, H, T, S], hidden entries included."""
    scores = problem.scores
    query = rearrange(scores.query, "b t h d -> b h t d")
    key = _per_query_head(scores.key, query.shape[1])
    score = query @ key.mT
    score = score.to(torch.promote_types(score.dtype, torch.float32)) * scores.scale
    if scores.query_bias is not None:
        score = score + rearrange(scores.query_bias, "b t h -> b h t 1")
    if scores.key_bias is not None:
        score = score + rearrange(scores.key_bias, "b s h -> b h 1 s")
    if scores.slope is not None:
        position = problem.visible.position
        distance = position[:, None] - torch.arange(problem.visible.keys, device=position.device)
        score = score + scores.slope.to(score.dtype)[:, None, None] * distance
    if scores.noise is not None:
        position = problem.visible.position
        score = score + gumbel(scores.noise, score.shape, position, dtype=score.dtype)
    return score


def _per_query_head(shared: Tensor, n_head: int) -> Tensor:
    return repeat(shared, "b s k d -> b (k g) s d", g=n_head // shared.shape[2])


KERNEL = Kernel(
    "dense",
    attend,
    lambda problem: None,
    "the formula on the whole row matrix, gradients by autograd",
    whole=True,
)
