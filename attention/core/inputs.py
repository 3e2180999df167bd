"""The inputs of a kernel: one call, checked and in the shape that every kernel takes."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attention.core.alibi import alibi
from attention.core.arguments import (
    check_params,
    check_scale,
    check_slopes,
    check_softcap,
    check_tensors,
    is_finite,
)
from attention.core.call import DEFAULT, Call, CallSpec, check_phase
from attention.core.errors import AttentionError
from attention.core.masks import Visibility, visibility
from attention.core.mechanism import Mechanism
from attention.core.modes import asked, untransformed
from attention.core.scores import Scores


@dataclass(frozen=True)
class AttentionInputs:
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

    def split(self, size: int) -> list["AttentionInputs"]:
        """The same call, `size` sequences at a time."""
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
            AttentionInputs(
                self.mechanism,
                replace(scores, query=query, key=key, query_bias=query_bias, key_bias=key_bias, noise=noise),
                value,
                visible,
                replace(self.call, count=visible.count),
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


def prepare(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mechanism: Mechanism,
    spec: CallSpec = DEFAULT,
    *,
    plain: bool = False,
    settled: bool = False,
) -> AttentionInputs:
    """Check a call and let the mechanism turn queries and keys into scores.

    Args:
        query, key, value, mechanism: as for `attention.attend`.
        spec: what else the caller says.
        plain: whether scores shall be made of PyTorch's own operations only.
        settled: whether keys are what the mechanism's `settled` made of them.

    Raises:
        AttentionError: shapes, dtypes, heads, mask or parameters do not fit.
    """
    check_tensors(query, key, value)
    check_softcap(spec.softcap)
    check_phase(spec.phase, query.device)
    mechanism = mechanism.at(spec.phase)
    if spec.softcap is not None:
        from attention.core.capping import CAPPED, place

        mechanism = CAPPED[place(mechanism, float(spec.softcap))]
    visible = visibility(
        query.shape[1],
        key.shape[1],
        causal=spec.causal,
        window=mechanism.window if spec.window is None else spec.window,
        documents=spec.documents,
        intervals=spec.intervals,
        batch=query.shape[0],
        device=query.device,
    )
    reason = mechanism.refuses(visible)
    if reason:
        raise AttentionError(f"{mechanism.name} {reason}")
    check_scale(spec.scale)
    check_slopes(spec.slopes, query.shape[2], query.device)
    if spec.slopes is not None and not mechanism.takes_slopes:
        raise AttentionError(f"{mechanism.name} takes no slopes: nothing can be added to its scores")
    with untransformed():
        initial = mechanism.initial_values(*query.shape[2:])
    complete = check_params(mechanism.name, spec.params, initial, query.device)
    plain = plain or bool(asked((query, key, value, *complete.values())))
    scale = None if spec.scale is None else float(spec.scale)
    call = Call(visible.count, scale, complete, spec.phase, plain, settled)
    scores = mechanism.scores(query, key, call)
    if spec.slopes is not None:
        scores = replace(scores, slope=spec.slopes.to(torch.promote_types(query.dtype, torch.float32)))
    if not is_finite(scores.scale):
        raise AttentionError(
            f"{mechanism.name} scales its scores by {scores.scale}, which float32 cannot hold"
        )
    return AttentionInputs(mechanism, scores, value, visible, call, (query, key))


def example(
    mechanism: Mechanism,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    head_dim: int = 64,
    n_head: int = 2,
    window: int | None = None,
    slopes: bool = False,
) -> AttentionInputs:
    """A call of two positions, to ask kernels whether they would serve its like."""
    with torch.device(device):
        tensor = torch.zeros(1, 2, n_head, head_dim, dtype=dtype)
        spec = CallSpec(window=window, slopes=alibi(n_head) if slopes else None)
        return prepare(tensor, tensor, tensor, mechanism, spec, plain=True)
