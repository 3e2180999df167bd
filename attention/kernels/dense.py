"""The reference: the paper's formula on a whole row matrix, gradients by autograd, any floating dtype.

Memory grows with T x S. What every other kernel is tested against.
"""

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import pad

from attention.core.call import Call
from attention.core.form import rowwise
from attention.core.inputs import AttentionInputs
from attention.core.masks import spans
from attention.core.mechanism import Mechanism
from attention.core.modes import EVERY
from attention.core.noise import gumbel
from attention.core.scores import Scores
from attention.forms.chunked import Chunked
from attention.forms.composite import Mixture
from attention.kernels.kernel import Kernel


def attend(inputs: AttentionInputs) -> Tensor:
    """Outputs [B, T, H, Dv]."""
    value = _per_query_head(inputs.value, inputs.scores.query.shape[2])
    if isinstance(inputs.mechanism, Chunked):
        weight = matrix(inputs, inputs.mechanism)
        mixed = normalised(inputs, weight @ value.to(weight.dtype), weight)
        return rearrange(mixed, "b h t d -> b t h d").to(value.dtype)
    mixed = weights(inputs).to(value.dtype) @ value
    return rearrange(mixed, "b h t d -> b t h d")


def log_mass(inputs: AttentionInputs) -> Tensor | None:
    """Log masses [B, T, H] of forms that have them (else None)."""
    found = rowwise(inputs.mechanism)
    if found is None:
        return None
    mechanism, form = found
    mass = form.log_mass(mechanism, score_matrix(inputs), inputs.visible.mask()[:, None])
    return None if mass is None else rearrange(mass, "b h t 1 -> b t h")


def weights(inputs: AttentionInputs) -> Tensor:
    """Weights [B, H, T, S], zero where hidden; float32 for half types, else the query's dtype."""
    if isinstance(inputs.mechanism, Chunked):
        weight = matrix(inputs, inputs.mechanism)
        return normalised(inputs, weight, weight)
    return visible_weights(
        inputs.mechanism, inputs.call, score_matrix(inputs), inputs.visible.mask()[:, None]
    )


def visible_weights(mechanism: Mechanism, call: Call, score: Tensor, visible: Tensor) -> Tensor:
    """The weights of scores [..., T, S] where they are visible, else zero; for the formula, an empty row sees all.

    Hidden scores are zero, since formulas take hidden weights times zero, which leaves what is not finite.
    """
    seen = visible | ~visible.any(-1, keepdim=True)
    return mechanism.weights_in(call, score.where(seen, 0), seen).where(visible, 0)


@torch.compiler.disable(reason="documents are taken one by one; the model around it compiles")
def matrix(inputs: AttentionInputs, mechanism: Chunked, rows: slice = slice(None)) -> Tensor:
    """Return the weights before a mechanism normalises them, [B, H, rows, S], document by document."""
    scores, visible = inputs.scores, inputs.visible
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


def normalised(inputs: AttentionInputs, mixed: Tensor, weight: Tensor) -> Tensor:
    """Values that such weights mixed, or the weights themselves, as the mechanism normalises them; 0 in empty rows."""
    assert isinstance(inputs.mechanism, Chunked)
    recurrence = inputs.mechanism.recurrence(inputs.scores)
    return recurrence.normalise(mixed, weight.sum(-1, keepdim=True))


def score_matrix(inputs: AttentionInputs, rows: slice = slice(None)) -> Tensor:
    """Scores [B, H, rows, S], hidden entries included; in float64 as the mechanism states them."""
    scores, stated = inputs.scores, None
    if scores.query.dtype == torch.float64:
        stated = inputs.mechanism.stated_scores(*inputs.given, inputs.call)
    score = _product(scores, rows) if stated is None else stated[:, :, rows]
    if scores.slope is not None:
        position = inputs.visible.position[rows]
        distance = position[:, None] - torch.arange(inputs.visible.keys, device=position.device)
        score = score + scores.slope.to(score.dtype)[:, None, None] * distance
    if scores.noise is not None:
        position = inputs.visible.position[rows]
        score = score + gumbel(scores.noise, score.shape, position, dtype=score.dtype)
    return score


def _product(scores: Scores, rows: slice) -> Tensor:
    wide = torch.promote_types(scores.query.dtype, torch.float32)
    query = rearrange(scores.query[:, rows].to(wide), "b t h d -> b h t d")
    key = _per_query_head(scores.key.to(wide), query.shape[1])
    score = _with_gradient_in(scores.query.dtype, query @ key.mT) * scores.scale
    if scores.query_bias is not None:
        score = score + rearrange(scores.query_bias[:, rows], "b t h -> b h t 1")
    if scores.key_bias is not None:
        score = score + rearrange(scores.key_bias, "b s h -> b h 1 s")
    return score


def _with_gradient_in(dtype: torch.dtype, product: Tensor) -> Tensor:
    """The same numbers; their gradient is rounded to a half type before it meets queries and keys, as in kernels."""
    if dtype == product.dtype:
        return product
    return product.detach() + (product - product.detach()).to(dtype).to(product.dtype)


def _per_query_head(shared: Tensor, n_head: int) -> Tensor:
    return repeat(shared, "b s k d -> b (k g) s d", g=n_head // shared.shape[2])


class Dense(Kernel):
    """The reference."""

    name = "dense"
    summary = "the formula on the whole row matrix, gradients by autograd"
    rank = 80
    modes = EVERY
    gives_mass = True
    runs_composites = True

    def refuses(self, inputs: AttentionInputs) -> None:
        """Nothing."""

    def run(self, inputs: AttentionInputs, *, with_mass: bool = False) -> Mixture:
        """Outputs, and log masses of forms that have them."""
        return Mixture(attend(inputs), log_mass(inputs) if with_mass else None)


KERNEL = Dense()
