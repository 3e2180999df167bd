"""Which documents are duplicates, which are held out, and which part of a single one.

Documents are known by sha256 digests, four big-endian integers each, in parts that lie on disk. They are gone through
in buckets of equal first bits: memory is that of about `BUCKET` documents, and a few bytes for each of
all.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError

DIGEST = np.dtype((">u8", 4))
BUCKET = 1 << 21
"""Documents that are sorted at once, at about 100 bytes each."""


def check(held_out: float) -> None:
    """DataError: not a fraction that leaves something on both sides."""
    if not 0 < held_out < 1:
        raise DataError(f"held_out is {held_out}; as the fraction of documents it must be between 0 and 1")


def chance(unit: str, seed: int) -> bytes:
    """The digest by which a unit takes its place in its stratum."""
    return hashlib.sha256(f"{seed}:{unit}".encode()).digest()


def duplicates(digests: Sequence[NDArray[np.uint64]]) -> NDArray[np.bool_]:
    """Marks the documents whose digest, [n, 4] in parts, an earlier one has."""
    marked = np.zeros(sum(map(len, digests)), dtype=bool)
    for documents, sorted_digests in _buckets(digests, ~marked):
        marked[documents[1:][_repeats(sorted_digests)]] = True
    return marked


def hold_out(
    chances: Sequence[NDArray[np.uint64]],
    strata: Sequence[NDArray[np.int32]],
    names: Sequence[str],
    kept: NDArray[np.bool_],
    fraction: float,
) -> NDArray[np.bool_]:
    """Marks the held-out ones, [n], of n documents that have each a unit and a stratum and of which some are `kept`.

    A unit, known by its `chance`, is held out as a whole. Units are ordered by the name of their stratum, that of their
    first document, then by chance, and evenly spaced ones are taken: every stratum gives its share, and which of its
    units it gives is chance. At least one unit lands on either side. DataError: there is only one.
    """
    places = np.argsort(np.argsort(np.array(names, dtype=object), kind="stable")).astype(np.int64)
    stratum_of = np.concatenate(strata)
    sizes = np.zeros(len(names), dtype=np.int64)
    for documents, digests in _buckets(chances, kept):
        first = np.concatenate([[True], ~_repeats(digests)])
        sizes += np.bincount(places[stratum_of[documents[first]]], minlength=len(names))
    total = int(sizes.sum())
    if total < 2:
        raise DataError(
            f"all {kept.sum()} documents of the corpus go together: nothing is left to train on if one is held out"
        )
    count = min(max(1, round(fraction * total)), total - 1)
    chosen = ((np.arange(count) + 0.5) * total / count).astype(np.int64)
    before = np.cumsum(sizes) - sizes
    marked = np.zeros(len(kept), dtype=bool)
    for documents, digests in _buckets(chances, kept):
        first = np.concatenate([[True], ~_repeats(digests)])
        place = places[stratum_of[documents[first]]]
        inside = np.bincount(place, minlength=len(names))
        by_stratum = np.argsort(place, kind="stable")
        ranks = np.empty(len(place), dtype=np.int64)
        ranks[by_stratum] = np.arange(len(place)) + (before - np.cumsum(inside) + inside)[place[by_stratum]]
        before += inside
        held = chosen[np.minimum(np.searchsorted(chosen, ranks), count - 1)] == ranks
        marked[documents] = held[np.cumsum(first) - 1]
    return marked


def _buckets(
    digests: Sequence[NDArray[np.uint64]], kept: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
    """The numbers of the kept documents and their digests, sorted by digest, those of one digest by number."""
    bits = max(0, (len(kept) - 1) // BUCKET).bit_length()
    for bucket in range(1 << bits):
        numbers, found, begin = [], [], 0
        for part in digests:
            inside = (part[:, 0] >> 1 >> (63 - bits) == bucket) & kept[begin : begin + len(part)]
            numbers.append(inside.nonzero()[0] + begin)
            found.append(part[inside].astype(np.uint64))
            begin += len(part)
        documents, values = np.concatenate(numbers), np.concatenate(found)
        if len(documents):
            order = np.lexsort(values.T[::-1])
            yield documents[order], values[order]


def _repeats(digests: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """[n - 1], whether a digest is that of the one before."""
    return (digests[1:] == digests[:-1]).all(axis=1)


def split_text(text: str, fraction: float) -> tuple[str, str]:
    """A single text in two: what is trained on, and about `fraction` of it, the end, that is held out.

    The cut is behind a line, else behind a word, where one ends in the last part before the place. DataError: either
    part would hold nothing.
    """
    place = min(max(1, round(len(text) * (1 - fraction))), len(text) - 1)
    first = place - int(len(text) * min(fraction, 1 - fraction) / 2)
    ends = [text.rfind(mark, max(0, first), place) + 1 for mark in ("\n", " ")]
    cut = next(filter(None, ends), place)
    if not (text[:cut].strip() and text[cut:].strip()):
        raise DataError("the corpus is a single document, too short to hold its end out")
    return text[:cut], text[cut:]
