"""The operands of kernels, and how a tile of them is addressed.

Scores are [rows, keys] in every sweep: a thread then holds few rows, and the many quantities of a row take few
registers.
"""
# mypy: disallow-untyped-defs=False

from typing import Any, NamedTuple

import triton
import triton.language as tl

from attention.kernels.triton.maths import log

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""The interpreter multiplies bfloat16 bit patterns; it is given float32 instead."""

SUMMED = tl.constexpr(2.0**-21)
"""The largest difference of float32 sums of the same products in other orders, as a share of |query| |key|."""


class Operands(NamedTuple):
    """Pointers, strides and sizes of a call; absent biases are None.

    Attributes:
        query: [B, T, H, D], key: [B, S, Hk, D], value: [B, S, Hk, Dv], each with its four strides.
        query_bias: [B, T, H], key_bias: [B, S, H], slope: [H], contiguous.
        first, last: [B or 1, T] with the stride of the batch; position: [T].
        scale: of the dot product.
        source, amplitude: of the noise, a pointer to its seed and the place of the first sequence, int64, or None;
            its factor.
        queries, keys, heads: T, S, H.
    """

    query: Any
    key: Any
    value: Any
    query_strides: Any
    key_strides: Any
    value_strides: Any
    query_bias: Any
    key_bias: Any
    slope: Any
    first: Any
    last: Any
    position: Any
    mask_stride: Any
    scale: Any
    source: Any
    amplitude: Any
    queries: Any
    keys: Any
    heads: Any


class Rows(NamedTuple):
    """A block of query rows.

    Attributes:
        valid, time, place: [rows]; whether the row exists, its query, its index in [B, T, H].
        head: [rows], or one number where all rows are of one head.
        first, last, count, position, query_bias, slope, column_head: the same beside the keys, [rows, 1].
        low, high: the keys that any of the rows sees.
    """

    valid: Any
    time: Any
    head: Any
    place: Any
    first: Any
    last: Any
    count: Any
    position: Any
    query_bias: Any
    slope: Any
    column_head: Any
    low: Any
    high: Any


@triton.jit
def beside(quantity):
    """A quantity of rows, shaped to stand beside the keys; one that all rows share stays as it is."""
    if len(quantity.shape) == 0:
        return quantity
    else:
        return quantity[:, None]


@triton.jit
def packed_rows(operands, batch, key_head, block, size: tl.constexpr, group: tl.constexpr):
    """Rows of a key head: the query heads that share it side by side, so that its keys are read once for all."""
    index = block * size + tl.arange(0, size)
    head = key_head
    if group > 1:
        head = key_head * group + index % group
    return _rows(operands, batch, index // group, head)


@triton.jit
def rows_of_head(operands, batch, head, block, size: tl.constexpr):
    """Rows of one query head."""
    return _rows(operands, batch, block * size + tl.arange(0, size), head)


@triton.jit
def _rows(operands, batch, time, head):
    valid = time < operands.queries
    place = (batch.to(tl.int64) * operands.queries + time) * operands.heads + head
    mask = batch.to(tl.int64) * operands.mask_stride + time
    first = tl.load(operands.first + mask, mask=valid, other=0).to(tl.int32)
    last = tl.load(operands.last + mask, mask=valid, other=0).to(tl.int32)
    sees = first < last
    low = tl.min(tl.where(sees, first, operands.keys), 0)
    high = tl.max(tl.where(sees, last, 0), 0)
    position, query_bias, slope = None, None, None
    if operands.slope is not None or operands.source is not None:
        position = beside(tl.load(operands.position + time, mask=valid, other=0).to(tl.int32))
    if operands.slope is not None:
        slope = beside(tl.load(operands.slope + head).to(tl.float32))
    if operands.query_bias is not None:
        query_bias = beside(tl.load(operands.query_bias + place, mask=valid, other=0.0).to(tl.float32))
    count = beside((last - first).to(tl.float32))
    return Rows(
        valid,
        time,
        head,
        place,
        beside(first),
        beside(last),
        count,
        position,
        query_bias,
        slope,
        beside(head),
        low,
        high,
    )


@triton.jit
def row_values(pointer, rows):
    """Float32 quantities of rows, from [B, T, H]."""
    return beside(tl.load(pointer + rows.place, mask=rows.valid, other=0.0))


@triton.jit
def row_numbers(pointer, places, rows, size: tl.constexpr):
    """A tuple of `size` quantities of rows, from [size, B, T, H]."""
    numbers = ()
    for index in tl.static_range(size):
        numbers += (row_values(pointer + index * tl.cast(places, tl.int64), rows),)  # type: ignore[assignment]
    return numbers


@triton.jit
def store_rows(pointer, rows, values):
    """Write [rows, 1] to [B, T, H]."""
    tl.store(pointer + rows.place, tl.reshape(values, rows.place.shape), mask=rows.valid)


@triton.jit
def store_numbers(pointer, places, place, valid, numbers):
    """Write a tuple of [rows, 1] to [size, B, T, H], but for those that are None."""
    for index in tl.static_range(len(numbers)):
        if numbers[index] is not None:
            target = pointer + index * tl.cast(places, tl.int64)
            tl.store(target + place, tl.reshape(numbers[index], place.shape), mask=valid)


@triton.jit
def row_vectors(pointer, strides, batch, rows, width: tl.constexpr, padded: tl.constexpr):
    """[rows, padded] from [B, T, H, width]."""
    offset = batch.to(tl.int64) * strides[0] + rows.time.to(tl.int64) * strides[1]
    return _vectors(
        pointer + offset + rows.head.to(tl.int64) * strides[2], strides[3], rows.valid, width, padded
    )


@triton.jit
def placed_vectors(pointer, rows, width: tl.constexpr, padded: tl.constexpr):
    """[rows, padded] from a contiguous [B, T, H, width]."""
    return _vectors(pointer + rows.place * width, 1, rows.valid, width, padded)


@triton.jit
def keys_at(operands, batch, head, column, width: tl.constexpr, padded: tl.constexpr):
    """Keys [keys, padded] of a key head at the positions `column`."""
    return _columns(operands, operands.key, operands.key_strides, batch, head, column, width, padded)


@triton.jit
def values_at(operands, batch, head, column, width: tl.constexpr, padded: tl.constexpr):
    """Values [keys, padded] of a key head at the positions `column`."""
    return _columns(operands, operands.value, operands.value_strides, batch, head, column, width, padded)


@triton.jit
def _columns(operands, pointer, strides, batch, head, column, width: tl.constexpr, padded: tl.constexpr):
    base = pointer + batch.to(tl.int64) * strides[0] + head.to(tl.int64) * strides[2]
    valid = column < operands.keys
    return _vectors(base + column.to(tl.int64) * strides[1], strides[3], valid, width, padded)


@triton.jit
def _vectors(start, stride, valid, width: tl.constexpr, padded: tl.constexpr):
    channel = tl.arange(0, padded)
    mask = valid[:, None]
    if width != padded:
        mask = mask & (channel < width)[None, :]
    return tl.load(start[:, None] + (channel * stride)[None, :], mask=mask, other=0.0)


@triton.jit
def store_vectors(pointer, place, valid, vectors, width: tl.constexpr, padded: tl.constexpr):
    """Write [rows, padded] to rows `place` of a contiguous [..., width]."""
    channel = tl.arange(0, padded)
    target = pointer + (place * width)[:, None] + channel[None, :]
    narrowed = narrow(vectors, pointer.dtype.element_ty)
    tl.store(target, narrowed, mask=valid[:, None] & (channel < width)[None, :])


@triton.jit
def narrow(numbers, dtype: tl.constexpr):
    """Float32 rounded to the nearest of a type; the interpreter would truncate to bfloat16, so it rounds before."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = numbers.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        numbers = bits.to(tl.float32, bitcast=True)
    return numbers.to(dtype)


@triton.jit
def product(left, right, precision: tl.constexpr):
    """Matrix product, accumulated in float32."""
    if INTERPRETED:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), input_precision=precision)
    else:
        return tl.dot(left, right, input_precision=precision)


@triton.jit
def accumulate(left, right, total, precision: tl.constexpr):
    """The total plus a matrix product."""
    if INTERPRETED:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), total, input_precision=precision)
    else:
        return tl.dot(left, right, total, input_precision=precision)


@triton.jit
def added(totals, summands):
    """Totals of rows plus those of a tile."""
    sums = ()
    for index in tl.static_range(len(totals)):
        sums += (totals[index] + tl.sum(summands[index], 1, keep_dims=True),)  # type: ignore[assignment]
    return sums


@triton.jit
def gumbel(seed, column, position, head, sequence):
    """The noise of `attention.core.noise`, by place."""
    none = tl.zeros_like(column + position).to(tl.uint32)
    word, _, _, _ = tl.philox(
        seed,
        none + column.to(tl.uint32),
        none + position.to(tl.uint32),
        none + head.to(tl.uint32),
        none + sequence.to(tl.uint32),
    )
    uniform = ((word >> 9).to(tl.float32) + 0.5) * (1.0 / 8388608.0)
    return -log(-log(uniform))


@triton.jit
def rounding(query, key, operands):
    """Return the largest difference of scores between sweeps, whose tiles sum in orders of their own, [rows, keys]."""
    length = tl.sqrt(tl.sum(query.to(tl.float32) * query.to(tl.float32), 1))
    width = tl.sqrt(tl.sum(key.to(tl.float32) * key.to(tl.float32), 1))
    return (SUMMED * tl.abs(operands.scale)) * length[:, None] * width[None, :]


@triton.jit
def scores(dot_product, operands, batch, rows, column):
    """Scores and visibility of a tile."""
    column_beside = column[None, :]
    score = dot_product * operands.scale
    if operands.query_bias is not None:
        score += rows.query_bias
    if operands.key_bias is not None:
        place = (batch.to(tl.int64) * operands.keys + column_beside) * operands.heads + rows.column_head
        exists = (column_beside < operands.keys) & (rows.column_head < operands.heads)
        score += tl.load(operands.key_bias + place, mask=exists, other=0.0).to(tl.float32)
    if operands.slope is not None:
        score += rows.slope * (rows.position - column_beside).to(tl.float32)
    if operands.source is not None:
        score += operands.amplitude * gumbel(
            tl.load(operands.source),
            column_beside,
            rows.position,
            rows.column_head,
            tl.load(operands.source + 1) + batch,
        )
    return score, (column_beside >= rows.first) & (column_beside < rows.last)
