"""The reference: the paper's formula on a whole row matrix, gradients by autograd, any floating dtype.

Memory grows with T x S. What every other kernel is tested against.
"""

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import pad

from attention.chunked import Chunked
from attention.kernels.kernel import Kernel
from attention.kernels.modes import EVERY
from attention.kernels.problem import Problem
from attention.masks import spans
from attention.mechanism import Ratio
from attention.noise import gumbel


def attend(problem: Problem) -> Tensor:
    """Outputs [B, T, H, Dv]."""
    value = _per_query_head(problem.value, problem.scores.query.shape[2])
    if isinstance(problem.mechanism, Chunked):
        weight = matrix(problem, problem.mechanism)
        mixed = normalised(problem, weight @ value.to(weight.dtype), weight)
        return rearrange(mixed, "b h t d -> b t h d").to(value.dtype)
    mixed = weights(problem).to(value.dtype) @ value
    return rearrange(mixed, "b h t d -> b t h d")


def attend_with_mass(problem: Problem) -> tuple[Tensor, Tensor | None]:
    """Outputs and, of a Ratio, log masses [B, T, H] (else None)."""
    mechanism, visible = problem.mechanism, problem.visible.mask()[:, None]
    if not isinstance(mechanism, Ratio) or mechanism.form is not Ratio:
        return attend(problem), None
    score = score_matrix(problem)
    pivot = score.new_zeros(1)
    if mechanism.pivot_floor is not None:
        pivot = (
            score.masked_fill(~visible, -torch.inf).amax(-1, keepdim=True).clamp(min=mechanism.pivot_floor)
        )
        pivot = pivot.detach().masked_fill(pivot == -torch.inf, 0)
    _, denominator = mechanism.terms(score.where(visible, pivot), pivot)
    total = denominator.where(visible, 0).sum(-1, keepdim=True) + mechanism.offset(pivot)
    log_mass = total.masked_fill(total == 0, 1).log() + pivot
    return attend(problem), rearrange(log_mass, "b h t 1 -> b t h")


def weights(problem: Problem) -> Tensor:
    """Weights [B, H, T, S], zero where hidden; float32 for half types, else the query's dtype."""
    if isinstance(problem.mechanism, Chunked):
        weight = matrix(problem, problem.mechanism)
        return normalised(problem, weight, weight)
    visible = problem.visible.mask()[:, None]
    blind = (problem.visible.count == 0)[:, None, :, None]
    weight = problem.mechanism.weights_in(problem.call, score_matrix(problem), visible | blind)
    return weight.where(visible, 0)


@torch.compiler.disable(reason="documents are taken one by one; the model around it compiles")
def matrix(problem: Problem, mechanism: Chunked, rows: slice = slice(None)) -> Tensor:
    """What a mechanism states of its weights before it normalises them, [B, H, rows, S], document by document."""
    scores, visible = problem.scores, problem.visible
    recurrence = mechanism.recurrence(scores)
    query = rearrange(scores.query, "b t h d -> b h t d")
    key = _per_query_head(scores.key, query.shape[1])
    place = visible.position[rows]
    weight = query.new_zeros(*query.shape[:2], len(place), visible.keys)
    # Where all is padding, something is computed all the same, and hidden below: every gradient exists and is zero.
    for sequence, start, stop in list(spans(visible.documents, len(key), visible.keys)) or [
        (0, 0, visible.keys)
    ]:
        here = ((place >= start) & (place < stop)).nonzero()[:, 0]
        if len(here):
            reads = query[sequence][:, rows][:, here]
            known = recurrence.matrix(
                reads, key[sequence, :, start:stop], place[here] - start, visible.causal
            )
            known = pad(known, (start, visible.keys - stop))
            weight = weight.index_put(
                (torch.tensor(sequence), torch.arange(weight.shape[1])[:, None], here), known
            )
    return weight.where(visible.mask(rows)[:, None], 0)


def normalised(problem: Problem, mixed: Tensor, weight: Tensor) -> Tensor:
    """Values that such weights mixed, or the weights themselves, as the mechanism normalises them; 0 in empty rows."""
    assert isinstance(problem.mechanism, Chunked)
    recurrence = problem.mechanism.recurrence(problem.scores)
    return recurrence.normalise(mixed, weight.sum(-1, keepdim=True))


def score_matrix(problem: Problem, rows: slice = slice(None)) -> Tensor:
    """Scores [B, H, rows, S], hidden entries included; in float64 as the mechanism states them."""
    scores = problem.scores
    if scores.query.dtype == torch.float64:
        stated = problem.mechanism.stated_scores(*problem.given, problem.call)
        if stated is not None:
            return stated[:, :, rows]
    wide = torch.promote_types(scores.query.dtype, torch.float32)
    query = rearrange(scores.query[:, rows].to(wide), "b t h d -> b h t d")
    key = _per_query_head(scores.key.to(wide), query.shape[1])
    score = _with_gradient_in(scores.query.dtype, query @ key.mT) * scores.scale
    if scores.query_bias is not None:
        score = score + rearrange(scores.query_bias[:, rows], "b t h -> b h t 1")
    if scores.key_bias is not None:
        score = score + rearrange(scores.key_bias, "b s h -> b h 1 s")
    if scores.slope is not None:
        position = problem.visible.position[rows]
        distance = position[:, None] - torch.arange(problem.visible.keys, device=position.device)
        score = score + scores.slope.to(score.dtype)[:, None, None] * distance
    if scores.noise is not None:
        position = problem.visible.position[rows]
        score = score + gumbel(scores.noise, score.shape, position, dtype=score.dtype)
    return score


def _with_gradient_in(dtype: torch.dtype, product: Tensor) -> Tensor:
    """The same numbers; their gradient is rounded to a half type before it meets queries and keys, as in kernels."""
    if dtype == product.dtype:
        return product
    return product.detach() + (product - product.detach()).to(dtype).to(product.dtype)


def _per_query_head(shared: Tensor, n_head: int) -> Tensor:
    return repeat(shared, "b s k d -> b (k g) s d", g=n_head // shared.shape[2])


KERNEL = Kernel(
    "dense",
    attend,
    lambda problem: None,
    "the formula on the whole row matrix, gradients by autograd",
    run_with_mass=attend_with_mass,
    whole=True,
    serves=EVERY,
)
