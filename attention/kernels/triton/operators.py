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
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [B, T, H, Dv], statistics of the rows, float32 [0 or 3, B, T, H], and the outputs' rounding error.

    Args:
        program: the printed module (`attention.kernels.triton.printer.module_name`).
        keep: whether gradients will be asked for; otherwise, and where nothing is rounded, the error is empty.
        Others: as in `attention.mechanism.Scores` and `attention.masks.Visibility`.
    """
    call = _call(query, key, value, query_bias, key_bias, slope, first, last, position, scale, program)
    launches, out, statistics, residual = plan_forward(call, keep)
    _run(launches, query.device)
    return out, statistics, out.new_empty(0) if residual is None else residual


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
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, queries, heads, _ = query.shape
    statistics = STATISTICS[load(program).FORM]
    out = query.new_empty(batch, queries, heads, value.shape[3])
    return (
        out,
        query.new_empty(statistics, batch, queries, heads, dtype=torch.float32),
        torch.empty_like(out) if keep and statistics and out.element_size() < 4 else out.new_empty(0),
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
    out: Tensor,
    statistics: Tensor,
    residual: Tensor,
    grad_out: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and of the two biases, float32 and empty where there is no bias."""
    call = _call(query, key, value, query_bias, key_bias, slope, first, last, position, scale, program)
    kept = residual if residual.numel() else None
    launches, gradients = plan_backward(call, out, statistics, kept, grad_out.contiguous())
    _run(launches, query.device)
    query_grad, key_grad, value_grad, *biases = gradients
    assert query_grad is not None and key_grad is not None and value_grad is not None
    first_bias, second_bias = (statistics.new_empty(0) if x is None else x for x in biases)
    return query_grad, key_grad, value_grad, first_bias, second_bias


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
    out: Tensor,
    statistics: Tensor,
    residual: Tensor,
    grad_out: Tensor,
) -> tuple[Tensor, ...]:
    biases = (
        query.new_empty(0 if x is None else x.shape, dtype=torch.float32) for x in (query_bias, key_bias)
    )
    return tuple(query.new_empty(x.shape) for x in (query, key, value)) + tuple(biases)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.scale, ctx.program, _ = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(*output[1:])


def _gradients(ctx: Any, grad_out: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, out, statistics, residual = ctx.saved_tensors
    gradients = triton_backward(*tensors, ctx.scale, ctx.program, out, statistics, residual, grad_out)
    given = (None if x is None else grad.to(x.dtype) for x, grad in zip(tensors, gradients, strict=False))
    return (*given, *[None] * 7)


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
    biases = (None if x is None else x.contiguous() for x in (query_bias, key_bias, slope))
    masks = (x.contiguous() for x in (first, last, position))
    return Call(query, key, value, *biases, *masks, scale, program, architecture, processors)


def _run(launches: list[Launch], device: torch.device) -> None:
    with torch.cuda.device(device if device.type == "cuda" else -1):
        for launch in launches:
            launch.run()
