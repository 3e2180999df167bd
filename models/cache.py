"""The cache of keys and values for generation: what was computed for earlier positions is not computed again.

A windowed layer keeps only the keys its next query can still see, so its memory does not grow with the text. A layer
whose mechanism carries a state keeps that, and the keys of the chunk that is not finished.
"""

from dataclasses import replace

import torch
from torch import Tensor

from attention import RecurrentState
from attention.forms.chunked import Chunked
from models.errors import ModelError
from models.plan import LayerPlan, Plan

_ROOM = 256
"""Positions that a cache without a limit has room for at first."""


class RollingBuffer:
    """The end of a growing sequence [B, S, ...]: its last `limit` positions, or all of them (None).

    Without a limit there is `room` at first, and twice as much whenever that is used up.
    """

    def __init__(self, limit: int | None, room: int) -> None:
        self.limit, self.room = limit, room
        self.buffer: Tensor | None = None
        self.start = 0
        self.stop = 0

    def extend(self, new: Tensor) -> Tensor:
        """Append [B, T, ...]; returns the kept positions, then the new ones, valid until the next call.

        Raises:
            ModelError: a tensor that needs a gradient, or another batch size than before.
        """
        if new.requires_grad:
            raise ModelError("a cache carries no gradient; call the model under torch.no_grad()")
        if self.buffer is None:
            self.buffer = _allocate(new, self.room if self.limit is None else 2 * self.limit)
        if new.shape[0] != self.buffer.shape[0]:
            raise ModelError(f"the cache holds a batch of {self.buffer.shape[0]}, got one of {new.shape[0]}")
        capacity, count = self.buffer.shape[1], new.shape[1]
        length = self.stop - self.start + count
        if length > capacity and self.limit is not None:
            whole = torch.cat([self.kept, new], dim=1)
            self._refill(self.buffer, whole[:, length - self.limit :])
            return whole
        if length > capacity:
            self._refill(_allocate(new, max(2 * capacity, length)), self.kept)
        elif self.stop + count > capacity:
            self._refill(self.buffer, self.kept.clone())
        self.buffer[:, self.stop : self.stop + count] = new
        whole = self.buffer[:, self.start : self.start + length]
        self.stop = self.start + length
        self.start = self.start if self.limit is None else max(self.start, self.stop - self.limit)
        return whole

    @property
    def kept(self) -> Tensor:
        """The positions [B, n, ...] that are held."""
        assert self.buffer is not None, "nothing was appended yet"
        return self.buffer[:, self.start : self.stop]

    def reorder(self, rows: Tensor) -> None:
        """Put sequences int [B] of the batch in the place of all."""
        if self.buffer is not None:
            chosen = self.buffer.index_select(0, rows)
            self.buffer = _allocate(chosen, chosen.shape[1]).copy_(chosen)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return 0 if self.buffer is None else self.buffer.nbytes

    def _refill(self, buffer: Tensor, content: Tensor) -> None:
        buffer[:, : content.shape[1]] = content
        self.buffer, self.start, self.stop = buffer, 0, content.shape[1]


def _allocate(like: Tensor, positions: int) -> Tensor:
    """Room for [B, positions, ...]; each head's vectors lie one behind the other, since a query reads them by heads."""
    batch, _, *heads = like.shape
    if not heads:
        return like.new_empty(batch, positions)
    return like.new_empty(batch, heads[0], positions, *heads[1:]).transpose(1, 2)


class LayerCache:
    """Keys and values [B, S, Hk, D] of one layer; of the last `window` positions where it has a window."""

    def __init__(self, window: int | None, room: int) -> None:
        limit = None if window is None else window - 1
        self.keys = RollingBuffer(limit, room)
        self.values = RollingBuffer(limit, room)

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys (after RoPE) and values of new positions; returns all that the new queries may see."""
        return self.keys.extend(key), self.values.extend(value)

    def reorder(self, rows: Tensor) -> None:
        """Put sequences int [B] of the batch in the place of all."""
        self.keys.reorder(rows)
        self.values.reorder(rows)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self.keys.nbytes + self.values.nbytes


class StateCache:
    """The memory of one layer whose mechanism is `Chunked`; `attend` extends it."""

    def __init__(self) -> None:
        self.state = RecurrentState()

    def reorder(self, rows: Tensor) -> None:
        """Put sequences int [B] of the batch in the place of all."""
        state, chosen = self.state, rows.tolist()
        if state.key is None or state.value is None:
            return
        self.state = replace(
            state,
            key=state.key[rows],
            value=state.value[rows],
            folded=tuple(folded[rows] for folded in state.folded),
            documents=None if state.documents is None else [state.documents[row] for row in chosen],
            pending=[state.pending[row] for row in chosen],
            finished=[state.finished[row] for row in chosen],
        )

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self.state.nbytes


def _cache_of(layer: LayerPlan, room: int) -> LayerCache | StateCache:
    return StateCache() if isinstance(layer.mechanism, Chunked) else LayerCache(layer.window, room)


class KVCache:
    """What generation keeps between calls of `model(tokens, cache=cache)`, made by `KVCache(model.plan)`.

    Feeding a text in chunks of any size gives the logits of one full pass. The cache grows as it is filled; a
    windowed layer stays at twice its window. Use it under `torch.no_grad()`.

    Args:
        plan: that of the model.
        room: positions to make room for at once, where it is known how many will come.

    Attributes:
        length: positions seen so far.
        layers: one `LayerCache` or `StateCache` per layer.
        batch: how many texts it holds; None before the first.
        has_documents: whether the positions seen so far came with document ids.
        broken: whether a forward pass has begun and not ended: some layers then hold its keys, and some do not.
    """

    def __init__(self, plan: Plan, room: int = _ROOM) -> None:
        self.length = 0
        self.layers = [_cache_of(layer, room) for layer in plan.layers]
        windows = [1 if isinstance(layer.mechanism, Chunked) else layer.window for layer in plan.layers]
        longest = None if None in windows else max(window for window in windows if window is not None) - 1
        self._documents = RollingBuffer(longest, room)
        self.batch: int | None = None
        self.has_documents = False
        self.broken = False

    @property
    def nbytes(self) -> int:
        """Memory held by keys, values and states, in bytes."""
        return sum(layer.nbytes for layer in self.layers)

    def reorder(self, rows: Tensor) -> None:
        """Put sequences int [B] of the batch in the place of all, as beam search does."""
        self.batch = None if self.batch is None else len(rows)
        for layer in self.layers:
            layer.reorder(rows)
        self._documents.reorder(rows)

    def begin(self, tokens: Tensor, documents: Tensor | None) -> Tensor | None:
        """Begin a forward pass: append the document ids [B, T] of its tokens; returns them behind those still kept.

        Raises:
            ModelError: another batch size than before, ids for one part of a text and not for another, or an earlier
                pass that did not end.
        """
        if self.broken:
            raise ModelError("an earlier forward pass with this cache did not end; begin a new cache")
        if self.batch not in (None, len(tokens)):
            raise ModelError(f"the cache holds a batch of {self.batch}, got one of {len(tokens)}")
        if self.length and self.has_documents != (documents is not None):
            raise ModelError("give documents for every call on one cache, or for none")
        self.batch, self.has_documents, self.broken = len(tokens), documents is not None, True
        return None if documents is None else self._documents.extend(documents)

    def end(self, tokens: Tensor) -> None:
        """End a forward pass."""
        self.length += tokens.shape[1]
        self.broken = False
