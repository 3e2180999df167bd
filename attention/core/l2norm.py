"""Vectors brought to a given length: what mechanisms of cosines do to queries and keys before a kernel runs.

Done apart by elementary operations this costs more than a fused kernel on the result, so it is one operation with its
own gradient. A backend that has a compiled one offers it (`offer`); elsewhere the explicit one below serves.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attention.core.modes import once

SHORTEST = 1e-12
"""A shorter vector is divided by this number, as by `torch.nn.functional.normalize`."""

Compiled = Callable[[Tensor, Tensor], Tensor | None]
"""`l2norm` of vectors and factors [B, T, H], with a gradient; None where it does not serve."""

_offered: list[Compiled] = []


def offer(compiled: Compiled) -> Compiled:
    """Decorator: `l2norm` asks this one first."""
    _offered.append(compiled)
    return compiled


def l2norm(vectors: Tensor, factor: Tensor | float = 1.0, *, plain: bool = False) -> Tensor:
    """x / max(|x|, 1e-12) times a factor, in float32 at least.

    Args:
        vectors: [B, T, H, D].
        factor: broadcast against [B, T, H]; differentiable.
        plain: by operations of PyTorch, which have every derivative; else there is the first in reverse only.

    Returns:
        [B, T, H, D] in the vectors' dtype.
    """
    wide = torch.promote_types(vectors.dtype, torch.float32)
    factor = torch.as_tensor(factor, dtype=wide, device=vectors.device).expand(vectors.shape[:-1])
    if plain:
        wider = vectors.to(wide)
        length = wider.square().sum(-1).clamp(min=SHORTEST**2).sqrt()
        return (wider * (factor / length)[..., None]).to(vectors.dtype)
    for compiled in _offered:
        normed = compiled(vectors, factor)
        if normed is not None:
            return normed
    return _L2Norm.apply(vectors, factor)


class _L2Norm(torch.autograd.Function):
    """y = factor u, u = x / |x|;  dx = factor (dy - u (u . dy)) / |x|,  dfactor = u . dy."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, factor)
        wide = vectors.to(factor.dtype)
        length = torch.linalg.vector_norm(wide, dim=-1).clamp(min=SHORTEST)
        return (wide * (factor / length)[..., None]).to(vectors.dtype)

    @staticmethod
    @once("the one operation behind l2norm")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        vectors, factor = ctx.saved_tensors
        wide, wide_grad = vectors.to(factor.dtype), grad.to(factor.dtype)
        length = torch.linalg.vector_norm(wide, dim=-1)
        divisor = length.clamp(min=SHORTEST)
        along = (wide * wide_grad).sum(-1) / divisor
        turned = (along / divisor).masked_fill(length < SHORTEST, 0)[..., None]
        grad_vectors = torch.addcmul(wide_grad, wide, turned, value=-1) * (factor / divisor)[..., None]
        return grad_vectors.to(vectors.dtype), along
