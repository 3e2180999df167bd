"""The public calls: outputs, weights and row statistics of any mechanism.

Layout is sequence first: query [B, T, H, D], key [B, S, Hk, D], value [B, S, Hk, Dv]. Head h reads key head
h // (H / Hk). The queries are the last T of the S positions, so a cache of earlier keys needs no extra argument.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attention.arguments import check_tensors, exactly, is_whole, shown
from attention.chunked import Chunked
from attention.errors import AttentionError
from attention.kernels import chunked, dense, dispatch, tiled
from attention.kernels.memory import Memory, resume
from attention.kernels.modes import asked
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
        documents: int [B, S]; a run of equal ids is one document and sees only itself; -1 is padding (output 0), where
            numbers must be finite all the same: some kernels multiply them by zero, which makes NaN of NaN.
        scale: factor of the dot product; None for the mechanism's own.
        kernel: "auto" or a kernel's name.
        params: learned parameters of the mechanism; initial values where missing.
        moment: when in training the call happens, for mechanisms with noise or a schedule.
        memory: what earlier calls left of the text that this one goes on with, for mechanisms that carry a state; it
            moves on. Query, key, value and documents are then those of the new positions only, as many of each.

    Returns:
        [B, T, H, Dv] in the query's dtype. Where B, T or Dv is 0 it has no elements and every gradient is zero; on the
        device "meta" it has a shape and no data.

    Raises:
        AttentionError: the call cannot be served; the message says what would be. A memory is then as it was.
    """
    mechanism = get(mechanism)
    with exactly(query):
        if not isinstance(memory, Memory | None):
            raise AttentionError(f"memory must be an attention.Memory, got {shown(memory)}")
        if memory is None or query.is_meta:
            plain = kernel == "dense"
            problem = pose(
                query, key, value, mechanism, causal, window, documents, scale, params, moment, plain
            )
            return dispatch.choose(kernel, problem).attend(problem)
        check_tensors(query, key, value)
        longer = memory.copy()
        key, value, documents = longer.extend(mechanism, key, value, documents)
        problem = pose(query, key, value, mechanism, causal, window, documents, scale, params, moment)
        dispatch.choose(kernel, problem)
        out = resume(problem, longer)
        memory.become(longer)
        return out


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
    with torch.no_grad(), exactly(query):
        plain = kernel == "dense"
        problem = pose(query, key, key, mechanism, causal, window, documents, scale, params, plain=plain)
        wanted_rows = _indices(rows, query.shape[1], "row", query.device)
        wanted_heads = _indices(heads, query.shape[2], "head", query.device)
        formula = dispatch.choose(kernel, problem) is dispatch.KERNELS["dense"] or asked(
            problem.differentiable
        )
        if formula and not problem.vacant:
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

    Rows are divided by sum_j |W_ij|, the magnitude, where they are renormalised: weights may be negative, and their
    sum may then vanish where the row does not.

    Attributes:
        mass: sum_j W_ij, float32 [B, H, T], as all that follow unless said otherwise.
        magnitude: sum_j |W_ij|.
        entropy: of |W_ij| / magnitude_i, in nats; 0 where the magnitude is below 1e-8.
        first: the weight on key 0.
        zeros: number of visible entries that are exactly 0.
        small: number of visible entries of at most 1e-5 in magnitude.
        max_score: largest |score| among visible entries.
        visible: n_i, the number of keys that query i sees, int64 [B, T].
        audience: the number of queries that see key j, int64 [B, S].
        key_mass: sum_i W_ij, float64 [B, H, S].
        key_mass_renormalised: sum_i |W_ij| / (magnitude_i + 1e-8), float64 [B, H, S].
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
    mechanism = get(mechanism)
    with torch.no_grad(), exactly(query):
        problem = pose(query, key, key, mechanism, causal, window, documents, scale, params)
        if asked(problem.differentiable):
            raise AttentionError(
                "row statistics have no derivative; call row_stats outside of torch.func and forward mode"
            )
        return _stats(problem)


def _stats(problem: Problem) -> RowStats:
    query = problem.scores.query
    batch, queries, n_head, _ = query.shape
    rows = {
        name: query.new_zeros(batch, n_head, queries, dtype=torch.float32)
        for name in ("mass", "magnitude", "entropy", "first", "zeros", "small", "max_score")
    }
    columns = {
        name: query.new_zeros(batch, n_head, problem.visible.keys, dtype=torch.float64)
        for name in ("key_mass", "key_mass_renormalised")
    }
    visible = problem.visible.count.expand(batch, -1)
    for block in _blocks(problem):
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
        share = magnitude.div_(total + MASS_FLOOR)
        columns["key_mass_renormalised"][..., keys] += share.sum(-2)
        # These shares sum to r = total / (total + floor), and the entropy is that of share / r.
        total = total[..., 0]
        kept = total / (total + MASS_FLOOR)
        logarithm = torch.clamp(share, min=torch.finfo(share.dtype).tiny, out=scratch).log_()
        entropy = kept.log() - torch.linalg.vecdot(share, logarithm) / kept
        rows["entropy"][..., here] = entropy.where(total >= MASS_FLOOR, 0)
    audience = problem.visible.audience.expand(batch, -1)
    return RowStats(**rows, **columns, visible=visible, audience=audience)


def _blocks(problem: Problem) -> Iterator[Block]:
    """Weights by blocks of rows, by the row functions of the form, or by the formula where there are none."""
    if problem.vacant:
        return iter(())
    return (chunked if isinstance(problem.mechanism, Chunked) else tiled).blocks(problem)


def _indices(wanted: Sequence[int] | slice | None, size: int, what: str, device: torch.device) -> Tensor:
    if wanted is None:
        return torch.arange(size, device=device)
    if isinstance(wanted, slice):
        try:
            return torch.tensor(range(size)[wanted], dtype=torch.long, device=device)
        except (TypeError, ValueError) as error:
            raise AttentionError(f"{what}s cannot be chosen by {shown(wanted)}: {error}") from None
    if isinstance(wanted, Tensor):
        wanted = wanted.tolist()
    if not isinstance(wanted, Iterable) or isinstance(wanted, str | bytes):
        raise AttentionError(f"{what}s must be a sequence of whole numbers or a slice, got {shown(wanted)}")
    indices = list(wanted)
    for index in indices:
        if not is_whole(index):
            raise AttentionError(f"a {what} must be a whole number, got {shown(index)}")
        if not -size <= index < size:
            raise AttentionError(f"{what} {index} does not exist: there are {size}")
    return torch.tensor([int(index) % size for index in indices], dtype=torch.long, device=device)
