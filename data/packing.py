"""Documents of any length in rows of one length, none lost, none cut that could stay whole."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.targets import IGNORED
from data.errors import DataError
from data.order import BatchOrder, MixedOrder
from data.segments import pack
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
        self._segments, self._rows = pack(shard, length, ends)

    def __len__(self) -> int:
        return len(self._segments.bounds) - 1

    def order(self, seed: int) -> BatchOrder | MixedOrder:
        """In which order the rows are trained on: by the weights of the shard's sources, where these have some.

        DataError: no rows, or a seed outside 0 to 2**32 - 1.
        """
        weights = [source.weight for source in self.shard.sources]
        if len(weights) < 2:
            return BatchOrder(len(self), seed)
        return MixedOrder(self._rows, weights, seed)

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
        segments = self._segments
        first, end = segments.bounds[index : index + 2].tolist()
        begin = 0
        for segment in range(first, end):
            start, size, given = (
                int(of[segment]) for of in (segments.starts, segments.sizes, segments.given)
            )
            here = slice(begin, begin + size)
            tokens[here] = self.shard.tokens[start : start + size]
            learned = size - int(segments.closes[segment])
            targets[begin : begin + learned] = self.shard.tokens[start + 1 : start + learned + 1]
            if segments.closes[segment]:
                targets[begin + learned] = self.shard.bos
            targets[begin : begin + given] = IGNORED
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
        return int(self._segments.sizes.sum(dtype=np.int64) - self._segments.given.sum(dtype=np.int64))

    @property
    def fill(self) -> float:
        """The part of all positions that is not padding, 0 to 1."""
        return int(self._segments.sizes.sum(dtype=np.int64)) / (len(self) * self.length)
