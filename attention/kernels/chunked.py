"""Chunk scans in pure PyTorch, on any device: cost and memory linear in length wherever the state is bounded.

Documents of any lengths are cut into chunks, which are laid out as packed sequences are: the first chunks of all
documents, longest document first, then all second chunks, and so on. Whatever belongs to chunks is computed for all of
them at once; the loop over chunks does nothing but update states. Gradients are autograd's.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from attention.core.errors import AttentionError
from attention.core.inputs import AttentionInputs
from attention.core.masks import Tile, spans
from attention.core.modes import EVERY
from attention.forms.chunked import Chunked, Recurrence, RecurrentState, State
from attention.forms.composite import Mixture
from attention.kernels import dense
from attention.kernels.kernel import Kernel
from attention.kernels.tiled import BUDGET, Block

PORTION = 1 << 20
"""Numbers that the weights of a portion of chunks have at most: with what is made of them, what a CPU's caches hold."""


@torch.compiler.disable(reason="the layout depends on the documents' lengths; the model around it compiles")
def attend(inputs: AttentionInputs) -> Tensor:
    """Outputs [B, T, H, Dv]."""
    recurrence = mechanism_of(inputs).recurrence(inputs.scores)
    if not inputs.visible.causal:
        return _whole(inputs, recurrence)
    batch, keys = inputs.value.shape[:2]
    layout = Layout.of(inputs.visible.documents, batch, keys, mechanism_of(inputs).chunk)
    return scan(inputs, recurrence, layout)[0]


def mechanism_of(inputs: AttentionInputs) -> Chunked:
    """The mechanism of a call, which `refuses` has let through."""
    assert isinstance(inputs.mechanism, Chunked)
    return inputs.mechanism


@dataclass(frozen=True)
class Layout:
    """The place of each position among the chunks, and the way back.

    Attributes:
        place: int64 [chunks, C], position in the flattened [B * S]; -1 behind the end of a document.
        slot: int64 [B * S], its inverse; -1 at padding.
        active: how many documents have a first, second, ... chunk.
        order: int64 [documents], which document comes how-manieth in every step, documents being counted in the
            order of `masks.spans`.
    """

    place: Tensor
    slot: Tensor
    active: list[int]
    order: Tensor

    @classmethod
    def of(
        cls, documents: Tensor | None, batch: int, keys: int, chunk: int, *, continued: bool = False
    ) -> "Layout":
        """Lay out documents int [B, S], or one per sequence; `continued`: each ends with a chunk that is not full.

        A chunk longer than the text is cut to it, or its padding would be what memory goes to.
        """
        chunk = min(chunk, keys + 1)
        device = None if documents is None else documents.device
        if documents is None:
            documents = torch.zeros(1, keys, dtype=torch.int64, device=device).expand(batch, -1)
        position = torch.arange(keys, device=device)
        begins = pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
        real = documents >= 0
        offset = position - position.where(begins, 0).cummax(1).values
        document = (begins & real).flatten().cumsum(0).sub_(1)[real.flatten()]
        offset = offset[real]
        length = document.bincount()
        chunks = length // chunk + 1 if continued else -(-length // chunk)
        order = chunks.argsort(descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=device))
        ended = chunks.bincount().cumsum(0)[:-1] if len(chunks) else chunks
        active = len(chunks) - ended
        number = (active.cumsum(0) - active)[offset // chunk] + rank[document]
        slot = torch.full((batch * keys,), -1, device=device)
        slot[real.flatten()] = number * chunk + offset % chunk
        place = torch.full((int(active.sum()) * chunk,), -1, device=device)
        place[slot[real.flatten()]] = real.flatten().nonzero()[:, 0]
        return cls(place.view(-1, chunk), slot, active.tolist(), order)

    def queries(self, batch: int, keys: int, queries: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `place` and `slot` for the last `queries` positions only, after which chunks have any."""
        if queries == keys:
            return torch.arange(len(self.place), device=self.place.device), self.place, self.slot
        sequence, position = self.place // keys, self.place % keys - (keys - queries)
        place = (sequence * queries + position).where((self.place >= 0) & (position >= 0), -1)
        chosen = (place >= 0).any(1).nonzero()[:, 0]
        place = place[chosen]
        real = (place.flatten() >= 0).nonzero()[:, 0]
        slot = torch.full((batch * queries,), -1, device=place.device)
        slot[place.flatten()[real]] = real
        return chosen, place, slot


class _Move(torch.autograd.Function):
    """x[index], zero where the index is -1; no two entries of an index are the same, so its gradient moves back."""

    @staticmethod
    def forward(x: Tensor, index: Tensor, back: Tensor) -> Tensor:
        if len(x) == 0:
            return x.new_zeros(len(index), *x.shape[1:])
        out = x.index_select(0, index.clamp(min=0))
        return out.index_fill_(0, (index < 0).nonzero()[:, 0], 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        index, back = ctx.saved_tensors
        return _Move.apply(grad.contiguous(), back, index), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        index, back = ctx.saved_tensors
        return _Move.apply(tangent, index, back)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, index: Tensor, back: Tensor) -> tuple[Tensor, int]:
        return _Move.apply(x.movedim(in_dims[0], 1), index, back), 1


def _chunks(x: Tensor, place: Tensor, slot: Tensor, n_head: int) -> Tensor:
    """[B, S, Hk, D] to [chunks, H, C, D]."""
    moved: Tensor = _Move.apply(x.flatten(0, 1), place.flatten(), slot)
    return _by_head(moved.view(*place.shape, *x.shape[2:]), n_head).contiguous()


def _by_head(x: Tensor, n_head: int) -> Tensor:
    """[B, S, Hk, D] to [B, H, S, D]."""
    group, x = n_head // x.shape[2], x.transpose(1, 2)
    return x if group == 1 else x.repeat_interleave(group, 1)


@dataclass(frozen=True)
class Past:
    """The past of documents: their number of chunks, and the state those left, in the order of `Layout.order`."""

    chunks: int = 0
    state: State = ()


def scan(
    inputs: AttentionInputs, recurrence: Recurrence, layout: Layout, past: Past = Past()
) -> tuple[Tensor, list[State]]:
    """Outputs, and the states before each step's chunks."""
    scores, value = inputs.scores, inputs.value
    batch, queries, n_head, _ = scores.query.shape
    size = _portion_size(value, n_head, layout)
    key = _chunks(scores.key, layout.place, layout.slot, n_head)
    value = pad(_chunks(value.to(key.dtype), layout.place, layout.slot, n_head), (0, 1), value=1.0)
    portions = [
        Portion(recurrence.prepare(x), v) for x, v in zip(key.split(size), value.split(size), strict=True)
    ]
    states = _states(recurrence, portions, size, layout.active, past)
    chosen, place, slot = layout.queries(batch, inputs.visible.keys, queries)
    query = _chunks(scores.query, place, slot, n_head)
    before = tuple(torch.cat(parts) for parts in zip(*states, strict=True))
    before = before if len(chosen) == len(layout.place) else tuple(x[chosen] for x in before)
    mixed = _mixed(recurrence, portions, _by_portion(chosen, size, len(portions)), query, before)
    moved = _Move.apply(mixed.to(inputs.value.dtype).transpose(1, 2).flatten(0, 1), slot, place.flatten())
    return moved.view(batch, queries, *moved.shape[1:]), states


@dataclass(frozen=True)
class Portion:
    """Chunks that are computed at once: what `prepare` made of their keys, and their values."""

    key: State
    value: Tensor

    def part(self, places: Tensor) -> "Portion":
        """Those at ascending places; no copy where they are the first ones."""
        count = len(places)
        if count == len(self.value):
            return self
        first = count == 0 or int(places[-1]) == count - 1
        chosen = slice(count) if first else places.to(self.value.device)
        return Portion(tuple(x[chosen] for x in self.key), self.value[chosen])


def _portion_size(value: Tensor, n_head: int, layout: Layout) -> int:
    """How many chunks a portion has: on a CPU no more than its caches hold, or every operation waits for memory."""
    chunks, length = layout.place.shape
    most = PORTION // (n_head * length * length) if value.device.type == "cpu" else chunks
    return max(1, min(most, chunks))


def _by_portion(places: Tensor, size: int, portions: int) -> list[Tensor]:
    """Places among all chunks, ascending, as places within each portion of `size`."""
    if portions == 1:
        return [places]
    counts = (places // size).bincount(minlength=portions).tolist()
    return [part - number * size for number, part in enumerate(places.split(counts))]


def _mixed(
    recurrence: Recurrence, portions: list[Portion], places: list[Tensor], query: Tensor, before: State
) -> Tensor:
    """Outputs of the chunks at these places of each portion, whose queries and states are given in that order."""
    counts = [len(part) for part in places]
    outputs: list[Tensor] = []
    for portion, part, asked, *state in zip(
        portions, places, *(x.split(counts) for x in (query, *before)), strict=True
    ):
        if len(part) or not outputs:
            seen = portion.part(part)
            mixed = recurrence.mix(asked, seen.key, seen.value, tuple(state))
            outputs.append(recurrence.normalise(mixed[..., :-1], mixed[..., -1:]))
    return torch.cat(outputs)


def _states(
    recurrence: Recurrence, portions: list[Portion], size: int, active: list[int], past: Past
) -> list[State]:
    """The states before each step's chunks, fewer wherever documents have ended."""
    documents = active[0] if active else 0
    key, value = portions[0].key, portions[0].value
    shapes = [x.new_empty(documents, *x.shape[1:]) for x in (*key, value)]
    fresh = recurrence.begin(tuple(shapes[:-1]), shapes[-1], past.chunks + len(active))
    first = (*past.state, *fresh[len(past.state) :])
    if len(active) < 2:
        return [first]
    edges = [0, *accumulate(active)]
    followed = torch.cat([torch.arange(edges[i], edges[i] + more) for i, more in enumerate(active[1:])])
    places = _by_portion(followed, size, len(portions))
    finished = [portion.part(part) for portion, part in zip(portions, places, strict=True) if len(part)]
    summaries = [recurrence.summarise(portion.key, portion.value) for portion in finished]
    together = tuple(torch.cat(parts) for parts in zip(*summaries, strict=True))
    return recurrence.states(first, together, active, past.chunks)


def _whole(inputs: AttentionInputs, recurrence: Recurrence) -> Tensor:
    """Without causality, documents of equal length at a time."""
    scores, visible = inputs.scores, inputs.visible
    batch, queries, n_head, _ = scores.query.shape
    missing = visible.keys - queries
    alike = defaultdict(list)
    # Where all is padding, something is computed all the same, and hidden below: every gradient exists and is zero.
    for sequence, start, stop in list(spans(visible.documents, batch, visible.keys)) or [
        (0, missing, visible.keys)
    ]:
        asked = max(start, missing)
        if asked < stop:
            alike[stop - start, stop - asked].append((sequence, start, asked - missing))
    value = inputs.value.to(scores.query.dtype)
    out = value.new_zeros(batch, queries, n_head, value.shape[-1])
    for (length, rows), members in alike.items():
        sequence, first, row = torch.tensor(members, device=value.device).T[..., None]
        seen = (sequence, first + torch.arange(length, device=value.device))
        asking = (sequence, row + torch.arange(rows, device=value.device))
        query, key, mixed = (
            _by_head(x[places], n_head)
            for x, places in ((scores.query, asking), (scores.key, seen), (value, seen))
        )
        mixed = recurrence.whole(query, key, pad(mixed, (0, 1), value=1.0))
        mixed = recurrence.normalise(mixed[..., :-1], mixed[..., -1:])
        out = out.index_put(asking, mixed.transpose(1, 2))
    return out.masked_fill((visible.count == 0)[..., None, None], 0).to(inputs.value.dtype)


def advance(inputs: AttentionInputs, state: RecurrentState) -> Tensor:
    """Outputs of a part whose keys `RecurrentState.extend` has put behind those pending; the state moves on.

    Raises:
        AttentionError: the mechanism carries no state, or sees what comes after.
    """
    reason = KERNEL.refuses(inputs)
    if reason or not inputs.visible.causal:
        raise AttentionError(
            f"a recurrent state serves causal calls of form Chunked; {reason or 'this one is not causal'}"
        )
    if inputs.vacant:
        return inputs.blank()
    mechanism = mechanism_of(inputs)
    recurrence, documents = mechanism.recurrence(inputs.scores), inputs.visible.documents
    batch, keys = inputs.value.shape[:2]
    if documents is None and keys < mechanism.chunk:
        return _within_chunk(inputs, recurrence, state)
    found = list(spans(documents, batch, keys))
    # A sequence's first document goes on where the last call ended, if `RecurrentState.extend` let it.
    firsts = {sequence: index for index, (sequence, *_) in reversed(list(enumerate(found)))}
    behind = [
        state.finished[sequence] if firsts[sequence] == i else 0 for i, (sequence, *_) in enumerate(found)
    ]
    running: list[tuple[int, int] | None] = [None] * batch
    out, final = None, list[State]()
    places: list[int] = []
    for chunks in sorted(set(behind)) or [0]:
        members = [span for span, before in zip(found, behind, strict=True) if before == chunks]
        layout = Layout.of(_only(documents, members), batch, keys, mechanism.chunk, continued=True)
        order = layout.order.tolist()
        past = Past(chunks, tuple(x[[members[i][0] for i in order]] for x in state.folded) if chunks else ())
        part, states = scan(inputs, recurrence, layout, past)
        out = part if out is None else out + part
        for rank, (sequence, start, stop) in enumerate(members[i] for i in order):
            if stop == keys:
                step, pending = divmod(stop - start, mechanism.chunk)
                running[sequence] = (chunks + step, pending)
                places.append(sequence)
                final.append(tuple(x[rank] for x in states[step]))
    state.keep(running, _together(final, places, batch), documents)
    assert out is not None
    return out


def _within_chunk(inputs: AttentionInputs, recurrence: Recurrence, state: RecurrentState) -> Tensor:
    """`advance` where one document per sequence goes on and its chunk need not end, as in most steps of decoding."""
    mechanism, scores, done = mechanism_of(inputs), inputs.scores, state.finished[0]
    batch, keys = inputs.value.shape[:2]
    n_head = scores.query.shape[2]
    query, key, value = (
        _by_head(x, n_head).contiguous()
        for x in (scores.query, scores.key, inputs.value.to(scores.query.dtype))
    )
    features, value = recurrence.prepare(key), pad(value, (0, 1), value=1.0)
    before = state.folded or recurrence.begin(features, value, 1)
    after, running = before, (done, keys)
    if mechanism.divisible:
        # Folded at once, no key has to be met again.
        after, running = recurrence.update(before, recurrence.summarise(features, value), done), (done + 1, 0)
    if mechanism.divisible and keys == 1:
        mixed = recurrence.read_state(query, after)
    else:
        mixed = recurrence.mix(query, features, value, before)
    state.keep([running] * batch, after, None)
    mixed = recurrence.normalise(mixed[..., :-1], mixed[..., -1:]).to(inputs.value.dtype)
    return mixed.transpose(1, 2).contiguous()


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


@torch.no_grad()
def blocks(inputs: AttentionInputs) -> Iterator[Block]:
    """Scores and weights of blocks of rows, the weights by the formula."""
    batch, queries, n_head, _ = inputs.scores.query.shape
    keys = inputs.visible.keys
    height = max(1, BUDGET // (batch * n_head * keys))
    for start in range(0, queries, height):
        rows = slice(start, min(start + height, queries))
        hidden = -inputs.visible.mask(rows)[:, None, None].int()
        tile = Tile(rows, slice(0, keys), ((slice(0, keys), hidden),))
        weight = dense.matrix(inputs, mechanism_of(inputs), rows)
        yield Block(tile, dense.score_matrix(inputs, rows), dense.normalised(inputs, weight, weight))


class Scan(Kernel):
    """The scan over chunks."""

    name = "chunked"
    summary = "PyTorch, a scan over chunks that carries a state, any device"
    rank = 50
    modes = EVERY

    def refuses(self, inputs: AttentionInputs) -> str | None:
        """Every other form."""
        form = inputs.mechanism.form
        return None if form is Chunked else f"it scans mechanisms of form Chunked, not {form.__name__}"

    def run(self, inputs: AttentionInputs, *, with_mass: bool = False) -> Mixture:
        """Outputs."""
        return Mixture(attend(inputs), None)


KERNEL = Scan()
