"""A text in parts: what a chunked mechanism keeps between calls, instead of all keys and values."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from attention.arguments import check_documents
from attention.chunked import State
from attention.errors import AttentionError
from attention.kernels import chunked
from attention.kernels.chunked import Layout, Past
from attention.kernels.modes import asked
from attention.kernels.problem import Problem
from attention.masks import spans
from attention.mechanism import Mechanism


@dataclass
class Memory:
    """What a chunked mechanism keeps of a text between calls: states, and keys and values of the unfinished chunks.

    Give one memory to `attend` with each part of a text, in order, under `torch.no_grad()`.
    """

    mechanism: Mechanism | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    state: State = ()
    documents: list[int] | None = None
    pending: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(x.nbytes for x in (*self.state, self.key, self.value) if x is not None)

    def copy(self) -> "Memory":
        """Another memory of the same text."""
        return replace(self, pending=list(self.pending), finished=list(self.finished))

    def become(self, other: "Memory") -> None:
        """Take over what another one holds."""
        vars(self).update(vars(other))

    def extend(
        self, mechanism: Mechanism, key: Tensor, value: Tensor, documents: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Append keys and values [B, T, Hk, D] of a part; returns them and its documents behind what is pending.

        Raises:
            AttentionError: a gradient is wanted, another mechanism, batch size, head, type or device than before,
                documents for one part and not for another.
        """
        if key.requires_grad or value.requires_grad or asked((key, value)):
            raise AttentionError("a memory carries no gradient; call attend under torch.no_grad()")
        if documents is not None:
            check_documents(documents, len(key), key.shape[1], key.device)
            documents = documents.long()
        if self.key is None or self.value is None:
            self.mechanism = mechanism
            self.key, self.value = key[:, :0], value[:, :0]
            self.documents = None if documents is None else [-1] * len(key)
            self.pending, self.finished = [0] * len(key), [0] * len(key)
        if len(key) != len(self.key):
            raise AttentionError(f"the memory holds a batch of {len(self.key)}, got one of {len(key)}")
        if mechanism != self.mechanism:
            raise AttentionError(f"the memory was begun by {self.mechanism}, not by {mechanism}")
        for name, part, held in (("key", key, self.key), ("value", value, self.value)):
            if (part.shape[2:], part.dtype, part.device) != (held.shape[2:], held.dtype, held.device):
                raise AttentionError(
                    f"the memory holds a {name} of {held.dtype} {list(held.shape[2:])} on {held.device}, got "
                    f"{part.dtype} {list(part.shape[2:])} on {part.device}"
                )
        if (documents is None) != (self.documents is None):
            raise AttentionError("give documents for every call on one memory, or for none")
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
        self.key, self.value, self.state = self.key[:, start:].clone(), self.value[:, start:].clone(), state
        self.documents = None if documents is None else documents[:, -1].tolist()


@torch.compiler.disable(reason="the layout depends on the documents' lengths")
def resume(problem: Problem, memory: Memory) -> Tensor:
    """Outputs of the queries of a part whose keys `Memory.extend` has put behind those pending; the memory moves on.

    Raises:
        AttentionError: the mechanism carries no state, or sees what comes after.
    """
    reason = chunked.refuses(problem)
    if reason or not problem.visible.causal:
        raise AttentionError(
            f"a memory serves causal calls of form Chunked; {reason or 'this one is not causal'}"
        )
    if problem.vacant:
        return problem.blank()
    mechanism = chunked.mechanism_of(problem)
    recurrence, documents = mechanism.recurrence(problem.scores), problem.visible.documents
    batch, keys = problem.value.shape[:2]
    found = list(spans(documents, batch, keys))
    # A sequence's first document goes on where the last call ended, if `Memory.extend` let it.
    firsts = {sequence: index for index, (sequence, *_) in reversed(list(enumerate(found)))}
    behind = [
        memory.finished[sequence] if firsts[sequence] == i else 0 for i, (sequence, *_) in enumerate(found)
    ]
    running: list[tuple[int, int] | None] = [None] * batch
    out, final = None, list[State]()
    places: list[int] = []
    for chunks in sorted(set(behind)) or [0]:
        members = [span for span, before in zip(found, behind, strict=True) if before == chunks]
        layout = Layout.of(_only(documents, members), batch, keys, mechanism.chunk, continued=True)
        order = layout.order.tolist()
        past = Past(chunks, tuple(x[[members[i][0] for i in order]] for x in memory.state) if chunks else ())
        part, states = chunked.scan(problem, recurrence, layout, past)
        out = part if out is None else out + part
        for rank, (sequence, start, stop) in enumerate(members[i] for i in order):
            if stop == keys:
                step, pending = divmod(stop - start, mechanism.chunk)
                running[sequence] = (chunks + step, pending)
                places.append(sequence)
                final.append(tuple(x[rank] for x in states[step]))
    memory.keep(running, _together(final, places, batch), documents)
    assert out is not None
    return out


def _only(documents: Tensor | None, members: list[tuple[int, int, int]]) -> Tensor | None:
    """The documents at these places, all else as padding."""
    if documents is None:
        return None
    ids = torch.full_like(documents, -1)
    for number, (sequence, start, stop) in enumerate(members):
        ids[sequence, start:stop] = number
    return ids


def _together(states: list[State], places: list[int], batch: int) -> State:
    """States of some sequences as [B, ...], zeros for the others and for what a state lacks."""
    if not states:
        return ()
    longest = max(states, key=len)
    together = tuple(x.new_zeros(batch, *x.shape) for x in longest)
    for place, state in zip(places, states, strict=True):
        for whole, x in zip(together, state, strict=False):
            whole[place] = x
    return together
