"""The kernels as PyTorch operators with gradients, opaque to torch.compile."""

from typing import Any

import torch
from torch import Tensor

from attention.core.modes import once
from attention.kernels.triton import forms
from attention.kernels.triton.launch import (
    Call,
    Launch,
    architecture_of,
    plan_backward,
    plan_forward,
)
from attention.kernels.triton.printer import load


@torch.library.custom_op("attention_zoo::triton_forward", mutates_args=())
def triton_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    slope: Tensor | None,
    first: Tensor,
    last: Tensor,
    position: Tensor,
    scale: float,
    source: Tensor | None,
    amplitude: float,
    printed: str,
    with_mass: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [B, T, H, Dv], log masses [B, T, H] or empty, and the form's statistics of the rows [any, B, T, H].

    Args:
        source, amplitude: of the noise; None, 0.
        printed: the printed module (`attention.kernels.triton.printer.module_name`).
        with_mass: whether log masses are wanted.
        Others: as in `attention.core.scores.Scores` and `attention.core.masks.Visibility`.
    """
    call = _call(
        query,
        key,
        value,
        query_bias,
        key_bias,
        slope,
        first,
        last,
        position,
        scale,
        source,
        amplitude,
        printed,
    )
    launches, out, statistics = plan_forward(call)
    _run(launches, query.device)
    log_mass = statistics.new_empty(0)
    if with_mass:
        assert call.form.log_mass is not None
        log_mass = call.form.log_mass(statistics)
    return out, log_mass, statistics


@triton_forward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, printed, with_mass = others
    batch, queries, heads, _ = query.shape
    statistics = forms.of(load(printed)).statistics
    return (
        query.new_empty(batch, queries, heads, value.shape[3]),
        query.new_empty((batch, queries, heads) if with_mass else (0,), dtype=torch.float32),
        query.new_empty(statistics, batch, queries, heads, dtype=torch.float32),
    )


@torch.library.custom_op("attention_zoo::triton_backward", mutates_args=())
def triton_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    slope: Tensor | None,
    first: Tensor,
    last: Tensor,
    position: Tensor,
    scale: float,
    source: Tensor | None,
    amplitude: float,
    printed: str,
    statistics: Tensor,
    grad_out: Tensor,
    grad_log_mass: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and of the two biases, float32 and empty where there is no bias."""
    call = _call(
        query,
        key,
        value,
        query_bias,
        key_bias,
        slope,
        first,
        last,
        position,
        scale,
        source,
        amplitude,
        printed,
    )
    launches, gradients = plan_backward(call, statistics, grad_out.contiguous(), _contiguous(grad_log_mass))
    _run(launches, query.device)
    grad_query, grad_key, grad_value, *biases = gradients
    grad_query_bias, grad_key_bias = (statistics.new_empty(0) if x is None else x for x in biases)
    return grad_query, grad_key, grad_value, grad_query_bias, grad_key_bias


@triton_backward.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    *others: Any,
) -> tuple[Tensor, ...]:
    biases = (
        query.new_empty(0 if x is None else x.shape, dtype=torch.float32) for x in (query_bias, key_bias)
    )
    return tuple(query.new_empty(x.shape) for x in (query, key, value)) + tuple(biases)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.scale, source, ctx.amplitude, ctx.printed, with_mass = inputs
    _, log_mass, statistics = output
    ctx.save_for_backward(*tensors, source, statistics)
    ctx.mark_non_differentiable(statistics, *([] if with_mass else [log_mass]))
    ctx.set_materialize_grads(False)


@once("kernel 'triton'")
def _gradients(
    ctx: Any, grad_out: Tensor | None, grad_log_mass: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    *tensors, source, statistics = ctx.saved_tensors
    if grad_out is None and grad_log_mass is None:
        return (None,) * (len(tensors) + 5)
    if grad_out is None:
        grad_out = tensors[0].new_zeros(*tensors[0].shape[:3], tensors[2].shape[3])
    gradients = triton_backward(
        *tensors, ctx.scale, source, ctx.amplitude, ctx.printed, statistics, grad_out, grad_log_mass
    )
    given = (None if x is None else grad.to(x.dtype) for x, grad in zip(tensors, gradients, strict=False))
    return (*given, *[None] * 9)


triton_forward.register_autograd(_gradients, setup_context=_keep)


def _call(query: Tensor, key: Tensor, value: Tensor, *others: Any) -> Call:
    contiguous = [x.contiguous() if isinstance(x, Tensor) else x for x in others]
    rest: list[Any] = [*contiguous, *architecture_of(query.device)]
    return Call(query, key, value, *rest)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _run(launches: list[Launch], device: torch.device) -> None:
    with torch.cuda.device(device if device.type == "cuda" else -1):
        for launch in launches:
            launch.run()
