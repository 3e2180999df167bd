"""The kernels as PyTorch operators with gradients, opaque to torch.compile."""

from typing import Any

import torch
from torch import Tensor

from attention.kernels.triton.launch import (
    STATISTICS,
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
    program: str,
) -> tuple[Tensor, Tensor]:
    """Outputs [B, T, H, Dv] and statistics of the rows, float32 [0 or 3, B, T, H].

    Args:
        program: the printed module (`attention.kernels.triton.printer.module_name`).
        Others: as in `attention.mechanism.Scores` and `attention.masks.Visibility`.
    """
    call = _call(query, key, value, query_bias, key_bias, slope, first, last, position, scale, program)
    launches, out, statistics = plan_forward(call)
    _run(launches, query.device)
    return out, statistics


@triton_forward.register_fake
def _(
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
    program: str,
) -> tuple[Tensor, Tensor]:
    batch, queries, heads, _ = query.shape
    statistics = STATISTICS[load(program).FORM]
    return (
        query.new_empty(batch, queries, heads, value.shape[3]),
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
    program: str,
    statistics: Tensor,
    grad_out: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and of the two biases, float32 and empty where there is no bias."""
    call = _call(query, key, value, query_bias, key_bias, slope, first, last, position, scale, program)
    launches, gradients = plan_backward(call, statistics, grad_out.contiguous())
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
    slope: Tensor | None,
    first: Tensor,
    last: Tensor,
    position: Tensor,
    scale: float,
    program: str,
    statistics: Tensor,
    grad_out: Tensor,
) -> tuple[Tensor, ...]:
    biases = (
        query.new_empty(0 if x is None else x.shape, dtype=torch.float32) for x in (query_bias, key_bias)
    )
    return tuple(query.new_empty(x.shape) for x in (query, key, value)) + tuple(biases)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale, ctx.program = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, statistics = ctx.saved_tensors
    gradients = triton_backward(*tensors, ctx.scale, ctx.program, statistics, grad_out)
    given = (None if x is None else grad.to(x.dtype) for x, grad in zip(tensors, gradients, strict=False))
    return (*given, *[None] * 6)


triton_forward.register_autograd(_gradients, setup_context=_keep)


def _call(
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
    program: str,
) -> Call:
    architecture, processors = architecture_of(query.device)
    return Call(
        query,
        key,
        value,
        _contiguous(query_bias),
        _contiguous(key_bias),
        _contiguous(slope),
        first.contiguous(),
        last.contiguous(),
        position.contiguous(),
        scale,
        program,
        architecture,
        processors,
    )


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _run(launches: list[Launch], device: torch.device) -> None:
    with torch.cuda.device(device if device.type == "cuda" else -1):
        for launch in launches:
            launch.run()
