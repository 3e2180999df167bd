"""The public calls: outputs, weights and row statistics of any mechanism.

Layout is sequence first: query [B, T, H, D], key [B, S, Hk, D], value [B, S, Hk, Dv]. Head h reads key head
h // (H / Hk). The queries are the last T of the S positions, so a cache of earlier keys needs no extra argument.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attention.chunked import Chunked
from attention.errors import AttentionError
from attention.kernels import chunked, dense, dispatch, tiled
from attention.kernels.memory import Memory, resume
from attention.kernels.problem import Problem, pose
from attention.kernels.tiled import Block
from attention.mechanism import INFERENCE, Mechanism, Moment
from attention.registry import get

SMALL_WEIGHT = 1e-5
MASS_FLOOR = 1e-8


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mechanism: str | Mechanism,
    *,
    causal: bool = True,
    window: int | None = None,
    documents: Tensor | None = None,
    scale: float | None = None,
    kernel: str = "auto",
    params: Mapping[str, Tensor] | None = None,
    moment: Moment = INFERENCE,
    memory: Memory | None = None,
) -> Tensor:
    """Mix values by a mechanism's weights.

    Args:
        query: [B, T, H, D]; key: [B, S, Hk, D]; value: [B, S, Hk, Dv]; one floating dtype.
        mechanism: a name, or an instance from `get` where options are needed.
        causal: hide keys after the query.
        window: a query sees keys at a distance below it, itself included; None for the mechanism's own.
        documents: int [B, S]; a run of equal ids is one document and sees only itself; -1 is padding (output 0).
        scale: factor of the dot product; None for the mechanism's own.
        kernel: "auto" or a kernel's name.
        params: learned parameters of the mechanism; initial values where missing.
        moment: when in training the call happens, for mechanisms with noise or a schedule.
        memory: what earlier calls left of the text that this one goes on with, for mechanisms that carry a state; it
            moves on. Query, key, value and documents are then those of the new positions only, as many of each.

    Returns:
        [B, T, H, Dv] in the query's dtype.

    Raises:
        AttentionError: the call cannot be served; the message says what would be.
    """
    mechanism = get(mechanism)
    with torch.autocast(query.device.type, enabled=False):
        if memory is not None:
            key, value, documents = memory.extend(key, value, documents)
        problem = pose(
            query,
            key,
            value,
            mechanism,
            causal=causal,
            window=window,
            documents=documents,
            scale=scale,
            params=params,
            moment=moment,
        )
        if memory is not None:
            return resume(problem, memory)
        return dispatch.choose(kernel, problem).attend(problem)


def weights(
    query: Tensor,
    key: Tensor,
    mechanism: str | Mechanism,
    *,
    causal: bool = True,
    window: int | None = None,
    documents: Tensor | None = None,
    scale: float | None = None,
    kernel: str = "auto",
    params: Mapping[str, Tensor] | None = None,
    rows: Sequence[int] | slice | None = None,
    heads: Sequence[int] | None = None,
) -> Tensor:
    """The weights that `attend` uses, recomputed, for chosen query rows and heads.

    Memory grows with T x S unless rows and heads are chosen.

    Args:
        kernel: "dense" for the formula, "auto" or "tiled" for what the block kernel used.
        rows: query rows to return, all by default; heads: query heads to return, all by default.
        Others: as for `attend`.

    Returns:
        [B, heads, rows, S], zero where hidden; float32, or float64 for float64 queries. No gradient.

    Raises:
        AttentionError: as for `attend`, or a row or head that does not exist.
    """
    mechanism = get(mechanism)
    problem = _posed(query, key, mechanism, causal, window, documents, scale, params)
    wanted_rows = _indices(rows, query.shape[1], "row", query.device)
    wanted_heads = _indices(heads, query.shape[2], "head", query.device)
    if dispatch.choose(kernel, problem) is dispatch.KERNELS["dense"]:
        with torch.no_grad():
            return dense.weights(problem)[:, wanted_heads][:, :, wanted_rows]
    wide = torch.promote_types(query.dtype, torch.float32)
    out = query.new_zeros(query.shape[0], len(wanted_heads), len(wanted_rows), key.shape[1], dtype=wide)
    for block in _blocks(problem):
        start, stop = block.tile.rows.start, block.tile.rows.stop
        here = ((wanted_rows >= start) & (wanted_rows < stop)).nonzero()[:, 0]
        if len(here):
            chosen = block.weight[:, wanted_heads][:, :, wanted_rows[here] - start]
            out[:, :, here, block.tile.keys] = chosen
    return out


@dataclass(frozen=True)
class RowStats:
    """Statistics of weights W, streamed over blocks of rows.

    Attributes:
        mass: sum_j W_ij, float32 [B, H, T].
        entropy: of the row divided by its mass, in nats; 0 where the mass is below 1e-8.
        first: the weight on key 0.
        zeros: visible entries that are exactly 0.
        small: visible entries of at most 1e-5.
        max_score: largest |score| among visible entries.
        visible: n_i, int64 [B, T].
        key_mass: sum_i W_ij, [B, H, S].
        key_mass_renormalised: sum_i W_ij / (mass_i + 1e-8), [B, H, S].
    """

    mass: Tensor
    entropy: Tensor
    first: Tensor
    zeros: Tensor
    small: Tensor
    max_score: Tensor
    visible: Tensor
    key_mass: Tensor
    key_mass_renormalised: Tensor


def row_stats(
    query: Tensor,
    key: Tensor,
    mechanism: str | Mechanism,
    *,
    causal: bool = True,
    window: int | None = None,
    documents: Tensor | None = None,
    scale: float | None = None,
    params: Mapping[str, Tensor] | None = None,
) -> RowStats:
    """Mass, entropy, sparsity and sinks of a mechanism's weights, with memory linear in length.

    Arguments and errors as for `attend`.
    """
    problem = _posed(query, key, get(mechanism), causal, window, documents, scale, params)
    batch, queries, n_head, _ = query.shape
    rows = {
        name: query.new_zeros(batch, n_head, queries, dtype=torch.float32)
        for name in ("mass", "entropy", "first", "zeros", "small", "max_score")
    }
    columns = {
        name: query.new_zeros(batch, n_head, key.shape[1], dtype=torch.float32)
        for name in ("key_mass", "key_mass_renormalised")
    }
    visible = problem.visible.count.expand(batch, -1)
    for block in _blocks(problem):
        here, keys, weight = block.tile.rows, block.tile.keys, block.weight
        mass = weight.sum(-1)
        magnitude = weight.abs()
        outside = (weight.shape[-1] - visible[:, None, here]).to(weight.dtype)
        share = magnitude / (magnitude.sum(-1, keepdim=True) + MASS_FLOOR)
        rows["mass"][..., here] = mass
        rows["entropy"][..., here] = torch.special.entr(share).sum(-1)
        rows["zeros"][..., here] = (weight == 0).sum(-1) - outside
        rows["small"][..., here] = (magnitude <= SMALL_WEIGHT).sum(-1) - outside
        rows["max_score"][..., here] = block.tile.zero_(block.score.abs()[:, :, None])[:, :, 0].amax(-1)
        if keys.start == 0:
            rows["first"][..., here] = weight[..., 0]
        columns["key_mass"][..., keys] += weight.sum(-2)
        columns["key_mass_renormalised"][..., keys] += share.sum(-2)
    return RowStats(**rows, **columns, visible=visible)


def _blocks(problem: Problem) -> Iterator[Block]:
    """Weights by blocks of rows, by the row functions of the form, or by the formula where there are none."""
    return (chunked if isinstance(problem.mechanism, Chunked) else tiled).blocks(problem)


def _posed(
    query: Tensor,
    key: Tensor,
    mechanism: Mechanism,
    causal: bool,
    window: int | None,
    documents: Tensor | None,
    scale: float | None,
    params: Mapping[str, Tensor] | None,
) -> Problem:
    with torch.autocast(query.device.type, enabled=False), torch.no_grad():
        return pose(
            query,
            key,
            key,
            mechanism,
            causal=causal,
            window=window,
            documents=documents,
            scale=scale,
            params=params,
        )


def _indices(wanted: Sequence[int] | slice | None, size: int, what: str, device: torch.device) -> Tensor:
    everything = torch.arange(size, device=device)
    if wanted is None or isinstance(wanted, slice):
        return everything if wanted is None else everything[wanted]
    for index in wanted:
        if not -size <= index < size:
            raise AttentionError(f"{what} {index} does not exist: there are {size}")
    return everything[torch.as_tensor(list(wanted), dtype=torch.long, device=device)]
