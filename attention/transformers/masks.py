"""Masks of transformers as intervals of visible keys: int64 [B, 1, T, 3], a query's first key, their end, its place.

Causal masks, padding on either side, packed sequences, windows, and caches of any kind show a query one interval of
keys. A mask that does not is refused. No [T, S] mask outlives a block of rows.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function, sdpa_mask

from attention.core.errors import AttentionError
from attention.core.masks import visibility

ENTRIES = 2**22
"""Entries of a mask that are looked at at once."""

HOLES = "the mask hides keys amid visible ones, which no kernel here can"


def interval_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    *,
    allow_is_causal_skip: bool = True,
    **options: Any,
) -> Tensor | None:
    """The mask that transformers asks for; None where it is causal and nothing else.

    Raises:
        AttentionError: some query sees keys that are no interval. In a compiled model it is a RuntimeError.
    """
    plain = options.get("attention_mask") is None and options.get("mask_function") in (
        None,
        causal_mask_function,
    )
    if (
        plain
        and allow_is_causal_skip
        and kv_length == q_length
        and isinstance(q_offset, int)
        and q_offset == 0
    ):
        return None
    height = q_length if torch.compiler.is_compiling() else max(1, ENTRIES // (batch_size * kv_length))
    edges = []
    for start in range(0, q_length, height):
        mask = sdpa_mask(
            batch_size,
            min(height, q_length - start),
            kv_length,
            q_offset + start,  # type: ignore[arg-type]
            kv_offset,
            allow_is_causal_skip=False,
            **{**options, "allow_is_bidirectional_skip": False},
        )
        assert mask is not None
        edges.append(edges_of(mask))
    place = torch.arange(q_length, device=edges[0].device) + (q_offset - kv_offset)
    return torch.cat([torch.cat(edges, 2), place[:, None].expand(batch_size, 1, -1, -1)], -1)


def intervals_of(mask: Tensor, queries: int, keys: int) -> Tensor:
    """Intervals [B, T, 3] from a mask that a layer was given: one of `interval_mask`, or one of booleans or numbers.

    Raises:
        AttentionError: it is neither, or hides keys amid visible ones.
    """
    shape = list(mask.shape)
    if mask.dtype == torch.int64 and mask.dim() == 4 and shape[1:] == [1, queries, 3]:
        if mask.device.type == "cpu" and not torch.compiler.is_compiling() and int(mask[..., 1].max()) > keys:
            raise AttentionError(f"the mask speaks of {int(mask[..., 1].max())} keys, the layer has {keys}")
        return mask[:, 0]
    if mask.dim() != 4 or shape[2:] != [queries, keys]:
        raise AttentionError(f"a mask {shape} is not understood for {queries} queries and {keys} keys")
    if queries != keys:
        raise AttentionError("a mask of its own must have as many queries as keys: no cache")
    if shape[1] != 1:
        raise AttentionError(f"a mask {shape} differs between heads, which no kernel here can")
    if mask.dtype != torch.bool:
        if not mask.is_floating_point():
            raise AttentionError(f"a mask of {mask.dtype} is not understood; give booleans or numbers to add")
        hidden = mask <= torch.finfo(mask.dtype).min / 2
        if not bool((hidden | (mask == 0)).all()):
            raise AttentionError("the mask adds biases to scores, which no kernel here does")
        mask = ~hidden
    place = torch.arange(queries, device=mask.device)
    return torch.cat([edges_of(mask)[:, 0], place[:, None].expand(len(mask), -1, -1)], -1)


def documents_of(intervals: Tensor, keys: int) -> Tensor | None:
    """The documents [B, S] whose causal mask these intervals are, None where there are none such."""
    first, last, place = intervals.unbind(-1)
    column = torch.arange(keys, device=first.device)
    queries = place[0]
    if not torch.equal(queries, column[keys - len(queries) :]):
        return None
    # A document is known by its first key; of earlier keys the first query knows which are in its own.
    ids = torch.where(first < last, first, -1)
    earlier = column[: keys - len(queries)]
    before = torch.where(earlier >= first[:, :1], ids[:, :1], -1)
    documents = torch.cat([before, ids], 1)
    visible = visibility(len(queries), keys, documents=documents)
    same = torch.equal(visible.count, last - first) and torch.equal(
        visible.first.where(visible.count > 0, 0), first.where(first < last, 0)
    )
    return documents if same else None


def edges_of(mask: Tensor) -> Tensor:
    """First visible key and end [B, 1, T, 2] of each row of a mask [B, 1, T, S]; both 0 where a row sees nothing."""
    count = mask.sum(-1)
    first = mask.to(torch.uint8).argmax(-1)
    end = mask.shape[-1] - mask.flip(-1).to(torch.uint8).argmax(-1)
    whole = ((end - first == count) | (count == 0)).all()
    if torch.compiler.is_compiling():
        torch._assert_async(whole, HOLES)
    elif not bool(whole):
        raise AttentionError(HOLES)
    return torch.stack([first, first + count], -1)
