"""Statistics of the weights' rows, and of what each key receives, with memory linear in length.

The compiled kernel sums up a row while its weights are in the cache; what it does not serve is summed up by blocks of
rows, in PyTorch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from attention.core.arguments import exactly
from attention.core.call import CallOptions, CallSpec
from attention.core.errors import AttentionError
from attention.core.form import rowwise
from attention.core.inputs import AttentionInputs, prepare
from attention.core.mechanism import Mechanism
from attention.core.modes import asked
from attention.core.registry import get

SMALL_WEIGHT = 1e-5
MASS_FLOOR = 1e-8

ROWS = ("mass", "magnitude", "entropy", "first", "zeros", "small", "max_score")
KEYS = ("key_mass", "key_mass_renormalised", "key_contribution")
"""The statistics of rows and those of keys, in the order in which kernels give them."""


@dataclass(frozen=True)
class RowStats:
    """Statistics of weights W, streamed over rows.

    Rows are divided by sum_j |W_ij|, the magnitude, where they are renormalised: weights may be negative, and their
    sum may then vanish where the row does not.

    Attributes:
        mass: sum_j W_ij, float32 [B, H, T], as all that follow unless said otherwise.
        magnitude: sum_j |W_ij|.
        entropy: of |W_ij| / magnitude_i, in nats; 0 where the magnitude is below 1e-8.
        first: the weight on key 0.
        zeros: number of visible entries that are exactly 0.
        small: number of visible entries of at most 1e-5 in magnitude.
        max_score: largest |score| among visible entries, before a softcap.
        visible: n_i, the number of keys that query i sees, int64 [B, T].
        audience: the number of queries that see key j, int64 [B, S].
        key_mass: sum_i W_ij, float64 [B, H, S].
        key_mass_renormalised: sum_i |W_ij| / (magnitude_i + 1e-8), float64 [B, H, S].
        key_contribution: sum_i |W_ij| ||v_j|| / sum_k |W_ik| ||v_k||, float64 [B, H, S], a row of 0 / 0 left out; None
            where no values were given.
    """

    mass: Tensor
    magnitude: Tensor
    entropy: Tensor
    first: Tensor
    zeros: Tensor
    small: Tensor
    max_score: Tensor
    visible: Tensor
    audience: Tensor
    key_mass: Tensor
    key_mass_renormalised: Tensor
    key_contribution: Tensor | None = None


def row_stats(
    query: Tensor,
    key: Tensor,
    mechanism: str | Mechanism,
    *,
    value: Tensor | None = None,
    **options: Unpack[CallOptions],
) -> RowStats:
    """Mass, entropy, sparsity and sinks of a mechanism's weights.

    Arguments and errors as for `attend`; values are needed for what keys contribute alone. The numbers of a sequence
    do not depend on the others of its batch.
    """
    mechanism = get(mechanism)
    with torch.no_grad(), exactly(query):
        inputs = prepare(query, key, key if value is None else value, mechanism, CallSpec(**options))
        if asked(inputs.differentiable):
            raise AttentionError(
                "row statistics have no derivative; call row_stats outside of torch.func and forward mode"
            )
        rows, keys = _compiled(inputs) or _streamed(inputs)
        batch = len(query)
        found = dict(zip(ROWS, rows, strict=True)) | dict(zip(KEYS, keys, strict=True))
        if value is None:
            del found["key_contribution"]
        return RowStats(
            **found,
            visible=inputs.visible.count.expand(batch, -1),
            audience=inputs.visible.audience.expand(batch, -1),
        )


def _compiled(inputs: AttentionInputs) -> tuple[Tensor, Tensor] | None:
    """Statistics of rows [7, B, H, T] and keys [3, B, H, S] by the fastest kernel that gives them; None: none does."""
    from attention.kernels import dispatch
    from attention.kernels.kernel import widened

    # The weights of a composite are those of its formula, not those of its parts.
    if inputs.vacant or rowwise(inputs.mechanism) is None:
        return None
    inputs = widened(inputs)
    for kernel in dispatch.KERNELS.values():
        if kernel.gives_row_stats and dispatch.serves(kernel, inputs, aloud=True):
            return kernel.row_stats(inputs, small=SMALL_WEIGHT, floor=MASS_FLOOR)
    return None


def _streamed(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """The same by blocks of rows."""
    from attention.kernels.blocks import parts

    query, keys = inputs.scores.query, inputs.visible.keys
    batch, queries, n_head, _ = query.shape
    of_rows = query.new_zeros(len(ROWS), batch, n_head, queries, dtype=torch.float32)
    of_keys = query.new_zeros(len(KEYS), batch, n_head, keys, dtype=torch.float64)
    done = 0
    for part in parts(inputs):
        here = slice(done, done + len(part.value))
        rows, columns = of_rows[:, here], of_keys[:, here]
        _sum_up(part, dict(zip(ROWS, rows, strict=True)), dict(zip(KEYS, columns, strict=True)))
        done = here.stop
    return of_rows, of_keys


def _sum_up(inputs: AttentionInputs, rows: Mapping[str, Tensor], columns: Mapping[str, Tensor]) -> None:
    """Write the statistics of rows [B, H, T], and add those of keys [B, H, S]."""
    from attention.kernels.blocks import blocks

    norms = _norms(inputs.value, inputs.scores.query.shape[2])
    visible = inputs.visible.count
    for block in blocks(inputs):
        here, keys, weight = block.tile.rows, block.tile.keys, block.weight
        hidden = (weight.shape[-1] - visible[:, None, here]).to(weight.dtype)
        score = block.tile.zero_(block.score[:, :, None])[:, :, 0]
        rows["max_score"][..., here] = torch.maximum(score.amax(-1), -score.amin(-1))
        rows["mass"][..., here] = weight.sum(-1)
        columns["key_mass"][..., keys] += weight.sum(-2)
        if keys.start == 0:
            rows["first"][..., here] = weight[..., 0]
        # In place and into one buffer, since fresh memory costs more than the arithmetic. Comparisons write floats,
        # since sums over booleans take five times as long.
        magnitude, scratch = weight.abs_(), torch.empty_like(weight)
        rows["zeros"][..., here] = torch.eq(magnitude, 0, out=scratch).sum(-1) - hidden
        rows["small"][..., here] = torch.le(magnitude, SMALL_WEIGHT, out=scratch).sum(-1) - hidden
        total = magnitude.sum(-1, keepdim=True)
        rows["magnitude"][..., here] = total[..., 0]
        given = torch.mul(magnitude, norms[..., keys], out=scratch)
        whole = given.sum(-1, keepdim=True)
        columns["key_contribution"][..., keys] += given.div_(whole.masked_fill_(whole == 0, 1)).sum(-2)
        share = magnitude.div_(total + MASS_FLOOR)
        columns["key_mass_renormalised"][..., keys] += share.sum(-2)
        # These shares sum to r = total / (total + floor), and the entropy is that of share / r.
        total = total[..., 0]
        kept = total / (total + MASS_FLOOR)
        logarithm = torch.clamp(share, min=torch.finfo(share.dtype).tiny, out=scratch).log_()
        entropy = kept.log() - torch.linalg.vecdot(share, logarithm) / kept
        rows["entropy"][..., here] = entropy.where(total >= MASS_FLOOR, 0)


def _norms(value: Tensor, n_head: int) -> Tensor:
    """||v_j|| [B, H, 1, S] as each query head reads it, float32 at least."""
    wide = torch.promote_types(value.dtype, torch.float32)
    norms = torch.linalg.vector_norm(value, dim=-1, dtype=wide).mT
    return norms.repeat_interleave(n_head // value.shape[2], 1)[:, :, None]
