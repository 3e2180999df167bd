"""The weights of one head as text: max-pooled where the prompt is long, 16 bits for a cell.

A cell is one of

    0                   exactly zero
    32767               not visible to any query of the cell
    otherwise           sign (bit 15) and c = the lower 15 bits: |w| = top * 2^((c - 32766) / 1024)

with `top` the largest |w| of the head. Steps of 1/1024 octave keep a relative error below 0.04 %; they reach 32 octaves
down, and a smaller weight that is not zero counts as c = 1, which stands for "at most top * 2^-32". The cells of the
lower triangle follow each other by rows, little-endian, in base64.
"""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

LARGEST, HIDDEN, SIGN = 0x7FFE, 0x7FFF, 0x8000
STEPS = 1024
"""Codes to the octave."""


def pool(matrix: np.ndarray, factor: int) -> np.ndarray:
    """The weight of largest magnitude of each `factor` x `factor` block of [rows, columns], with its sign.

    A block is nan where all of its weights are. The last blocks may be smaller.
    """
    rows, columns = (-(-size // factor) for size in matrix.shape)
    padded = np.full((rows * factor, columns * factor), np.nan, matrix.dtype)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    blocks = padded.reshape(rows, factor, columns, factor).swapaxes(1, 2).reshape(rows, columns, -1)
    best = np.nan_to_num(np.abs(blocks), nan=-1).argmax(-1)
    return np.take_along_axis(blocks, best[..., None], -1)[..., 0]


def pack(matrix: np.ndarray) -> dict[str, Any]:
    """{"top": ..., "cells": ...} of a lower triangular matrix [T, T] with nan where invisible."""
    weights = matrix[np.tril_indices(len(matrix))].astype(np.float64)
    size = np.abs(weights)
    top = float(np.nanmax(size, initial=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        code = np.rint(LARGEST + STEPS * np.log2(size / top)).clip(1, LARGEST)
    code[size == 0] = 0
    code[np.isnan(size)] = HIDDEN
    code = code.astype("<u2") | np.where(weights < 0, SIGN, 0).astype("<u2")
    return {"top": top, "cells": base64.b64encode(code.tobytes()).decode()}


def unpack(packed: Mapping[str, Any]) -> np.ndarray:
    """The matrix that `pack` was given, to four digits: [T, T], nan where invisible and above the diagonal."""
    code = np.frombuffer(base64.b64decode(packed["cells"]), "<u2")
    side = (int(np.sqrt(8 * len(code) + 1)) - 1) // 2
    size = code & HIDDEN
    weights = packed["top"] * np.exp2((size - float(LARGEST)) / STEPS) * np.where(code & SIGN, -1, 1)
    weights[size == 0] = 0
    weights[size == HIDDEN] = np.nan
    matrix = np.full((side, side), np.nan)
    matrix[np.tril_indices(side)] = weights
    return matrix
