"""SOFT through landmarks: a Gaussian kernel of low rank, as published without a mask, and in three causal forms.

kappa(x, y) = exp(-|x - y|^2 / 2) on sqrt(beta_h) x / |x|: exp(-beta_h (1 - cos(q, k))), beta_h learned per head, 2 at
the start. M are landmarks, A = kappa(M, M) + ridge I, Y their coefficients.

    out_i = kappa(q_i, M) A^-1 kappa(M, K) V                                       not causal: M pooled from all keys
    out_i = sum_{j <= i in i's chunk} kappa(q_i, k_j) v_j + kappa(q_i, M) Y        causal: M, Y of finished chunks

    blocks     a finished chunk b leaves M_b, pooled from its keys, and Y_b = A_b^-1 kappa(M_b, K_b) V_b. Two neighbours
               that summarise equally many chunks merge into one: M pooled from both, Y = A^-1 sum kappa(M, M_b) Y_b.
               Cost T log T, state log T. With `summaries`, only so many last chunks are read and none merges.
    global     M learned per head; Y = A^-1 sum of kappa(M, K_b) V_b. Cost T, constant state.
    streaming  one set of landmarks, chosen anew from the old and each finished chunk (pivoted Cholesky); Y moves to
               them as in a merge. Cost T, constant state; every move loses something.

Paper: Lu et al., "SOFT: Softmax-free Transformer with Linear Complexity", arXiv 2110.11945, and "Softmax-free Linear
Transformers", arXiv 2207.03341 (SOFT++): vision models without a mask. Queries are keys, landmarks are few, the inverse
comes from Newton-Raphson. SOFT++ normalises the landmarks' matrix by its row sums.

Published code: Landmarks are GELU(LayerNorm(a strided convolution of the scaled queries)), not tokens, so that nothing
approximates the kernel; a depthwise convolution of the values is added; the last stage of every released model is
softmax. Newton runs 20 steps on A with a ridge of 0.01, and its gradient is that of the exact inverse, which the
steps have not reached where landmarks are close together. SOFT++'s class cannot be constructed.

Here: `attend(causal=False)` is the published form with pooled landmarks; `norm="none"` is SOFT, "symmetric" SOFT++ and
`normalise=False` the published scale, exp(-beta |q - k|^2 / 2 sqrt(d)) with beta 1 at the start. The landmarks of
images are `ConvolutionalLandmarks`, for `nystrom` (`attention/core/lowrank.py`); the convolution of values is the
block's business. The inverse is a Cholesky factorisation with a ridge, whose gradient is exact; `inverse="newton"` runs
30 steps and refuses to go on where they have not converged. The causal forms are this project's: no paper has them.
Queries and keys are untied, unless the block ties them. `norm="row"` divides by the row's sum, as language models need.

Beware: What is far is smooth: at beta 2 sixteen landmarks keep 80 % of a block of 64 keys, at 8 a third. Sharp
retrieval must come from the own chunk or from other layers. Far weights may be negative, and with untied queries their
sum, too: the divisor is held above 1e-3. Rotary positions scatter keys and cost accuracy, most for "global".
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad, softplus

from attention.core.call import Call
from attention.core.errors import AttentionError, nearest
from attention.core.lowrank import INVERSES, bridge, distance, gaussian, inverse_softplus, pivots, pool
from attention.core.masks import Visibility
from attention.core.mechanism import Bounds
from attention.core.registry import register
from attention.core.scores import Scores
from attention.forms.chunked import Chunked, Recurrence, State, later

FORMS = ("blocks", "global", "streaming")
NORMS = ("row", "none", "symmetric")
SMALLEST_MASS = 1e-3
SMALLEST_NORM = 1e-6
"""Shorter vectors are not brought to length one, so that a zero vector's gradient stays finite in half precision."""


@register
@dataclass(frozen=True)
class SoftLowRank(Chunked):
    """Exact within a chunk, kappa(q, M) Y beyond it.

    Args:
        far: "blocks", "global" or "streaming"; without causality all three are the published form.
        chunk: keys that a query may see exactly, itself included.
        landmarks: of a finished chunk, of a head (global, streaming), of a document (not causal).
        summaries: of "blocks": how many last chunks are read, unmerged; None for all, merged.
        norm: "row", "none", or, not causal, "symmetric".
        normalise: bring queries and keys to length one.
        ridge: added to the diagonal of kappa(M, M).
        inverse: "cholesky" or "newton".
    """

    name: ClassVar[str] = "soft_lowrank"
    formula: ClassVar[str] = (
        "κ(q, k) in the chunk, κ(q, M) (κ(M, M) + λ)⁻¹ κ(M, k) beyond  [/ Σ],  κ = exp(−β (1 − cos))"
    )
    paper: ClassVar[str] = "Lu et al. 2021, arXiv 2110.11945 (causal forms: this project's)"
    variants: ClassVar[tuple[dict[str, Any], ...]] = (
        {"chunk": 8, "landmarks": 4},
        {"chunk": 8, "landmarks": 4, "summaries": 2, "norm": "none", "inverse": "newton"},
        {"far": "global", "chunk": 16, "landmarks": 8},
        {"far": "streaming", "chunk": 16, "landmarks": 8, "normalise": False},
    )

    far: str = "blocks"
    chunk: int = 64
    landmarks: int = 16
    summaries: int | None = None
    norm: str = "row"
    normalise: bool = True
    ridge: float = 1e-2
    inverse: str = "cholesky"

    def __post_init__(self) -> None:
        for what, chosen, known in (
            ("far", self.far, FORMS),
            ("norm", self.norm, NORMS),
            ("inverse", self.inverse, INVERSES),
        ):
            if chosen not in known:
                raise AttentionError(f"unknown {what} {chosen!r}{nearest(chosen, known)}")
        self._check_chunk()
        if self.landmarks < 1:
            raise AttentionError(f"soft_lowrank needs at least 1 landmark, got {self.landmarks}")
        if self.far != "global" and self.chunk % self.landmarks:
            raise AttentionError(
                f"a chunk of {self.chunk} keys cannot be divided among {self.landmarks} landmarks; "
                "give a multiple"
            )
        if self.summaries is not None and (self.far != "blocks" or self.summaries < 1):
            raise AttentionError(
                f'summaries must be at least 1 and belong to far="blocks", got {self.summaries} with {self.far!r}'
            )
        self._check_state(landmarks=self.landmarks, summaries=self.summaries)
        if not self.ridge > 0:
            raise AttentionError(f"soft_lowrank's ridge must be above 0, got {self.ridge}")

    @property
    def bounds(self) -> Bounds:  # type: ignore[override]
        """Far weights may be negative, and so may their sum, of which `norm="row"` makes one at most."""
        most = 1.0 if self.norm == "row" else math.inf
        return Bounds(weight=(-math.inf, math.inf), mass=(-math.inf, most))

    def refuses(self, visible: Visibility) -> str | None:
        """Also the symmetric normalisation of a causal form."""
        if self.norm == "symmetric" and visible.causal:
            return 'has norm="symmetric" without causality only; call it with causal=False'
        return super().refuses(visible)

    def initial_values(self, n_head: int, head_dim: int) -> dict[str, Tensor]:
        """`sharpness` [H], beta = softplus(sharpness); with far="global" `landmarks` [H, m, D], random at the start."""
        sharpness = inverse_softplus(2.0 if self.normalise else 1.0)
        found = {"sharpness": torch.full((n_head,), sharpness)}
        if self.far == "global":
            generator = torch.Generator().manual_seed(0)
            found["landmarks"] = torch.randn(n_head, self.landmarks, head_dim, generator=generator)
        return found

    def scores(self, query: Tensor, key: Tensor, call: Call) -> Scores:
        """sqrt(beta_h) x / |x|, or sqrt(beta_h) x / d^(1/4); keys for every query head, since beta_h differs."""
        self._refuse_scale(call.scale)
        wide = torch.promote_types(query.dtype, torch.float32)
        root = softplus(call.params["sharpness"].to(wide)).sqrt()[:, None]
        key = key.to(wide).repeat_interleave(query.shape[2] // key.shape[2], 2)
        landmarks = None
        if "landmarks" in call.params:
            landmarks = self._scaled(call.params["landmarks"].to(wide), root[:, None])
        return _Scores(self._scaled(query.to(wide), root), self._scaled(key, root), landmarks=landmarks)

    def _scaled(self, x: Tensor, root: Tensor) -> Tensor:
        return root * (
            normalize(x, dim=-1, eps=SMALLEST_NORM) if self.normalise else x * x.shape[-1] ** -0.25
        )

    def recurrence(self, scores: Scores) -> Recurrence:
        """That of the chosen form."""
        if self.far == "global":
            return _Global(self, scores.landmarks)  # type: ignore[attr-defined]
        return _Blocks(self) if self.far == "blocks" else _Streaming(self)


@dataclass(frozen=True)
class _Scores(Scores):
    """With the landmarks [H, m, D] of the global form."""

    landmarks: Tensor | None = None


@dataclass(frozen=True)
class _LowRank(Recurrence):
    """The part that the three forms share: pairs (M, Y) that a query reads beside its own chunk."""

    of: SoftLowRank

    def normalise(self, mixed: Tensor, mass: Tensor) -> Tensor:
        """Over the mass, held above SMALLEST_MASS: it may be small or negative where far weights are."""
        return mixed / mass.clamp(min=SMALLEST_MASS) if self.of.norm == "row" else mixed

    def solve(self, right: Tensor, landmarks: Tensor) -> Tensor:
        """(kappa(M, M) + ridge)^-1 right."""
        return bridge(right, landmarks, self.of.ridge, self.of.inverse)

    def summary(self, landmarks: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Y = A^-1 kappa(M, K) V."""
        return self.solve(gaussian(landmarks, key) @ value, landmarks)

    def read(
        self, query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, coefficients: Tensor
    ) -> Tensor:
        """The chunk's own keys as far as they are past, and all landmarks, in one product."""
        points, values = torch.cat([key, landmarks], -2), torch.cat([value, coefficients], -2)
        score = distance(query, points)
        hidden = later(query.shape[-2], key.shape[-2], score.device)
        score[..., : key.shape[-2]].masked_fill_(hidden, -torch.inf)
        return score.exp_() @ values

    def whole(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """kappa(Q, M) A^-1 kappa(M, K) V."""
        landmarks = self.landmarks_of(key)
        right = gaussian(landmarks, key) @ value
        symmetric = self.of.norm == "symmetric"
        bridged = bridge(right, landmarks, self.of.ridge, self.of.inverse, symmetric)
        return gaussian(query, landmarks) @ bridged

    def landmarks_of(self, key: Tensor) -> Tensor:
        """Return the landmarks of a whole document."""
        return pool(key, self.of.landmarks)

    def matrix(self, query: Tensor, key: Tensor, position: Tensor, causal: bool) -> Tensor:
        """The formula, a chunk of queries after the other."""
        length, chunk = key.shape[-2], self.of.chunk
        unit = torch.eye(length, dtype=key.dtype, device=key.device)
        if not causal:
            return self.whole(query, key, unit)
        column = torch.arange(length, device=key.device)
        seen = (column // chunk == position[:, None] // chunk) & (column <= position[:, None])
        weight = gaussian(query, key) * seen
        index = position // chunk
        rows = []
        for number, (landmarks, given) in enumerate(self.expansions(key, int(index[-1]))):
            here = weight[:, index == number]
            if here.shape[1]:
                far = gaussian(query[:, index == number], landmarks) @ given
                here = here + pad(far, (0, length - given.shape[-1]))
            rows.append(here)
        return torch.cat(rows, 1)

    def expansions(self, key: Tensor, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """For the chunks up to number `last`: the landmarks that each reads, and what they give to keys [H, m, L]."""
        raise NotImplementedError

    def _chunk(self, key: Tensor, index: int) -> Tensor:
        return key[:, index * self.of.chunk : (index + 1) * self.of.chunk]


@dataclass(frozen=True)
class _Blocks(_LowRank):
    """State: M and Y of 1, 2, 4, ... chunks, zeros where there is none; or of the last chunks."""

    def begin(self, key: State, value: Tensor, chunks: int) -> State:
        places = self.of.summaries or max(1, (chunks - 1).bit_length())
        shape = (*key[0].shape[:2], self.of.landmarks)
        return (key[0].new_zeros(*shape, key[0].shape[-1]), value.new_zeros(*shape, value.shape[-1])) * places

    def summarise(self, key: State, value: Tensor) -> State:
        landmarks = pool(key[0], self.of.landmarks)
        return landmarks, self.summary(landmarks, key[0], value)

    def update(self, state: State, summary: State, index: int) -> State:
        """A binary counter: chunk `index` carries through the levels that its bits say are full."""
        if self.of.summaries:
            return (*summary, *state)[: len(state)]
        level = 0
        while index >> level & 1:
            summary = self._merge(state[2 * level : 2 * level + 2], summary)
            level += 1
        emptied = tuple(torch.zeros_like(x) for x in state[: 2 * level])
        return (*emptied, *summary, *state[2 * level + 2 :])

    def states(self, first: State, summaries: State, active: list[int], index: int) -> list[State]:
        """From a document's start, all merges of a level at once."""
        if self.of.summaries or index:
            return super().states(first, summaries, active, index)
        level = list(zip(*(x.split(active[1:]) for x in summaries), strict=True))
        levels = [level]
        while counts := active[1 << len(levels) :: 1 << len(levels)]:
            older, newer = (
                tuple(
                    torch.cat([x[:count] for x, count in zip(parts, counts, strict=False)])
                    for parts in zip(*side, strict=True)
                )
                for side in (level[::2], level[1::2])
            )
            level = list(zip(*(x.split(counts) for x in self._merge(older, newer)), strict=True))
            levels.append(level)
        states = []
        for step, count in enumerate(active):
            state = [x[:count] for x in first]
            for place in range(step.bit_length()):
                if step >> place & 1:
                    block = levels[place][(step >> place) - 1]
                    state[2 * place : 2 * place + 2] = [x[:count] for x in block]
            states.append(tuple(state))
        return states

    def _merge(self, older: State, newer: State) -> State:
        points, values = (torch.cat(both, -2) for both in zip(older, newer, strict=True))
        landmarks = pool(points, self.of.landmarks)
        return landmarks, self.summary(landmarks, points, values)

    def mix(self, query: Tensor, key: State, value: Tensor, state: State) -> Tensor:
        return self.read(query, key[0], value, torch.cat(state[::2], -2), torch.cat(state[1::2], -2))

    def expansions(self, key: Tensor, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A block of 2^level chunks per set bit of a chunk's number, the oldest first; or the last chunks."""
        known: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for index in range(last + 1):
            blocks, start = [], 0
            if self.of.summaries:
                blocks = [(chunk, 0) for chunk in range(max(0, index - self.of.summaries), index)]
            else:
                for level in reversed(range(index.bit_length())):
                    if index >> level & 1:
                        blocks.append((start, level))
                        start += 1 << level
            found = [self._expand(key, *block, known) for block in blocks]
            longest = index * self.of.chunk
            landmarks = torch.cat([key[:, :0], *(points for points, _ in found)], 1)
            given = [pad(given, (0, longest - given.shape[-1])) for _, given in found]
            yield landmarks, torch.cat([key.new_zeros(len(key), 0, longest), *given], 1)

    def _expand(
        self, key: Tensor, start: int, level: int, known: dict[tuple[int, int], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Landmarks of 2^level chunks from `start` on, and A^-1 kappa(M, keys), zero for earlier keys."""
        if (start, level) in known:
            return known[start, level]
        if level == 0:
            here = self._chunk(key, start)
            landmarks = pool(here, self.of.landmarks)
            given = pad(self.solve(gaussian(landmarks, here), landmarks), (start * self.of.chunk, 0))
        else:
            half = 1 << (level - 1)
            (older, before), (newer, after) = (
                self._expand(key, place, level - 1, known) for place in (start, start + half)
            )
            landmarks = pool(torch.cat([older, newer], -2), self.of.landmarks)
            before = pad(before, (0, after.shape[-1] - before.shape[-1]))
            right = gaussian(landmarks, older) @ before + gaussian(landmarks, newer) @ after
            given = self.solve(right, landmarks)
        known[start, level] = landmarks, given
        return landmarks, given


@dataclass(frozen=True)
class _Global(_LowRank):
    """State: sum of kappa(M, K_b) V_b."""

    points: Tensor

    def landmarks_of(self, key: Tensor) -> Tensor:
        return self.points

    def begin(self, key: State, value: Tensor, chunks: int) -> State:
        return (value.new_zeros(*value.shape[:2], self.points.shape[-2], value.shape[-1]),)

    def summarise(self, key: State, value: Tensor) -> State:
        return (gaussian(self.points, key[0]) @ value,)

    def update(self, state: State, summary: State, index: int) -> State:
        return (state[0] + summary[0],)

    def mix(self, query: Tensor, key: State, value: Tensor, state: State) -> Tensor:
        coefficients = self._inverse() @ state[0]
        points = self.points.expand(len(query), *self.points.shape)
        return self.read(query, key[0], value, points, coefficients)

    def _inverse(self) -> Tensor:
        size = self.points.shape[-2]
        unit = torch.eye(size, dtype=self.points.dtype, device=self.points.device)
        return self.solve(unit.expand(len(self.points), size, size), self.points)

    def expansions(self, key: Tensor, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The same landmarks for all, and the keys of finished chunks."""
        given = self.solve(gaussian(self.points, key), self.points)
        for index in range(last + 1):
            yield self.points, given[..., : index * self.of.chunk]


@dataclass(frozen=True)
class _Streaming(_LowRank):
    """State: M and Y."""

    def begin(self, key: State, value: Tensor, chunks: int) -> State:
        shape = (*key[0].shape[:2], self.of.landmarks)
        return key[0].new_zeros(*shape, key[0].shape[-1]), value.new_zeros(*shape, value.shape[-1])

    def summarise(self, key: State, value: Tensor) -> State:
        return key[0], value

    def update(self, state: State, summary: State, index: int) -> State:
        """Landmarks from the old ones and the chunk; what was known moves to them."""
        key, value = summary
        landmarks = self._choose(state[0], key, index)
        right = gaussian(landmarks, key) @ value
        if index:
            right = right + gaussian(landmarks, state[0]) @ state[1]
        return landmarks, self.solve(right, landmarks)

    def _choose(self, known: Tensor, key: Tensor, index: int) -> Tensor:
        candidates = torch.cat([known, key], -2) if index else key
        return candidates.take_along_dim(pivots(candidates, self.of.landmarks)[..., None], -2)

    def mix(self, query: Tensor, key: State, value: Tensor, state: State) -> Tensor:
        return self.read(query, key[0], value, *state)

    def expansions(self, key: Tensor, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the states after each chunk, one after the other."""
        landmarks, given = key[:, :0], key.new_zeros(len(key), 0, 0)
        for index in range(last + 1):
            yield landmarks, given
            here = self._chunk(key, index)
            if index < last:
                chosen = self._choose(landmarks, here, index)
                right = torch.cat([gaussian(chosen, landmarks) @ given, gaussian(chosen, here)], -1)
                landmarks, given = chosen, self.solve(right, chosen)
