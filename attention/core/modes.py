"""Modes that autograd may ask of a kernel beyond one pass in reverse.

A compiled operator has one derivative, the first in reverse. Of any other torch finds none and goes on with zero, in
silence. A kernel therefore names the modes it serves (`Kernel.modes`) and is not chosen for others; a second
derivative, of which a call knows nothing beforehand, is refused where it is taken (`once`, `first_order`).
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attention.core.errors import AttentionError

FORWARD = "derivatives in forward mode (torch.func.jvp, torch.autograd.forward_ad)"
TRANSFORMED = "tensors within a transform of torch.func (grad, vmap, ...)"
EVERY = frozenset({FORWARD, TRANSFORMED})

Gradients = tuple[Tensor | None, ...]


def asked(tensors: Iterable[Tensor | None]) -> frozenset[str]:
    """The modes, out of `EVERY`, that a call with these tensors needs."""
    given = [x for x in tensors if x is not None]
    forward = forward_ad._current_level >= 0
    if torch.compiler.is_compiling():
        return frozenset({FORWARD}) if forward else frozenset()
    transformed = any(map(is_transformed, given))
    # Within transforms the innermost one hides whether an outer one carries tangents.
    tangents = forward and (transformed or any(forward_ad.unpack_dual(x).tangent is not None for x in given))
    wanted = {FORWARD: tangents, TRANSFORMED: transformed}
    return frozenset(mode for mode, is_wanted in wanted.items() if is_wanted)


def is_transformed(tensor: Tensor) -> bool:
    """Whether a transform of torch.func has wrapped it."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _is_batched(gradient: Tensor | None) -> bool:
    """Whether it is several, as under `torch.vmap` or `is_grads_batched`."""
    legacy = torch._C._functorch.is_legacy_batchedtensor
    return gradient is not None and (is_transformed(gradient) or legacy(gradient))


def untransformed() -> AbstractContextManager[None]:
    """For constants: within `torch.vmap` they would have to be drawn for each part."""
    return nullcontext() if torch.compiler.is_compiling() else torch._C._DisableFuncTorch()


def once(owner: str, *, batched: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Gradients]]:
    """Decorator of a backward function (context, *gradients): a derivative of its results raises.

    It computes in the types it is given, within `torch.autocast`, too.

    Args:
        owner: what the message names.
        batched: whether it takes the gradients of several losses at once, as under `torch.vmap`.

    Raises:
        AttentionError: when what it returned is differentiated, or gradients are batched and may not be.
    """

    def decorate(backward: Callable[..., Any]) -> Callable[..., Gradients]:
        @wraps(backward)
        def first(context: Any, *grads: Tensor | None) -> Gradients:
            if not batched and any(map(_is_batched, grads)):
                raise AttentionError(f"{owner} takes the gradient of one loss at a time; use kernel='dense'")
            if not torch.is_grad_enabled():
                with _as_given(grads):
                    return backward(context, *grads)
            with torch.no_grad(), _as_given(grads):
                found = backward(context, *grads)
            return _Last.apply(owner, len(found), *found, *grads, *context.saved_tensors)

        return first

    return decorate


def _as_given(grads: tuple[Tensor | None, ...]) -> AbstractContextManager[Any]:
    """No autocast, if there is one where the gradients lie."""
    device = next((grad.device.type for grad in grads if grad is not None), "meta")
    on = device != "meta" and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def first_order(owner: str, *tensors: Tensor | None) -> tuple[Any, ...]:
    """The same tensors, through which no second derivative passes: for operators whose gradients others wrote.

    Compilers refuse second derivatives by themselves.
    """
    return tensors if torch.compiler.is_compiling() else _Once.apply(owner, *tensors)


class _Once(torch.autograd.Function):
    """The identity, with one derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(owner: str, *tensors: Tensor | None) -> Gradients:
        return tuple(None if x is None else x.view_as(x) for x in tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.owner = inputs[0]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        return None, *(_Last.apply(ctx.owner, len(grads), *grads) if torch.is_grad_enabled() else grads)


class _Last(torch.autograd.Function):
    """Gradients that depend on more tensors, in a way that is not known."""

    generate_vmap_rule = True

    @staticmethod
    def forward(owner: str, count: int, *tensors: Tensor | None) -> Gradients:
        return tuple(None if x is None else x.view_as(x) for x in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.owner = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Gradients:
        raise AttentionError(f"{ctx.owner} has no second derivative; use kernel='dense'")
