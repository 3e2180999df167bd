"""Which segments of documents lie in which row: computed once, kept in the cache where they are many."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.cache import build_once
from data.fitting import best_fit
from data.shards import Shard

MANY = 1 << 20
"""From about so many segments on, a shard of the cache is packed once for all processes, 17 bytes each."""


@dataclass(frozen=True, eq=False)
class Segments:
    """S segments in the order of their rows, R rows."""

    starts: NDArray[np.int64]
    """[S] where the first input of a segment lies in the shard."""
    sizes: NDArray[np.int32]
    """[S] its inputs, as many as its outputs."""
    given: NDArray[np.int32]
    """[S] how many of its first outputs are given."""
    closes: NDArray[np.bool_]
    """[S] whether its last output is the end of a document."""
    bounds: NDArray[np.int64]
    """[R + 1] the first segment of each row, and S."""


def pack(shard: Shard, length: int, ends: bool) -> tuple[Segments, list[int]]:
    """The rows of a shard, and how many of them each of its sources has, one after the other.

    A row holds documents of one source alone. The segments of many documents are memory-mapped from the cache.
    """
    if shard.index is None or len(shard) + int(shard.sizes.sum()) // length < MANY:
        segments, rows = _pack(shard, length, ends)
        return segments, rows.tolist()
    folder = shard.index.parent
    counts = [source.documents for source in shard.sources]
    identity = {
        "shard": f"{folder.name}/{shard.index.name}",
        "length": length,
        "ends": ends,
        "sources": counts,
    }

    def build(folder: Path) -> None:
        segments, rows = _pack(shard, length, ends)
        for field in fields(Segments):
            np.save(folder / f"{field.name}.npy", getattr(segments, field.name))
        np.save(folder / "rows.npy", rows)

    packed = build_once(folder.parent, "packed", identity, build)
    columns = {field.name: np.load(packed / f"{field.name}.npy", mmap_mode="r") for field in fields(Segments)}
    return Segments(**columns), np.load(packed / "rows.npy").tolist()


def _pack(shard: Shard, length: int, ends: bool) -> tuple[Segments, NDArray[np.int64]]:
    targets = shard.sizes - 1 + ends
    pieces = -(-targets // length)
    document = np.repeat(np.arange(len(shard)), pieces)
    offset = (np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * length
    left = targets[document] - offset
    sizes = np.minimum(length, left)
    rows, begin = np.empty(len(sizes), dtype=np.int64), 0
    count: list[int] = []
    of_source = np.searchsorted(document, np.cumsum([source.documents for source in shard.sources]))
    for end in of_source.tolist():
        rows[begin:end] = best_fit(sizes[begin:end], length) + sum(count)
        count.append(int(rows[begin:end].max(initial=sum(count) - 1)) + 1 - sum(count))
        begin = end
    order = np.argsort(rows, kind="stable")
    segments = Segments(
        (shard.starts[document] + offset)[order],
        sizes[order].astype(np.int32),
        np.clip(shard.given[document] - offset, 0, sizes)[order].astype(np.int32),
        ((left <= length) & ends)[order],
        np.concatenate([[0], np.cumsum(np.bincount(rows))]),
    )
    return segments, np.array(count)
