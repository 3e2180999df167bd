"""The public calls: outputs and weights of any mechanism.

Layout is sequence first: query [B, T, H, D], key [B, S, Hk, D], value [B, S, Hk, Dv]. Head h reads key head
h // (H / Hk). The queries are the last T of the S positions, so a cache of earlier keys needs no extra argument.

The first call imports the kernels, not `import attention`: they bring torch's compiler, which takes as long as torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Unpack

import torch
from torch import Tensor

from attention.core.arguments import check_flag, exactly, is_whole, shown
from attention.core.call import INFERENCE, CallOptions, CallSpec, Phase
from attention.core.errors import AttentionError
from attention.core.inputs import AttentionInputs, prepare
from attention.core.mechanism import Mechanism
from attention.core.modes import asked
from attention.core.registry import get
from attention.forms.chunked import RecurrentState


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
    params: Mapping[str, Tensor] | None = None,
    phase: Phase = INFERENCE,
    softcap: float | None = None,
    intervals: Tensor | None = None,
    slopes: Tensor | None = None,
    kernel: str = "auto",
    state: RecurrentState | None = None,
    settled: bool = False,
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
        params: learned parameters of the mechanism; initial values where missing, but not where a gradient is wanted,
            since those would never learn: `attention.Attention` owns them.
        phase: when in training the call happens, for mechanisms with noise or a schedule.
        softcap: c of scores c tanh(s / c), which then take the place of s, before any mechanism.
        intervals: int64 [B or 1, T, 3]: of each query the first key it sees, the end of those it sees, and its place
            among the keys. For masks that documents do not say, as of caches that are longer than what they hold;
            `causal` and `window` narrow them.
        slopes: [H]; slope_h (i - j) is added to the score of query i and key j, before any softcap; constant. None for
            the mechanism's own. `alibi(H)` has those of ALiBi.
        kernel: "auto" or a kernel's name.
        state: what earlier calls left of the text that this one goes on with, for mechanisms that carry a state; it
            moves on. Query, key, value and documents are then those of the new positions only, as many of each.
        settled: keys are what `mechanism.settled` made of them, as a cache keeps them, so that no call normalises them
            anew; not with a state.

    Returns:
        [B, T, H, Dv] in the query's dtype. Where B, T or Dv is 0 it has no elements and every gradient is zero; on the
        device "meta" it has a shape and no data.

    Raises:
        AttentionError: the call cannot be served; the message says what would be. A state is then as it was.
    """
    from attention.kernels import dispatch
    from attention.kernels.kernel import attend as run
    from attention.kernels.resume import resume

    mechanism = get(mechanism)
    with exactly(query):
        if not isinstance(state, RecurrentState | None):
            raise AttentionError(f"state must be an attention.RecurrentState, got {shown(state)}")
        check_flag("settled", settled)
        if settled and state is not None:
            raise AttentionError("a state takes keys as they are, not settled ones")
        spec = CallSpec(causal, window, documents, scale, params, phase, softcap, intervals, slopes)
        if state is None or query.is_meta:
            inputs = prepare(query, key, value, mechanism, spec, plain=kernel == "dense", settled=settled)
            _check_learned(inputs, params)
            return run(dispatch.choose(kernel, inputs), inputs)
        return resume(query, key, value, mechanism, spec, kernel, state)


def _check_learned(inputs: AttentionInputs, given: Mapping[str, Tensor] | None) -> None:
    """AttentionError: a gradient is wanted, and what the mechanism learns is not all given."""
    missing = inputs.call.params.keys() - (given or {}).keys()
    if not missing or inputs.vacant or not torch.is_grad_enabled():
        return
    if any(x.requires_grad for x in (*inputs.given, inputs.value)):
        name, (n_head, head_dim) = inputs.mechanism.name, inputs.given[0].shape[2:]
        raise AttentionError(
            f"{name} learns {', '.join(sorted(missing))}, which would stay as at the start: use "
            f"attention.Attention({name!r}, {n_head}, {head_dim}), or give params"
        )


def weights(
    query: Tensor,
    key: Tensor,
    mechanism: str | Mechanism,
    *,
    kernel: str = "auto",
    rows: Sequence[int] | slice | None = None,
    heads: Sequence[int] | None = None,
    **options: Unpack[CallOptions],
) -> Tensor:
    """The weights that `attend` uses, recomputed, for chosen query rows and heads.

    Memory grows with T x S unless rows and heads are chosen.

    Args:
        kernel: "dense" for the formula, "auto" or "tiled" for what the block kernel used.
        rows: query rows to return, all by default; heads: query heads to return, all by default.
        options: causal, window, documents, scale, params, phase, softcap, intervals and slopes, as for `attend`.

    Returns:
        [B, heads, rows, S], zero where hidden; float32, or float64 for float64 queries. No gradient.

    Raises:
        AttentionError: as for `attend`, or a row or head that does not exist.
    """
    from attention.kernels import dense, dispatch
    from attention.kernels.blocks import blocks

    mechanism = get(mechanism)
    with torch.no_grad(), exactly(query):
        inputs = prepare(query, key, key, mechanism, CallSpec(**options), plain=kernel == "dense")
        wanted_rows = _indices(rows, query.shape[1], "row", query.device)
        wanted_heads = _indices(heads, query.shape[2], "head", query.device)
        formula = dispatch.choose(kernel, inputs) is dispatch.KERNELS["dense"] or asked(inputs.differentiable)
        if formula and not inputs.vacant:
            return dense.weights(inputs)[:, wanted_heads][:, :, wanted_rows]
        wide = torch.promote_types(query.dtype, torch.float32)
        out = query.new_zeros(query.shape[0], len(wanted_heads), len(wanted_rows), key.shape[1], dtype=wide)
        for block in blocks(inputs):
            start, stop = block.tile.rows.start, block.tile.rows.stop
            here = ((wanted_rows >= start) & (wanted_rows < stop)).nonzero()[:, 0]
            if len(here):
                chosen = block.weight[:, wanted_heads][:, :, wanted_rows[here] - start]
                out[:, :, here, block.tile.keys] = chosen
        return out


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
