"""Mechanisms that carry a state from chunk to chunk instead of weighing every pair.

A document is cut into chunks of equal length, counted from its first token. Within its own chunk a query sees each key;
of what came before it sees a state, into which every finished chunk is folded:

    mixed_c = mix(query_c, key_c, value_c, state_c)          state_{c+1} = update(state_c, summarise(key_c, value_c))

The weights are still a matrix, w_ij, which `matrix` states directly and the dense kernel multiplies with the values;
but w_ij may depend on other keys than k_j, and may be negative.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from attention.core.arguments import check_documents
from attention.core.call import CallSpec
from attention.core.errors import AttentionError
from attention.core.form import form
from attention.core.masks import Visibility
from attention.core.mechanism import Mechanism
from attention.core.modes import asked
from attention.core.scores import Scores

LARGEST_STATE = 1 << 16
"""Largest state per head, in numbers: more than that is a slip, and would only be seen as memory that runs out."""

State = tuple[Tensor, ...]
"""Tensors that begin with [chunks or documents, H]."""


class Recurrence(ABC):
    """The reading and folding of chunks in one call.

    Queries and keys are those of `Scores`, heads first, [chunks, H, C, D], in float32 or float64. Values are
    [chunks, H, C, Dv + 1], and their last channel is one, so that the sum of a row's weights, its mass, comes out
    behind the mixed values. Where a document ends within a chunk, zeros stand behind it.
    """

    @abstractmethod
    def matrix(self, query: Tensor, key: Tensor, position: Tensor, causal: bool) -> Tensor:
        """The formula: weights before `normalise` of one document, zero where hidden.

        Args:
            query: [H, R, D], some rows; position: int [R], their places in the document.
            key: [H, L, D], all keys of the document.
            causal: whether keys after the query are hidden.

        Returns:
            [H, R, L].
        """

    @abstractmethod
    def normalise(self, mixed: Tensor, mass: Tensor) -> Tensor:
        """Outputs or weights [..., N] of rows, given what their weights sum to, [..., 1]."""

    def prepare(self, key: Tensor) -> State:
        """Return the features of the keys of chunks, computed once."""
        return (key,)

    @abstractmethod
    def begin(self, key: State, value: Tensor, chunks: int) -> State:
        """The state before the first chunk.

        Args:
            key, value: of as many chunks as there are documents, for shapes and dtypes.
            chunks: how many chunks the longest document has.
        """

    @abstractmethod
    def summarise(self, key: State, value: Tensor) -> State:
        """Return the addition of finished chunks to the state, of many chunks at once."""

    @abstractmethod
    def update(self, state: State, summary: State, index: int) -> State:
        """The state after a chunk, which is number `index` of its document."""

    def states(self, first: State, summaries: State, active: list[int], index: int) -> list[State]:
        """The states before the chunks of each step, the first one given.

        Args:
            first: of `active[0]` documents, which have `index` chunks behind them.
            summaries: of the chunks of each step that another follows, one step after the other.
            active: how many documents have a chunk in each step; those that end drop out from behind.
        """
        states = [first]
        steps = zip(*(x.split(active[1:]) for x in summaries), strict=True)
        for step, (count, summary) in enumerate(zip(active[1:], steps, strict=True)):
            state = states[-1] if count == active[step] else tuple(x[:count] for x in states[-1])
            states.append(self.update(state, summary, index + step))
        return states

    @abstractmethod
    def mix(self, query: Tensor, key: State, value: Tensor, state: State) -> Tensor:
        """Values mixed by the weights before `normalise`, of many chunks at once.

        Args:
            query: [chunks, H, R, D], those of the last R places of each chunk.
            key, value: of all C places.
            state: what came before the chunks.

        Returns:
            [chunks, H, R, Dv + 1].
        """

    def read_state(self, query: Tensor, state: State) -> Tensor:
        """The same where a query sees what is folded into the state, and nothing else; for a divisible mechanism."""
        raise NotImplementedError

    @abstractmethod
    def whole(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The same where a query sees its whole document: query [N, H, R, D], key [N, H, L, D]."""


@form
class Chunked(Mechanism):
    """A mechanism that is given by a `Recurrence`; its learned parameters and options decide which.

    Attributes:
        chunk: length of a chunk.
        divisible: whether the result is the same wherever chunks end, so that decoding may end one at every token;
            its recurrence can `read_state`.
    """

    chunk: int
    divisible: ClassVar[bool] = False
    takes_slopes: ClassVar[bool] = False

    @abstractmethod
    def recurrence(self, scores: Scores) -> Recurrence:
        """The recurrence for queries and keys that `scores` made."""

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        """There are none of this kind."""
        raise AttentionError(
            f"{self.name}'s weights are no function of scores; ask attention.weights for them"
        )

    def refuses(self, visible: Visibility) -> str | None:
        """A window, and intervals: what is folded into the state cannot be taken out again."""
        if visible.chosen:
            return "keeps a state of all earlier keys; it takes documents, not intervals"
        return None if visible.window is None else "keeps a state of all earlier keys; it takes no window"

    def _check_chunk(self) -> None:
        if self.chunk < 1:
            raise AttentionError(f"{self.name}'s chunk must be at least 1, got {self.chunk}")

    def _check_state(self, **sizes: int | None) -> None:
        for what, size in sizes.items():
            if size is not None and size > LARGEST_STATE:
                raise AttentionError(f"{self.name}'s {what} must be at most {LARGEST_STATE:,}, got {size}")


@dataclass
class RecurrentState:
    """A chunked mechanism keeps this of a text between calls: states, and keys and values of the unfinished chunks.

    Give one to `attend` with each part of a text, in order, under `torch.no_grad()`.
    """

    mechanism: Mechanism | None = None
    scale: float | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    folded: State = ()
    documents: list[int] | None = None
    pending: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(x.nbytes for x in (*self.folded, self.key, self.value) if x is not None)

    def copy(self) -> "RecurrentState":
        """A copy, which goes on by itself."""
        return replace(self, pending=list(self.pending), finished=list(self.finished))

    def become(self, other: "RecurrentState") -> None:
        """Take over what another one holds."""
        vars(self).update(vars(other))

    def extend(
        self, mechanism: Mechanism, key: Tensor, value: Tensor, spec: CallSpec
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Append keys and values [B, T, Hk, D] of a part; returns them and its documents behind what is pending.

        Raises:
            AttentionError: a gradient is wanted, another mechanism, scale, batch size, head, type or device than
                before, documents for one part and not for another.
        """
        documents = spec.documents
        if key.requires_grad or value.requires_grad or asked((key, value)):
            raise AttentionError("a recurrent state carries no gradient; call attend under torch.no_grad()")
        if documents is not None:
            check_documents(documents, len(key), key.shape[1], key.device)
            documents = documents.long()
        if self.key is None or self.value is None:
            self.mechanism, self.scale = mechanism, spec.scale
            self.key, self.value = key[:, :0], value[:, :0]
            self.documents = None if documents is None else [-1] * len(key)
            self.pending, self.finished = [0] * len(key), [0] * len(key)
        if len(key) != len(self.key):
            raise AttentionError(f"the state holds a batch of {len(self.key)}, got one of {len(key)}")
        if mechanism != self.mechanism:
            raise AttentionError(f"the state was begun by {self.mechanism}, not by {mechanism}")
        if spec.scale != self.scale:
            raise AttentionError(f"the state was begun with scale={self.scale}, got {spec.scale}")
        for name, part, held in (("key", key, self.key), ("value", value, self.value)):
            if (part.shape[2:], part.dtype, part.device) != (held.shape[2:], held.dtype, held.device):
                raise AttentionError(
                    f"the state holds a {name} of {held.dtype} {list(held.shape[2:])} on {held.device}, got "
                    f"{part.dtype} {list(part.shape[2:])} on {part.device}"
                )
        if (documents is None) != (self.documents is None):
            raise AttentionError("give documents for every call on one state, or for none")
        if documents is not None and self.documents is not None:
            kept = torch.full(
                (len(key), self.key.shape[1]), -1, device=documents.device, dtype=documents.dtype
            )
            firsts = documents[:, 0].tolist() if documents.shape[1] else self.documents
            for sequence, (first, last) in enumerate(zip(firsts, self.documents, strict=True)):
                if first < 0 or first != last:
                    self.pending[sequence] = self.finished[sequence] = 0
                kept[sequence, kept.shape[1] - self.pending[sequence] :] = last
            documents = torch.cat([kept, documents], 1)
        self.key, self.value = torch.cat([self.key, key], 1), torch.cat([self.value, value], 1)
        return self.key, self.value, documents

    def keep(self, running: list[tuple[int, int] | None], state: State, documents: Tensor | None) -> None:
        """Drop what has gone into the states [B, ...]: each sequence's running document has (finished chunks, tokens
        beyond them), None where padding stands last.
        """
        assert self.key is not None
        assert self.value is not None
        self.finished, self.pending = (
            list(x) for x in zip(*(pair or (0, 0) for pair in running), strict=True)
        )
        start = self.key.shape[1] - max(self.pending)
        if start:
            self.key, self.value = self.key[:, start:].clone(), self.value[:, start:].clone()
        self.folded = state
        self.documents = None if documents is None else documents[:, -1].tolist()


def later(queries: int, keys: int, device: torch.device) -> Tensor:
    """Which keys of a chunk come after its last queries, bool [R, C]."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).triu(1 + keys - queries)
