"""Parts of a block that bring their own gradient: they keep less for the backward pass, and take less time in it.

Compilers fuse the plain operations by themselves, and what autograd asks beyond a pass in reverse needs them: there the
plain ones serve.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attention.core import modes
from models.errors import ModelError


def plain(*tensors: Tensor | None) -> bool:
    """Whether operations of PyTorch shall serve a call: it is compiled, or differentiated forwards or in batches."""
    return torch.compiler.is_compiling() or bool(modes.asked(tensors))


def products(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """The outputs of several linear layers, without biases, of one input [..., d].

    Under autocast the input is rounded and kept once, not once per layer, and rounded weights are not kept.
    """
    if not x.requires_grad or x.is_meta or plain(x) or not all(map(_ordinary, layers)):
        return tuple(layer(x) for layer in layers)
    device = x.device.type
    narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return _Products.apply(x, narrow, *(layer.weight for layer in layers))  # type: ignore[no-any-return]


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) ⊙ up, of which only gate and up are kept."""
    return _Gated.apply(gate, up) if _learns(gate, up) else functional.silu(gate) * up


def normalised(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) times a gain per channel, over the last axis; only x and the root are kept.

    GPUs have a kernel of PyTorch's own that does so; on the CPU its own takes twice as many operations.
    """
    if x.is_cpu and not torch.is_grad_enabled():
        unit = x * _root(x, eps)
        return unit if gain is None else unit * gain
    if x.is_cpu and _learns(x, gain):
        return _Normalised.apply(x, gain, eps)  # type: ignore[no-any-return]
    return functional.rms_norm(x, x.shape[-1:], gain, eps)


def _learns(*tensors: Tensor | None) -> bool:
    """Whether a gradient is wanted, in a pass in reverse and nothing else."""
    wanted = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    return wanted and not plain(*tensors)


def _ordinary(layer: nn.Linear) -> bool:
    """Whether a layer is its product and no more: nobody shards or replaces it by itself, or listens."""
    return type(layer) is nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks)


class _Products(torch.autograd.Function):
    """y_k = x W_kᵀ;  dx = Σ_k dy_k W_k,  dW_k = dy_kᵀ x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, narrow: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.wide = x.dtype
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(narrow)
            ctx.save_for_backward(x, *weights)
            return tuple(functional.linear(x, weight.to(narrow)) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        if torch.is_grad_enabled() and x.dtype != ctx.wide:
            raise ModelError("a model under autocast has no second derivative; take it in float32")
        with torch.autocast(x.device.type, enabled=False):
            rows = [grad.flatten(0, -2) for grad in grads]
            grad_x = rows[0] @ weights[0].to(x.dtype)
            for grad, weight in zip(rows[1:], weights[1:], strict=True):
                grad_x = grad_x.addmm_(grad, weight.to(x.dtype))
            flat = x.flatten(0, -2)
            grad_weights = [
                (grad.T @ flat).to(weight.dtype) for grad, weight in zip(rows, weights, strict=True)
            ]
            return grad_x.view(x.shape).to(ctx.wide), None, *grad_weights


class _Gated(torch.autograd.Function):
    """y = silu(g) u;  dg = dy u silu'(g),  du = dy silu(g)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        if torch.is_grad_enabled():  # PyTorch's own derivative of silu has none itself
            share = gate.sigmoid()
            return grad * up * share * (1 + gate * (1 - share)), functional.silu(gate) * grad
        return torch.ops.aten.silu_backward(grad * up, gate), functional.silu(gate) * grad


class _Normalised(torch.autograd.Function):
    """y = g n, n = x r, r = 1 / sqrt(mean(x²) + eps);  dx = r (g dy - n mean(g dy n)),  dg = Σ dy n."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
        root = _root(x, eps)
        ctx.save_for_backward(x, gain, root)
        ctx.eps = eps
        unit = x * root
        return unit if gain is None else unit.mul_(gain)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, root = ctx.saved_tensors
        if torch.is_grad_enabled():
            root = _root(x, ctx.eps)
        unit = x * root
        product = grad * unit
        along = product.sum(-1, keepdim=True) if gain is None else (product @ gain)[..., None]
        scaled = grad if gain is None else grad * gain
        grad_x = torch.addcmul(scaled, unit, along / x.shape[-1], value=-1) * root
        return grad_x, None if gain is None else product.flatten(0, -2).sum(0), None


def _root(x: Tensor, eps: float) -> Tensor:
    return torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
