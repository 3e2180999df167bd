"""Gradients: statistics of the rows, then two sweeps that recompute the scores.

`grad_queries` has a program per block of rows, `grad_keys` one per block of keys; every result has one writer.
"""
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl

from attention.kernels.triton.forms import Statistics, Sums, gradients, sensitivity, share, terms, ties
from attention.kernels.triton.forward import locate, store_rows
from attention.kernels.triton.operands import (
    accumulate,
    keys_at,
    narrow,
    packed_rows,
    placed_vectors,
    product,
    rounding,
    row_values,
    row_vectors,
    rows_of_head,
    scores,
    store_vectors,
    values_at,
)


@triton.jit
def statistics_of(statistics, places, rows, form: tl.constexpr):
    """What the forward pass left of the rows."""
    if form == "pointwise":
        return Statistics(None, None, None)
    else:
        frame = row_values(statistics, rows)
        inverse = row_values(statistics + tl.cast(places, tl.int64), rows)
        return Statistics(frame, inverse, row_values(statistics + 2 * tl.cast(places, tl.int64), rows))


@triton.jit
def row_sums(sums, places, rows, form: tl.constexpr):
    """What `sum_rows` wrote."""
    delta, mean, through_highest = None, None, None
    if form != "pointwise":
        delta = row_values(sums, rows)
    if form == "two_stage" or form == "adjusted":
        mean = row_values(sums + tl.cast(places, tl.int64), rows)
    if form == "adjusted":
        through_highest = row_values(sums + 2 * tl.cast(places, tl.int64), rows)
    return Sums(delta, mean, through_highest)


@triton.jit
def sum_rows(
    operands,
    functions,
    statistics,
    grad_out,
    grad_log_mass,
    sums,
    places,
    form: tl.constexpr,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    value_dim: tl.constexpr,
    value_block: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    precision: tl.constexpr,
):
    """The sums of a row, to `sums` [3, B, T, H] (`Sums`).

    delta is not taken from dO_i . out_i: half types have rounded the weights in out, all of a row alike where keys
    are alike, and what cancels in the gradients of a row would show it.
    """
    batch, key_head, block = locate(operands, group, block_rows)
    rows = packed_rows(operands, batch, key_head, block, block_rows, group)
    row = statistics_of(statistics, places, rows, form)
    query = row_vectors(operands.query, operands.query_strides, batch, rows, head_dim, head_block)
    grad = placed_vectors(grad_out, rows, value_dim, value_block)
    delta = tl.zeros([block_rows, 1], tl.float32)
    mean = tl.zeros([block_rows, 1], tl.float32)
    sensitivities = tl.zeros([block_rows, 1], tl.float32)
    through_highest = tl.zeros([block_rows, 1], tl.float32)
    lowest_ties = tl.zeros([block_rows, 1], tl.float32)
    highest_ties = tl.zeros([block_rows, 1], tl.float32)
    for start in range(rows.low, rows.high, block_keys):
        column = start + tl.arange(0, block_keys)
        key = keys_at(operands, batch, key_head, column, head_dim, head_block)
        value = values_at(operands, batch, key_head, column, value_dim, value_block)
        dot_product = product(query, tl.trans(key), precision)
        score, visible = scores(dot_product, operands, batch, rows, column)
        grad_weight = product(grad, tl.trans(value), precision)
        if form == "threshold":
            excess = score - row.frame - row.other
            slope = tl.where(visible, functions[1](excess, functions[0](excess)), 0.0)
            delta += tl.sum(slope * grad_weight, 1, keep_dims=True)
            sensitivities += tl.sum(slope, 1, keep_dims=True)
        elif form == "adjusted":
            unsure = rounding(query, key, operands)
            part = share(score, row)
            _, by_share, by_lowest, by_highest = functions[1](score, part, row.other, row.frame)
            delta += tl.sum(tl.where(visible, part * (by_share * grad_weight), 0.0), 1, keep_dims=True)
            mean += tl.sum(tl.where(visible, by_lowest * grad_weight, 0.0), 1, keep_dims=True)
            through_highest += tl.sum(tl.where(visible, by_highest * grad_weight, 0.0), 1, keep_dims=True)
            lowest_ties += tl.sum(
                (visible & ties(score, row.other, unsure)).to(tl.float32), 1, keep_dims=True
            )
            highest_ties += tl.sum(
                (visible & ties(score, row.frame, unsure)).to(tl.float32), 1, keep_dims=True
            )
        else:
            numerator, _ = terms(score, visible, row, rows.count, functions, form)
            delta += tl.sum(numerator * grad_weight, 1, keep_dims=True)
        if form == "two_stage":
            sensitive = sensitivity(score, visible, row, rows.count, functions)
            mean += tl.sum(sensitive * grad_weight, 1, keep_dims=True)
            sensitivities += tl.sum(sensitive, 1, keep_dims=True)
    if form == "threshold":
        delta /= tl.where(sensitivities == 0.0, 1.0, sensitivities)
    elif form == "adjusted":
        store_rows(sums + tl.cast(places, tl.int64), rows, mean / tl.maximum(lowest_ties, 1.0))
        store_rows(
            sums + 2 * tl.cast(places, tl.int64), rows, through_highest / tl.maximum(highest_ties, 1.0)
        )
    else:
        delta *= row.inverse
        if grad_log_mass is not None:
            delta -= row_values(grad_log_mass, rows)
    store_rows(sums, rows, delta)
    if form == "two_stage":
        store_rows(
            sums + tl.cast(places, tl.int64),
            rows,
            (mean - delta * sensitivities) / tl.maximum(rows.count, 1.0),
        )


@triton.jit
def grad_queries(
    operands,
    functions,
    statistics,
    sums,
    grad_out,
    grad_query,
    grad_query_bias,
    places,
    form: tl.constexpr,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    value_dim: tl.constexpr,
    value_block: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    precision: tl.constexpr,
):
    """dQ = scale dS K, and the row sums of dS for the query bias."""
    batch, key_head, block = locate(operands, group, block_rows)
    rows = packed_rows(operands, batch, key_head, block, block_rows, group)
    row = statistics_of(statistics, places, rows, form)
    row_sum = row_sums(sums, places, rows, form)
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
        unsure = None
        if form == "adjusted":
            unsure = rounding(query, key, operands)
        _, grad_score = gradients(
            score, visible, grad_weight, row, rows.count, row_sum, unsure, functions, form
        )
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
    statistics,
    sums,
    grad_out,
    ranges,
    ranges_stride,
    grad_key,
    grad_value,
    grad_key_bias,
    places,
    form: tl.constexpr,
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

    `ranges` [B or 1, blocks of keys, 2] bounds the blocks of rows that see a block of keys.
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
            row = statistics_of(statistics, places, rows, form)
            row_sum = row_sums(sums, places, rows, form)
            query = row_vectors(operands.query, operands.query_strides, batch, rows, head_dim, head_block)
            grad = placed_vectors(grad_out, rows, value_dim, value_block)
            dot_product = product(query, tl.trans(key), precision)
            score, visible = scores(dot_product, operands, batch, rows, column)
            grad_weight = product(grad, tl.trans(value), precision)
            unsure = None
            if form == "adjusted":
                unsure = rounding(query, key, operands)
            weight, grad_score = gradients(
                score, visible, grad_weight, row, rows.count, row_sum, unsure, functions, form
            )
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
