"""Best-fit packing of many sizes into rows of one capacity, equal sizes at once."""

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import NDArray


def best_fit(sizes: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """The row of each size, [n]: longest first, into the fullest row with room, never above `capacity`."""
    rows = np.empty(len(sizes), dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    descending = sizes[order]
    begins = np.flatnonzero(np.diff(descending, prepend=capacity + 1))
    open_rows = _OpenRows(capacity)
    for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(sizes)], strict=True):
        rows[order[begin:end]] = open_rows.place(int(descending[begin]), end - begin)
    return rows


class _OpenRows:
    """Rows by the room that is left in them; of those with equal room the last one comes first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rooms: list[int] = []
        self._rows: dict[int, list[NDArray[np.int64]]] = {}
        self._count = 0

    def place(self, size: int, count: int) -> NDArray[np.int64]:
        """The rows of `count` segments of one size, which is at most that of any placed before.

        A row with the least sufficient room keeps the least after each segment, so it takes as many as fit in turn.
        """
        placed = []
        while count:
            room, rows = self._take(size, count)
            each = room // size
            full = min(len(rows), count // each)
            placed.append(np.repeat(rows[:full], each))
            self._put(room - each * size, rows[:full])
            count -= full * each
            if full < len(rows):
                placed.append(np.repeat(rows[full:], count))
                self._put(room - count * size, rows[full:])
                count = 0
        return np.concatenate(placed)

    def _take(self, size: int, count: int) -> tuple[int, NDArray[np.int64]]:
        """The least room that is sufficient, and rows with it, as many as there are of those that are wanted."""
        found = bisect_left(self._rooms, size)
        if found == len(self._rooms):
            wanted = -(-count // (self._capacity // size))
            self._count += wanted
            return self._capacity, np.arange(self._count - wanted, self._count)
        room = self._rooms[found]
        rows = self._rows[room].pop()
        wanted = -(-count // (room // size))
        if len(rows) > wanted:
            self._rows[room].append(rows[:-wanted])
        elif not self._rows[room]:
            del self._rows[room], self._rooms[found]
        return room, rows[-wanted:][::-1]

    def _put(self, room: int, rows: NDArray[np.int64]) -> None:
        if room and len(rows):
            if room not in self._rows:
                self._rows[room] = []
                insort(self._rooms, room)
            self._rows[room].append(rows)
