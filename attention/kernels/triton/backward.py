"""Gradients: statistics of the rows, then two sweeps that recompute the scores.

`grad_queries` has a program per block of rows, `grad_keys` one per block of keys; every result has one writer.
"""
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl

from attention.kernels.triton.forward import locate
from attention.kernels.triton.operands import (
    accumulate,
    keys_at,
    narrow,
    packed_rows,
    placed_vectors,
    product,
    row_numbers,
    row_values,
    row_vectors,
    rows_of_head,
    scores,
    store_numbers,
    store_rows,
    store_vectors,
    values_at,
)


@triton.jit
def no_totals(number: tl.constexpr, block_rows: tl.constexpr):
    """A tuple of zeros [rows, 1]."""
    totals = ()
    for _ in tl.static_range(number):
        totals += (tl.zeros([block_rows, 1], tl.float32),)  # type: ignore[assignment]
    return totals


@triton.jit
def rounding_of(query, key, operands, form):
    """Return the largest difference of a score between sweeps, for a form that asks."""
    if form.rounding is None:
        return None
    else:
        return form.rounding(query, key, operands)


@triton.jit
def sum_rows(
    operands,
    functions,
    form,
    statistics,
    grad_out,
    grad_log_mass,
    sums,
    places,
    kept: tl.constexpr,
    gathered: tl.constexpr,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    value_dim: tl.constexpr,
    value_block: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    precision: tl.constexpr,
):
    """Add to `sums` (`Form`) the sums over all keys that the gradients of a row need.

    Args:
        form: its `RowFunctions`.
        kept: how many statistics the forward pass left of a row.
        gathered: how many totals there are.
    """
    batch, key_head, block = locate(operands, group, block_rows)
    rows = packed_rows(operands, batch, key_head, block, block_rows, group)
    row = row_numbers(statistics, places, rows, kept)
    query = row_vectors(operands.query, operands.query_strides, batch, rows, head_dim, head_block)
    grad = placed_vectors(grad_out, rows, value_dim, value_block)
    totals = no_totals(gathered, block_rows)
    for start in range(rows.low, rows.high, block_keys):
        column = start + tl.arange(0, block_keys)
        key = keys_at(operands, batch, key_head, column, head_dim, head_block)
        value = values_at(operands, batch, key_head, column, value_dim, value_block)
        dot_product = product(query, tl.trans(key), precision)
        score, visible = scores(dot_product, operands, batch, rows, column)
        grad_weight = product(grad, tl.trans(value), precision)
        rounding = rounding_of(query, key, operands, form)
        totals = form.gathered(totals, score, visible, grad_weight, row, rows.count, rounding, functions)
    through_mass = None
    if grad_log_mass is not None:
        through_mass = row_values(grad_log_mass, rows)
    store_numbers(
        sums, places, rows.place, rows.valid, form.sums(totals, row, rows.count, through_mass, functions)
    )


@triton.jit
def grad_queries(
    operands,
    functions,
    form,
    statistics,
    sums,
    grad_out,
    grad_query,
    grad_query_bias,
    places,
    kept: tl.constexpr,
    summed: tl.constexpr,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    value_dim: tl.constexpr,
    value_block: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    precision: tl.constexpr,
):
    """dQ = scale dS K, and the row sums of dS for the query bias.

    Args:
        form: its `RowFunctions`.
        kept, summed: how many statistics and sums there are of a row.
    """
    batch, key_head, block = locate(operands, group, block_rows)
    rows = packed_rows(operands, batch, key_head, block, block_rows, group)
    row = row_numbers(statistics, places, rows, kept)
    row_sums = row_numbers(sums, places, rows, summed)
    query = row_vectors(operands.query, operands.query_strides, batch, rows, head_dim, head_block)
    grad = placed_vectors(grad_out, rows, value_dim, value_block)
    total = tl.zeros([block_rows, head_block], tl.float32)
    bias_total = tl.zeros([block_rows, 1], tl.float32)
    for start in range(rows.low, rows.high, block_keys):
        column = start + tl.arange(0, block_keys)
        key = keys_at(operands, batch, key_head, column, head_dim, head_block)
        value = values_at(operands, batch, key_head, column, value_dim, value_block)
        dot_product = product(query, tl.trans(key), precision)
        score, visible = scores(dot_product, operands, batch, rows, column)
        grad_weight = product(grad, tl.trans(value), precision)
        rounding = rounding_of(query, key, operands, form)
        _, grad_score = form.gradients(score, grad_weight, row, rows.count, row_sums, rounding, functions)
        grad_score = tl.where(visible, grad_score, 0.0)
        if grad_query_bias is not None:
            bias_total += tl.sum(grad_score, 1, keep_dims=True)
        total = accumulate(narrow(grad_score, key.dtype), key, total, precision)
    store_vectors(grad_query, rows.place, rows.valid, total * operands.scale, head_dim, head_block)
    if grad_query_bias is not None:
        store_rows(grad_query_bias, rows, bias_total)


@triton.jit
def grad_keys(
    operands,
    functions,
    form,
    statistics,
    sums,
    grad_out,
    ranges,
    ranges_stride,
    grad_key,
    grad_value,
    grad_key_bias,
    places,
    kept: tl.constexpr,
    summed: tl.constexpr,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    value_dim: tl.constexpr,
    value_block: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    precision: tl.constexpr,
):
    """dK = scale dS^T Q and dV = W^T dO, summed over the query heads of the key head; column sums of dS per head.

    Args:
        form, kept, summed: as for `grad_queries`.
        ranges: [B or 1, blocks of keys, 2], the blocks of rows that see a block of keys.
    """
    blocks = tl.cdiv(operands.keys, block_keys)
    key_heads = operands.heads // group
    pair = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    batch = pair // key_heads
    key_head = pair % key_heads
    column = block * block_keys + tl.arange(0, block_keys)
    key = keys_at(operands, batch, key_head, column, head_dim, head_block)
    value = values_at(operands, batch, key_head, column, value_dim, value_block)
    key_total = tl.zeros([block_keys, head_block], tl.float32)
    value_total = tl.zeros([block_keys, value_block], tl.float32)
    bounds = ranges + batch * ranges_stride + block * 2
    start, stop = tl.load(bounds), tl.load(bounds + 1)
    for member in range(group):
        head = key_head * group + member
        bias_total = tl.zeros([block_keys], tl.float32)
        for row_block in range(start, stop):
            rows = rows_of_head(operands, batch, head, row_block, block_rows)
            row = row_numbers(statistics, places, rows, kept)
            row_sums = row_numbers(sums, places, rows, summed)
            query = row_vectors(operands.query, operands.query_strides, batch, rows, head_dim, head_block)
            grad = placed_vectors(grad_out, rows, value_dim, value_block)
            dot_product = product(query, tl.trans(key), precision)
            score, visible = scores(dot_product, operands, batch, rows, column)
            grad_weight = product(grad, tl.trans(value), precision)
            rounding = rounding_of(query, key, operands, form)
            weight, grad_score = form.gradients(
                score, grad_weight, row, rows.count, row_sums, rounding, functions
            )
            weight = tl.where(visible, weight, 0.0)
            grad_score = tl.where(visible, grad_score, 0.0)
            if grad_key_bias is not None:
                bias_total += tl.sum(grad_score, 0)
            value_total = accumulate(tl.trans(narrow(weight, grad.dtype)), grad, value_total, precision)
            key_total = accumulate(tl.trans(narrow(grad_score, query.dtype)), query, key_total, precision)
        if grad_key_bias is not None:
            place = (batch.to(tl.int64) * operands.keys + column) * operands.heads + head
            tl.store(grad_key_bias + place, bias_total, mask=column < operands.keys)
    place = (batch.to(tl.int64) * operands.keys + column) * key_heads + key_head
    store_vectors(grad_key, place, column < operands.keys, key_total * operands.scale, head_dim, head_block)
    store_vectors(grad_value, place, column < operands.keys, value_total, value_dim, value_block)
