"""Threshold: w = weight(s - tau), divided by its sum, which is one but for rounding.

`survey` finds tau. Statistics of a row: the largest score, one over the sum of the weights, and tau less the largest
score. Sums: delta = sum_k w'_k dP_k / sum_k w'_k.
"""
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl

from attention.kernels.triton.form import Form, RowFunctions, Sweep
from attention.kernels.triton.forward import bare_mass, locate, pivot_of, tile_scores
from attention.kernels.triton.operands import added, packed_rows, row_values, row_vectors, store_rows


@triton.jit
def survey(
    operands,
    functions,
    statistics,
    places,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    head_block: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    precision: tl.constexpr,
):
    """The largest score and tau.

    tau by Newton's method from below, a sweep per step: the sum of the weights is convex in it, so that no step
    overshoots, and the search ends when no row of the block moves.
    """
    batch, key_head, block = locate(operands, group, block_rows)
    rows = packed_rows(operands, batch, key_head, block, block_rows, group)
    query = row_vectors(operands.query, operands.query_strides, batch, rows, head_dim, head_block)
    running = tl.full([block_rows, 1], float("-inf"), tl.float32)
    for start in range(rows.low, rows.high, block_keys):
        score, visible = tile_scores(
            operands, query, batch, key_head, rows, start, head_dim, head_block, block_keys, precision
        )
        running = tl.maximum(running, tl.max(tl.where(visible, score, float("-inf")), 1, keep_dims=True))
    highest = pivot_of(running)
    store_rows(statistics, rows, highest)
    tau = tl.full([block_rows, 1], -1.0, tl.float32)
    moving = rows.low < rows.high
    while moving:
        total = tl.zeros([block_rows, 1], tl.float32)
        slope = tl.zeros([block_rows, 1], tl.float32)
        for start in range(rows.low, rows.high, block_keys):
            score, visible = tile_scores(
                operands, query, batch, key_head, rows, start, head_dim, head_block, block_keys, precision
            )
            excess = score - highest - tau
            weight = tl.where(visible, functions.weight(excess), 0.0)
            total += tl.sum(weight, 1, keep_dims=True)
            slope += tl.sum(
                tl.where(visible, functions.weight_derivative(excess, weight), 0.0), 1, keep_dims=True
            )
        raised = tl.maximum(tau, tau + (total - 1.0) / tl.where(slope == 0.0, 1.0, slope))
        moving = tl.max((raised > tau).to(tl.int32)) > 0
        tau = raised
    store_rows(statistics + 2 * tl.cast(places, tl.int64), rows, tau)


@triton.jit
def known(statistics, parts, places, rows, constants: tl.constexpr, splits: tl.constexpr, functions):
    """The largest score and tau."""
    highest = row_values(statistics, rows)
    return highest, None, row_values(statistics + 2 * tl.cast(places, tl.int64), rows)


@triton.jit
def terms(score, pivot, row, count, functions):
    """weight(s - tau)."""
    highest, _, tau = row
    weight = functions.weight(score - highest - tau)
    return weight, weight


@triton.jit
def left(pivot, row, inverse):
    """One over the sum of the weights; `survey` has stored the others."""
    return None, inverse, None


@triton.jit
def gathered(totals, score, visible, grad_weight, row, count, rounding, functions):
    """w' dP and w'."""
    highest, _, tau = row
    excess = score - highest - tau
    slope = tl.where(visible, functions.weight_derivative(excess, functions.weight(excess)), 0.0)
    return added(totals, (slope * grad_weight, slope))


@triton.jit
def sums(totals, row, count, grad_log_mass, functions):
    """delta."""
    weighted, slope = totals
    return (weighted / tl.where(slope == 0.0, 1.0, slope),)


@triton.jit
def gradients(score, grad_weight, row, count, sums, rounding, functions):
    """dS = weight'(s - tau) (dP - delta)."""
    highest, inverse, tau = row
    excess = score - highest - tau
    weight = functions.weight(excess)
    return weight * inverse, functions.weight_derivative(excess, weight) * (grad_weight - sums[0])


FORM = Form(
    RowFunctions(terms, gradients, known=known, mass=bare_mass, left=left, gathered=gathered, sums=sums),
    before=(Sweep(survey, split=False),),
    statistics=3,
    gathered=2,
    sums=1,
)
