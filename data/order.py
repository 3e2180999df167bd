"""In which order rows are trained on: a function of the position, so that a run can be continued anywhere."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError

BLOCK = 1024
"""Rows over which a mixture is even."""


class BatchOrder:
    """An endless order over n rows: each epoch is a permutation decided by (seed, epoch) alone.

    So position 10 million is found without going through the ones before it, and a run that resumes there
    sees what it would have seen.
    """

    def __init__(self, n: int, seed: int) -> None:
        """DataError: no rows, or a seed outside 0 to 2**32 - 1."""
        if n < 1:
            raise DataError(f"an order over {n} rows: there is nothing to train on")
        _check(seed)
        self.n = n
        self.seed = seed
        self._epoch = -1
        self._permutation: NDArray[np.integer[Any]] = np.empty(0, dtype=np.int64)

    def index(self, position: int) -> int:
        """The row at a position, counted from 0 over all epochs."""
        epoch, offset = divmod(position, self.n)
        if epoch != self._epoch:
            # Half the memory where that is enough: which rows are exchanged does not depend on how they are stored.
            rows: NDArray[Any] = np.arange(self.n, dtype=np.int32 if self.n <= 1 << 31 else np.int64)
            # RandomState, not a Generator: its stream is frozen, so a resumed run may use a newer numpy.
            np.random.RandomState([self.seed, epoch]).shuffle(rows)
            self._permutation = rows
            self._epoch = epoch
        return int(self._permutation[offset])

    def epochs(self, position: int) -> list[float]:
        """How often the rows were gone through before a position."""
        return [position / self.n]


class MixedOrder:
    """An endless order over the rows of several sources, by weights, each source in an endless order of its own.

    Of the first N positions, a source has N times its weight at the end of each block of `BLOCK`, up to half a row for
    itself and each source before it; where in a block its rows stand is decided by (seed, block) alone. A source that
    is gone through begins anew, shuffled again.
    """

    def __init__(self, rows: Sequence[int], weights: Sequence[float], seed: int) -> None:
        """Rows of each source, which lie one source after the other, and weights, which need not sum to one.

        DataError: a source without rows, or a seed outside 0 to 2**32 - 1.
        """
        _check(seed)
        self.seed = seed
        self._orders = [BatchOrder(n, seed) for n in rows]
        self._first = np.cumsum(rows) - rows
        self._weights = np.asarray(weights, dtype=float) / np.sum(weights)
        self._block = -1
        self._sources: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._places: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def index(self, position: int) -> int:
        """The row at a position, counted from 0, among those of all sources."""
        block, offset = divmod(position, BLOCK)
        if block != self._block:
            before = self._drawn(block)
            sources = np.repeat(np.arange(len(before)), self._drawn(block + 1) - before)
            np.random.RandomState([self.seed, block % (1 << 32), block >> 32]).shuffle(sources)
            places = np.empty(BLOCK, dtype=np.int64)
            for source, drawn in enumerate(before):
                here = sources == source
                places[here] = drawn + np.arange(here.sum())
            self._block, self._sources, self._places = block, sources, places
        source = self._sources[offset]
        return int(self._first[source]) + self._orders[source].index(int(self._places[offset]))

    def epochs(self, position: int) -> list[float]:
        """How often the rows of each source were gone through before a position."""
        return [
            float(weight * position) / order.n
            for weight, order in zip(self._weights, self._orders, strict=True)
        ]

    def _drawn(self, block: int) -> NDArray[np.int64]:
        """How many rows of each source come before a block.

        Each source takes its share, rounded, of what those before it left: so neither it nor what is left ever shrinks
        from one block to the next, whatever the weights.
        """
        left, drawn = block * BLOCK, []
        for source, weight in enumerate(self._weights[:-1]):
            drawn.append(math.floor(left * weight / self._weights[source:].sum() + 0.5))
            left -= drawn[-1]
        return np.array([*drawn, left], dtype=np.int64)


def _check(seed: int) -> None:
    if not 0 <= seed < 1 << 32:
        raise DataError(f"seed is {seed}; it must lie between 0 and {(1 << 32) - 1}")
