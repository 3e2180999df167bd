"""Documents of any length in rows of one length, none lost, none cut that could stay whole."""

from bisect import bisect_left, insort
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from common.targets import IGNORED
from data.errors import DataError
from data.shards import Shard

PADDING = -1
"""Document id of a padding position."""


class PackedDataset(Dataset[dict[str, Tensor]]):
    """Rows of `length` positions over a shard, for next-token prediction.

    A row is made of whole segments. A document is one segment where it fits into a row, and else consecutive
    segments of `length` with a shorter last one. Segments fill rows best-fit, longest first (Ding et al.
    2024, "Fewer truncations improve language modeling"), so that little is padding. Every token of text is a
    target exactly once, but for those that are given: the first of a document is predicted from BOS, the first
    of a continued segment from the token before it, which is repeated as its input.

    With `ends`, the end of a document is one more target: the BOS of whatever follows, after its last token, once
    for each document, and nowhere where a document goes on in another segment.
    """

    def __init__(self, shard: Shard, length: int, ends: bool = False) -> None:
        """DataError: `length` is not positive."""
        if length < 1:
            raise DataError(f"the length of a row is {length}; it must be at least 1")
        self.shard = shard
        self.length = length
        starts, sizes, given, closes = _segments(shard, length, ends)
        rows = best_fit(sizes, length)
        order = np.argsort(rows, kind="stable")
        self._starts, self._sizes, self._given, self._closes = (
            array[order] for array in (starts, sizes, given, closes)
        )
        self._bounds = np.concatenate([[0], np.cumsum(np.bincount(rows))])

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One row, each tensor int64 [length].

        tokens: inputs, the first of each segment BOS or the token before it; any id at padding. targets: the
        token that follows each input, -100 at padding and where that token is given. documents: the number of
        the segment in the row from 0, -1 at padding.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        tokens = np.zeros(self.length, dtype=np.int64)
        targets = np.full(self.length, IGNORED, dtype=np.int64)
        documents = np.full(self.length, PADDING, dtype=np.int64)
        first, end = self._bounds[index : index + 2]
        begin = 0
        for segment in range(first, end):
            start, size = self._starts[segment], self._sizes[segment]
            here = slice(begin, begin + size)
            tokens[here] = self.shard.tokens[start : start + size]
            learned = size - self._closes[segment]
            targets[begin : begin + learned] = self.shard.tokens[start + 1 : start + learned + 1]
            if self._closes[segment]:
                targets[begin + learned] = self.shard.bos
            targets[begin : begin + self._given[segment]] = IGNORED
            documents[here] = segment - first
            begin += size
        return {
            "tokens": torch.from_numpy(tokens),
            "targets": torch.from_numpy(targets),
            "documents": torch.from_numpy(documents),
        }

    @property
    def target_bytes(self) -> int:
        """UTF-8 bytes of all targets: bits per byte = summed nats / ln 2 / target_bytes; an end has none."""
        return self.shard.n_bytes

    @cached_property
    def n_targets(self) -> int:
        """Positions that carry a target, ends included, over all rows."""
        return int((self._sizes - self._given).sum())

    @property
    def fill(self) -> float:
        """The part of all positions that is not padding, 0 to 1."""
        return int(self._sizes.sum()) / (len(self) * self.length)


def _segments(
    shard: Shard, length: int, ends: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where each segment's first input lies in the shard, its length, how many of its first outputs are given, and
    whether its last one is the end of a document, 0 or 1.
    """
    targets = shard.sizes - 1 + ends
    pieces = -(-targets // length)
    document = np.repeat(np.arange(len(shard)), pieces)
    offset = (np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * length
    sizes = np.minimum(length, targets[document] - offset)
    closes = (offset + sizes == targets[document]).astype(np.int64) * ends
    return shard.starts[document] + offset, sizes, np.clip(shard.given[document] - offset, 0, sizes), closes


def best_fit(sizes: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """The row of each size, [n]: longest first, into the fullest row with room, never above `capacity`."""
    rows = np.empty(len(sizes), dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    full = int((sizes == capacity).sum())
    rows[order[:full]] = np.arange(full)
    with_space: dict[int, list[int]] = {}
    spaces: list[int] = []
    count = full
    for segment, size in zip(order[full:].tolist(), sizes[order[full:]].tolist(), strict=True):
        found = bisect_left(spaces, size)
        if found == len(spaces):
            row, space = count, capacity
            count += 1
        else:
            space = spaces[found]
            row = with_space[space].pop()
            if not with_space[space]:
                del with_space[space], spaces[found]
        rows[segment] = row
        if left := space - size:
            if left not in with_space:
                with_space[left] = []
                insort(spaces, left)
            with_space[left].append(row)
    return rows
