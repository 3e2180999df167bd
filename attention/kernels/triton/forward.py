"""Outputs: one sweep over the keys, after those that find what TwoStage, Threshold and Adjusted know of a row.

There are as many parts of the keys as there are splits; the searches of Threshold and Adjusted take all keys at once.

A program takes a block of rows and a split of the keys that these rows see. With one split it writes outputs; with
more it writes partial sums, which `merge` adds in a fixed order.
"""
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl

from attention.kernels.triton.forms import Statistics, terms
from attention.kernels.triton.operands import (
    accumulate,
    keys_at,
    narrow,
    packed_rows,
    product,
    row_values,
    row_vectors,
    scores,
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
def store_rows(pointer, rows, values):
    """Write [rows, 1] to [B, T, H]."""
    tl.store(pointer + rows.place, tl.reshape(values, rows.place.shape), mask=rows.valid)


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
def first_stage(
    operands,
    functions,
    sums,
    places,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    splits: tl.constexpr,
    precision: tl.constexpr,
):
    """TwoStage: sum and largest of first(s) in every row, to `sums` [2, splits, B, T, H]."""
    batch, key_head, block = locate(operands, group, block_rows)
    rows = packed_rows(operands, batch, key_head, block, block_rows, group)
    low, high = split_of(rows, splits, block_keys)
    query = row_vectors(operands.query, operands.query_strides, batch, rows, head_dim, head_block)
    total = tl.zeros([block_rows, 1], tl.float32)
    largest = tl.zeros([block_rows, 1], tl.float32)
    for start in range(low, high, block_keys):
        score, visible = tile_scores(
            operands, query, batch, key_head, rows, start, head_dim, head_block, block_keys, precision
        )
        first = tl.where(visible, functions[0](score), 0.0)
        total += tl.sum(first, 1, keep_dims=True)
        largest = tl.maximum(largest, tl.max(first, 1, keep_dims=True))
    target = sums + tl.program_id(1).to(tl.int64) * places
    store_rows(target, rows, total)
    store_rows(target + splits * tl.cast(places, tl.int64), rows, largest)


@triton.jit
def survey(
    operands,
    functions,
    statistics,
    places,
    form: tl.constexpr,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    precision: tl.constexpr,
):
    """Threshold: the largest score and tau; Adjusted: the largest score, one over the mass, and the least score.

    tau by Newton's method from below, a sweep per step: the sum of the weights is convex in it, so that no step
    overshoots, and the search ends when no row of the block moves.
    """
    batch, key_head, block = locate(operands, group, block_rows)
    rows = packed_rows(operands, batch, key_head, block, block_rows, group)
    query = row_vectors(operands.query, operands.query_strides, batch, rows, head_dim, head_block)
    highest = tl.full([block_rows, 1], float("-inf"), tl.float32)
    lowest = tl.full([block_rows, 1], float("inf"), tl.float32)
    mass = tl.zeros([block_rows, 1], tl.float32)
    for start in range(rows.low, rows.high, block_keys):
        score, visible = tile_scores(
            operands, query, batch, key_head, rows, start, head_dim, head_block, block_keys, precision
        )
        raised = tl.maximum(highest, tl.max(tl.where(visible, score, float("-inf")), 1, keep_dims=True))
        if form == "adjusted":
            frame = pivot_of(raised)
            mass *= tl.where(highest == float("-inf"), 0.0, tl.exp(highest - frame))
            mass += tl.sum(tl.where(visible, tl.exp(score - frame), 0.0), 1, keep_dims=True)
            lowest = tl.minimum(lowest, tl.min(tl.where(visible, score, float("inf")), 1, keep_dims=True))
        highest = raised
    frame = pivot_of(highest)
    store_rows(statistics, rows, frame)
    if form == "adjusted":
        store_rows(statistics + tl.cast(places, tl.int64), rows, 1.0 / tl.where(mass == 0.0, 1.0, mass))
        lowest = tl.where(lowest == float("inf"), 0.0, lowest)
        store_rows(statistics + 2 * tl.cast(places, tl.int64), rows, lowest)
    else:
        tau = tl.full([block_rows, 1], -1.0, tl.float32)
        moving = rows.low < rows.high
        while moving:
            total = tl.zeros([block_rows, 1], tl.float32)
            slope = tl.zeros([block_rows, 1], tl.float32)
            for start in range(rows.low, rows.high, block_keys):
                score, visible = tile_scores(
                    operands, query, batch, key_head, rows, start, head_dim, head_block, block_keys, precision
                )
                excess = score - frame - tau
                weight = tl.where(visible, functions[0](excess), 0.0)
                total += tl.sum(weight, 1, keep_dims=True)
                slope += tl.sum(tl.where(visible, functions[1](excess, weight), 0.0), 1, keep_dims=True)
            raised = tl.maximum(tau, tau + (total - 1.0) / tl.where(slope == 0.0, 1.0, slope))
            moving = tl.max((raised > tau).to(tl.int32)) > 0
            tau = raised
        store_rows(statistics + 2 * tl.cast(places, tl.int64), rows, tau)


@triton.jit
def mix(
    operands,
    functions,
    sums,
    out,
    statistics,
    partial,
    partial_sums,
    places,
    form: tl.constexpr,
    pivot_floor: tl.constexpr,
    epsilon: tl.constexpr,
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
    """Outputs and statistics [3, B, T, H], or partial outputs [splits, B, T, H, Dv] and sums [2, splits, B, T, H]."""
    batch, key_head, block = locate(operands, group, block_rows)
    rows = packed_rows(operands, batch, key_head, block, block_rows, group)
    low, high = split_of(rows, splits, block_keys)
    query = row_vectors(operands.query, operands.query_strides, batch, rows, head_dim, head_block)
    total = tl.zeros([block_rows, 1], tl.float32)
    mixed = tl.zeros([block_rows, value_block], tl.float32)
    frame = tl.zeros([block_rows, 1], tl.float32)
    largest = tl.zeros([block_rows, 1], tl.float32)
    surveyed = None
    if form == "threshold" or form == "adjusted":
        frame = row_values(statistics, rows)
        largest = row_values(statistics + 2 * tl.cast(places, tl.int64), rows)
    if form == "adjusted":
        surveyed = row_values(statistics + tl.cast(places, tl.int64), rows)
    if form == "two_stage":
        for split in range(splits):
            part = sums + split * tl.cast(places, tl.int64)
            frame += row_values(part, rows)
            largest = tl.maximum(largest, row_values(part + splits * tl.cast(places, tl.int64), rows))
        frame = rows.count / (frame + epsilon)
        largest = largest * frame
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
            frame = pivot_of(raised)
            rescale = tl.where(running == float("-inf"), 0.0, tl.exp(running - frame))
            total *= rescale
            mixed *= rescale
            running = raised
        numerator, denominator = terms(
            score, visible, Statistics(frame, surveyed, largest), rows.count, functions, form
        )
        total += tl.sum(denominator, 1, keep_dims=True)
        value = values_at(operands, batch, key_head, column, value_dim, value_block)
        mixed = accumulate(narrow(numerator, value.dtype), value, mixed, precision)
    if splits == 1:
        if form == "ratio":
            frame = pivot_of(running)
        mixed, inverse = normalise(mixed, total, frame, functions, form)
        store_vectors(out, rows.place, rows.valid, mixed, value_dim, value_block)
        if form == "ratio" or form == "two_stage":
            store_rows(statistics, rows, frame)
            store_rows(statistics + 2 * tl.cast(places, tl.int64), rows, largest)
        if form != "pointwise" and form != "adjusted":
            store_rows(statistics + tl.cast(places, tl.int64), rows, inverse)
    else:
        split = tl.program_id(1).to(tl.int64) * places
        store_vectors(partial, split + rows.place, rows.valid, mixed, value_dim, value_block)
        if form != "pointwise":
            store_rows(partial_sums + split, rows, total)
            store_rows(partial_sums + splits * tl.cast(places, tl.int64) + split, rows, running)
        if form == "two_stage":
            store_rows(statistics, rows, frame)
            store_rows(statistics + 2 * tl.cast(places, tl.int64), rows, largest)


@triton.jit
def merge(
    functions,
    out,
    statistics,
    partial,
    partial_sums,
    places,
    form: tl.constexpr,
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
    frame = tl.zeros([block_rows, 1], tl.float32)
    totals = partial_sums
    highest = partial_sums
    if form != "pointwise":
        highest = partial_sums + splits * tl.cast(places, tl.int64)
    if pivot_floor is not None:
        running = tl.full([block_rows, 1], pivot_floor, tl.float32)
        for split in range(splits):
            running = tl.maximum(running, _part(highest, split, places, place, valid))
        frame = pivot_of(running)
    for split in range(splits):
        source = (
            partial + ((split * tl.cast(places, tl.int64) + place) * value_dim)[:, None] + channel[None, :]
        )
        part = tl.load(source, mask=inside, other=0.0)
        if form != "pointwise":
            part_total = _part(totals, split, places, place, valid)
            if pivot_floor is not None:
                reached = _part(highest, split, places, place, valid)
                rescale = tl.where(reached == float("-inf"), 0.0, tl.exp(reached - frame))
                part *= rescale
                part_total *= rescale
            total += part_total
        mixed += part
    mixed, inverse = normalise(mixed, total, frame, functions, form)
    store_vectors(out, place, valid, mixed, value_dim, value_block)
    if form == "ratio":
        tl.store(statistics + place, tl.reshape(frame, place.shape), mask=valid)
    if form != "pointwise" and form != "adjusted":
        tl.store(statistics + places + place, tl.reshape(inverse, place.shape), mask=valid)


@triton.jit
def _part(pointer, split, places, place, valid):
    return tl.load(pointer + split * tl.cast(places, tl.int64) + place, mask=valid, other=0.0)[:, None]


@triton.jit
def normalise(mixed, total, frame, functions, form: tl.constexpr):
    """Divide by the sum of the denominators; where that is 0 so is the output."""
    if form == "pointwise" or form == "adjusted":
        return mixed, total
    else:
        if form == "ratio":
            total = total + functions[2](frame)
        inverse = 1.0 / tl.where(total == 0.0, 1.0, total)
        return mixed * inverse, inverse
