"""The compiled engine as PyTorch operators, with shapes for tracing and gradients."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attention.core.formula import Formula
from attention.core.modes import once
from attention.kernels.cpu import build as builder
from attention.kernels.cpu.build import HERE, BuildError, build, load, torch_flags
from attention.kernels.cpu.printer import source

STATISTICS = 5
"""Numbers kept of a row: as many as MAXIMUM_STATISTICS of the engine."""

OF_ROWS, OF_KEYS = 7, 3
"""Numbers that `row_stats` gives of a row and of a key, as in engine/row_stats.h."""

NOTICE = "attention: compiling the CPU kernels, once for this machine (about 20 seconds) ..."

GROUP_ROWS, TILE_KEYS = 16, 128
"""Queries and keys of a tile of which `support` says whether it has weights, as in engine/memory.h."""


def look_for(formula: Formula) -> None:
    """Whether the engine and the functions of a mechanism are kept, or can be compiled: nothing is.

    Raises:
        BuildError: they are not, and there is no compiler.
    """
    builder.look_for("engine", _engine(), torch_flags())
    builder.look_for(formula.key, source(formula))


def libraries(formula: Formula) -> tuple[Path, Path]:
    """Where the engine's library and that of a mechanism's functions lie, or would lie."""
    return builder.place_of("engine", _engine(), torch_flags()), builder.place_of(
        formula.key, source(formula)
    )


def _engine() -> str:
    return (HERE / "engine.cpp").read_text(encoding="utf-8")


@cache
def load_engine() -> None:
    """Compile if needed, load and register the operators.

    Raises:
        BuildError: it cannot be compiled.
    """
    library = build("engine", _engine(), flags=torch_flags(), notice=NOTICE)
    load(library, torch.ops.load_library)
    torch.library.register_fake("attention_zoo_cpu::forward", _fake_forward)
    torch.library.register_fake("attention_zoo_cpu::backward", _fake_backward)
    torch.library.register_autograd("attention_zoo_cpu::forward", _backward, setup_context=_keep)
    torch.library.register_fake("attention_zoo_cpu::row_stats", _fake_row_stats)
    torch.library.register_fake("attention_zoo_cpu::unit", _fake_unit)
    torch.library.register_fake("attention_zoo_cpu::unit_backward", _fake_unit_backward)
    torch.library.register_autograd("attention_zoo_cpu::unit", _unit_backward, setup_context=_keep_unit)


@cache
def load_mechanism(formula: Formula) -> None:
    """Compile if needed and load the functions of a mechanism.

    Raises:
        BuildError: they cannot be compiled.
    """
    load_engine()
    library = build(formula.key, source(formula))
    load(library, lambda path: torch.ops.attention_zoo_cpu.load(formula.key, path))


@cache
def unsupported(dtype: torch.dtype) -> str | None:
    """Say why there is no matrix product for a dtype here, None if there is one."""
    try:
        load_engine()
        torch.ops.attention_zoo_cpu.probe(dtype)
    except BuildError:
        raise
    except RuntimeError as error:
        return f"this processor has no fast {dtype} matrix product ({str(error).splitlines()[0]})"
    return None


def _fake_forward(
    query: Tensor, key: Tensor, value: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    *_, trains, keeps_support, with_mass = others
    batch, queries, heads, _ = query.shape
    tiles = (batch, -(-queries // GROUP_ROWS), heads, -(-key.shape[1] // TILE_KEYS))
    support = query.new_empty(tiles if keeps_support else (0,), dtype=torch.uint8)
    out = query.new_empty(batch, queries, heads, value.shape[-1])
    log_mass = query.new_empty(out.shape[:3] if with_mass else (0,), dtype=torch.float32)
    rest = out.new_empty(out.shape if trains and out.dtype != torch.float32 else (0,))
    return (
        out,
        log_mass,
        rest,
        support,
        query.new_empty(STATISTICS, batch, heads, queries, dtype=torch.float32),
    )


def _fake_row_stats(query: Tensor, key: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    batch, queries, heads, _ = query.shape
    rows = query.new_empty(OF_ROWS, batch, heads, queries, dtype=torch.float32)
    return rows, query.new_empty(OF_KEYS, batch, heads, key.shape[1], dtype=torch.float64)


def _fake_backward(
    grad_out: Tensor,
    grad_log_mass: Tensor | None,
    out: Tensor,
    rest: Tensor,
    support: Tensor,
    statistics: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    *others: Any,
) -> tuple[Tensor, ...]:
    biases = [
        query.new_empty(0, dtype=torch.float32) if bias is None else bias.new_empty(bias.shape)
        for bias in (query_bias, key_bias)
    ]
    return (*(x.new_empty(x.shape) for x in (query, key, value)), *biases)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.scale, source, ctx.amplitude, ctx.mechanism, _, _, with_mass = inputs
    out, log_mass, *saved = output
    ctx.save_for_backward(out, *saved, *tensors, source)
    ctx.mark_non_differentiable(*saved, *([] if with_mass else [log_mass]))
    ctx.set_materialize_grads(False)


@once("kernel 'cpu'")
def _backward(
    ctx: Any, grad_out: Tensor | None, grad_log_mass: Tensor | None, *others: None
) -> tuple[Tensor | None, ...]:
    if grad_out is None and grad_log_mass is None:
        return (None,) * 16
    out, rest, support, statistics, *tensors, source = ctx.saved_tensors
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    saved = (out, rest, support, statistics, *tensors)
    gradients = torch.ops.attention_zoo_cpu.backward(
        grad_out, grad_log_mass, *saved, ctx.scale, source, ctx.amplitude, ctx.mechanism
    )
    wanted = [
        gradient if tensor is not None else None
        for gradient, tensor in zip(gradients, tensors[:5], strict=True)
    ]
    return (*wanted, *(None,) * 11)


def _fake_unit(vectors: Tensor, factor: Tensor) -> Tensor:
    return vectors.new_empty(vectors.shape)


def _fake_unit_backward(grad: Tensor, vectors: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    return vectors.new_empty(vectors.shape), factor.new_empty(factor.shape)


def _keep_unit(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


@once("the compiled operation behind l2norm")
def _unit_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.attention_zoo_cpu.unit_backward(grad, *ctx.saved_tensors)
