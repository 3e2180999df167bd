"""Intervals against the mask that they stand for."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from attention.core.masks import visibility


def _dense(queries, keys, causal, window, documents):
    mask = torch.zeros(1 if documents is None else len(documents), queries, keys, dtype=torch.bool)
    for b in range(len(mask)):
        for row in range(queries):
            i = keys - queries + row
            for j in range(keys):
                same = True
                if documents is not None:
                    between = documents[b, min(i, j) : max(i, j) + 1]
                    same = bool((between == between[0]).all() and between[0] >= 0)
                near = window is None or abs(i - j) < window
                mask[b, row, j] = same and near and (j <= i or not causal)
    return mask


@given(
    queries=st.integers(1, 9),
    extra=st.integers(0, 4),
    causal=st.booleans(),
    window=st.sampled_from([None, 1, 2, 6]),
    ids=st.none() | st.lists(st.integers(-1, 2), min_size=26, max_size=26),
    height=st.integers(1, 10),
)
def test_visibility_and_its_tiles(queries, extra, causal, window, ids, height):
    keys = queries + extra
    documents = (
        None if ids is None else torch.stack([torch.tensor(ids[:keys]), torch.tensor(ids[13 : 13 + keys])])
    )
    visible = visibility(queries, keys, causal=causal, window=window, documents=documents)
    expected = _dense(queries, keys, causal, window, documents)
    assert torch.equal(visible.mask(), expected)
    assert torch.equal(visible.count, expected.sum(-1))
    assert torch.equal(visible.audience, expected.sum(-2))
    seen = torch.zeros_like(expected)
    for tile in visible.tiles(height):
        ones = torch.ones(
            len(expected), 1, 1, tile.rows.stop - tile.rows.start, tile.keys.stop - tile.keys.start
        )
        score = torch.randn_like(ones)
        maximum = tile.maximum(score)[:, 0, 0, :, 0]
        shown = tile.zero_(ones)[:, 0, 0].bool()
        seen[:, tile.rows, tile.keys] = shown
        masked = score[:, 0, 0].masked_fill(~shown, -torch.inf).amax(-1)
        assert torch.equal(maximum, masked)
    assert torch.equal(seen, expected)


@given(
    rows=st.lists(
        st.tuples(st.integers(-2, 12), st.integers(-2, 12), st.integers(-4, 15)), min_size=1, max_size=6
    ),
    keys=st.integers(1, 9),
    window=st.sampled_from([None, 1, 3]),
    causal=st.booleans(),
)
def test_intervals_are_the_callers_own(rows, keys, window, causal):
    intervals = torch.tensor([rows])
    visible = visibility(len(rows), keys, causal=causal, window=window, intervals=intervals)
    expected = torch.zeros(1, len(rows), keys, dtype=torch.bool)
    for row, (first, last, place) in enumerate(rows):
        for j in range(keys):
            near = window is None or abs(place - j) < window
            expected[0, row, j] = first <= j < last and near and (j <= place or not causal)
    assert torch.equal(visible.mask(), expected)
    assert torch.equal(visible.count, expected.sum(-1))
    assert torch.equal(visible.audience, expected.sum(-2))
    assert torch.equal(visible.position, intervals[0, :, 2])
    assert 0 <= visible.first.min() <= visible.last.max() <= keys
