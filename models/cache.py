"""The cache of keys and values for generation: what was computed for earlier positions is not computed again.

A windowed layer keeps only the keys its next query can still see, so its memory does not grow with the text.
"""

import torch
from torch import Tensor

from models.config import Architecture
from models.errors import ModelError

_FIRST_ALLOCATION = 256


class Tail:
    """The end of a growing sequence [B, S, ...]: its last `limit` positions, or all of them (None)."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.buffer: Tensor | None = None
        self.start = 0
        self.stop = 0

    def extend(self, new: Tensor) -> Tensor:
        """Append [B, T, ...]; returns the kept positions, then the new ones, valid until the next call."""
        if new.requires_grad:
            raise ModelError("a cache carries no gradient; call the model under torch.no_grad()")
        if self.buffer is None:
            self.buffer = self._allocate(new, _FIRST_ALLOCATION if self.limit is None else 2 * self.limit)
        if new.shape[0] != self.buffer.shape[0]:
            raise ModelError(f"the cache holds a batch of {self.buffer.shape[0]}, got one of {new.shape[0]}")
        length = self.stop - self.start + new.shape[1]
        if self.stop + new.shape[1] > self.buffer.shape[1]:
            if self.limit is not None and length > self.buffer.shape[1]:
                return self._replace(new)
            self._make_room(length)
        whole = self.buffer[:, self.start : self.stop + new.shape[1]]
        whole[:, self.stop - self.start :] = new
        self._keep(self.stop + new.shape[1])
        return whole

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return 0 if self.buffer is None else self.buffer.nbytes

    def _replace(self, new: Tensor) -> Tensor:
        """Take a chunk that is longer than the buffer of a limited tail."""
        assert self.buffer is not None and self.limit is not None
        whole = torch.cat([self.buffer[:, self.start : self.stop], new], dim=1)
        self.start, self.stop = 0, self.limit
        self.buffer[:, : self.limit] = whole[:, whole.shape[1] - self.limit :]
        return whole

    def _make_room(self, length: int) -> None:
        """Bring the kept positions to the front; an unlimited tail grows its buffer if that is too little."""
        assert self.buffer is not None
        kept = self.buffer[:, self.start : self.stop]
        if length > self.buffer.shape[1]:
            self.buffer = self._allocate(self.buffer, max(2 * self.buffer.shape[1], length))
        else:
            kept = kept.clone()
        self.buffer[:, : kept.shape[1]] = kept
        self.start, self.stop = 0, kept.shape[1]

    def _keep(self, stop: int) -> None:
        self.stop = stop
        if self.limit is not None:
            self.start = max(self.start, stop - self.limit)

    @staticmethod
    def _allocate(like: Tensor, positions: int) -> Tensor:
        return like.new_empty(like.shape[0], positions, *like.shape[2:])


class LayerCache:
    """Keys and values [B, S, Hk, D] of one layer; of the last `window` positions where it has a window."""

    def __init__(self, window: int | None) -> None:
        limit = None if window is None else window - 1
        self.keys = Tail(limit)
        self.values = Tail(limit)

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys (after RoPE) and values of new positions; returns all that the new queries may see."""
        return self.keys.extend(key), self.values.extend(value)


class KVCache:
    """What generation keeps between calls of `model(tokens, cache=cache)`, made by `KVCache(model.config)`.

    Feeding a text in chunks of any size gives the logits of one full pass. The cache grows as it is filled; a
    windowed layer stays at twice its window. Use it under `torch.no_grad()`.

    Attributes:
        length: positions seen so far.
        layers: one `LayerCache` per layer.
    """

    def __init__(self, config: Architecture) -> None:
        windows = [plan.window for plan in config.layers()]
        self.length = 0
        self.layers = [LayerCache(window) for window in windows]
        longest = None if None in windows else max(window for window in windows if window is not None) - 1
        self._documents = Tail(longest)
        self._has_documents = False

    @property
    def nbytes(self) -> int:
        """Memory held by keys and values, in bytes."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)

    def extend_documents(self, documents: Tensor | None) -> Tensor | None:
        """Append the document ids [B, T] of new positions; returns them behind those still kept.

        Raises:
            ModelError: ids were given for one part of a text and not for another.
        """
        if self.length and self._has_documents != (documents is not None):
            raise ModelError("give documents for every call on one cache, or for none")
        self._has_documents = documents is not None
        return None if documents is None else self._documents.extend(documents)
