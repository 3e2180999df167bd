import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from eval.heatmap_cells import pack, pool, unpack

MATRICES = st.integers(1, 9).flatmap(
    lambda side: arrays.arrays(
        np.float32,
        (side, side),
        elements=st.one_of(
            st.just(np.nan), st.just(0.0), st.floats(-100, 100, width=32, allow_subnormal=False)
        ),
    )
)


def triangle(matrix: np.ndarray) -> np.ndarray:
    return np.where(np.tri(len(matrix), dtype=bool), matrix, np.nan)


@given(MATRICES)
def test_what_is_packed_comes_back(matrix):
    matrix = triangle(matrix)
    packed = pack(matrix)
    back = unpack(packed)
    assert np.array_equal(np.isnan(back), np.isnan(matrix))
    assert np.array_equal(back == 0, matrix == 0)
    assert np.array_equal(np.sign(back), np.sign(matrix), equal_nan=True)
    assert packed["top"] == np.nanmax(np.abs(matrix), initial=0)
    large = np.abs(matrix) >= packed["top"] * 2.0**-31
    assert back[large] == pytest.approx(matrix[large], rel=4e-4)
    small = ~large & (matrix != 0) & ~np.isnan(matrix)
    assert (np.abs(back[small]) <= packed["top"] * 2.0**-30.9).all()


def test_a_cell_takes_two_bytes():
    assert len(base64.b64decode(pack(np.ones((192, 192)))["cells"])) == 192 * 193


def test_halves_are_exact():
    matrix = triangle(np.array([[1.0, 0], [0.25, -0.5]]))
    assert np.array_equal(unpack(pack(matrix)), matrix, equal_nan=True)


@given(MATRICES, st.integers(1, 4))
def test_a_block_gives_its_largest_weight_with_its_sign(matrix, factor):
    pooled = pool(matrix, factor)
    side = -(-len(matrix) // factor)
    assert pooled.shape == (side, side)
    for row in range(side):
        for column in range(side):
            block = matrix[row * factor :, column * factor :][:factor, :factor].ravel()
            seen = block[~np.isnan(block)]
            if len(seen):
                assert abs(pooled[row, column]) == np.abs(seen).max()
                assert pooled[row, column] in seen
            else:
                assert np.isnan(pooled[row, column])


def test_a_block_is_zero_only_where_all_visible_weights_are():
    matrix = np.array(
        [[0.0, np.nan, 0, 0], [0, 0, 0, 1e-20], [0, -3, np.nan, np.nan], [2, 0, np.nan, np.nan]]
    )
    assert np.array_equal(pool(matrix, 2), [[0, 1e-20], [-3, np.nan]], equal_nan=True)
