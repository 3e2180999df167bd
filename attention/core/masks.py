"""Visibility: which keys each query may attend to.

Every mask of this project, causal, sliding window, packed documents, padding, or any of them together, shows a
query one interval of keys. A mask is therefore two integers per query, never a T x T tensor, and the number of
visible keys n_i that length-aware mechanisms need is their difference.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attention.core.arguments import check_documents, check_flag, check_intervals, check_window
from attention.core.errors import AttentionError

FURTHEST = 2**31 - 1
"""No key is as far away, so a larger window means the same."""


@dataclass(frozen=True)
class Tile:
    """A block of query rows against the keys that at least one of them sees.

    `edges` lists the column ranges in which some row must not look, each with its mask, int32
    [B or 1, 1, 1, rows, columns]: all bits set where visible, none where hidden. Columns outside these ranges are
    visible to every row of the tile.
    """

    rows: slice
    keys: slice
    edges: tuple[tuple[slice, Tensor], ...]

    def zero_(self, values: Tensor) -> Tensor:
        """Set the hidden entries of [B, Hk, G, rows, keys] to zero, in place.

        A bitwise and, since it also clears infinities and NaN and takes a third of the time of masked_fill_.
        """
        bits = torch.int64 if values.dtype == torch.float64 else torch.int32
        for columns, mask in self.edges:
            values[..., columns].view(bits).bitwise_and_(mask.to(bits))
        return values

    def maximum(self, values: Tensor) -> Tensor:
        """Row maximum over visible entries, [B, Hk, G, rows, 1]; -inf where a row sees nothing."""
        parts = [values[..., columns].masked_fill(mask == 0, -torch.inf) for columns, mask in self.edges]
        start, stop = self._visible_to_all(values.shape[-1])
        if start < stop:
            parts.append(values[..., start:stop])
        return torch.stack([part.amax(-1, keepdim=True) for part in parts]).amax(0)

    def _visible_to_all(self, columns: int) -> tuple[int, int]:
        start, stop = 0, columns
        for edge, _ in self.edges:
            if edge.start == 0:
                start = edge.stop
            else:
                stop = edge.start
        return start, stop


@dataclass(frozen=True)
class Visibility:
    """Query i sees key j exactly when first[i] <= j < last[i].

    Attributes:
        first, last: int64 [B or 1, T]; equal where a query sees nothing (padding).
        position: int64 [T], the place of each query among the keys, for distances i - j.
        keys: number of keys S.
        causal, window: how the intervals came about, for kernels that are told so.
        documents: int [B, S] as given, or None.
        chosen: whether the caller gave the intervals, so that nothing else tells how they came about.
    """

    first: Tensor
    last: Tensor
    position: Tensor
    keys: int
    causal: bool = True
    window: int | None = None
    documents: Tensor | None = None
    chosen: bool = False

    @property
    def count(self) -> Tensor:
        """n_i, the number of visible keys, int64 [B or 1, T]."""
        return self.last - self.first

    @property
    def audience(self) -> Tensor:
        """Number of queries that see each key, int64 [B or 1, S]."""
        steps = self.first.new_zeros(self.first.shape[0], self.keys + 1)
        steps.scatter_add_(1, self.first, torch.ones_like(self.first))
        steps.scatter_add_(1, self.last, torch.full_like(self.last, -1))
        return steps.cumsum(1)[:, :-1]

    def mask(self, rows: slice = slice(None), keys: slice = slice(None)) -> Tensor:
        """True where visible, [B or 1, rows, keys]."""
        column = torch.arange(self.keys, device=self.first.device)[keys]
        return (column >= self.first[:, rows, None]) & (column < self.last[:, rows, None])

    def split(self, size: int, parts: int) -> list["Visibility"]:
        """The masks of `size` sequences at a time; a mask that all sequences share stays whole."""
        if self.first.shape[0] == 1:
            return [self] * parts
        pieces = [
            [None] * parts if x is None else x.split(size) for x in (self.first, self.last, self.documents)
        ]
        return [
            replace(self, first=first, last=last, documents=ids)
            for first, last, ids in zip(*pieces, strict=True)
        ]

    def tiles(self, height: int) -> Iterator[Tile]:
        """The query rows in blocks of `height`, each with the smallest key range that serves it."""
        first, last = self.first, self.last
        empty = first >= last
        padding = -first.shape[1] % height
        blocks = {
            "low": _blocks(first.masked_fill(empty, self.keys), height, padding, self.keys).amin((0, 2)),
            "high": _blocks(last, height, padding, 0).amax((0, 2)),
            "shared_low": _blocks(first.masked_fill(empty, self.keys), height, padding, 0).amax((0, 2)),
            "shared_high": _blocks(last.masked_fill(empty, 0), height, padding, self.keys).amin((0, 2)),
        }
        bounds = torch.stack(list(blocks.values())).T.tolist()
        for index, (low, high, shared_low, shared_high) in enumerate(bounds):
            if low >= high:
                continue
            rows = slice(index * height, min((index + 1) * height, first.shape[1]))
            shared = (shared_low, shared_high) if shared_low < shared_high else (high, high)
            edges = tuple(
                (slice(edge.start - low, edge.stop - low), -self.mask(rows, edge)[:, None, None].int())
                for edge in (slice(low, shared[0]), slice(shared[1], high))
                if edge.start < edge.stop
            )
            yield Tile(rows, slice(low, high), edges)


def _blocks(values: Tensor, height: int, padding: int, fill: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, padding), value=fill).unflatten(1, (-1, height))


def visibility(
    queries: int,
    keys: int,
    *,
    causal: bool = True,
    window: int | None = None,
    documents: Tensor | None = None,
    intervals: Tensor | None = None,
    batch: int | None = None,
    device: torch.device | None = None,
) -> Visibility:
    """Build the mask of `queries` rows that stand at the end of `keys` columns.

    Args:
        queries, keys: T and S; the queries are the last T of the S positions, so a cache of S - T keys works.
        causal: hide keys after the query.
        window: hide keys at a distance of `window` or more; the query itself counts as one.
        documents: int [B, S]. A run of equal ids is one document; a query sees only its own. -1 marks padding,
            which sees nothing and is seen by nothing.
        intervals: int64 [B or 1, T, 3]: of each query the first key it sees, the end of those it sees, and its place
            among the keys, which is the same in every sequence. What lies beyond the keys counts as their end.
        batch: B, where documents must have as many rows.
        device: of the tensors that are masked, where documents must lie too.

    Raises:
        AttentionError: more queries than keys, a window that is no whole number from 1 on, documents or intervals of
            the wrong shape, type or device, or both.
    """
    if intervals is not None and documents is not None:
        raise AttentionError("give documents or intervals, not both")
    if queries > keys and intervals is None:
        raise AttentionError(f"{queries} queries need at least as many keys, got {keys}")
    check_flag("causal", causal)
    check_window(window)
    if documents is not None:
        check_documents(documents, batch, keys, device)
    if window is not None:
        window = min(window, FURTHEST)
    chosen = intervals is not None
    if intervals is None:
        position = torch.arange(keys - queries, keys, device=device)
        first = position.new_zeros(1, queries)
        last = (position + 1)[None] if causal else position.new_full((1, queries), keys)
    else:
        check_intervals(intervals, batch, queries, device)
        position = intervals[0, :, 2].contiguous()
        first, last = (intervals[..., edge].clamp(0, keys) for edge in (0, 1))
    if documents is not None:
        first, last = (edge[:, keys - queries :] for edge in _document_edges(documents, keys))
    if causal and (chosen or documents is not None):
        last = torch.minimum(last, position + 1)
    if window is not None:
        first = torch.maximum(first, position - window + 1)
        last = last if causal else torch.minimum(last, position + window)
    if documents is not None:
        padding = documents[:, keys - queries :] < 0
        first, last = first.masked_fill(padding, 0), last.masked_fill(padding, 0)
    if chosen:
        # A place beyond the keys may have its whole window there.
        first = first.clamp(max=keys)
        last = torch.maximum(last, first)
    return Visibility(
        first.contiguous(), last.contiguous(), position, keys, causal, window, documents, chosen
    )


def spans(documents: Tensor | None, batch: int, keys: int) -> Iterator[tuple[int, int, int]]:
    """Sequence, first position and end of every document, padding left out."""
    if documents is None:
        yield from ((sequence, 0, keys) for sequence in range(batch))
        return
    for sequence, ids in enumerate(documents):
        values, counts = (x.tolist() for x in ids.unique_consecutive(return_counts=True))
        stop = 0
        for value, count in zip(values, counts, strict=True):
            start, stop = stop, stop + count
            if value >= 0:
                yield sequence, start, stop


def _document_edges(documents: Tensor, keys: int) -> tuple[Tensor, Tensor]:
    """First key and end of the run of equal ids that each position stands in, int64 [B, S]."""
    position = torch.arange(keys, device=documents.device)
    boundary = documents[:, 1:] != documents[:, :-1]
    edge = torch.ones_like(documents[:, :1], dtype=torch.bool)
    starts = torch.cat([edge, boundary], 1)
    ends = torch.cat([boundary, edge], 1)
    first = position.where(starts, 0).cummax(1).values
    last = (position + 1).where(ends, keys).flip(1).cummin(1).values.flip(1)
    return first, last
