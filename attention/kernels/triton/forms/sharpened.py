"""Sharpened: w = softmax(beta s), beta = sharpness(H), H the entropy of softmax(s).

`survey` finds the largest score m, the sum of e^{s - m} and that of e^{s - m} (s - m), which give H. Statistics of a
row: m, beta, one over the sum of e^{beta (s - m)}, and of softmax(s) one over its sum and its mean of s - m. Sums:
delta = sum_k w_k dP_k, and the gradient of H over the sum of e^{s - m}.
"""
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl

from attention.forms import sharpened
from attention.kernels.triton.form import Form, RowFunctions, Sweep
from attention.kernels.triton.forward import bare_mass, locate, pivot_of, split_of, tile_scores
from attention.kernels.triton.operands import added, packed_rows, row_values, row_vectors, store_numbers

LEAST = tl.constexpr(sharpened.LEAST)


@triton.jit
def below(score, highest):
    """s - m, as far as it counts."""
    return tl.maximum(score - highest, LEAST)


@triton.jit
def moved(total, moment, shift):
    """The two sums with m moved by -shift, where shift is -inf if nothing was summed."""
    some = shift > float("-inf")
    shift = tl.where(some, tl.maximum(shift, LEAST), 0.0)
    factor = tl.where(some, tl.exp(shift), 0.0)
    return total * factor, (moment + total * shift) * factor


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
    """The largest score and the two sums, to `parts` [3, splits, B, T, H]."""
    batch, key_head, block = locate(operands, group, block_rows)
    rows = packed_rows(operands, batch, key_head, block, block_rows, group)
    low, high = split_of(rows, splits, block_keys)
    query = row_vectors(operands.query, operands.query_strides, batch, rows, head_dim, head_block)
    highest = tl.full([block_rows, 1], float("-inf"), tl.float32)
    total = tl.zeros([block_rows, 1], tl.float32)
    moment = tl.zeros([block_rows, 1], tl.float32)
    for start in range(low, high, block_keys):
        score, visible = tile_scores(
            operands, query, batch, key_head, rows, start, head_dim, head_block, block_keys, precision
        )
        raised = tl.maximum(highest, tl.max(tl.where(visible, score, float("-inf")), 1, keep_dims=True))
        frame = pivot_of(raised)
        total, moment = moved(total, moment, highest - frame)
        distance = tl.where(visible, below(score, frame), 0.0)
        exponential = tl.where(visible, tl.exp(distance), 0.0)
        total += tl.sum(exponential, 1, keep_dims=True)
        moment += tl.sum(exponential * distance, 1, keep_dims=True)
        highest = raised
    split = parts + tl.program_id(1).to(tl.int64) * places
    store_numbers(split, splits * tl.cast(places, tl.int64), rows.place, rows.valid, (highest, total, moment))


@triton.jit
def entropy(inverse, mean):
    """ln sum e^{s - m} - mean of s - m."""
    return -tl.log(inverse) - mean


@triton.jit
def known(statistics, parts, places, rows, constants: tl.constexpr, splits: tl.constexpr, functions):
    """What `survey` found, from the parts of all splits, and beta."""
    highest = tl.full([rows.place.shape[0], 1], float("-inf"), tl.float32)
    total = tl.zeros([rows.place.shape[0], 1], tl.float32)
    moment = tl.zeros([rows.place.shape[0], 1], tl.float32)
    for split in range(splits):
        highest = tl.maximum(highest, row_values(parts + split * tl.cast(places, tl.int64), rows))
    pivot = pivot_of(highest)
    for split in range(splits):
        part = parts + split * tl.cast(places, tl.int64)
        more, further = moved(
            row_values(part + splits * tl.cast(places, tl.int64), rows),
            row_values(part + 2 * splits * tl.cast(places, tl.int64), rows),
            row_values(part, rows) - pivot,
        )
        total += more
        moment += further
    inverse = 1.0 / tl.where(total == 0.0, 1.0, total)
    mean = moment * inverse
    return pivot, functions.sharpness(entropy(inverse, mean)), None, inverse, mean


@triton.jit
def terms(score, pivot, row, count, functions):
    """e^{beta (s - m)}."""
    highest, beta, _, _, _ = row
    weight = tl.exp(below(score, highest) * beta)
    return weight, weight


@triton.jit
def left(pivot, row, inverse):
    """All five; whoever merges splits finds what is known before in place."""
    highest, beta, share_of_one, mean = None, None, None, None
    if row is not None:
        highest, beta, _, share_of_one, mean = row
    return highest, beta, inverse, share_of_one, mean


@triton.jit
def gathered(totals, score, visible, grad_weight, row, count, rounding, functions):
    """w dP, and w (s - m) with and without dP."""
    highest, beta, scale, _, _ = row
    distance = tl.where(visible, below(score, highest), 0.0)
    weight = tl.where(visible, tl.exp(distance * beta) * scale, 0.0)
    return added(totals, (weight * grad_weight, weight * distance * grad_weight, weight * distance))


@triton.jit
def sums(totals, row, count, grad_log_mass, functions):
    """delta, and sharpness'(H) sum_k w_k (dP_k - delta) (s_k - m) over the sum of e^{s - m}."""
    _, _, _, inverse, mean = row
    delta, change, moment = totals
    slope = functions.sharpness_derivative(entropy(inverse, mean))
    return delta, slope * (change - delta * moment) * inverse


@triton.jit
def gradients(score, grad_weight, row, count, sums, rounding, functions):
    """dS = beta w (dP - delta) - dH p (s - mean)."""
    highest, beta, scale, _, mean = row
    delta, through = sums
    distance = below(score, highest)
    weight = tl.exp(distance * beta) * scale
    slope = beta * weight * (grad_weight - delta)
    return weight, slope - through * tl.exp(distance) * (distance - mean)


FORM = Form(
    RowFunctions(terms, gradients, known=known, mass=bare_mass, left=left, gathered=gathered, sums=sums),
    before=(Sweep(survey, split=True),),
    parts=3,
    statistics=5,
    gathered=3,
    sums=2,
)
