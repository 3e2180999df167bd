"""One attention problem, checked and in the shape that every kernel takes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attention.errors import AttentionError, nearest
from attention.masks import Visibility, visibility
from attention.mechanism import INFERENCE, Call, Mechanism, Moment, Scores

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Problem:
    """Scores, values and visibility of one call.

    Attributes:
        mechanism: what is computed.
        scores: queries [B, T, H, D], keys [B, S, Hk, D] and score biases.
        value: [B, S, Hk, Dv].
        visible: the mask.
        call: what else the mechanism was told.
        given: queries and keys before `scores`, for the formula.
    """

    mechanism: Mechanism
    scores: Scores
    value: Tensor
    visible: Visibility
    call: Call
    given: tuple[Tensor, Tensor]

    @property
    def operands(self) -> tuple[Tensor | float | None, ...]:
        """Everything but the mechanism, in the order in which the operators of compiled kernels take it."""
        scores, visible = self.scores, self.visible
        return (
            scores.query,
            scores.key,
            self.value,
            scores.query_bias,
            scores.key_bias,
            scores.slope,
            visible.first,
            visible.last,
            visible.position,
            scores.scale,
        )

    def split(self, size: int) -> list["Problem"]:
        """The same problem, `size` sequences at a time."""
        scores, parts = self.scores, -(-self.value.shape[0] // size)
        noises = [
            None if scores.noise is None else replace(scores.noise, first_sequence=part * size)
            for part in range(parts)
        ]
        operands = (scores.query, scores.key, self.value, scores.query_bias, scores.key_bias)
        pieces = zip(*([None] * parts if x is None else x.split(size) for x in operands), strict=True)
        return [
            Problem(
                self.mechanism,
                replace(scores, query=query, key=key, query_bias=query_bias, key_bias=key_bias, noise=noise),
                value,
                visible,
                self.call,
                given,
            )
            for (query, key, value, query_bias, key_bias), visible, noise, given in zip(
                pieces,
                self.visible.split(size, parts),
                noises,
                zip(*(x.split(size) for x in self.given), strict=True),
                strict=True,
            )
        ]


def pose(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mechanism: Mechanism,
    causal: bool = True,
    window: int | None = None,
    documents: Tensor | None = None,
    scale: float | None = None,
    params: Mapping[str, Tensor] | None = None,
    moment: Moment = INFERENCE,
) -> Problem:
    """Check a call and let the mechanism turn queries and keys into scores; arguments as for `attend`.

    Raises:
        AttentionError: shapes, dtypes, heads, mask or parameters do not fit.
    """
    _check(query, key, value)
    visible = visibility(
        query.shape[1],
        key.shape[1],
        causal=causal,
        window=mechanism.window if window is None else window,
        documents=documents,
        device=query.device,
    )
    if documents is not None and documents.shape[0] != query.shape[0]:
        raise AttentionError(f"documents hold {documents.shape[0]} sequences, the queries {query.shape[0]}")
    reason = mechanism.refuses(visible)
    if reason:
        raise AttentionError(f"{mechanism.name} {reason}")
    initial = mechanism.initial_values(*query.shape[2:])
    given = dict(params or {})
    for name in given:
        if name not in initial:
            raise AttentionError(f"{mechanism.name} has no parameter {name!r}{nearest(name, initial)}")
    complete = {
        name: given[name] if name in given else value.to(query.device) for name, value in initial.items()
    }
    call = Call(visible.count, scale, complete, moment)
    return Problem(mechanism, mechanism.scores(query, key, call), value, visible, call, (query, key))


def example(
    mechanism: Mechanism,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    head_dim: int = 64,
    n_head: int = 2,
    window: int | None = None,
) -> Problem:
    """A call of two positions, to ask kernels whether they would serve its like."""
    with torch.device(device):
        tensor = torch.zeros(1, 2, n_head, head_dim, dtype=dtype)
        return pose(tensor, tensor, tensor, mechanism, window=window)


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    for name, tensor in {"query": query, "key": key, "value": value}.items():
        if tensor.dim() != 4:
            raise AttentionError(f"{name} must be [batch, length, heads, head_dim], got {list(tensor.shape)}")
        if tensor.dtype not in DTYPES:
            raise AttentionError(f"{name} must be a floating type, got {tensor.dtype}")
        if tensor.dtype != query.dtype:
            raise AttentionError(
                f"{name} is {tensor.dtype}, the query {query.dtype}: give all the same dtype"
            )
    batch, _, n_head, head_dim = query.shape
    if key.shape[0] != batch or key.shape[3] != head_dim:
        raise AttentionError(
            f"key must be [{batch}, keys, key heads, {head_dim}] for this query, got {list(key.shape)}"
        )
    if value.shape[:3] != key.shape[:3]:
        raise AttentionError(
            f"value must share batch, length and heads with the key {list(key.shape[:3])}, got {list(value.shape)}"
        )
    if n_head % key.shape[2]:
        raise AttentionError(
            f"{n_head} query heads cannot be shared by {key.shape[2]} key heads: not divisible"
        )
