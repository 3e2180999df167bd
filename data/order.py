"""In which order rows are trained on."""

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError


class BatchOrder:
    """An endless order over n rows: each epoch is a permutation decided by (seed, epoch) alone.

    So position 10 million is found without going through the ones before it, and a run that resumes there
    sees what it would have seen.
    """

    def __init__(self, n: int, seed: int) -> None:
        """DataError: no rows, or a seed outside 0 to 2**32 - 1."""
        if n < 1:
            raise DataError(f"an order over {n} rows: there is nothing to train on")
        if not 0 <= seed < 1 << 32:
            raise DataError(f"seed is {seed}; it must lie between 0 and {(1 << 32) - 1}")
        self.n = n
        self.seed = seed
        self._epoch = -1
        self._permutation: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def index(self, position: int) -> int:
        """The row at a position, counted from 0 over all epochs."""
        epoch, offset = divmod(position, self.n)
        if epoch != self._epoch:
            # RandomState, not a Generator: its stream is frozen, so a resumed run may use a newer numpy.
            self._permutation = np.random.RandomState([self.seed, epoch]).permutation(self.n)
            self._epoch = epoch
        return int(self._permutation[offset])
