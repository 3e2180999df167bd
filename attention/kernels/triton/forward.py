"""Outputs: one sweep over the keys, after those that the form declares.

There are as many parts of the keys as there are splits. A program takes a block of rows and a split of the keys that
these rows see. With one split it writes outputs; with more it writes partial sums, which `merge` adds in a fixed order.
"""
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl

from attention.kernels.triton.operands import (
    accumulate,
    keys_at,
    narrow,
    packed_rows,
    product,
    row_vectors,
    scores,
    store_numbers,
    store_vectors,
    values_at,
)


@triton.jit
def locate(operands, group: tl.constexpr, block_rows: tl.constexpr):
    """Sequence, key head and block of rows of this program; late rows, which see most under a causal mask, first."""
    blocks = tl.cdiv(operands.queries * group, block_rows)
    key_heads = operands.heads // group
    pair = tl.program_id(0) // blocks
    return pair // key_heads, pair % key_heads, blocks - 1 - tl.program_id(0) % blocks


@triton.jit
def split_of(rows, splits: tl.constexpr, block_keys: tl.constexpr):
    """The keys of this program: a split of those that the rows see."""
    tiles = tl.cdiv(tl.maximum(rows.high - rows.low, 0), block_keys)
    length = tl.cdiv(tiles, splits) * block_keys
    low = rows.low + tl.program_id(1) * length
    return low, tl.minimum(low + length, rows.high)


@triton.jit
def pivot_of(running):
    """The pivot of a row whose largest visible score so far is `running`: 0 where there is none."""
    return tl.where(running == float("-inf"), 0.0, running)


@triton.jit
def tile_scores(
    operands,
    query,
    batch,
    key_head,
    rows,
    start,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    block_keys: tl.constexpr,
    precision: tl.constexpr,
):
    """Scores and visibility of the rows against the keys from `start` on."""
    column = start + tl.arange(0, block_keys)
    key = keys_at(operands, batch, key_head, column, head_dim, head_block)
    return scores(product(query, tl.trans(key), precision), operands, batch, rows, column)


@triton.jit
def mix(
    operands,
    functions,
    form,
    parts,
    out,
    statistics,
    partial,
    partial_sums,
    places,
    constants: tl.constexpr,
    pivot_floor: tl.constexpr,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    value_dim: tl.constexpr,
    value_block: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    splits: tl.constexpr,
    precision: tl.constexpr,
):
    """Outputs and statistics, or what `merge` needs for them.

    Args:
        form: its `RowFunctions`.
        partial: outputs [splits, B, T, H, Dv].
        partial_sums: sums of denominators and pivots [2, splits, B, T, H], None for a form without statistics.
        parts: what earlier sweeps left per split, `statistics` what they and this one leave of a row (`Form`).
    """
    batch, key_head, block = locate(operands, group, block_rows)
    rows = packed_rows(operands, batch, key_head, block, block_rows, group)
    low, high = split_of(rows, splits, block_keys)
    query = row_vectors(operands.query, operands.query_strides, batch, rows, head_dim, head_block)
    total = tl.zeros([block_rows, 1], tl.float32)
    mixed = tl.zeros([block_rows, value_block], tl.float32)
    pivot = tl.zeros([block_rows, 1], tl.float32)
    row = None
    if form.known is not None:
        row = form.known(statistics, parts, places, rows, constants, splits, functions)
    if pivot_floor is not None:
        running = tl.full([block_rows, 1], pivot_floor, tl.float32)
    else:
        running = tl.zeros([block_rows, 1], tl.float32)
    for start in range(low, high, block_keys):
        column = start + tl.arange(0, block_keys)
        key = keys_at(operands, batch, key_head, column, head_dim, head_block)
        dot_product = product(query, tl.trans(key), precision)
        score, visible = scores(dot_product, operands, batch, rows, column)
        if pivot_floor is not None:
            highest = tl.max(tl.where(visible, score, float("-inf")), 1, keep_dims=True)
            raised = tl.maximum(running, highest)
            pivot = pivot_of(raised)
            rescale = tl.where(running == float("-inf"), 0.0, tl.exp(running - pivot))
            total *= rescale
            mixed *= rescale
            running = raised
        numerator, denominator = form.terms(score, pivot, row, rows.count, functions)
        numerator = tl.where(visible, numerator, 0.0)
        total += tl.sum(tl.where(visible, denominator, 0.0), 1, keep_dims=True)
        value = values_at(operands, batch, key_head, column, value_dim, value_block)
        mixed = accumulate(narrow(numerator, value.dtype), value, mixed, precision)
    if splits == 1:
        if pivot_floor is not None:
            pivot = pivot_of(running)
        mixed, inverse = normalise(mixed, total, pivot, functions, form)
        store_vectors(out, rows.place, rows.valid, mixed, value_dim, value_block)
        if form.left is not None:
            store_numbers(statistics, places, rows.place, rows.valid, form.left(pivot, row, inverse))
    else:
        split = tl.program_id(1).to(tl.int64) * places
        store_vectors(partial, split + rows.place, rows.valid, mixed, value_dim, value_block)
        if partial_sums is not None:
            kept = partial_sums + split
            store_numbers(kept, splits * tl.cast(places, tl.int64), rows.place, rows.valid, (total, running))
        if form.left is not None:
            store_numbers(statistics, places, rows.place, rows.valid, form.left(None, row, None))


@triton.jit
def merge(
    functions,
    form,
    out,
    statistics,
    partial,
    partial_sums,
    places,
    pivot_floor: tl.constexpr,
    value_dim: tl.constexpr,
    value_block: tl.constexpr,
    block_rows: tl.constexpr,
    splits: tl.constexpr,
):
    """Outputs and statistics from the parts of `mix`, added in the order of the keys."""
    place = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    valid = place < places
    channel = tl.arange(0, value_block)
    inside = valid[:, None] & (channel < value_dim)[None, :]
    total = tl.zeros([block_rows, 1], tl.float32)
    mixed = tl.zeros([block_rows, value_block], tl.float32)
    pivot = tl.zeros([block_rows, 1], tl.float32)
    totals = partial_sums
    highest = partial_sums
    if partial_sums is not None:
        highest = partial_sums + splits * tl.cast(places, tl.int64)
    if pivot_floor is not None:
        running = tl.full([block_rows, 1], pivot_floor, tl.float32)
        for split in range(splits):
            running = tl.maximum(running, _part(highest, split, places, place, valid))
        pivot = pivot_of(running)
    for split in range(splits):
        source = (
            partial + ((split * tl.cast(places, tl.int64) + place) * value_dim)[:, None] + channel[None, :]
        )
        part = tl.load(source, mask=inside, other=0.0)
        if partial_sums is not None:
            part_total = _part(totals, split, places, place, valid)
            if pivot_floor is not None:
                reached = _part(highest, split, places, place, valid)
                rescale = tl.where(reached == float("-inf"), 0.0, tl.exp(reached - pivot))
                part *= rescale
                part_total *= rescale
            total += part_total
        mixed += part
    mixed, inverse = normalise(mixed, total, pivot, functions, form)
    store_vectors(out, place, valid, mixed, value_dim, value_block)
    if form.left is not None:
        store_numbers(statistics, places, place, valid, form.left(pivot, None, inverse))


@triton.jit
def _part(pointer, split, places, place, valid):
    return tl.load(pointer + split * tl.cast(places, tl.int64) + place, mask=valid, other=0.0)[:, None]


@triton.jit
def bare_mass(total, pivot, functions):
    """The sum of the weights: a form's mass where nothing is added to it."""
    return total


@triton.jit
def normalise(mixed, total, pivot, functions, form):
    """Divide by the mass; where that is 0 so is the output."""
    if form.mass is None:
        return mixed, None
    else:
        mass = form.mass(total, pivot, functions)
        inverse = 1.0 / tl.where(mass == 0.0, 1.0, mass)
        return mixed * inverse, inverse
