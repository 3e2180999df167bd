"""TwoStage: w = second(u) / sum second(u), u = unit first(s), unit = n / (epsilon + sum first(s)).

`first_stage` finds sum and largest of first(s). Statistics of a row: the unit, one over sum second(u), and the largest
u. Sums: delta = sum_k w_k dP_k, and mean = sum_k dU_k u_k / n.
"""
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl

from attention.kernels.triton.form import Form, RowFunctions, Sweep
from attention.kernels.triton.forward import bare_mass, locate, split_of, tile_scores
from attention.kernels.triton.operands import added, packed_rows, row_values, row_vectors, store_numbers


@triton.jit
def first_stage(
    operands,
    functions,
    parts,
    places,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    splits: tl.constexpr,
    precision: tl.constexpr,
):
    """Sum and largest of first(s) in every row, to `parts` [2, splits, B, T, H]."""
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
        first = tl.where(visible, functions.first(score), 0.0)
        total += tl.sum(first, 1, keep_dims=True)
        largest = tl.maximum(largest, tl.max(first, 1, keep_dims=True))
    split = parts + tl.program_id(1).to(tl.int64) * places
    store_numbers(split, splits * tl.cast(places, tl.int64), rows.place, rows.valid, (total, largest))


@triton.jit
def known(statistics, parts, places, rows, constants: tl.constexpr, splits: tl.constexpr, functions):
    """The unit and the largest u, from the parts of all splits."""
    total = tl.zeros([rows.place.shape[0], 1], tl.float32)
    largest = tl.zeros([rows.place.shape[0], 1], tl.float32)
    for split in range(splits):
        part = parts + split * tl.cast(places, tl.int64)
        total += row_values(part, rows)
        largest = tl.maximum(largest, row_values(part + splits * tl.cast(places, tl.int64), rows))
    unit = rows.count / (total + constants.epsilon)
    return unit, None, largest * unit


@triton.jit
def terms(score, pivot, row, count, functions):
    """second(u)."""
    unit, _, largest = row
    second = functions.second(functions.first(score) * unit, largest, count)
    return second, second


@triton.jit
def left(pivot, row, inverse):
    """All three; whoever merges splits finds what is known before in place."""
    unit, largest = None, None
    if row is not None:
        unit, _, largest = row
    return unit, inverse, largest


@triton.jit
def gathered(totals, score, visible, grad_weight, row, count, rounding, functions):
    """second(u) dP, and what dU u is per unit of dP - delta, times dP and alone."""
    unit, inverse, largest = row
    relative = functions.first(score) * unit
    second = tl.where(visible, functions.second(relative, largest, count), 0.0)
    slope = functions.second_derivative(relative, largest, count) * inverse
    sensitivity = tl.where(visible, slope * relative, 0.0)
    return added(totals, (second * grad_weight, sensitivity * grad_weight, sensitivity))


@triton.jit
def sums(totals, row, count, grad_log_mass, functions):
    """delta and mean."""
    _, inverse, _ = row
    weighted, change, sensitivity = totals
    delta = weighted * inverse
    return delta, (change - delta * sensitivity) / tl.maximum(count, 1.0)


@triton.jit
def gradients(score, grad_weight, row, count, sums, rounding, functions):
    """dU = second'(u) (dP - delta) / sum second(u), dS = first'(s) unit (dU - mean)."""
    unit, inverse, largest = row
    delta, mean = sums
    relative = functions.first(score) * unit
    weight = functions.second(relative, largest, count) * inverse
    slope = functions.second_derivative(relative, largest, count) * inverse
    return weight, functions.first_derivative(score) * unit * (slope * (grad_weight - delta) - mean)


FORM = Form(
    RowFunctions(terms, gradients, known=known, mass=bare_mass, left=left, gathered=gathered, sums=sums),
    before=(Sweep(first_stage, split=True),),
    parts=2,
    statistics=3,
    gathered=3,
    sums=2,
)
