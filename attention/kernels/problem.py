"""One attention problem, checked and in the shape that every kernel takes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attention.arguments import (
    check_flag,
    check_params,
    check_scalar,
    check_scale,
    check_tensors,
    is_finite,
    is_whole,
    shown,
)
from attention.errors import AttentionError
from attention.kernels.modes import asked, untransformed
from attention.masks import Visibility, visibility
from attention.mechanism import INFERENCE, Call, Mechanism, Moment, Scores


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

    @property
    def vacant(self) -> bool:
        """Whether there is nothing to compute: outputs without elements, or tensors without data (device "meta")."""
        return self.value.is_meta or 0 in (*self.scores.query.shape[:2], *self.value.shape)

    @property
    def differentiable(self) -> tuple[Tensor | None, ...]:
        """All that may have a gradient."""
        scores = self.scores
        tensors = (scores.query, scores.key, self.value, scores.query_bias, scores.key_bias)
        return (*tensors, *self.call.params.values())

    def blank(self) -> Tensor:
        """The outputs [B, T, H, Dv] where there is nothing to compute; every gradient exists and is zero."""
        total = sum(x.sum() for x in self.differentiable if x is not None)
        return self.value.new_zeros(*self.scores.query.shape[:3], self.value.shape[-1]) + 0 * total

    def split(self, size: int) -> list["Problem"]:
        """The same problem, `size` sequences at a time."""
        scores, parts = self.scores, -(-self.value.shape[0] // size)
        noises = [
            None
            if scores.noise is None
            else replace(scores.noise, first_sequence=scores.noise.first_sequence + part * size)
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
    plain: bool = False,
) -> Problem:
    """Check a call and let the mechanism turn queries and keys into scores; arguments as for `attend`.

    Raises:
        AttentionError: shapes, dtypes, heads, mask or parameters do not fit.
    """
    check_tensors(query, key, value)
    visible = visibility(
        query.shape[1],
        key.shape[1],
        causal=causal,
        window=mechanism.window if window is None else window,
        documents=documents,
        batch=query.shape[0],
        device=query.device,
    )
    reason = mechanism.refuses(visible)
    if reason:
        raise AttentionError(f"{mechanism.name} {reason}")
    check_scale(scale)
    _check_moment(moment, query.device)
    with untransformed():
        initial = mechanism.initial_values(*query.shape[2:])
    complete = check_params(mechanism.name, params, initial, query.device)
    plain = plain or bool(asked((query, key, value, *complete.values())))
    call = Call(visible.count, scale if scale is None else float(scale), complete, moment, plain)
    scores = mechanism.scores(query, key, call)
    if not is_finite(scores.scale):
        raise AttentionError(
            f"{mechanism.name} scales its scores by {scores.scale}, which float32 cannot hold"
        )
    return Problem(mechanism, scores, value, visible, call, (query, key))


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


def _check_moment(moment: Moment, device: torch.device) -> None:
    if moment is INFERENCE:
        return
    if not isinstance(moment, Moment):
        raise AttentionError(f"moment must be an attention.Moment, got {shown(moment)}")
    check_flag("the moment's training", moment.training)
    if not (is_finite(moment.progress) and 0 <= moment.progress <= 1):
        raise AttentionError(f"the moment's progress must be between 0 and 1, got {shown(moment.progress)}")
    if moment.seed is not None:
        check_scalar("the moment's seed", moment.seed, device)
    first = moment.first_sequence
    if isinstance(first, Tensor):
        check_scalar("the moment's first sequence", first, device)
    elif not (is_whole(first) and 0 <= first < 2**31):
        raise AttentionError(f"the moment's first sequence must be a place from 0 on, got {shown(first)}")
