"""Batches of equal sizes are placed as one by one."""

from bisect import bisect_left, insort

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.fitting import best_fit


def one_by_one(sizes: list[int], capacity: int) -> list[int]:
    """Longest first, into the fullest row with room, of equal ones the last that became so."""
    rows = [0] * len(sizes)
    with_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    count = 0
    for segment in sorted(range(len(sizes)), key=lambda segment: -sizes[segment]):
        size = sizes[segment]
        found = bisect_left(rooms, size)
        if found == len(rooms):
            row, room = count, capacity
            count += 1
        else:
            room = rooms[found]
            row = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[found]
        rows[segment] = row
        if left := room - size:
            if left not in with_room:
                with_room[left] = []
                insort(rooms, left)
            with_room[left].append(row)
    return rows


@given(data=st.data(), capacity=st.integers(1, 40))
def test_the_same_rows_as_one_by_one(data: st.DataObject, capacity: int) -> None:
    sizes = data.draw(st.lists(st.integers(1, capacity), min_size=1, max_size=300))
    assert best_fit(np.array(sizes), capacity).tolist() == one_by_one(sizes, capacity)


def test_the_rows_of_many_documents_are_frozen() -> None:
    sizes = np.random.RandomState(0).randint(1, 65, size=20_000)
    assert best_fit(sizes, 64).tolist() == one_by_one(sizes.tolist(), 64)
