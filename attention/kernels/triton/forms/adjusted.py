"""Adjusted: w = weight(s, p; a, b), p = softmax(s), a and b the row's least and largest score.

`survey` finds b, the sum of e^{s - b}, and a. Statistics of a row: b, one over that sum, and a. Sums: delta = sum_k p_k
w_p dP_k, and what goes through a and through b, per key that ties with it.
"""
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl

from attention.forms import adjusted
from attention.kernels.triton.form import Form, RowFunctions, Sweep
from attention.kernels.triton.forward import locate, pivot_of, split_of, tile_scores
from attention.kernels.triton.operands import (
    added,
    packed_rows,
    rounding,
    row_values,
    row_vectors,
    store_numbers,
)

TIED = tl.constexpr(adjusted.TIED)


@triton.jit
def survey(
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
    """The largest score, the sum of exponentials over that, and the least score, to `parts` [3, splits, B, T, H]."""
    batch, key_head, block = locate(operands, group, block_rows)
    rows = packed_rows(operands, batch, key_head, block, block_rows, group)
    low, high = split_of(rows, splits, block_keys)
    query = row_vectors(operands.query, operands.query_strides, batch, rows, head_dim, head_block)
    highest = tl.full([block_rows, 1], float("-inf"), tl.float32)
    lowest = tl.full([block_rows, 1], float("inf"), tl.float32)
    total = tl.zeros([block_rows, 1], tl.float32)
    for start in range(low, high, block_keys):
        score, visible = tile_scores(
            operands, query, batch, key_head, rows, start, head_dim, head_block, block_keys, precision
        )
        raised = tl.maximum(highest, tl.max(tl.where(visible, score, float("-inf")), 1, keep_dims=True))
        frame = pivot_of(raised)
        total *= tl.where(highest == float("-inf"), 0.0, tl.exp(highest - frame))
        total += tl.sum(tl.where(visible, tl.exp(score - frame), 0.0), 1, keep_dims=True)
        lowest = tl.minimum(lowest, tl.min(tl.where(visible, score, float("inf")), 1, keep_dims=True))
        highest = raised
    split = parts + tl.program_id(1).to(tl.int64) * places
    store_numbers(split, splits * tl.cast(places, tl.int64), rows.place, rows.valid, (highest, total, lowest))


@triton.jit
def known(statistics, parts, places, rows, constants: tl.constexpr, splits: tl.constexpr, functions):
    """What `survey` found, from the parts of all splits; zeros of a row without keys."""
    highest = tl.full([rows.place.shape[0], 1], float("-inf"), tl.float32)
    lowest = tl.full([rows.place.shape[0], 1], float("inf"), tl.float32)
    total = tl.zeros([rows.place.shape[0], 1], tl.float32)
    for split in range(splits):
        part = parts + split * tl.cast(places, tl.int64)
        highest = tl.maximum(highest, row_values(part, rows))
        lowest = tl.minimum(lowest, row_values(part + 2 * splits * tl.cast(places, tl.int64), rows))
    pivot = pivot_of(highest)
    for split in range(splits):
        part = parts + split * tl.cast(places, tl.int64)
        total += row_values(part + splits * tl.cast(places, tl.int64), rows) * tl.exp(
            row_values(part, rows) - pivot
        )
    inverse = 1.0 / tl.where(total == 0.0, 1.0, total)
    return pivot, inverse, tl.where(lowest == float("inf"), 0.0, lowest)


@triton.jit
def left(pivot, row, inverse):
    """All three; whoever merges splits finds them in place."""
    highest, share_of_one, lowest = None, None, None
    if row is not None:
        highest, share_of_one, lowest = row
    return highest, share_of_one, lowest


@triton.jit
def share(score, highest, inverse):
    """The softmax of a score."""
    return tl.exp(score - highest) * inverse


@triton.jit
def ties(score, extreme, rounding):
    """Whether scores tie with an extreme of their row, as far as their rounding lets one tell."""
    return tl.abs(score - extreme) <= tl.abs(extreme) * TIED + rounding


@triton.jit
def terms(score, pivot, row, count, functions):
    """The weight, which nothing divides."""
    highest, inverse, lowest = row
    weight = functions.weight(score, share(score, highest, inverse), lowest, highest)
    return weight, weight


@triton.jit
def gathered(totals, score, visible, grad_weight, row, count, rounding, functions):
    """p w_p dP, w_a dP, w_b dP, and which keys tie with a and with b."""
    highest, inverse, lowest = row
    part = share(score, highest, inverse)
    _, by_share, by_lowest, by_highest = functions.weight_derivatives(score, part, lowest, highest)
    summands = (
        tl.where(visible, part * (by_share * grad_weight), 0.0),
        tl.where(visible, by_lowest * grad_weight, 0.0),
        tl.where(visible, by_highest * grad_weight, 0.0),
        (visible & ties(score, lowest, rounding)).to(tl.float32),
        (visible & ties(score, highest, rounding)).to(tl.float32),
    )
    return added(totals, summands)


@triton.jit
def sums(totals, row, count, grad_log_mass, functions):
    """delta, and what goes through a and b, shared among the keys that tie."""
    delta, through_lowest, through_highest, lowest_ties, highest_ties = totals
    through_lowest /= tl.maximum(lowest_ties, 1.0)
    through_highest /= tl.maximum(highest_ties, 1.0)
    return delta, through_lowest, through_highest


@triton.jit
def gradients(score, grad_weight, row, count, sums, rounding, functions):
    """dS = p (w_p dP - delta) + w_s dP, and shares of what goes through the extremes."""
    highest, inverse, lowest = row
    delta, through_lowest, through_highest = sums
    part = share(score, highest, inverse)
    weight = functions.weight(score, part, lowest, highest)
    by_score, by_share, _, _ = functions.weight_derivatives(score, part, lowest, highest)
    explicit = by_score * grad_weight
    explicit += tl.where(ties(score, lowest, rounding), through_lowest, 0.0)
    explicit += tl.where(ties(score, highest, rounding), through_highest, 0.0)
    return weight, part * (by_share * grad_weight - delta) + explicit


FORM = Form(
    RowFunctions(terms, gradients, known=known, left=left, gathered=gathered, sums=sums, rounding=rounding),
    before=(Sweep(survey, split=True),),
    parts=3,
    statistics=3,
    gathered=5,
    sums=3,
    fewer_rows={"sum_rows": 2, "grad_queries": 4, "grad_keys": 2},
)
