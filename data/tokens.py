"""Token ids that lie in files, as one sequence, memory-mapped."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenFile:
    """`count` token ids of `dtype` behind the first `offset` bytes of a file."""

    path: Path
    dtype: str
    count: int
    offset: int = 0

    def open(self) -> NDArray[Any]:
        """Its tokens, memory-mapped, read-only."""
        return np.memmap(self.path, dtype=self.dtype, mode="r", offset=self.offset, shape=(self.count,))


class Tokens:
    """The tokens of several files of one dtype, read like an array of one dimension; a slice of it is an array."""

    def __init__(self, files: Sequence[TokenFile]) -> None:
        self._maps = [file.open() for file in files]
        self._ends = np.cumsum([file.count for file in files])
        self.dtype = np.dtype(files[0].dtype)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, where: int | np.integer[Any] | slice) -> Any:
        if not isinstance(where, slice):
            file = int(np.searchsorted(self._ends, where, side="right"))
            return self._maps[file][where - self._ends[file]]
        begin, end, step = where.indices(len(self))
        if step != 1:
            return np.asarray(self)[where]
        first = int(np.searchsorted(self._ends, begin, side="right"))
        last = int(np.searchsorted(self._ends, end, side="left"))
        found = []
        for file in range(first, min(last, len(self._maps) - 1) + 1):
            before = int(self._ends[file]) - len(self._maps[file])
            found.append(self._maps[file][max(0, begin - before) : max(0, end - before)])
        return found[0] if len(found) == 1 else np.concatenate([np.empty(0, self.dtype), *found])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole = np.concatenate(self._maps)
        return whole if dtype is None else whole.astype(dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of all ids."""
        return len(self) * self.dtype.itemsize

    def tolist(self) -> list[int]:
        """All ids; as many Python integers."""
        return [token for tokens in self._maps for token in tokens.tolist()]


def open_tokens(files: Sequence[TokenFile]) -> "NDArray[Any] | Tokens":
    """The tokens of one file as an array, of several as `Tokens`; empty ones are left out."""
    filled = [file for file in files if file.count]
    if not filled:
        return np.empty(0, dtype=files[0].dtype)
    return filled[0].open() if len(filled) == 1 else Tokens(filled)
