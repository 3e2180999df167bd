"""An order over rows that can be entered anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import BatchOrder, DataError


@given(n=st.integers(1, 200), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**6))
def test_each_epoch_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    order = BatchOrder(n, seed)
    assert sorted(order.index(epoch * n + offset) for offset in range(n)) == list(range(n))


@given(n=st.integers(1, 50), positions=st.lists(st.integers(0, 10**9), min_size=1, max_size=10))
def test_any_position_is_found_in_any_order(n: int, positions: list[int]) -> None:
    order = BatchOrder(n, seed=3)
    forwards = [order.index(position) for position in positions]
    assert forwards == [BatchOrder(n, seed=3).index(position) for position in positions]
    assert forwards[::-1] == [order.index(position) for position in reversed(positions)]


def test_resuming_in_the_middle_equals_a_straight_run() -> None:
    straight = BatchOrder(37, seed=1)
    run = [straight.index(position) for position in range(200)]
    resumed = BatchOrder(37, seed=1)
    assert [resumed.index(position) for position in range(123, 200)] == run[123:]


def test_epochs_and_seeds_differ() -> None:
    epochs = {
        tuple(BatchOrder(50, seed).index(50 * epoch + i) for i in range(50))
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    }
    assert len(epochs) == 6


def test_the_order_is_frozen() -> None:
    """A run that resumes with another version of numpy, or of this file, must see what it would have seen."""
    order = BatchOrder(10, seed=1234)
    assert [order.index(position) for position in range(20)] == [
        3,
        8,
        6,
        4,
        9,
        1,
        5,
        2,
        0,
        7,
        3,
        9,
        7,
        6,
        4,
        1,
        8,
        2,
        5,
        0,
    ]


@pytest.mark.parametrize(
    ("n", "seed", "message"), [(0, 0, "order over 0 rows"), (5, -1, "seed is -1"), (5, 2**32, "seed is")]
)
def test_mistakes(n: int, seed: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        BatchOrder(n, seed)
